"""On an accelerator: the same updates and the same plans as on the CPU, within float32."""

import pytest
import torch

from mpcwdwm.components import component_config
from mpcwdwm.components.component import Batch
from mpcwdwm.nn.compute_config import ComputeConfig
from mpcwdwm.planning import MpcConfig, adapt, planner_config
from mpcwdwm.planning.registry import PLANNERS
from mpcwdwm.training.loop import Training
from tests.support.parts import PARTS, bases_of, part_of
from tests.support.random_parts import ACT, OBS, make_parts, problem
from tests.support.trusted_parts import ALL, trusted_parts
from tests.support.updates import draws_at, update

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator")]
SMALL = {"hidden_dim": 16, "batch_size": 32, "steps": 50, "evaluations": 1}


def of(name, **fields):
    """Return a component's name and its small config."""
    component, own = PARTS[name]
    return component, component_config(component, {}, {**SMALL, **own, **fields})


def training(name, config, data, **options):
    return Training(name, config, data, [0, 1], bases=bases_of(config, data, [0, 1]), **options)


@pytest.mark.parametrize("name", PARTS)
def test_updates_on_an_accelerator_equal_those_on_the_cpu(name, dataset):
    data, (name, config) = part_of(dataset, 0, 4000), of(name)
    here, there = (training(name, config, data, device=device, dtype=torch.float64) for device in ("cpu", "cuda"))
    if name in ("value", "improved"):  # imagined with the numbers of the device: what the CPU imagined, for both
        there.part.load_state_dict(here.part.state_dict())
    if name == "value":
        table = {field: value.cuda() for field, value in vars(here.part._table).items()}
        there.part._table, there.part._learns = type(here.part._table)(**table), here.part._learns.cuda()
    for table in ("_obs", "_counts", "_base", "_target") if name == "improved" else ():
        setattr(there.part, table, getattr(here.part, table).cuda())
    for step in range(10):
        draws = draws_at(here.draws, step)  # the CPU's numbers for both: devices have generators of their own
        batch = here.buffer.gather(draws.pop("rows"))
        update(here.part, batch, draws, step)
        moved = Batch(**{field: value.cuda() for field, value in vars(batch).items()})
        update(there.part, moved, {key: value.cuda() for key, value in draws.items()}, step)
    for key, value in here.part.state_dict().items():
        assert torch.allclose(value, there.part.state_dict()[key].cpu(), atol=1e-9), key


@pytest.mark.parametrize("name", PARTS)
def test_a_run_on_an_accelerator_is_resumed_to_the_bit(name, dataset, tmp_path):
    data, (name, config) = part_of(dataset, 0, 4000), of(name)
    whole, first, second = (training(name, config, data, device="cuda") for _ in range(3))
    whole.run()
    first.run(until=20)
    first.save(tmp_path / "checkpoint")
    assert second.load(tmp_path / "checkpoint")
    second.run()
    for key, value in whole.part.state_dict().items():
        assert torch.equal(value, second.part.state_dict()[key]), key


@pytest.mark.parametrize("capture", ["graph", "compile"])
@pytest.mark.parametrize("name", PARTS)
def test_captured_updates_equal_eager_ones(name, capture, dataset):
    # at a horizon of 8 Diffuser's value ends with norms of one element: gradients of 0, or of rounding, if compiled
    fields = {"horizon": 16} if name == "diffuser" else {}
    data, (name, config) = part_of(dataset, 0, 4000), of(name, steps=400, **fields)
    eager, captured = (
        training(name, config, data, device="cuda", compute=ComputeConfig(capture=way)) for way in ("eager", capture)
    )
    for run in (eager, captured):
        run.run(until=200)
    assert captured._updates[0]._graph is not None
    for key, value in eager.part.state_dict().items():
        # Diffuser's value: 200 eager updates in float32 and in float64 differ by 0.006
        within = 2e-2 if capture == "compile" and key.startswith(("value_net.", "averaged_value.")) else 2e-4
        assert torch.allclose(value, captured.part.state_dict()[key], rtol=1e-3, atol=within), key


@pytest.mark.parametrize("capture", ["eager", "graph"])
@pytest.mark.parametrize("name", PARTS)
def test_nothing_in_the_training_loop_waits_for_the_device(name, capture, dataset):
    data, (name, config) = part_of(dataset, 0, 4000), of(name, steps=400)
    run = training(name, config, data, device="cuda", compute=ComputeConfig(capture=capture))
    run.run(until=20)  # first uses load libraries, and a capture synchronises once
    torch.cuda.set_sync_debug_mode("error")
    try:
        run.run(until=150)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_tf32_changes_products_and_only_where_it_is_asked_for(dataset):
    data, config = part_of(dataset, 0, 4000), component_config("bc", {}, {**SMALL, "hidden_dim": 256})
    exact, rounded, again = (
        Training("bc", config, data, [0], device="cuda", compute=ComputeConfig(tf32=tf32))
        for tf32 in (False, True, False)
    )
    for run in (exact, rounded, again):
        run.run(until=10)
    weights = [run.part.actor.net.hidden[1].weight for run in (exact, rounded, again)]
    assert torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], weights[1])
    assert torch.allclose(weights[0], weights[1], atol=1e-2)


def test_a_plan_on_an_accelerator_equals_one_on_the_cpu():
    config = MpcConfig(H=3, M=5, E=2, step_size=1e-2)
    here, there = make_parts((0, 1)), make_parts((0, 1))
    psi, obs, noise = problem(here, config, episodes=3)
    for part in (there.policy.actor, there.world_model.part, there.reward.part, there.critic.part):
        part.cuda()
    there.reward.scale, there.reward.shift = there.reward.scale.cuda(), there.reward.shift.cuda()
    moved = there.policy.initial(3)
    ours, value, _ = adapt(here, psi, psi, obs, [noise] * 2, config)
    theirs, same, _ = adapt(there, moved, moved, obs.cuda(), [noise.cuda()] * 2, config)
    assert torch.allclose(value, same.cpu(), atol=1e-9)
    for name in ours:
        assert torch.allclose(ours[name], theirs[name].cpu(), atol=1e-9)


def on_accelerator(seeds):
    parts = trusted_parts(seeds)
    learnt = (parts.policy.actor, parts.world_model.model.part, parts.reward.part, parts.critic.part)
    for part in (*learnt, parts.behavior):
        part.cuda()
    parts.reward.scale, parts.reward.shift = parts.reward.scale.cuda(), parts.reward.shift.cuda()
    parts.device = torch.device("cuda")
    return parts


CLIMBING = {"H": 2, "M": 4, "E": 2, "step_size": 1e-2}


@pytest.mark.parametrize(
    "fields",
    [
        CLIMBING,
        {**CLIMBING, "reset": "step"},
        {**CLIMBING, "noise": "redrawn"},
        {**CLIMBING, **ALL, "trust_region": 0.05, "gate": 0.1},
        {**CLIMBING, **ALL, "step_unit": "action", "disagreement": "world_model"},
        {**CLIMBING, "step_unit": "state"},
        {"kind": "action", **CLIMBING, "reset": "episode"},
        {"kind": "mppi", "H": 2, "M": 2, "E": 2, "samples": 12, "policy_samples": 3, "elites": 5},
        {"kind": "random"},
        {"kind": "none"},
    ],
    ids=str,
)
def test_captured_plans_equal_eager_ones_and_a_broken_row_falls_back_in_both(fields):
    config = planner_config(fields)
    planner = PLANNERS[config.kind]
    eager, captured = (
        planner(on_accelerator((0, 1)), config, seeds=(0, 1), episodes=2, compute=ComputeConfig(capture=way))
        for way in ("eager", "graph")
    )
    for step in range(8):
        obs = torch.randn(4, OBS, dtype=torch.float64, device="cuda")
        if step == 6:
            obs[1] = float("nan")
        ours, theirs = captured.act(obs), eager.act(obs)
        assert torch.allclose(ours[0], theirs[0], atol=1e-12, equal_nan=True)
        assert torch.equal(ours[2], theirs[2])
        assert ours[2].tolist() == [False, step == 6 and config.kind != "none", False, False]  # it has no fallback
        assert ours[0].shape == (4, ACT)
    assert captured._step._graph is not None
    for name, p in eager.kept.items():
        assert torch.allclose(p, captured.kept[name], atol=1e-12), name
