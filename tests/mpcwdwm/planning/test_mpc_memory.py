"""Plans within their memory budget: rollouts taken in several passes, with the same gradient."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mpcwdwm.planning import MpcConfig, adapt, objective
from mpcwdwm.planning.ascent import KEPT_SHARE, rollouts_per_pass
from tests.support.parts import BUNDLED
from tests.support.random_parts import make_parts, problem
from tests.support.trusted_parts import ALL


def test_rollouts_in_several_passes_give_the_same_gradient():
    parts, config = make_parts((0, 1)), MpcConfig(H=2, M=7, E=2, step_size=1e-2)
    psi, obs, noise = problem(parts, config, episodes=2)
    whole, value, _ = adapt(parts, psi, psi, obs, [noise] * 2, config)
    chunked, same, _ = adapt(parts, psi, psi, obs, [noise] * 2, config, chunk=3)
    assert torch.allclose(value, same, atol=1e-13)
    for name in psi:
        assert torch.allclose(whole[name], chunked[name], rtol=0, atol=1e-13)


def test_what_a_backward_pass_keeps_stays_within_its_budget():
    """Saved activations of the chunk that is chosen, counted independently, stay below the budget and near it."""
    parts = make_parts((0, 1))
    config = MpcConfig(H=3, M=400, memory_gb=0.01)
    psi, obs, noise = problem(parts, config, episodes=2)
    chunk = rollouts_per_pass(lambda x, z: objective(parts, x, obs, z, config), psi, noise, config.memory_gb)
    assert 1 < chunk < config.rollouts
    kept: dict[int, int] = {}

    def note(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    leaves = {name: p.clone().requires_grad_() for name, p in psi.items()}
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        value = objective(parts, leaves, obs, noise[:, :, :chunk], config)
    fixed = sum(p.numel() * p.element_size() for p in psi.values()) * 4  # weights, whatever the chunk
    assert 0.8 * KEPT_SHARE * 0.01e9 < sum(kept.values()) < KEPT_SHARE * 0.01e9 + fixed
    assert value.requires_grad


SCRIPT = """
import re, torch
from pathlib import Path
from mpcwdwm.components.world_models.diffusion import DiffusionConfig, DiffusionModel
from mpcwdwm.components.rebrac import Rebrac, RebracConfig
from mpcwdwm.components.reward import Reward, RewardConfig
from mpcwdwm.data import dataset_path, find_task, read_dataset
from mpcwdwm.planning import Parts, planner_config
from mpcwdwm.planning.parts import SharedCritic, SharedReward, SharedWorldModel, StackedPolicy
from mpcwdwm.planning.registry import PLANNERS
torch.set_num_threads(1)
policy, model, reward = (
    part(config, 11, 3, [0]).requires_grad_(False)
    for part, config in (
        (Rebrac, RebracConfig(hidden_dim=64)),
        (DiffusionModel, DiffusionConfig(denoising_steps=10, hidden_dim=64)),
        (Reward, RewardConfig(hidden_dim=64)),
    )
)
fields = FIELDS
data = read_dataset(dataset_path(find_task("BUNDLED"))) if "gate" in fields else None  # reading it peaks, too
parts = Parts(
    policy=StackedPolicy(policy.actor), critic=SharedCritic(policy.critic, 1),
    world_model=SharedWorldModel(model, 1), reward=SharedReward(reward, 1, policy.reward_affine),
    dataset=data, behavior=lambda obs: obs[..., :3].tanh(),
)
def plan(**changes):
    planner = PLANNERS[fields["kind"]](parts, planner_config({**fields, **changes}), episodes=10)
    planner.act(torch.randn(10, 11))
    return planner
def peak():  # kB; getrusage would count what the parent process had
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
plan(rollouts=3)  # what libraries allocate once
before = peak()
planner = plan()
assert LIMITED
print((peak() - before) / 1e6)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no record of a process's peak memory")
@pytest.mark.parametrize(
    ("fields", "limited"),
    [
        (
            {"kind": "policy", "horizon": 5, "rollouts": 1024, "memory_gb": 0.3, **ALL, "trust_region": 0.1, "gate": 1},
            "planner._chunk < 1024",
        ),
        ({"kind": "mppi", "horizon": 1, "rollouts": 120, "updates": 1, "memory_gb": 0.3}, "planner._samples < 512 / 5"),
    ],
    ids=["policy", "mppi"],
)
def test_a_large_plan_peaks_below_its_budget(fields, limited):
    """H 5, K 10, a thousand rollouts, ten episodes; in a process of its own, its noise included."""
    script = SCRIPT.replace("BUNDLED", BUNDLED).replace("FIELDS", repr(fields)).replace("LIMITED", limited)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert 0.2 * fields["memory_gb"] < float(done.stdout) < fields["memory_gb"]  # GB
