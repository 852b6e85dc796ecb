"""The plan: which units there are, in which order, what they share, what is chosen, how they are packed."""

from pathlib import Path

import pytest

from cluster.store import Store, open_store
from cluster.units import CellUnit, pack_from_dict
from mpcwdwm.data import dataset_path, find_task
from mpcwdwm.errors import UserError
from sweeps.plan.plan import Plan, cell_packs, component_packs
from tests.support.plans import BASE, FakeStore, plan, rows


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def keys(plan: Plan) -> set[str]:
    return {unit.key for unit in [*plan.components, *plan.cells]}


# Units


def test_cells_come_in_table_order_with_labels_of_what_varies(tmp_path: Path) -> None:
    made = plan(tmp_path)
    assert rows(made) == ["rebrac", "bc", "mpc H=1 E=1", "mpc H=1 E=2", "mpc H=3 E=1", "mpc H=3 E=2"]
    assert [cell.seed for cell in made.cells] == [0, 1] * 6
    assert {cell.role for cell in made.cells} == {"report"}


def test_only_components_that_a_cell_is_built_on_are_trained(tmp_path: Path) -> None:
    made = plan(tmp_path)
    assert [unit.component for unit in made.components] == [
        c for c in ("rebrac", "bc", "world_model", "reward") for _ in "01"
    ]
    alone = plan(tmp_path, BASE[: BASE.index("planners")] + "baselines: [iql]\n")
    assert {unit.component for unit in alone.components} == {"iql"}
    assert {part for cell in made.cells for part in cell.parts.values()} == {unit.key for unit in made.components}


def test_a_planner_is_evaluated_on_the_same_episodes_as_its_base(tmp_path: Path) -> None:
    made = plan(tmp_path)
    base = {cell.seed: cell for cell in made.cells if cell.method == "rebrac"}
    for cell in made.cells:
        assert (cell.env_seed, cell.episodes) == (0, 10)
        if cell.planner:
            assert cell.parts["rebrac"] == base[cell.seed].parts["rebrac"]


def test_a_variant_of_a_component_is_crossed_only_with_the_cells_that_use_it(tmp_path: Path) -> None:
    extra = "components: {rebrac: {actor_bc_coef: [0.4, 0.1]}, world_model: {K: 1}}".replace("K", "denoising_steps")
    made = plan(tmp_path, BASE.replace("updates: [1, 2]", "updates: 1") + extra)
    assert rows(made) == [
        "rebrac actor_bc_coef=0.4",
        "rebrac actor_bc_coef=0.1",
        "bc",
        "mpc H=1 rebrac.actor_bc_coef=0.4",
        "mpc H=1 rebrac.actor_bc_coef=0.1",
        "mpc H=3 rebrac.actor_bc_coef=0.4",
        "mpc H=3 rebrac.actor_bc_coef=0.1",
    ]
    assert [u.config["actor_bc_coef"] for u in made.components if u.component == "rebrac"] == [0.4, 0.4, 0.1, 0.1]
    assert made.cells[-1].variant == "rebrac.actor_bc_coef=0.1"
    assert made.cells[-1].configs["world_model"]["denoising_steps"] == 1


def test_the_base_can_be_an_axis(tmp_path: Path) -> None:
    made = plan(tmp_path, BASE.replace("horizon: [1, 3], updates: [1, 2]", "base: [rebrac, iql]"))
    assert rows(made) == ["rebrac", "bc", "mpc base=rebrac", "mpc base=iql"]
    assert set(made.cells[-1].parts) == {"iql", "world_model", "reward"}
    assert "iql" in {unit.component for unit in made.components}
    assert any("baselines lack iql" in notice for notice in made.notices)


# Keys in a plan


def test_adding_a_seed_or_a_cell_changes_no_other_key(tmp_path: Path) -> None:
    small = keys(plan(tmp_path))
    assert small < keys(plan(tmp_path, seeds="3"))
    assert small < keys(plan(tmp_path, BASE.replace("[1, 3]", "[1, 3, 5]")))
    assert small < keys(plan(tmp_path, BASE.replace("[rebrac, bc]", "[rebrac, bc, iql]")))


def test_names_resources_and_places_are_in_no_key(tmp_path: Path) -> None:
    other = BASE.replace("name: mine", "name: yours").replace("mpc:", "adapted:")
    other += "resources: {actor: {cpus: 2}, retries: 0, seeds_per_pack: 1}\nstorage: elsewhere\n"
    other += "components: {iql: {steps: 5}}"  # used by nothing here
    assert keys(plan(tmp_path, other)) == keys(plan(tmp_path))


MODELLED = """
from mpcwdwm.components.bc import BehaviorCloning
from mpcwdwm.components.component import ModelConfig
from mpcwdwm.config import setting


class PolicyConfig(ModelConfig):
    eval_episodes: int = setting(EPISODES, "episodes per point")


class Policy(BehaviorCloning):
    config_class = PolicyConfig
"""


@pytest.mark.parametrize(("name", "episodes", "moved"), [("played", 2, True), ("unplayed", 0, False)])
def test_the_curve_of_a_policy_is_played_whatever_its_config_derives_from(
    tmp_path: Path, name: str, episodes: int, moved: bool
) -> None:
    (tmp_path / f"{name}_policy.py").write_text(MODELLED.replace("EPISODES", str(episodes)))
    dataset = dataset_path(find_task("hopper-medium-replay-mini-ppo-v0"))

    def key(limit: int) -> str:
        task = f"{{name: mine, dataset: '{dataset}', env: Hopper-v4, max_episode_steps: {limit}}}"
        text = f"name: a\ntasks: [{task}]\nseeds: 1\nbaselines: ['{name}_policy:Policy']\n"
        return plan(tmp_path, text).components[0].key

    assert (key(1000) != key(500)) is moved  # the time limit shapes a curve that is played


def test_a_default_written_out_is_the_same_as_left_out(tmp_path: Path) -> None:
    assert keys(plan(tmp_path, sets=["components.rebrac.policy_noise=0.2", "planners.mpc.reset=episode"])) == keys(
        plan(tmp_path)
    )


def test_a_setting_changes_the_keys_of_what_is_built_on_it_and_no_others(tmp_path: Path) -> None:
    before, after = plan(tmp_path), plan(tmp_path, sets=["components.world_model.denoising_steps=3"])
    changed = {unit.key.split("-")[0] for unit in [*before.components, *before.cells] if unit.key not in keys(after)}
    assert changed == {"world_model", "policy_rebrac"}


def test_two_methods_that_are_the_same_are_refused(tmp_path: Path) -> None:
    twin = BASE.replace("planners:\n", "planners:\n  twin: {kind: policy, horizon: 3}\n")
    with pytest.raises(UserError, match=r"s\.yaml:7: 'mpc H=3 E=1' is the same as 'twin' on hopper"):
        plan(tmp_path, twin)


# The select phase

SELECT = BASE + "evaluation: {episodes: 5, env_seed: 1, select: {seeds: [8, 9], env_seed: 2, episodes: 3}}\n"


def candidates(made: Plan) -> dict[str, list[CellUnit]]:
    found: dict[str, list[CellUnit]] = {}
    for cell in made.cells:
        if cell.role == "select":
            found.setdefault(cell.method, []).append(cell)
    return found


def test_before_the_choice_only_select_cells_of_the_grid_are_planned(tmp_path: Path) -> None:
    made = plan(tmp_path, SELECT)
    assert made.awaiting_choice == 2
    assert rows(made) == ["rebrac", "bc"]
    trials = candidates(made)
    assert list(trials) == ["mpc H=1 E=1", "mpc H=1 E=2", "mpc H=3 E=1", "mpc H=3 E=2"]
    assert {(c.seed, c.env_seed, c.episodes) for cells in trials.values() for c in cells} == {(8, 2, 3), (9, 2, 3)}
    # what every candidate is built on is needed for the report as well
    assert {u.seed for u in made.components if u.component == "world_model"} == {0, 1, 8, 9}
    assert {u.seed for u in made.components if u.component == "bc"} == {0, 1}


def test_the_best_mean_over_the_select_seeds_is_reported_and_nothing_else(tmp_path: Path) -> None:
    store = FakeStore()
    scores = {"mpc H=1 E=1": (50, 0), "mpc H=1 E=2": (20, 40), "mpc H=3 E=1": (0, 0), "mpc H=3 E=2": (30, 29)}
    trials = candidates(plan(tmp_path, SELECT))
    cells = [(cell, score) for name, both in scores.items() for cell, score in zip(trials[name], both, strict=True)]
    for cell, score in cells[:-1]:
        store.publish(cell.key, score)
    assert plan(tmp_path, SELECT, store).awaiting_choice == 2  # the last one could still be the best
    store.publish(cells[-1][0].key, cells[-1][1])
    made = plan(tmp_path, SELECT, store)
    assert made.awaiting_choice == 0
    reported = [cell for cell in made.cells if cell.role == "report" and cell.planner]
    assert [(c.method, c.seed, c.env_seed, c.episodes) for c in reported] == [("mpc", 0, 1, 5), ("mpc", 1, 1, 5)]
    assert reported[0].planner is not None
    assert (reported[0].planner["horizon"], reported[0].planner["updates"]) == (1, 2)  # mean 30 beats 29.5 and 25


def test_of_equal_candidates_the_first_is_chosen_and_raw_returns_serve_without_scores(tmp_path: Path) -> None:
    store = FakeStore()
    for cells in candidates(plan(tmp_path, SELECT)).values():
        for cell in cells:
            store.publish(cell.key, None, raw=-3.0)
    chosen = plan(tmp_path, SELECT, store).cells[-1].planner
    assert chosen is not None
    assert (chosen["horizon"], chosen["updates"]) == (1, 1)


def test_the_choice_is_made_for_each_variant_of_the_components(tmp_path: Path) -> None:
    store = FakeStore()
    text = SELECT + "components: {rebrac: {actor_bc_coef: [0.4, 0.1]}}"
    first = plan(tmp_path, text)
    assert first.awaiting_choice == 4
    for cell in first.cells:
        if cell.role == "select":
            assert cell.planner is not None
            wanted = 3 if cell.variant.endswith("0.4") else 1
            store.publish(cell.key, float(cell.planner["horizon"] == wanted))
    reported = [c for c in plan(tmp_path, text, store).cells if c.role == "report" and c.planner and c.seed == 0]
    assert [(c.method, c.planner and c.planner["horizon"]) for c in reported] == [
        ("mpc rebrac.actor_bc_coef=0.4", 3),
        ("mpc rebrac.actor_bc_coef=0.1", 1),
    ]


def test_where_there_is_one_candidate_nothing_is_spent_on_choosing(tmp_path: Path) -> None:
    made = plan(tmp_path, SELECT.replace("horizon: [1, 3], updates: [1, 2]", "horizon: 3"))
    assert (made.awaiting_choice, rows(made)) == (0, ["rebrac", "bc", "mpc"])
    assert {cell.role for cell in made.cells} == {"report"}


# States and packs


def test_states_tell_cached_failed_and_new(tmp_path: Path) -> None:
    store = FakeStore()
    made = plan(tmp_path)
    first, second, third = (unit.key for unit in made.components[:3])
    store.publish(first)
    store.failures |= {first: {"error": "old"}, second: {"error": "boom"}}
    states = made.states(store)
    assert (states[first], states[second], states[third]) == ("cached", "failed", "new")
    assert set(states) == keys(made)


def test_packs_stack_the_seeds_of_what_is_otherwise_equal(tmp_path: Path) -> None:
    made = plan(tmp_path, seeds="5")
    packs = [*component_packs(made), *cell_packs(made)]
    assert [pack.seeds for pack in packs] == [(0, 1, 2, 3, 4)] * (4 + 6)
    assert [key for pack in packs for key in pack.keys] == [unit.key for unit in [*made.components, *made.cells]]
    assert pack_from_dict(packs[-1].to_dict()) == packs[-1]


def test_the_limits_of_packs_do_not_depend_on_what_is_finished(tmp_path: Path) -> None:
    store = FakeStore()
    made = plan(tmp_path, seeds="5", sets=["resources.seeds_per_pack=2"])
    assert [pack.seeds for pack in component_packs(made)[:3]] == [(0, 1), (2, 3), (4,)]
    store.publish(made.components[0].key)
    store.publish(made.components[4].key)
    assert [pack.seeds for pack in component_packs(made, store)[:2]] == [(1,), (2, 3)]


def test_no_process_stacks_more_than_16_seeds_unless_asked_to(tmp_path: Path) -> None:
    made = plan(tmp_path, seeds="80")
    for packs in (component_packs(made), cell_packs(made)):
        assert [len(pack.seeds) for pack in packs[:3]] == [16, 16, 16]
    asked = plan(tmp_path, seeds="80", sets=["resources.seeds_per_pack=200"])
    assert len(cell_packs(asked)[0].seeds) == 80


def test_select_and_report_cells_are_never_stacked_together(tmp_path: Path) -> None:
    made = plan(tmp_path, SELECT.replace("env_seed: 2, episodes: 3", "env_seed: 2, episodes: 5"))
    assert {pack.seeds for pack in cell_packs(made)} == {(0, 1), (8, 9)}
    assert {pack.seeds for pack in component_packs(made)} == {(0, 1, 8, 9), (0, 1)}


def test_the_real_store_serves_as_a_view(tmp_path: Path) -> None:
    store: Store = open_store(tmp_path / "runs")
    made = plan(tmp_path, BASE, store)
    assert set(made.states(store).values()) == {"new"}


# A component that builds on another

TILTED = "components: {{rebrac: {rebrac}, world_model: {{kind: meanflow, tilt: {tilt}, tilt_base: {base}}}}}"


def tilted(rebrac: str = "{}", tilt: str = "0.1", base: str = "rebrac", planner: str = "{H: [1, 3]}") -> str:
    text = BASE.replace("{kind: policy, horizon: [1, 3], updates: [1, 2]}", planner)
    return text + TILTED.format(rebrac=rebrac, tilt=tilt, base=base)


def test_a_tilted_world_model_is_trained_with_the_base_of_its_seed_and_keyed_by_it(tmp_path: Path) -> None:
    made, plain = plan(tmp_path, tilted()), plan(tmp_path, tilted(tilt="0"))
    other = plan(tmp_path, tilted("{actor_bc_coef: 0.7}"))
    for each, parts in ((made, {"rebrac"}), (plain, set())):
        models = [u for u in each.components if u.component == "world_model"]
        bases = {u.seed: u for u in each.components if u.component == "rebrac"}
        assert [u.seed for u in models] == [0, 1]
        for unit in models:
            assert unit.parts == dict.fromkeys(parts, bases[unit.seed].key)
            assert unit.configs == dict.fromkeys(parts, bases[unit.seed].config)
    keyed = [{u.seed: u.key for u in each.components if u.component == "world_model"} for each in (made, plain, other)]
    assert len({keys[0] for keys in keyed}) == 3
    same = {u.key for u in plan(tmp_path, tilted("{actor_bc_coef: 0.7}", tilt="0")).components}
    assert {u.key for u in plain.components if u.component == "world_model"} < same  # untilted, it does not matter


def test_every_variant_of_the_base_has_a_world_model_of_its_own_in_a_pack_of_its_own(tmp_path: Path) -> None:
    made = plan(tmp_path, tilted("{actor_bc_coef: [0.1, 0.4]}"))
    bases = {u.key: u.config["actor_bc_coef"] for u in made.components if u.component == "rebrac"}
    models = [u for u in made.components if u.component == "world_model"]
    assert sorted((bases[u.parts["rebrac"]], u.seed) for u in models) == [(0.1, 0), (0.1, 1), (0.4, 0), (0.4, 1)]
    for cell in made.cells:
        if cell.planner:
            (model,) = [u for u in models if u.key == cell.parts["world_model"]]
            assert model.parts["rebrac"] == cell.parts["rebrac"]
    packs = [pack for pack in component_packs(made) if pack.units[0].component == "world_model"]  # type: ignore[union-attr]
    assert [pack.seeds for pack in packs] == [(0, 1), (0, 1)]
    assert all(len({bases[u.parts["rebrac"]] for u in pack.units}) == 1 for pack in packs)
    assert [pack_from_dict(pack.to_dict()) for pack in packs] == packs


def test_a_base_that_no_method_plays_is_trained_all_the_same(tmp_path: Path) -> None:
    made = plan(tmp_path, tilted(base="iql") + "\n")
    assert {u.component for u in made.components} == {"rebrac", "iql", "bc", "world_model", "reward"}
    assert set(made.cells[-1].parts) == {"rebrac", "world_model", "reward"}
    (first, *_) = [u for u in made.components if u.component == "world_model"]
    assert first.parts["iql"] in {u.key for u in made.components if u.component == "iql"}
    order = [u.component for u in made.components]
    assert order.index("iql") < order.index("world_model")


def test_a_selection_trains_the_tilted_model_every_candidate_uses(tmp_path: Path) -> None:
    text = tilted() + "\nevaluation: {select: {seeds: [8], env_seed: 5}}\n"
    made = plan(tmp_path, text)
    assert made.awaiting_choice == 2
    assert {u.seed for u in made.components if u.component == "world_model"} == {0, 1, 8}


OWN_PARTS = """
from mpcwdwm.components.bc import BcConfig, BehaviorCloning
from mpcwdwm.components.registry import COMPONENTS
from mpcwdwm.planning import Frozen, FrozenConfig


class Clone(BehaviorCloning):
    config_class = BcConfig


class NearConfig(FrozenConfig):
    kind: str = "{name}:Near"

    @property
    def needs(self):
        return ("{name}:Clone",)


class Near(Frozen):
    config_class = NearConfig
"""


@pytest.mark.parametrize("of", ["planner", "component"])
def test_a_component_of_ones_own_is_trained_where_a_part_of_the_sweep_needs_it(tmp_path: Path, of: str) -> None:
    name = f"parts_of_a_{of}"
    (tmp_path / f"{name}.py").write_text(OWN_PARTS.replace("{name}", name))
    near, base = f'{{kind: "{name}:Near"}}', f'"{name}:Clone"'
    made = plan(tmp_path, tilted(planner=near) if of == "planner" else tilted(base=base, planner="{H: 1}"))
    own = [unit for unit in made.components if unit.component == f"{name}:Clone"]
    assert [unit.seed for unit in own] == list(made.spec.seeds)
    keys_of_own = {unit.key for unit in own}
    users = [unit for unit in (*made.cells, *made.components) if keys_of_own & set(unit.parts.values())]
    assert len(users) == len(made.spec.seeds)
