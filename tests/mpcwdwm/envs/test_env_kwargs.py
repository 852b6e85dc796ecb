"""Keyword arguments of environments reach every episode, and what a reader of scores should know is said."""

import gymnasium
import numpy as np
import pytest
import torch

from mpcwdwm.components import component_config
from mpcwdwm.data.tasks import custom_task
from mpcwdwm.envs.factory import check_env, environment_note, make_env
from mpcwdwm.errors import UserError
from mpcwdwm.evaluation.evaluate import evaluate
from mpcwdwm.evaluation.rollout import rollout
from mpcwdwm.planning import ModulePolicy, Parts
from mpcwdwm.training.loop import train
from tests.support.recorded_episodes import random_episodes

BOX = gymnasium.spaces.Box(-1, 1, (2,), np.float32)


class Timer(gymnasium.Env):
    """Ends after `length` steps, each of which earns `pay`."""

    observation_space, action_space = BOX, BOX

    def __init__(self, length=3, pay=1.0):
        self.length, self.pay = length, pay

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.zeros(2, np.float32), self.pay, self.steps == self.length, False, {}


@pytest.fixture
def timer():
    gymnasium.register("Timer-v0", entry_point=Timer, kwargs={"pay": 2.0}, max_episode_steps=50)
    yield "Timer-v0"
    del gymnasium.registry["Timer-v0"]


GIVEN = [(None, 3, 2.0), ({"length": 7}, 7, 2.0), ({"length": 4, "pay": 0.5}, 4, 0.5)]


@pytest.mark.parametrize(("kwargs", "length", "pay"), GIVEN)
def test_they_shape_the_episodes_of_an_evaluation_and_of_a_learning_curve(timer, kwargs, length, pay):
    played = rollout(timer, lambda obs, alive: 0 * obs, [0, 1], max_steps=50, env_kwargs=kwargs)
    assert [(one.length, one.return_) for one in played] == [(length, length * pay)] * 2
    parts = Parts(ModulePolicy(torch.nn.Linear(2, 2)), env_id=timer, env_kwargs=kwargs or {}, max_episode_steps=50)
    assert [one["length"] for one in evaluate(parts, None, seeds=[0], episodes=2, env_seed=0)] == [length] * 2
    config = component_config("bc", {}, {"steps": 1, "evaluations": 1, "eval_episodes": 2, "hidden_dim": 2})
    [member] = train("bc", config, random_episodes(2, [4, 5]), [0], env_id=timer, env_kwargs=kwargs)
    assert [point["eval/return"] for point in member.curve] == [length * pay]


@pytest.mark.parametrize(
    ("env_id", "kwargs", "said"),
    [
        ("Hopper-v4", {"max_episode_steps": 10}, "the time limit is the task's max_episode_steps"),
        ("Hopper-v4", {"disable_env_checker": True}, "may not hold disable_env_checker"),
        ("Hopper-v4", {"gravitation": 3}, "cannot be made: TypeError"),
    ],
)
def test_those_that_do_not_fit_are_refused_in_one_line(env_id, kwargs, said):
    with pytest.raises(UserError) as caught:
        check_env(env_id, 11, 3, kwargs)
    assert said in str(caught.value)
    assert env_id in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nothing_is_taken_to_be_known_of_an_environment_made_otherwise(tmp_path):
    kwargs = {"terminate_when_unhealthy": False}
    task = custom_task("mine", tmp_path / "a.hdf5", "Hopper-v4", env_kwargs=kwargs)
    assert (task.termination, task.reference, task.max_episode_steps) == (None, None, 1000)
    ruled = custom_task("mine", tmp_path / "a.hdf5", "Hopper-v4", env_kwargs=kwargs, termination="hopper")
    assert ruled.termination == "hopper"
    assert len({task, ruled}) == 2  # tasks stay hashable


def test_a_note_says_what_differs_from_d4rls_environments_and_nothing_else():
    assert environment_note("Hopper-v4", {}, None) == ""
    assert environment_note("HalfCheetah-v5", {}, None) == ""
    assert "1.0 lower at each fall" in environment_note("Hopper-v5", {}, None)
    note = environment_note("Walker2d-v5", {"frame_skip": 2}, (-2.0, 2.0))
    assert [said in note for said in ("other physics", "frame_skip=2", "rescaled to [-2, 2]")] == [True] * 3


@pytest.mark.parametrize(("robot", "same"), [("Hopper", True), ("Walker2d", False), ("HalfCheetah", True)])
def test_what_the_notes_say_of_v5_is_so(robot, same):
    """The same actions in both versions until the first fall: what differs, and by how much."""
    old, new = make_env(f"{robot}-v4"), make_env(f"{robot}-v5")
    rng, total = np.random.default_rng(0), np.zeros(2)
    first = [env.reset(seed=1)[0] for env in (old, new)]
    np.testing.assert_array_equal(*first)
    apart = fallen = False
    for _ in range(300):
        action = rng.uniform(-1, 1, old.action_space.shape).astype(np.float32)
        (obs, earned, fallen, *_), (obs5, earned5, fallen5, *_) = old.step(action), new.step(action)
        total += earned, earned5
        apart |= bool(np.abs(obs - obs5).max() > 1e-6)
        if fallen or fallen5:
            break
    assert apart is not same
    if same:
        assert total[0] - total[1] == pytest.approx(1.0 if fallen else 0.0)
    assert fallen or robot != "Hopper"
