"""The cost model: exact where its terms are, never falling with a size, from few and small probes whatever the grid."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mpcwdwm.components import component_config
from mpcwdwm.components.component import ComponentConfig
from mpcwdwm.planning import planner_config
from sweeps.cost import model as model_module
from sweeps.cost.model import MOST_SCALED, CostModel, fit, predicted
from sweeps.cost.works import MOST_WORK, ONE_CORE, PROBES, Acts, Cost, Updates, Work, denoising_steps

DIMS = (11, 3)
SIZES = {
    "updates": (1, 2, 5),
    "horizon": (1, 3, 5),
    "rollouts": (1, 4, 16),
    "k": (1, 5),
    "seeds": (1, 10),
    "episodes": (1, 20),
}


def parts(k: int = 5, **fields: Any) -> dict[str, ComponentConfig]:
    fields = {"hidden_dim": 32, **fields}
    world = component_config("world_model", {}, {**fields, "denoising_steps": k})
    return {name: component_config(name, {}, fields) for name in ("rebrac", "reward")} | {"world_model": world}


def acts(k: int = 5, seeds: int = 1, episodes: int = 1, **planner: Any) -> Acts:
    return Acts(planner_config({"kind": "policy", **planner}), parts(k), "rebrac", DIMS, seeds, episodes)


def updates(seeds: int = 1, name: str = "rebrac", **fields: Any) -> Updates:
    return Updates(name, component_config(name, {}, {"hidden_dim": 32, **fields}), DIMS, seeds)


def sizes_of(work: Work) -> dict[str, Any]:
    assert isinstance(work, Acts)
    assert work.planner is not None
    return work.planner.to_dict()


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Work], float]], list[Work]]:
    """Let every probe take the seconds that a function tells; return the list to which probes are added."""

    def machine(seconds: Callable[[Work], float]) -> list[Work]:
        probed = list[Work]()
        for name in ("act_cost", "update_cost"):
            monkeypatch.setattr(model_module, name, lambda work, place: probed.append(work) or Cost(seconds(work)))
        return probed

    return machine


def combination(work: Work) -> float:
    """Seconds that are a combination of a work's terms, with coefficients from 1e-4 on."""
    overhead, growing = work.terms
    return sum(1e-4 * (i + 1) * term for i, term in enumerate([*overhead, *growing]))


GRID = [
    acts(**dict(zip(SIZES, each, strict=True))) for each in itertools.product(*SIZES.values())
]  # 3 · 3 · 3 · 2 · 2 · 2 works of one group


def test_coefficients_are_recovered_and_never_negative() -> None:
    terms = np.random.default_rng(0).uniform(1, 9, (8, 3))
    assert fit(terms, terms @ [1e-3, 0.0, 2.0]) == pytest.approx([1e-3, 0.0, 2.0], abs=1e-9)
    assert (fit(terms, np.random.default_rng(1).uniform(0.1, 1, 8)) >= 0).all()


@pytest.mark.parametrize("works", [GRID, [updates(seeds) for seeds in (1, 2, 10, 1000)]])
def test_works_that_were_not_probed_are_predicted_exactly_where_the_terms_hold(works: Any, measured: Any) -> None:
    probed = measured(combination)
    model = CostModel(works, ONE_CORE, scaled=0)
    assert not set(map(repr, probed)) >= set(map(repr, works))
    for work in works:
        assert model.cost(work).step == pytest.approx(combination(work), rel=1e-3)


def test_a_point_of_a_curve_takes_in_proportion_to_the_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_module, "update_cost", lambda work, place: Cost(0.01, point=0.5 * (work.seeds == 1)))
    model = CostModel([updates(10, "world_model")], ONE_CORE, scaled=0)
    assert model.cost(updates(10, "world_model")).point == pytest.approx(5.0)


def test_another_group_has_factors_of_its_own_from_two_probes(measured: Any) -> None:
    other = [replace(work, planner=planner_config({**sizes_of(work), "critic": "mean"})) for work in GRID]

    def seconds(work: Work) -> float:
        return combination(work) * (3.0 if sizes_of(work)["critic"] == "mean" else 1.0)

    probed = measured(seconds)
    model = CostModel([*GRID, *other], ONE_CORE, scaled=1)
    assert len(probed) == len(PROBES) + 2
    assert model.cost(GRID[-1]).step == pytest.approx(combination(GRID[-1]), rel=1e-3)
    for work in other:
        assert model.cost(work).step == pytest.approx(3 * combination(work), rel=0.1)
    nearest = CostModel([*GRID, *other], ONE_CORE, scaled=0)  # not probed: as the group that was
    assert nearest.cost(other[0]).step == pytest.approx(nearest.cost(GRID[0]).step)


def test_the_cost_never_falls_where_a_size_grows_whatever_was_timed(measured: Any) -> None:
    noise = np.random.default_rng(3)
    measured(lambda work: float(noise.uniform(0.001, 0.1)))
    model = CostModel(GRID, ONE_CORE, scaled=0)
    seconds = np.array([model.cost(work).step for work in GRID]).reshape([len(each) for each in SIZES.values()])
    assert (seconds > 0).all()
    for axis in range(seconds.ndim):
        assert (np.diff(seconds, axis=axis) >= -1e-12).all(), list(SIZES)[axis]


def test_any_grid_is_predicted_from_few_and_small_probes(measured: Any) -> None:
    probed = measured(lambda work: 0.01)
    criteria, objectives = ("min", "mean", "first"), ("return", "advantage")
    works: list[Work] = [
        acts(horizon=h, rollouts=64, updates=20, seeds=1000, episodes=50, critic=critic, objective=objective)
        for h, critic, objective in itertools.product((1, 3, 5, 50), criteria, objectives)
    ]
    works += [updates(1000, name, batch_size=rows) for name in ("rebrac", "iql") for rows in (64, 256, 100_000)]
    works += [replace(updates(5), config=component_config("rebrac", {}, {"hidden_dim": w})) for w in range(16, 80, 2)]
    costs = predicted([(work, ONE_CORE) for work in works])
    assert len(costs) == len(works)
    assert len(probed) <= len(PROBES) + 2 * 3 + 2 * MOST_SCALED  # of a planner, of two components, of further groups
    for work in probed:
        if isinstance(work, Updates):
            assert (work.seeds, work.config.batch_size <= 256) <= (3, True)
        else:
            steps = math.prod(sizes_of(work)[name] for name in ("updates", "horizon", "rollouts"))
            steps *= denoising_steps(work.parts)
            assert steps * work.seeds * work.episodes <= 4_000


def test_probes_of_large_networks_are_smaller_still() -> None:
    """Diffuser's U-Net at its authors' size takes seconds an update of a whole batch, and minutes a plan."""
    diffuser = component_config("diffuser", {}, {})
    wide = component_config("rebrac", {}, {"hidden_dim": 512, "batch_size": 1024})
    sizes = [
        [work.seeds * work.size for work in Updates(name, config, DIMS, 5).probes(ONE_CORE)]
        for name, config in (("diffuser", diffuser), ("rebrac", wide))
    ]
    assert max(*sizes[0], *sizes[1]) <= 3 * MOST_WORK["cpu"]  # of three seeds, a row each at least
    plan = Acts(
        planner_config({"kind": "diffuser"}),
        {"bc": component_config("bc", {}, {}), "diffuser": diffuser},
        "bc",
        DIMS,
        5,
        10,
    )
    for probe in plan.probes(ONE_CORE):
        assert probe.weights[0] * probe.seeds * probe.episodes * sizes_of(probe)["rollouts"] <= 2 * MOST_WORK["cpu"]


@pytest.mark.parametrize(
    ("kind", "fields", "steps"),
    [("world_model", {"denoising_steps": 7}, 7), ("diffuser", {"denoising_steps": 5, "horizon": 8}, 5)],
)
def test_a_sampled_state_takes_every_denoising_step(kind: str, fields: dict[str, Any], steps: int) -> None:
    sampler = {kind: component_config(kind, {}, fields)}
    assert denoising_steps({"rebrac": component_config("rebrac", {}, {})}) == 1
    assert denoising_steps({"rebrac": component_config("rebrac", {}, {}), **sampler}) == steps
    (sampled, _), (single, _) = (
        Acts(planner_config({"kind": "policy"}), {kind: component_config(kind, {}, each)}, "bc", DIMS, 1, 1).weights
        for each in (fields, {**fields, "horizon": 16} if kind == "diffuser" else fields)
    )
    assert 2 * sampled == pytest.approx(single * (1 if kind == "diffuser" else 2), rel=1e-6)  # of a row, for each row


def test_products_of_few_rows_take_more_for_each_of_them() -> None:
    work = acts(k=5, seeds=2, episodes=4, horizon=3, rollouts=9, updates=2)
    sampled, _ = work.weights
    _, (*_, few, _, _) = work.terms
    assert few == pytest.approx(6 * 2 * 2 * 3 * 5 * sampled)  # √(9 · 4) rows, 2 seeds, E · H · K evaluations
