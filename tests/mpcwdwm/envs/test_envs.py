import sys
import warnings

import gymnasium
import h5py
import mujoco
import numpy as np
import pytest
import torch

from mpcwdwm.data import dataset_path, find_task
from mpcwdwm.envs.factory import check_env, make_env, mujoco_version
from mpcwdwm.envs.termination import RULES
from mpcwdwm.errors import UserError
from mpcwdwm.evaluation.rollout import rollout

MINI = dataset_path(find_task("hopper-medium-replay-mini-ppo-v0"))


# ── The factory ───────────────────────────────────────────────────────────────


def test_making_an_environment_prints_and_warns_nothing(capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_env("Hopper-v4").close()
    assert capfd.readouterr() == ("", "")


class Oddity(gymnasium.Env):
    """An environment with the given spaces, or one that fails."""

    def __init__(self, observation=None, action=None):
        if observation is None:
            raise RuntimeError("no display")
        self.observation_space, self.action_space = observation, action


BOX = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
ODDITIES = {
    "OddFailing-v0": ({}, "cannot be made: RuntimeError: no display"),
    "OddImage-v0": ({"observation": gymnasium.spaces.Box(0, 1, (4, 4)), "action": BOX}, "has shape (4, 4)"),
    "OddDict-v0": ({"observation": gymnasium.spaces.Dict(a=BOX), "action": BOX}, "observation space is Dict"),
    "OddUnbounded-v0": (
        {"observation": BOX, "action": gymnasium.spaces.Box(-np.inf, np.inf, (2,))},
        "unbounded",
    ),
}


@pytest.mark.parametrize("env_id", ODDITIES)
def test_an_environment_of_another_kind_is_refused(env_id):
    kwargs, expected = ODDITIES[env_id]
    if env_id not in gymnasium.registry:
        gymnasium.register(env_id, entry_point=Oddity, kwargs=kwargs)
    with pytest.raises(UserError) as caught:
        make_env(env_id)
    assert expected in str(caught.value)
    assert env_id in str(caught.value)


class Walk(gymnasium.Env):
    """One dimension, in the new API; its action has to be of its space, dtype included."""

    observation_space = gymnasium.spaces.Box(-9, 9, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        self.place = np.zeros(1, np.float32)
        return self.place, {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.place = self.place + action
        return self.place, float(self.place[0]), False, False, {}


class Reset21(Walk):
    def reset(self):
        return super().reset()[0]


class Reset25(Walk):
    def reset(self, *, seed=None, return_info=False, options=None):
        return super().reset()[0]


class Step25(Walk):
    def step(self, action):
        obs, reward, *_ = super().step(action)
        return obs, reward, False, {}


def registered(env_class, **options):
    env_id = f"{env_class.__name__}{len(options)}-v0"
    if env_id not in gymnasium.registry:
        gymnasium.register(env_id, entry_point=env_class, **options)
    return env_id


OLD = [
    (Reset21, r"reset\(\) takes no seed and options"),
    (Reset25, r"reset\(\) does not return \(observation, info\)"),
    (Step25, r"step\(\) returns 4 values instead of 5"),
]


@pytest.mark.parametrize("options", [{}, {"max_episode_steps": 3}, {"order_enforce": False, "kwargs": {}}], ids=str)
@pytest.mark.parametrize(("env_class", "reason"), OLD)
def test_an_environment_of_the_old_api_is_refused_in_one_line(env_class, reason, options):
    env_id = registered(env_class, **options)
    for play in (rollout_of, step_of):
        with pytest.raises(UserError, match=f"'{env_id}' has gym's old API, {reason}: .*shimmy") as caught:
            play(env_id)
        assert "\n" not in str(caught.value)


def rollout_of(env_id):
    return rollout(env_id, lambda obs, _: torch.full_like(obs, 0.1), [0, 1], max_steps=2)


def step_of(env_id):
    env = make_env(env_id)
    env.reset(seed=0)
    return env.step(np.zeros(1))


def test_an_environment_of_gym_itself_is_refused_in_one_line():
    def not_gymnasiums():
        base = type("Env", (), {"__module__": "gym.core"})
        return type("Old", (base,), {})()

    if "OldGym-v0" not in gymnasium.registry:
        gymnasium.register("OldGym-v0", entry_point=not_gymnasiums)
    with pytest.raises(UserError, match=r"'OldGym-v0' is of gym, not of gymnasium: .*shimmy"):
        make_env("OldGym-v0")


@pytest.mark.parametrize("scale", [1, 0.3])
def test_actions_have_the_dtype_of_the_environments_space(scale):
    class Scaled(Walk):
        action_space = gymnasium.spaces.Box(-scale, scale, (1,), np.float32)

    env_id = f"Scaled{scale}-v0"
    gymnasium.register(env_id, entry_point=Scaled)
    for played in rollout(env_id, lambda obs, _: torch.ones_like(obs), [0, 1], max_steps=2):
        assert played.return_ == pytest.approx(3 * scale)
    assert step_of(env_id)[0].dtype == np.float32


def test_gymnasiums_own_robots_are_stepped_in_double():
    action = np.array([0.1, -0.7, 1 / 3])  # no numbers of float32
    rewards = []
    for env, given in (
        (make_env("Hopper-v4"), action),
        (gymnasium.make("Hopper-v4"), action),
        (gymnasium.make("Hopper-v4"), action.astype(np.float32)),
    ):
        env.reset(seed=3)
        rewards.append(env.step(given)[1])
    assert rewards[0] == rewards[1] != rewards[2]


@pytest.mark.parametrize(
    ("env_id", "expected"),
    [
        ("Hopper-v2", "use 'Hopper-v4'"),
        ("Walker2d-v3", "use 'Walker2d-v4'"),
        ("Hoper-v4", "did you mean 'Hopper-v4'?"),
        ("Hopper", "not known"),
        ("no such thing!", "not known"),
        ("", "no environment is given"),
        ("no_such_module:Env-v0", "cannot be imported"),
        ("CartPole-v1", "action space is Discrete"),
    ],
)
def test_an_unfit_id_is_explained_in_one_line(env_id, expected):
    with pytest.raises(UserError) as caught:
        make_env(env_id)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_too_new_a_mujoco_is_refused_with_the_way_back(monkeypatch):
    monkeypatch.setattr(mujoco, "mj_versionString", lambda: "3.5.0")
    assert mujoco_version() == "3.5.0"
    with pytest.raises(UserError, match=r"mujoco 3\.5\.0 is too new") as caught:
        make_env("Hopper-v4")
    assert "pip install 'mujoco>=3.3.7,<3.5'" in str(caught.value)
    make_env("Pendulum-v1").close()  # not a MuJoCo environment
    monkeypatch.setattr(mujoco, "mj_versionString", lambda: "3.10.2")
    with pytest.raises(UserError, match="too new"):
        make_env("Ant-v4")


@pytest.mark.parametrize(
    ("renderer", "mend"), [("osmesa", "MUJOCO_GL is 'osmesa': install its library"), ("", "again")]
)
def test_a_mujoco_that_cannot_be_imported_is_one_line(
    monkeypatch: pytest.MonkeyPatch, renderer: str, mend: str
) -> None:
    monkeypatch.setitem(sys.modules, "mujoco", None)
    monkeypatch.setenv("MUJOCO_GL", renderer)
    with pytest.raises(UserError, match=rf"mujoco cannot be imported \(ModuleNotFoundError: .*{mend}"):
        mujoco_version()


def test_actions_are_scaled_to_the_environments_own_bounds():
    ours, plain = make_env("Pendulum-v1"), gymnasium.make("Pendulum-v1")
    ours.reset(seed=3)
    plain.reset(seed=3)
    assert ours.action_space.high == 1
    for action in (-1.0, -0.25, 0.5, 1.0):
        a = ours.step(np.array([action], np.float32))
        b = plain.step(np.array([2 * action], np.float32))
        np.testing.assert_allclose(a[0], b[0], rtol=1e-6)
        assert a[1] == pytest.approx(b[1], rel=1e-6)
    hopper = make_env("Hopper-v4")
    assert not isinstance(hopper, gymnasium.wrappers.RescaleAction)


def test_the_time_limit_is_gymnasiums():
    env = make_env("HalfCheetah-v4")
    env.reset(seed=0)
    steps = [env.step(np.zeros(6, np.float32))[2:4] for _ in range(1000)]
    assert steps == [(False, False)] * 999 + [(False, True)]


def test_wrong_dimensions_name_both():
    check_env("Hopper-v4", 11, 3)
    with pytest.raises(UserError, match=r"observations have 17 dimensions.*'Hopper-v4' have 11"):
        check_env("Hopper-v4", 17, 3)
    with pytest.raises(UserError, match=r"actions have 6 dimensions.*'Hopper-v4' have 3"):
        check_env("Hopper-v4", 11, 6)


# ── Termination rules against the real environments ───────────────────────────


@pytest.mark.parametrize(
    ("env_id", "rule"),
    [("Hopper-v4", "hopper"), ("Walker2d-v4", "walker2d"), ("HalfCheetah-v4", "halfcheetah"), ("Ant-v4", "ant")],
)
def test_a_rule_says_what_the_environment_says(env_id, rule):
    env, rng = make_env(env_id), np.random.default_rng(0)
    observations, ended = [], []
    env.reset(seed=0)
    hold = np.zeros(env.action_space.shape)
    for step in range(4000):
        if step % 25 == 0:  # actions held for a while throw the robot about more than white noise does
            hold = rng.uniform(-1, 1, env.action_space.shape)
        action = np.clip(hold + 0.3 * rng.normal(size=hold.shape), -1, 1).astype(np.float32)
        obs, _, terminated, truncated, _ = env.step(action)
        observations.append(obs)
        ended.append(terminated)
        if terminated or truncated:
            env.reset(seed=step)
    found = RULES[rule](torch.from_numpy(np.stack(observations)))
    np.testing.assert_array_equal(found.numpy(), np.array(ended))
    assert any(ended) == (rule != "halfcheetah")


@pytest.mark.parametrize(("env_id", "rule"), [("Hopper-v4", "hopper"), ("Walker2d-v4", "walker2d"), ("Ant-v4", "ant")])
def test_a_rule_agrees_on_states_set_at_random_around_the_limits(env_id, rule):
    env, rng = make_env(env_id).unwrapped, np.random.default_rng(1)
    env.reset(seed=0)
    height = 2 if rule == "ant" else 1
    observations, ended = [], []
    for _ in range(1000):
        qpos, qvel = env.init_qpos.copy(), rng.normal(size=env.model.nv)
        qpos[height] = rng.uniform(0.1, 2.2)
        if rule != "ant":
            qpos[2] = rng.uniform(-1.2, 1.2) * rng.choice([0.1, 1.0])
        env.set_state(qpos, qvel)
        observations.append(env._get_obs())
        ended.append(env.terminated)
    assert 0 < sum(ended) < 1000
    found = RULES[rule](torch.from_numpy(np.stack(observations)))
    np.testing.assert_array_equal(found.numpy(), np.array(ended))


def test_rules_take_any_batch_shape_and_never_call_a_broken_robot_upright():
    for name, dim in (("hopper", 11), ("walker2d", 17), ("halfcheetah", 17), ("ant", 27)):
        rule = RULES[name]
        assert rule(torch.zeros(2, 3, dim)).shape == (2, 3)
        assert rule(torch.zeros(dim)).shape == ()
        broken = torch.full((dim,), float("nan"))
        assert bool(rule(broken)) == (name != "halfcheetah")
    standing = torch.zeros(11)
    standing[0] = 1.25
    assert not RULES["hopper"](standing)
    standing[3] = 101.0
    assert RULES["hopper"](standing)


# ── The bundled file against the real environment ─────────────────────────────


def test_the_bundled_terminal_flags_are_those_of_the_hopper_rule():
    with h5py.File(MINI) as file:
        ended = RULES["hopper"](torch.from_numpy(file["next_observations"][:]))
        np.testing.assert_array_equal(ended.numpy(), file["terminals"][:])


def test_replaying_rows_of_the_bundled_file_gives_back_what_it_recorded():
    env = make_env("Hopper-v4")
    env.reset(seed=0)
    with h5py.File(MINI) as file:
        data = {name: file[name][:] for name in ("actions", "rewards", "next_observations", "terminals")}
        qpos, qvel = file["infos/qpos"][:], file["infos/qvel"][:]
    rng = np.random.default_rng(0)
    rows = np.r_[rng.choice(len(qpos), 300, replace=False), np.flatnonzero(data["terminals"])[::4]]
    for row in rows:
        env.unwrapped.set_state(qpos[row].astype(np.float64), qvel[row].astype(np.float64))
        obs, reward, terminated, _, _ = env.unwrapped.step(data["actions"][row])
        np.testing.assert_allclose(obs, data["next_observations"][row], atol=1e-5, err_msg=f"row {row}")
        assert reward == pytest.approx(data["rewards"][row], abs=1e-5), row
        assert terminated == data["terminals"][row], row
