"""The training loop: exact resumption, curves, atomic checkpoints, what a component learns from."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from mpcwdwm.components import component_config
from mpcwdwm.components.component import clip_norm
from mpcwdwm.data import find_task, published_config
from mpcwdwm.errors import Interrupted, UserError
from mpcwdwm.nn.networks import Mlp, orthogonal_init, uniform_init
from mpcwdwm.random import generator
from mpcwdwm.training.buffer import Buffer, usable_rows
from mpcwdwm.training.checkpoint import read_checkpoint
from mpcwdwm.training.evaluators import heldout_evaluator
from mpcwdwm.training.loop import Training, train
from tests.support.parts import PARTS, bases_of, part_of

SMALL = {"hidden_dim": 16, "batch_size": 32, "steps": 120, "evaluations": 3, "eval_episodes": 1}


@pytest.fixture(scope="module")
def small(dataset):
    return part_of(dataset, 0, 4000)


def config_of(name, **fields):
    return component_config(name, {}, {**SMALL, **fields})


# ------------------------------------------------------------------------------------------ resuming


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("stop", [37, 64])  # within a block of random numbers, and at its border
def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(name, stop, small, tmp_path):
    component, own = PARTS[name]
    config = config_of(component, **own)
    whole, first, second = (
        Training(component, config, small, [0, 1], bases=bases_of(config, small, [0, 1])) for _ in range(3)
    )
    whole.run()
    first.run(until=stop)
    first.save(tmp_path / "checkpoint")
    assert second.load(tmp_path / "checkpoint")
    assert second.step == stop
    second.run()
    for key, value in whole.part.state_dict().items():
        assert torch.equal(value, second.part.state_dict()[key]), key
    assert whole.curves == second.curves


def test_a_checkpoint_of_another_run_is_not_continued(small, tmp_path):
    training = Training("bc", config_of("bc"), small, [0])
    training.run(until=5)
    training.save(tmp_path / "checkpoint")
    for other in (
        Training("bc", config_of("bc", lr=1e-3), small, [0]),
        Training("bc", config_of("bc"), small, [1]),
        Training("bc", config_of("bc"), dataclasses.replace(small, sha256="other"), [0]),
    ):
        assert not other.load(tmp_path / "checkpoint")
        assert other.step == 0


def test_a_damaged_checkpoint_costs_only_time(small, tmp_path):
    path = tmp_path / "checkpoint"
    training = Training("bc", config_of("bc"), small, [0])
    training.save(path)
    sound = path.read_bytes()
    assert training.load(path)
    for damaged in (
        sound[:100],
        sound[:-1] + bytes([sound[-1] ^ 1]),
        sound.replace(b'\\"step\\": 0', b'\\"step\\": 9'),
    ):
        assert damaged != sound
        path.write_bytes(damaged)
        assert read_checkpoint(path) is None
        assert not training.load(path)


def test_a_training_that_is_interrupted_saves_its_step_and_goes_on_from_there(small, tmp_path):
    path, heard = tmp_path / "checkpoint", []

    def interrupt(step, steps):
        heard.append(step)
        raise Interrupted

    for _ in range(2):
        with pytest.raises(Interrupted):
            train("bc", config_of("bc", steps=120), small, [4], checkpoint=path, on_progress=interrupt)
    assert heard == [50, 100]
    (whole,) = train("bc", config_of("bc", steps=120), small, [4])
    (continued,) = train("bc", config_of("bc", steps=120), small, [4], checkpoint=path)
    assert all(torch.equal(whole.tensors[key], continued.tensors[key]) for key in whole.tensors)


def test_train_writes_a_checkpoint_and_a_finished_one_costs_no_further_step(small, tmp_path):
    path = tmp_path / "checkpoint"
    (first,) = train("bc", config_of("bc"), small, [4], checkpoint=path)
    steps = []
    (again,) = train("bc", config_of("bc"), small, [4], checkpoint=path, on_progress=lambda s, n: steps.append(s))
    assert steps == []
    assert all(torch.equal(first.tensors[key], again.tensors[key]) for key in first.tensors)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


# -------------------------------------------------------------------------------------------- curves


def test_a_policys_curve_holds_losses_and_scores_and_the_last_parameters_are_the_result(small):
    config = config_of("rebrac")
    results = train(
        "rebrac", config, small, [0, 1], env_id="Hopper-v4", max_episode_steps=50, reference=(-20.0, 3000.0)
    )
    for result in results:
        assert [point["step"] for point in result.curve] == [40, 80, 120]
        assert {"critic/loss", "actor/loss", "eval/return", "eval/normalized_score"} <= set(result.curve[0])
        json.dumps([result.curve, result.facts])
        assert result.facts["metrics"]["eval/return"] == result.curve[-1]["eval/return"]
    bare = Training("rebrac", config, small, [0, 1])
    bare.run()
    assert torch.equal(bare.part.actor.net.head.weight[1], results[1].tensors["actor.net.head.weight"])


def test_models_are_judged_on_episodes_they_never_saw(small):
    training = Training("reward", config_of("reward"), small, [0])
    assert training.buffer.sizes == (int((~small.heldout).sum()),)
    (metrics,) = heldout_evaluator(training.part, training.datasets)(training.part)
    assert set(metrics) == {"heldout/rmse", "heldout/r2"}


# ---------------------------------------------------------------------------------------------- rows


def test_rows_without_a_next_action_serve_the_models_but_not_rebrac(small):
    everything = usable_rows(small, "all", heldout=None)
    critic = usable_rows(small, "next_action", heldout=None)
    dropped = np.setdiff1d(everything, critic)
    assert len(everything) == len(small.reward)
    assert (~small.has_next_action[dropped] & ~small.terminal[dropped]).all()
    assert small.terminal[critic].any()  # terminals stay: nothing is bootstrapped behind them


def test_masks_stop_the_bootstrap_at_terminals_and_not_at_timeouts(dataset):
    buffer = Buffer([dataset], [torch.arange(len(dataset.reward))])
    batch = buffer.gather(torch.arange(len(dataset.reward)).unsqueeze(0))
    assert torch.equal(batch.mask[0] == 0, torch.from_numpy(dataset.terminal))
    assert torch.equal(batch.obs[0], torch.from_numpy(dataset.obs))


def test_a_dataset_without_usable_rows_is_refused_in_one_line(small):
    empty = dataclasses.replace(small, has_next_obs=np.zeros_like(small.has_next_obs))
    with pytest.raises(UserError, match="no usable transitions"):
        usable_rows(empty, "next_obs", heldout=None)


# ------------------------------------------------------------------------------------ configuration


def test_what_a_training_cannot_begin_with_is_refused_in_one_line(dataset):
    config, other = component_config("bc", {}, {}), component_config("iql", {}, {})
    with pytest.raises(UserError, match="bc is configured by BcConfig, not by IqlConfig"):
        train("bc", other, dataset, [0])
    with pytest.raises(UserError, match="0 datasets for 0 seeds: give one seed or more"):
        train("bc", config, dataset, [])
    with pytest.raises(UserError, match="1 datasets for 2 seeds"):
        train("bc", config, [dataset], [0, 1])
    with pytest.raises(UserError, match="give what mpcwdwm"):
        train("bc", config, str(dataset.path), [0])


def test_published_settings_reach_the_config_and_the_users_come_last():
    task = find_task("antmaze-umaze-v2")
    config = component_config("rebrac", published_config(task, "rebrac"), {"batch_size": 64})
    assert (config.reward_scale, config.discount, config.actor_lr, config.critic_lr) == (100, 0.999, 3e-4, 5e-5)
    assert config.batch_size == 64
    iql = component_config("iql", published_config(task, "iql"), {})
    assert (iql.reward_shift, iql.expectile, iql.temperature) == (-1, 0.9, 10)


def test_iqls_two_reward_conventions_exclude_each_other():
    with pytest.raises(ValueError, match="exclude each other"):
        component_config("iql", {}, {"normalize_obs": True, "normalize_reward": True})


def test_iql_scales_rewards_to_a_return_spread_of_a_thousand(small):
    training = Training("iql", config_of("iql", normalize_obs=False, normalize_reward=True), small, [0])
    spread = small.returns.max() - small.returns.min()
    assert float(training.part.reward_affine[0, 0]) == pytest.approx(1000 / spread)


def test_numbers_are_not_read_from_strings_or_bools():
    assert component_config("bc", {}, {"steps": 1e3}).steps == 1000
    for wrong in ("1000", True, 1.5, 0, None):
        with pytest.raises(ValueError, match="steps"):
            component_config("bc", {}, {"steps": wrong})


# -------------------------------------------------------------------------------------- initialisation


def test_rebracs_layers_start_as_its_authors_do():
    net = Mlp((1,), 64, [256, 256], 4)
    net.initialize(0, generator(0, "test"), uniform_init(bias=0.1), uniform_init(1e-3))
    first, second = (layer.weight.detach() for layer in net.hidden)
    assert 0.98 / 8 < float(first.abs().max()) <= 1 / 8  # 1/√fan_in
    assert 0.98 / 16 < float(second.abs().max()) <= 1 / 16
    assert float(second.std()) == pytest.approx(1 / 16 / 3**0.5, rel=0.02)
    assert (net.hidden[0].bias == 0.1).all()
    assert 0.9e-3 < float(net.head.weight.detach().abs().max()) <= 1e-3
    assert 0 < float(net.head.bias.detach().abs().max()) <= 1e-3


def test_iqls_layers_are_orthogonal_with_gain_root_two():
    net = Mlp((1,), 32, [32], 4)
    net.initialize(0, generator(0, "test"), orthogonal_init(), orthogonal_init())
    weight = net.hidden[0].weight[0].detach()
    assert torch.allclose(weight @ weight.T, 2 * torch.eye(32), atol=1e-5)
    head = net.head.weight[0].detach()
    assert torch.allclose(head.T @ head, 2 * torch.eye(4), atol=1e-5)
    assert (net.hidden[0].bias == 0).all()


def test_gradient_norms_are_clipped_member_by_member():
    gradients = [torch.tensor([[3.0, 0.0], [0.3, 0.0]]), torch.tensor([[4.0], [0.4]])]
    clipped = clip_norm(gradients, 1.0)
    assert torch.allclose(clipped[0], torch.tensor([[0.6, 0.0], [0.3, 0.0]]))
    assert torch.allclose(clipped[1], torch.tensor([[0.8], [0.4]]))
