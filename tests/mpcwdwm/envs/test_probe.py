"""Environments that cannot be played are refused in a line before anything is computed for them."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box

from mpcwdwm.envs.factory import make_env
from mpcwdwm.envs.probe import check_playable, import_module_of
from mpcwdwm.errors import UserError

INSIDE = {"observation_space": Box(-np.inf, np.inf, (3,)), "action_space": Box(-1, 1, (2,))}


class Played(gymnasium.Env[Any, Any]):
    """An environment whose parts are given."""

    def __init__(self, obs: Any = None, reward: Any = 0.0, raises: BaseException | None = None, **spaces: Any) -> None:
        if isinstance(raises, SystemExit):
            raise raises
        vars(self).update(INSIDE | spaces)
        self.obs, self.reward, self.raises = np.zeros(3) if obs is None else obs, reward, raises

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        """Return the first observation, a right one."""
        return np.zeros(3), {}

    def step(self, action: Any) -> Any:
        """Return what was given."""
        if self.raises:
            raise self.raises
        return self.obs, self.reward, False, False, {}


class Empty(gymnasium.Env[Any, Any]):
    """Nothing of an environment."""


class Old(Played):
    """Gym's old API."""

    def reset(self) -> Any:  # type: ignore[override]
        """Return the observation alone."""
        return np.zeros(3)


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (Played, Empty, Old):
        monkeypatch.setitem(gymnasium.registry, f"{kind.__name__}-v0", gymnasium.envs.registration.EnvSpec(
            f"{kind.__name__}-v0", entry_point=kind, max_episode_steps=10
        ))  # fmt: skip


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"obs": np.zeros(5)}, r"step\(\) returns an observation of shape \(5,\), its space says \(3,\)"),
        ({"obs": np.full(3, np.nan)}, "not finite"),
        ({"reward": float("nan")}, "the reward nan"),
        ({"raises": ValueError("no\nluck")}, "fails before its second step: ValueError: no luck"),
        ({"raises": SystemExit(3)}, "SystemExit: 3"),
        ({"action_space": Box(-1, 1, (2,), np.int32)}, "actions of type int32 would be rounded"),
        ({"observation_space": gymnasium.spaces.Dict()}, "observation space is Dict"),
        ({"action_space": gymnasium.spaces.Discrete(3)}, "action space is Discrete"),
        ({"action_space": Box(-np.inf, np.inf, (2,))}, "unbounded"),
    ],
)
def test_what_cannot_be_played_is_refused(kwargs: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        check_playable("Played-v0", kwargs)


@pytest.mark.parametrize(("name", "says"), [("Empty-v0", "AttributeError"), ("Old-v0", "gym's old API")])
def test_what_is_no_environment_of_gymnasium_is_refused(name: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        check_playable(name)


@pytest.mark.parametrize("high", [1.0, 2.5])
def test_others_pass(high: float) -> None:
    check_playable("Played-v0", {"action_space": Box(-high, high, (2,), np.float64)})
    assert make_env("Played-v0").action_space.shape == (2,)


@pytest.mark.parametrize("text", ["def (", "1 / 0", "raise SystemExit(4)"])
def test_a_module_whose_code_fails_is_named(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "failing_module.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match="module 'failing_module' fails when it is imported: "):
        import_module_of("failing_module:X-v0")
    import_module_of("Hopper-v4")
    import_module_of("not_there:X-v0")  # said elsewhere


def test_the_robots_are_known_and_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpcwdwm.envs.probe.make_env", None)
    check_playable("Hopper-v4")
    check_playable("mpcwdwm/AntMaze-umaze-v2")
