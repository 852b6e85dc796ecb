"""Stacked seeds equal separate seeds: 200 updates in float64, to 1e-9, every component."""

import pytest
import torch

from mpcwdwm.components import component_config
from mpcwdwm.nn.networks import member_state
from mpcwdwm.random import BLOCK_STEPS, Draws, Integers, Normal
from mpcwdwm.training.loop import Training
from tests.support.parts import KINDS, PARTS, bases_of, part_of
from tests.support.updates import draws_at

STEPS = 200
SEEDS = (3, 11, 7)
SMALL = {"hidden_dim": 16, "batch_size": 32, "steps": STEPS, "evaluations": 1}
COMPONENTS = {
    "rebrac": {},
    "iql": {},
    "iql-normalised-rewards": {"normalize_obs": False, "normalize_reward": True},
    "bc": {},
    "world_model": {},
    **{f"world_model-{name}": KINDS[name] for name in ("flow", "meanflow", "mlp")},
    "reward": {"clip_norm": 0.05},  # always active: the norm must be each member's own
    "value": PARTS["value"][1],
    "mopo": PARTS["mopo"][1],
    "improved": {**PARTS["improved"][1], "steps": 50},
    "improved-direct": {
        **PARTS["improved"][1],
        "steps": 50,
        "planner": {"kind": "action", "preset": "robust", "H": 1, "M": 2},
        "method": "direct",
    },
    "diffuser": {**PARTS["diffuser"][1], "hidden_dim": 8, "batch_size": 8, "lr": 5e-5},
}


@pytest.fixture(scope="module")
def datasets(dataset):
    """Three different datasets, so that normalisers, row counts and batches differ between members."""
    return [part_of(dataset, 0, 4000), part_of(dataset, 20_000, 23_000), part_of(dataset, 40_000, 45_000)]


def states(name, datasets, seeds, steps=STEPS):
    component = name.split("-")[0]
    config = component_config(component, {}, {**SMALL, **COMPONENTS[name]})
    steps = min(steps, config.steps)
    bases = bases_of(config, datasets, seeds)
    training = Training(component, config, datasets, seeds, bases=bases, dtype=torch.float64)
    training.run(until=steps)
    return [member_state(training.part, member) for member in range(len(seeds))]


def largest_difference(one, other):
    return max(float((one[key] - other[key]).abs().max()) for key in one)


@pytest.mark.parametrize("name", COMPONENTS)
def test_stacked_seeds_equal_separate_seeds(name, datasets):
    stacked = states(name, datasets, SEEDS)
    for member, seed in enumerate(SEEDS):
        (alone,) = states(name, [datasets[member]], [seed])
        assert largest_difference(stacked[member], alone) < 1e-9


@pytest.mark.parametrize("name", COMPONENTS)
def test_swapped_data_does_not_go_unnoticed(name, datasets):
    stacked = states(name, [datasets[1], datasets[0], datasets[2]], SEEDS, steps=20)
    (alone,) = states(name, [datasets[0]], [SEEDS[0]], steps=20)
    assert largest_difference(stacked[0], alone) > 1e-3


def test_seeds_differ_in_initialisation_and_in_batches(datasets):
    a, b = states("bc", [datasets[0], datasets[0]], [0, 1], steps=1)
    assert largest_difference(a, b) > 1e-2


def test_draws_depend_on_seed_purpose_and_step_only():
    recipe = {"rows": Integers(100, (5,)), "noise": Normal((2, 3))}
    both = Draws([4, 9], "test", [recipe, recipe])
    later = Draws([9], "test", [recipe])
    at_70 = draws_at(later, 70)  # the second block, without having drawn the first
    for step in range(71):
        drawn = draws_at(both, step)
    assert all(torch.equal(drawn[name][1], at_70[name][0]) for name in recipe)
    assert not torch.equal(drawn["noise"][0], drawn["noise"][1])
    assert not torch.equal(draws_at(Draws([9], "other", [recipe]), 70)["noise"], at_70["noise"])
    assert not torch.equal(draws_at(both, 0)["noise"], draws_at(both, 1)["noise"])
    assert not torch.equal(draws_at(both, 0)["noise"], draws_at(both, BLOCK_STEPS)["noise"])
