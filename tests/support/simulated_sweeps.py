"""Rows of sweeps drawn from a known distribution, as the table would hold them; no store is written."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.statistics import Evidence
from analysis.table.rows import Cell, Group, Row, groups_of, with_intervals

TASK = "simulated"


@dataclass(frozen=True)
class Nature:
    """How scores vary: x_ij = level + seed_i + start_j + rest_ij, and some episodes end in a fall."""

    seeds: int = 3
    episodes: int = 10
    seed_sd: float = 5.0  # of the policies that training gives
    start_sd: float = 0.0  # of starting states, which a row's seeds share
    rest_sd: float = 10.0
    falls: float = 0.0  # share of the episodes that score 10 to 60 instead
    broken: float = 0.0  # share of the policies that score 60 less
    tails: float = 0.0  # above 0: policies and rest are Student's t with so many degrees of freedom, times their scale
    outcomes: bool = False  # episodes succeed or fail, with a chance of the level + seed_i + start_j in percent

    def scores(self, rng, level=70.0):
        """Return (seeds, episodes) the scores of one method."""
        policies = self.seed_sd * self._draws(rng, (self.seeds, 1))
        if self.broken:
            policies -= 60 * (rng.random((self.seeds, 1)) < self.broken)
        starts = self.start_sd * rng.normal(size=(1, self.episodes))
        shape = (self.seeds, self.episodes)
        if self.outcomes:
            return 100.0 * (100 * rng.random(shape) < level + policies + starts)
        scores = level + policies + starts + self.rest_sd * self._draws(rng, shape)
        return np.where(rng.random(shape) < self.falls, rng.uniform(10, 60, shape), scores)

    def _draws(self, rng, shape):
        return rng.standard_t(self.tails, shape) if self.tails else rng.normal(size=shape)


def planned(rng, cells, nature, effects=(), base="rebrac", level=70.0):
    """Return the rows of so many planners' cells, all paired with one base; ``effects`` are true gains of the first."""
    of_base = nature.scores(rng, level)
    of = "differences" if nature.outcomes else "scores"
    groups = []
    for cell in range(cells):
        effect = effects[cell] if cell < len(effects) else 0.0
        gains = nature.scores(rng, level + effect) - of_base
        row = Row(TASK, f"cell {cell}", base=base, kind="policy", n_seeds=nature.seeds)
        groups.append(with_intervals(Group(row, gains=Evidence((dict(enumerate(gains)),), of))))
    return groups


def planned_on_tasks(rng, cells, nature, tasks):
    """Return task → the rows of so many planners there, and their averages."""
    by_task = {f"{TASK} {task}": planned(rng, cells, nature) for task in range(tasks)}
    averages = []
    for groups in zip(*by_task.values(), strict=True):
        joined = Evidence(tuple(group.gains.tasks[0] for group in groups), groups[0].gains.of)
        row = Row("average", groups[0].row.method, base="rebrac", kind="policy", n_seeds=nature.seeds)
        averages.append(with_intervals(Group(row, gains=joined)))
    return {**by_task, "average": averages}


def of_table(scores, base, variant="", kind="none", **facts):
    """Return the cells of one row, a seed for each line of (seeds, episodes) scores; ``facts`` replace those here."""
    return [
        Cell(
            f"{kind}-{facts.get('method', base)}{variant}-s{seed}",
            {
                "task": TASK,
                "seed": seed,
                "method": base,
                "name": base,
                "kind": kind,
                "variant": variant,
                "base": base,
                "base_key": f"{base}{variant}-s{seed}",
                "role": "report",
                "score_unit": "normalized",
                "env_id": "Hopper-v4",
                "mujoco": "3.4.0",
                "task_source": "local",
                **facts,
            },
            pd.DataFrame(
                {
                    "env_seed": range(len(own)),
                    "return": own,
                    "normalized_score": own,
                    "length": 10,
                    "ms_per_step": 1.0,
                    "fallbacks": 0,
                }
            ),
        )
        for seed, own in enumerate(scores)
    ]


def judged_bases(rng, bases, nature, *, rise=0.0, above=0.0, points=5):
    """Return rows of bc and of some bases, and learning curves whose points are means of so many episodes.

    Args:
        rng: the generator.
        bases: how many.
        nature: how scores vary.
        rise: true move over the last 20 % of updates.
        above: true distance from bc.
        points: episodes of a point.
    """
    cells = of_table(nature.scores(rng), "bc")
    curves = {}
    for base in range(bases):
        own = of_table(nature.scores(rng, 70.0 + above), "rebrac", variant=str(base))
        cells += own
        for cell in own:
            noise = nature.rest_sd / np.sqrt(points) * rng.normal(size=10)
            level = cell.episodes["return"].mean() + noise + rise * np.clip(np.arange(10) - 7, 0, 2) / 2
            curves[cell.facts["base_key"]] = [
                {"step": float(100 * (i + 1)), "eval/normalized_score": float(value)} for i, value in enumerate(level)
            ]
    return groups_of(cells)[0], curves
