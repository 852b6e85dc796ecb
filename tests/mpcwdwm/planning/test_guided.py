"""Diffuser's sampler on Gaussian trajectories, where everything it should do is known in closed form."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mpcwdwm.components import component_config, load_component
from mpcwdwm.components.artifact import write_artifact
from mpcwdwm.components.diffuser import cosine_alpha_bars
from mpcwdwm.errors import UserError
from mpcwdwm.planning import assemble, planner_config
from mpcwdwm.planning.guided import GuidedSampling
from mpcwdwm.training.loop import train
from tests.support.parts import PARTS, part_of
from tests.support.planners import make, observations, play
from tests.support.random_parts import ACT, OBS, keep_member, make_parts, random

SIZE = (3, ACT + OBS)  # of a window
MEAN, SLOPE = random(*SIZE, purpose="test/mean"), random(*SIZE, purpose="test/slope")
VARIANCE = 0.2 + random(*SIZE, purpose="test/variance").square()


class Gaussian:
    """Independent Gaussian trajectories with the linear value ⟨SLOPE, x_0⟩; both expectations behind x_t are exact."""

    window = SIZE

    def __init__(self, steps):
        self.alpha_bars = cosine_alpha_bars(steps).tolist()

    def denoise(self, x, step):
        kept = self.alpha_bars[step]
        return MEAN + kept**0.5 * VARIANCE / (kept * VARIANCE + 1 - kept) * (x - kept**0.5 * MEAN)

    def value(self, x, step):
        return (SLOPE * self.denoise(x, step)).sum((-2, -1))

    def condition(self, x, obs):
        return x

    def action(self, x):
        return 0.1 * x[:, :, 0, :ACT]


def planner(steps=6, **fields):
    """A planner on Gaussian trajectories, after a first step."""
    config = planner_config({"kind": "diffuser", "base": "rebrac", "M": 3, "unguided": 0, "guide_steps": 1, **fields})
    made = GuidedSampling(replace(make_parts(), trajectories=Gaussian(steps)), config, episodes=2)
    made.act(observations(1, rows=2)[0])
    return made


def guided_mean(steps, **fields):
    """The mean of the guided plans: the sampler is linear here, so it is what zero noise gives."""
    made = planner(steps, M=1, **fields)
    made.noises[0].zero_()
    return made.sample(made.noises[0][:, :, 0], steps)[0, 0]


# -------------------------------------------------------------------------------------- closed form


def test_without_guidance_plans_have_the_distribution_of_the_data():
    made = planner(100, M=2000, scale=0.0)
    plans = made.sample(made.noises[0][:, :, 0], 100)[0]
    assert torch.allclose(plans.mean(0), MEAN, atol=0.15)
    assert torch.allclose(plans.var(0), VARIANCE, rtol=0.15, atol=0.05)


@pytest.mark.parametrize(("scale", "guide_steps"), [(0.5, 1), (0.3, 2)])
def test_guided_by_the_variance_plans_are_tilted_by_the_exponential_of_the_value(scale, guide_steps):
    """p(x) exp(λ ⟨g, x⟩) of a Gaussian p has the mean m + λ C g."""
    wanted = MEAN + scale * guide_steps * VARIANCE * SLOPE
    assert torch.allclose(guided_mean(1000, scale=scale, guide_steps=guide_steps), wanted, rtol=0.02, atol=0.02)


def test_only_the_variance_makes_the_tilt_the_same_at_every_number_of_steps():
    """What the authors' code calls the standard deviation is the variance; with √ of it the tilt grows with √T."""

    def moved(by, steps):
        return (guided_mean(steps, scale=0.1, guide_by=by) - MEAN).norm()

    assert moved("variance", 800) / moved("variance", 200) == pytest.approx(1, abs=0.05)
    assert moved("std", 800) / moved("std", 200) == pytest.approx(2, abs=0.2)
    assert moved("none", 800) / moved("none", 200) > 3


@pytest.mark.parametrize("by", ["variance", "std", "none"])
def test_a_plan_equals_the_recursion_written_by_hand(by):
    steps, scale, unguided, guide_steps = 6, 0.3, 2, 2
    made = planner(steps, scale=scale, unguided=unguided, guide_steps=guide_steps, guide_by=by)
    noise = made.noises[0].numpy()
    mean, slope, variance = MEAN.numpy(), SLOPE.numpy(), VARIANCE.numpy()
    grid = np.cos((np.linspace(0, 1, steps + 1) + 0.008) / 1.008 * np.pi / 2) ** 2
    beta = np.minimum(1 - grid[1:] / grid[:-1], 0.999)
    kept = np.cumprod(1 - beta)
    x = noise[:, :, 0].copy()
    for t in range(steps - 1, -1, -1):
        before = kept[t - 1] if t else 1.0
        spread = beta[t] * (1 - before) / (1 - kept[t])
        for _ in range(guide_steps if t >= unguided else 0):
            towards = slope * np.sqrt(kept[t]) * variance / (kept[t] * variance + 1 - kept[t])
            x = x + scale * {"variance": spread, "std": np.sqrt(spread), "none": 1.0}[by] * towards
        clean = mean + np.sqrt(kept[t]) * variance / (kept[t] * variance + 1 - kept[t]) * (x - np.sqrt(kept[t]) * mean)
        x = np.sqrt(before) * beta[t] / (1 - kept[t]) * clean + np.sqrt(1 - beta[t]) * (1 - before) / (1 - kept[t]) * x
        if t:
            x = x + np.sqrt(spread) * noise[:, :, t]
    found = made.sample(made.noises[0][:, :, 0], steps)
    assert np.allclose(found.numpy(), x, rtol=0, atol=1e-10)
    worth = made.model.value(found, 0)
    for row in range(2):
        action, value, failed = made.plan()
        best = int(worth[row].argmax())
        assert np.allclose(action[row].numpy(), np.clip(0.1 * x[row, best, 0, :ACT], -1, 1), rtol=0, atol=1e-10)
        assert float(value[row]) == pytest.approx(float(worth[row, best]), abs=1e-10)
        assert not failed[row]


# ------------------------------------------------------------------------------------------ planner


def test_many_episodes_at_once_equal_one_by_one():
    together = make("diffuser", make_parts((0, 1)), {"warm_start": False})
    obs = observations(1)[0]
    actions = together.act(obs)[0].clone()
    for row in range(4):
        parts = make_parts((0, 1))
        keep_member(parts.policy.actor, row // 2)
        part = parts.trajectories.part
        keep_member(part, row // 2)
        part.seeds = (0,)
        parts = replace(parts, members=1, critic=None, world_model=None, reward=None)
        alone = make("diffuser", parts, {"warm_start": False}, seeds=(0,), episodes=1)
        alone.parts.trajectories.members = 1
        alone.act(obs[row : row + 1])
        alone.noises[0].copy_(together.noises[0][row : row + 1])
        assert torch.allclose(alone.plan()[0][0], actions[row], rtol=0, atol=1e-12)


def test_every_plan_begins_at_the_observation():
    made = make("diffuser", make_parts((0, 1)), {"warm_start": False})
    made.act(observations(1)[0])
    plans = made.sample(made.noises[0][:, :, 0], 4)
    normalizer = made.model.part.normalizer
    begun = normalizer.inverse(plans[:, :, 0].unflatten(0, (2, 2)).flatten(1, 2))[..., ACT:]
    assert torch.allclose(begun.unflatten(1, (2, 3)), made.obs.view(2, 2, 1, OBS).expand(2, 2, 3, OBS), atol=1e-12)


def test_a_warm_start_goes_on_from_the_last_plan_moved_by_a_row_and_noised():
    made, begun = planner(warm_start=True, warm_steps=4), []
    made.sample = lambda x, steps: begun.append((x, steps)) or GuidedSampling.sample(made, x, steps)
    before = made.kept["plan"].clone()
    made.act(observations(2, rows=2)[1])
    (x, steps), kept = begun[0], made.model.alpha_bars[3]
    moved = torch.stack([before[:, 1], before[:, 2], before[:, 2]], 1).unsqueeze(1)
    assert steps == 4
    assert torch.allclose(x, kept**0.5 * moved + (1 - kept) ** 0.5 * made.noises[0][:, :, 0], atol=1e-12)


def test_a_row_without_a_finite_plan_acts_with_the_base_and_the_others_do_not_notice():
    seen = observations(2)
    sound = play(make("diffuser", make_parts((0, 1))), seen)
    parts = make_parts((0, 1))
    made = make("diffuser", parts)
    whole = parts.trajectories.value
    parts.trajectories.value = lambda x, step: whole(x, step).index_fill(0, torch.tensor([2]), float("nan"))
    for (action, _, fallen, pretrained), (other, *_) in zip(play(made, seen), sound, strict=True):
        assert fallen.tolist() == [False, False, True, False]
        assert torch.equal(action[2], pretrained[2])
        assert torch.allclose(action[[0, 1, 3]], other[[0, 1, 3]], rtol=0, atol=1e-12)
    assert made.kept["plan"].isfinite().all()


def test_what_cannot_be_planned_is_said_in_one_line():
    with pytest.raises(UserError, match=r"needs a trajectory model: set parts\.trajectories"):
        make("diffuser", replace(make_parts((0, 1)), trajectories=None)).act(observations(1)[0])
    with pytest.raises(ValueError, match="unguided 5 leaves none of warm_steps 5 guided"):
        planner_config({"kind": "diffuser", "warm_start": True, "unguided": 5})
    assert planner_config({"kind": "diffuser"}).needs == ("diffuser",)


# --------------------------------------------------------------------------------- the trained model


def test_a_trained_diffuser_is_stored_and_plans_the_same_when_it_is_loaded(dataset, tmp_path):
    data, seeds = part_of(dataset, 0, 1500), (3, 5)
    small = {"hidden_dim": 16, "batch_size": 8, "steps": 12, "evaluations": 1}
    trained, folders = {}, {}
    for name, fields in (("bc", {"eval_episodes": 0}), ("diffuser", {**PARTS["diffuser"][1], "ema_start": 4})):
        config = component_config(name, {}, {**small, **fields})
        trained[name] = train(name, config, data, seeds)
        folders[name] = [tmp_path / f"{name}-{seed}" for seed in seeds]
        for folder, member in zip(folders[name], trained[name], strict=True):
            folder.mkdir()
            write_artifact(folder, member.tensors, member.facts, member.curve)
    loaded = {name: load_component(paths) for name, paths in folders.items()}
    for warm in (False, True):
        config = planner_config({"kind": "diffuser", "M": 3, "warm_start": warm, "warm_steps": 3})
        before, after = (
            GuidedSampling(assemble(made, "bc"), config, seeds=seeds, episodes=2) for made in (trained, loaded)
        )
        for step in range(3):
            obs = torch.from_numpy(data.obs[[step, 50 + step, 100 + step, 150 + step]])
            for found, expected in zip(after.act(obs), before.act(obs), strict=True):
                assert torch.equal(found, expected)
            assert not before.act(obs)[2].any()  # the plans act, not the base
            after.act(obs)
