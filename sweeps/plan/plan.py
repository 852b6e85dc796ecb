"""The plan: which units of work a sweep consists of, as a pure function of the spec and the store.

A cell is a method (a policy without a planner, or one point of a planner's grid with one variant of each part it
uses) on a task for one training seed. Only components that some cell is built on are trained. The plan does not
depend on what is finished, except with ``evaluation.select``: then finished results choose the cells to report.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cluster.store import Store
from cluster.units import KINDS, CellUnit, ComponentUnit, Pack, TaskRef, Unit
from mpcwdwm.components import ComponentConfig, component_class
from mpcwdwm.components.component import ActorComponent, CriticConfig
from mpcwdwm.components.registry import curve_played
from sweeps.plan.checks import Checked, DatasetFacts, Learner, check
from sweeps.plan.code import digest
from sweeps.plan.keys import cell_code, cell_key, component_code, component_key
from sweeps.plan.methods import Method, baseline_methods, component_of, is_frozen, planner_methods, within
from sweeps.spec.grid import Choice
from sweeps.spec.schema import Evaluation, Select
from sweeps.spec.spec import Spec

__all__ = ["Plan", "build_plan", "cell_packs", "component_packs", "count_cells", "score_of"]


@dataclass
class Plan:
    """All units of a sweep, finished or not, in the order of the table."""

    spec: Spec
    components: list[ComponentUnit]
    cells: list[CellUnit]
    awaiting_choice: int = 0  # report cells that a select phase has still to choose
    notices: list[str] = field(default_factory=list)  # one line each, for the user
    facts: dict[str, DatasetFacts] = field(default_factory=dict)  # task name → its dataset

    def states(self, store: Store) -> dict[str, str]:
        """Return "cached", "failed" (and to be tried again) or "new" for every key."""
        published, failed = set().union(*(store.keys(kind) for kind in KINDS)), store.failed()
        units: list[Unit] = [*self.components, *self.cells]
        return {u.key: "cached" if u.key in published else "failed" if u.key in failed else "new" for u in units}


# Units


class _Units:
    """Makes the units of one task and collects the components they are built on."""

    def __init__(self, spec: Spec, task: TaskRef) -> None:
        self.spec, self.task = spec, task
        self.components: dict[str, ComponentUnit] = {}
        self._trained: dict[tuple[Any, ...], ComponentUnit] = {}  # many cells are built on each
        self._codes: dict[tuple[Any, ...], str] = {}

    def component(
        self, name: str, choices: Mapping[str, Choice[ComponentConfig]], seed: int, part: str = ""
    ) -> ComponentUnit:
        """Return the unit that trains one of a method's choices with a seed, and note that it is needed.

        Of the choices, that is one which `part` alone builds on, where there is one.
        """
        choice = choices.get(within(part, name)) or choices[name]
        built_on = {base: self.component(base, choices, seed, name) for base in choice.config.builds_on}
        parts = {part: unit.key for part, unit in built_on.items()}
        which = (name, id(choice), seed, *parts.values())
        if which not in self._trained:
            code, played = self._code(name, choice), curve_played(name, choice.config)
            tf32 = self.spec.compute.tf32
            key = component_key(name, choice.data, self.task, seed, code, parts=parts, played=played, tf32=tf32)
            configs = {part: unit.config for part, unit in built_on.items()}
            self._trained[which] = ComponentUnit(key, name, choice.data, self.task, seed, configs, parts)
        return self.components.setdefault(self._trained[which].key, self._trained[which])

    def cells(self, method: Method, where: Evaluation | Select) -> list[CellUnit]:
        """Return the method's cells, one per training seed: to report them, or only to choose among them."""
        role, seeds = ("select", where.seeds) if isinstance(where, Select) else ("report", self.spec.seeds)
        config, code = method.planner.data if method.planner else None, self._cell_code(method)
        configs = {name: choice.data for name, choice in method.parts.items()}
        played, tf32 = {"episodes": where.episodes, "env_seed": where.env_seed}, self.spec.compute.tf32
        if isinstance(where, Evaluation):
            played["traced_episodes"] = min(where.traced_episodes, where.episodes)
        frozen = is_frozen(method)
        cells = []
        for seed in seeds:
            units = {name: self.component(name, method.choices, seed) for name in method.parts}
            parts = {name: unit.key for name, unit in units.items()}
            improved = method.parts[method.base].config.improves if frozen else ""
            cell = CellUnit(
                key=cell_key(config, method.base, parts, self.task, seed, **played, code=code, tf32=tf32),
                method=method.label,
                name=method.name,
                planner=config,
                base=method.base,
                configs=configs,
                parts=parts,
                task=self.task,
                seed=seed,
                role=role,
                variant=method.variant,
                improves=improved,
                improves_key=units[method.base].parts[improved] if improved else "",
                **played,
            )
            cells.append(cell)
        return cells

    def _code(self, name: str, choice: Choice) -> str:
        """Return the hash of the code that trains a component, computed once for variants that run the same code."""
        config = choice.config
        which = (component_class(name, config), config.code_roots, curve_played(name, config))
        if which not in self._codes:
            self._codes[which] = component_code(
                name, config, termination=self.task.termination, env_id=self.task.env_id
            )
        return self._codes[which]

    def _cell_code(self, method: Method) -> str:
        """Return the hash of the code that evaluates a method, computed once for methods that run the same code."""
        planner = method.planner.config if method.planner else None
        parts = {name: choice.config for name, choice in method.parts.items()}
        runs = planner and (planner.kind, planner.code_roots, planner.idle_modules)
        which = (runs, *(component_class(name, config) for name, config in parts.items()))
        if which not in self._codes:
            self._codes[which] = cell_code(planner, parts, termination=self.task.termination, env_id=self.task.env_id)
        return self._codes[which]


# The plan


def build_plan(spec: Spec, store: Store) -> Plan:
    """Return everything a sweep consists of, after checking all that could stop it.

    Raises:
        UserError: see `sweeps.plan.checks.check`; or two methods of the sweep are the same.
    """
    methods = _methods(spec)
    checked = check(spec, {name: _learners(itertools.chain(*groups)) for name, groups in methods.items()})
    notices = [*store.notices, *checked.notices]
    for name, groups in methods.items():
        notices += _doubts_of_rewards(name, checked.facts[name], itertools.chain(*groups))
    notices += _notices(spec, itertools.chain(*itertools.chain(*methods.values())))
    plan = Plan(spec, [], [], notices=notices, facts=checked.facts)
    for name, (baselines, *grids) in methods.items():
        _add_task(plan, store, checked, name, baselines, grids)
    return plan


def count_cells(spec: Spec) -> int:
    """Return how many cells a sweep has, those included that only choose; its datasets need not be there."""
    select, reported, choosing = spec.evaluation.select, 0, 0
    for baselines, *grids in _methods(spec).values():
        reported += len(baselines) + (0 if select else sum(map(len, grids)))
        if select is None:
            continue
        for variants in (Counter(method.variant for method in grid) for grid in grids):
            reported += len(variants)
            choosing += sum(candidates for candidates in variants.values() if candidates > 1)
    return reported * len(spec.seeds) + (choosing * len(select.seeds) if select else 0)


def _methods(spec: Spec) -> dict[str, list[list[Method]]]:
    """Return task name → the baselines, then the grid of every planner."""
    return {
        task.name: [baseline_methods(spec, task), *(planner_methods(spec, task, name) for name in spec.planners)]
        for task in spec.tasks
    }


def _add_task(
    plan: Plan, store: Store, checked: Checked, name: str, baselines: list[Method], grids: list[list[Method]]
) -> None:
    """Add a task's cells in table order, then the components they are built on."""
    spec = plan.spec
    units = _Units(spec, checked.tasks[name])
    select = spec.evaluation.select
    cells = [cell for method in baselines for cell in units.cells(method, spec.evaluation)]
    for grid in grids:
        if select is None:
            cells += [cell for method in grid for cell in units.cells(method, spec.evaluation)]
            continue
        for variant in dict.fromkeys(method.variant for method in grid):
            found, awaiting = _selected(units, [m for m in grid if m.variant == variant], select, store)
            cells += found
            plan.awaiting_choice += awaiting
    _refuse_twins(spec, cells)
    plan.cells += cells
    seeds = [*spec.seeds, *(select.seeds if select else ())]
    order = {part: position for position, part in enumerate(spec.tasks[0].components)}
    seed_ranks = {seed: seeds.index(seed) for seed in seeds}
    hashes = {id(unit.config): digest(unit.config) for unit in units.components.values()}
    ranks = {each: position for position, each in enumerate(dict.fromkeys(hashes.values()))}  # as they appear
    plan.components += sorted(
        units.components.values(),
        key=lambda unit: (order[unit.component], ranks[hashes[id(unit.config)]], seed_ranks[unit.seed]),
    )


def _selected(units: _Units, candidates: list[Method], select: Select, store: Store) -> tuple[list[CellUnit], int]:
    """Return the cells that choose among candidates and, once all of those are finished, the chosen one's.

    Also returns how many report cells wait for the choice.
    """
    spec = units.spec
    if len(candidates) == 1:  # nothing to choose
        return units.cells(_reported(candidates[0]), spec.evaluation), 0
    trials = [units.cells(method, select) for method in candidates]
    cells = list(itertools.chain(*trials))
    scores = [score for own in trials if (score := _mean_score(own, store)) is not None]
    if len(scores) < len(candidates):  # parts that every candidate uses are needed whatever is chosen
        first = candidates[0].choices
        shared = {name for name, choice in first.items() if all(m.choices.get(name) is choice for m in candidates)}
        for name in shared.intersection(candidates[0].parts):
            if shared.issuperset(first[name].config.builds_on):
                for seed in spec.seeds:
                    units.component(name, first, seed)
        return cells, len(spec.seeds)
    best = max(range(len(candidates)), key=scores.__getitem__)  # the first of equals
    return [*cells, *units.cells(_reported(candidates[best]), spec.evaluation)], 0


def _reported(method: Method) -> Method:
    """Return a chosen method under its planner's name: what was chosen may differ from task to task."""
    return replace(method, label=" ".join(part for part in (method.name, method.variant) if part))


def _mean_score(cells: list[CellUnit], store: Store) -> float | None:
    """Return the mean score of a candidate over its seeds, by which it is chosen; None if one is missing."""
    scores = []
    for cell in cells:
        if not store.has("cell", cell.key):
            return None
        score = score_of(store.manifest("cell", cell.key))
        scores.append(score if math.isfinite(score) else -math.inf)
    return sum(scores) / len(scores)


def score_of(manifest: Mapping[str, Any]) -> float:
    """Return the mean score of a cell's episodes; their mean return where the task has no reference scores."""
    mean = manifest["episodes_mean"]
    return float(mean["return"] if mean["normalized_score"] is None else mean["normalized_score"])


def _refuse_twins(spec: Spec, cells: list[CellUnit]) -> None:
    """Raise UserError if two methods on a task are one and the same: they would share their results."""
    first: dict[str, CellUnit] = {}
    for cell in cells:
        twin = first.setdefault(cell.key, cell)
        if twin is not cell:
            message = f"'{cell.method}' is the same as '{twin.method}' on {cell.task.name}: leave one of them out"
            raise spec.document.error(("planners", cell.name), message)


def _learners(methods: Iterable[Method]) -> set[Learner]:
    """Return which rows the methods' components learn from, and those on which models are judged."""
    learners = set[Learner]()
    for name, config in (
        (component_of(name), each.config) for method in methods for name, each in method.choices.items()
    ):
        made = component_class(name, config)
        learners.add((made.rows, config.train_on))
        if not issubclass(made, ActorComponent):
            learners.add((made.rows, "heldout"))
    return learners


def _doubts_of_rewards(task: str, facts: DatasetFacts, methods: Iterable[Method]) -> list[str]:
    """Return which critics would learn a task's rewards badly, a line each."""
    choices = ((component_of(part), each.config) for method in methods for part, each in method.choices.items())
    doubts = {
        f"{task}, {name}: {doubt}": None
        for name, config in choices
        if isinstance(config, CriticConfig) and (doubt := config.doubt_of_rewards(facts.largest_reward))
    }
    return list(doubts)


def _notices(spec: Spec, methods: Iterable[Method]) -> list[str]:
    """Return notes on settings without effect and missing baselines."""
    notices, methods = [], list(methods)
    used = {component_of(part) for method in methods for part in method.choices}
    for name in spec.components:
        if name not in used:
            notices.append(f"components.{name} is set, but no method of this sweep uses {name}")
    adapted = {method.base for method in methods if not is_frozen(method)}
    for base in sorted(adapted - set(spec.baselines)):
        notices.append(f"baselines lack {base}, on which a planner is based: no gain over it can be shown")
    return notices


# Packs


def component_packs(plan: Plan, store: Store | None = None) -> list[Pack]:
    """Return the components grouped for stacking: units that differ in nothing but the seed.

    The groups are cut as if nothing were finished, so that they do not depend on it.

    Args:
        plan: the plan.
        store: leave out of the packs what is published there; None keeps everything.
    """
    return _packs(plan.components, plan.spec, store)


def cell_packs(plan: Plan, store: Store | None = None) -> list[Pack]:
    """Return the cells grouped like `component_packs`."""
    return _packs(plan.cells, plan.spec, store)


def _packs(units: Sequence[Unit], spec: Spec, store: Store | None) -> list[Pack]:
    limit, compute = spec.resources.seeds_per_pack, spec.compute.to_dict()
    published = set().union(*(store.keys(kind) for kind in KINDS)) if store and units else set[str]()
    hashes: dict[int, str] = {}  # of configs, which the units of a grid share

    def hashed(config: dict[str, Any] | None) -> str:
        if id(config) not in hashes:
            hashes[id(config)] = digest(config)
        return hashes[id(config)]

    groups: dict[tuple[Any, ...], list[Any]] = {}
    for unit in units:
        own = {
            name: value for name, value in vars(unit).items() if name not in ("key", "seed", "parts", "improves_key")
        }
        own["configs"] = tuple((name, hashed(config)) for name, config in unit.configs.items())
        own |= {name: hashed(own[name]) for name in ("config", "planner") if name in own}
        groups.setdefault(tuple(own.values()), []).append(unit)
    packs = []
    for group in groups.values():
        for start in range(0, len(group), limit):
            part = [unit for unit in group[start : start + limit] if unit.key not in published]
            if part:
                packs.append(Pack(tuple(part), compute))
    return packs
