"""What MLflow is to show of a table: its numbers as metrics of the sweep's run, gains as metrics of the cells' runs."""

import re

from analysis.statistics import Evidence, UnpairedError, are_successes, paired_differences
from analysis.table.comparison import Table
from analysis.table.rows import Cell

__all__ = ["cell_gains", "metric_name", "sweep_metrics"]

COLUMNS = {  # metric → column of the table
    "score": "score_mean",
    "gain": "gain_mean",
    "gain_low": "gain_low",
    "gain_high": "gain_high",
    "gain_seed_low": "gain_seed_low",
    "gain_seed_high": "gain_seed_high",
}
OTHERS = ("dataset", "published")  # kinds of rows that no run stands behind
NAME_LENGTH = 250  # MLflow's limit


def sweep_metrics(table: Table) -> dict[str, float]:
    """Return the numbers of a table by metric, "gain/TASK/METHOD", and how many cells are complete and how many not."""
    cells = _cells(table)
    complete = sum(cell.episodes is not None for cell in cells)
    metrics: dict[str, float] = {"cells_complete": complete, "cells_lacking": len(cells) - complete}
    for row in table.rows:
        for name, column in COLUMNS.items() if row.kind not in OTHERS else ():
            value = vars(row)[column]
            if value is not None:
                metrics[metric_name(name, row.task, row.label)] = value
    return metrics


def cell_gains(table: Table) -> dict[str, dict[str, float]]:
    """Return the paired gain of every adapted cell by its key: "gain", and "gain_low" and "gain_high".

    The ends are those of the 95 % interval over other episodes of the cell's trained policy. A cell of which an episode
    has no counterpart in its base has no gain.
    """
    cells = [cell for cell in _cells(table) if cell.episodes is not None]
    bases = {cell.policy_key: cell for cell in cells if cell.is_frozen}
    found = {}
    for cell in cells:
        base = bases.get(str(cell.facts["base_key"]))
        evidence = _evidence(cell, base) if base is not None and cell.facts["kind"] != "none" else None
        if evidence is not None:
            interval = evidence.for_these_policies()
            ends = {"gain_low": interval.low, "gain_high": interval.high} if interval else {}
            found[cell.key] = {"gain": evidence.mean(), **ends}
    return found


def metric_name(*parts: str) -> str:
    """Return parts joined by "/", with what MLflow allows: "gain", "hopper", "mpc H=3" → "gain/hopper/mpc H3"."""
    return "/".join(re.sub(r"[^\w. -]", "_", part.replace("=", "")) for part in parts)[:NAME_LENGTH]


def _cells(table: Table) -> list[Cell]:
    return [cell for groups in table.groups.values() for group in groups for cell in group.cells]


def _evidence(cell: Cell, base: Cell) -> Evidence | None:
    own, others = {cell.seed: cell.scores}, {cell.seed: base.scores}
    try:
        differences = paired_differences(own, others)
    except UnpairedError:
        return None
    successes = cell.facts["score_unit"] == "normalized" and are_successes(own) and are_successes(others)
    return Evidence((differences,), "differences" if successes else "scores")
