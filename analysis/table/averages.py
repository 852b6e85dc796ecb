"""The average row: a method over all tasks, every task weighing the same.

A method has an average only if it has a score on every task; otherwise a note names the missing tasks.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from analysis.statistics import Evidence
from analysis.table.published_scores import published_average
from analysis.table.rows import NUMBERED, Group, Row, published_group, with_intervals

__all__ = ["AVERAGE", "CHOSEN", "Members", "average_groups", "averages_over", "methods_of"]

AVERAGE = "average"  # in place of a task's name
CHOSEN = " (one cell per task)"  # behind a planner's name, if its settings differ between tasks
Members = dict[str, Group]  # task → the method's row there


def average_groups(by_task: Mapping[str, Sequence[Group]]) -> tuple[list[Group], list[str]]:
    """Return the average rows in the order of the methods' first appearance, and notes.

    Tasks without reference scores have no normalized score and are left out; below two tasks there
    is no average.
    """
    tasks = [task for task, groups in by_task.items() if not any(g.row.score_unit == "return" for g in groups)]
    raw = [task for task in by_task if task not in tasks]
    if len(tasks) < 2:
        return [], []
    notes = [f"the average leaves out {', '.join(raw)}: no reference scores, so no normalized score"] if raw else []
    averages, lacking = averages_over({task: by_task[task] for task in tasks}, methods_of(by_task, tasks))
    return list(averages.values()), notes + lacking


def averages_over(
    by_task: Mapping[str, Sequence[Group]], methods: Mapping[str, Members]
) -> tuple[dict[str, Group], list[str]]:
    """Return the average rows over all of ``by_task``, by method, and notes on methods that lack a task.

    Args:
        by_task: the rows of at least two tasks, all with normalized scores.
        methods: `methods_of` these tasks, or of more.
    """
    tasks = list(by_task)
    all_d4rls = all(any(group.row.kind == "published" for group in by_task[task]) for task in tasks)
    scores = published_average(tasks) if all_d4rls else []  # a paper's average is over D4RL's own files
    papers = {f"{score.method} (published)": published_group(AVERAGE, score) for score in scores}
    averages: dict[str, Group] = {}
    notes = []
    for label, members in methods.items():
        unscored = [task for task in tasks if task not in members or members[task].row.score_mean is None]
        if label in papers:
            averages[label] = papers[label]
        elif unscored and any(group.row.kind == "published" for group in members.values()):
            continue  # a paper that does not report a task needs no note
        elif unscored:
            notes.append(f"average: {label} is left out, it has no score on {', '.join(unscored)}")
        else:
            averages[label] = _average(label, [members[task] for task in tasks])
    return averages, notes


def methods_of(by_task: Mapping[str, Sequence[Group]], tasks: Collection[str]) -> dict[str, Members]:
    """Return label → its row in each of some tasks.

    A planner with exactly one cell per task, chosen there or overridden there, is one method
    under its name in the spec even if its numbers differ between tasks.
    """
    cells_of: dict[str, list[str]] = {}  # planner → the tasks of its cells, one entry per cell
    labels_of: dict[str, set[str]] = {}
    by_task = {task: by_task[task] for task in tasks}
    for task, groups in by_task.items():
        for group in groups:
            if group.is_planner:
                cells_of.setdefault(group.name, []).append(task)
                labels_of.setdefault(group.name, set()).add(group.row.label)
    single = {n for n, tasks in cells_of.items() if sorted(tasks) == sorted(by_task) and len(labels_of[n]) > 1}
    methods: dict[str, Members] = {}
    for task, groups in by_task.items():
        for group in groups:
            label = group.row.label.removesuffix(" †")
            if group.is_planner and group.name in single:
                label = f"{group.name}{CHOSEN}"
            methods.setdefault(label, {})[task] = group
    return methods


def _average(label: str, members: Sequence[Group]) -> Group:
    rows = [group.row for group in members]
    columns = {name: [vars(row)[name] for row in rows] for name in vars(rows[0])}
    shared = {name: values[0] if len(set(values)) == 1 else None for name, values in columns.items()}
    same = ("base", "kind", "world_model", *NUMBERED, "step_size", "n_seeds", "mujoco", "variant", "role")
    summed = ("n_episodes", "fallbacks", "cpu_hours", "gpu_hours")
    row = Row(
        task=AVERAGE,
        method=shared["method"] or label,
        **{name: shared[name] for name in same},
        **{name: None if None in columns[name] else sum(columns[name]) for name in summed},
        score_mean=float(np.mean([row.score_mean for row in rows])),
        ms_per_step=_mean_of_known([row.ms_per_step for row in rows]),
        evaluations_per_step=_mean_of_known([row.evaluations_per_step for row in rows]),
        score_unit="normalized",
        second_hand=any(row.second_hand for row in rows) if rows[0].kind == "published" else None,
        status="ok" if all(row.status == "ok" for row in rows) else "partial",
    )
    return with_intervals(
        Group(row, members[0].name, _over([g.scores for g in members]), _over([g.gains for g in members]))
    )


def _mean_of_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _over(evidence: Sequence[Evidence | None]) -> Evidence | None:
    """Join the evidence of several tasks; None if one of them has none."""
    joined = [e for e in evidence if e is not None]
    if len(joined) < len(evidence):
        return None
    of = joined[0].of if len({e.of for e in joined}) == 1 else "scores"
    tasks = tuple(task for e in joined for task in e.tasks)
    return Evidence(tasks, of, starts_shared=all(e.starts_shared for e in joined))
