"""Rewards and observations of unusual size: what the plan says of them before anything is trained."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.parts import BUNDLED
from tests.support.plans import BASE, plan
from tests.support.synthetic import episodes, write_hdf5

OWN = BASE.replace(f"[{BUNDLED}]", "[{name: own, dataset: own.hdf5, env: HalfCheetah-v4}]")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def said(folder: Path, text: str = OWN, rewards: float = 1.0, **arrays: Any) -> list[str]:
    data = {**episodes(obs_dim=17, act_dim=6), **arrays}
    data["rewards"] = rewards * data["rewards"] / abs(data["rewards"]).max()
    write_hdf5(folder / "own.hdf5", data)
    return [note for note in plan(folder, text).notices if "reward_scale" in note or "standard deviation" in note]


@pytest.mark.parametrize(("largest", "scale"), [(1e-6, "1e+06"), (1e6, "1e-06"), (0.009, "1e+02"), (1100, "0.0009")])
def test_rewards_to_which_a_critics_learning_rates_do_not_fit_are_noted(
    tmp_path: Path, largest: float, scale: str
) -> None:
    for _ in ("from the file", "from the cache"):
        (note,) = said(tmp_path, rewards=largest)
        assert note.startswith(
            f"own, rebrac: the largest reward is {largest:.2g}, its learning rates suit 0.01 to 1000"
        )
        assert note.endswith(f"set its reward_scale, such as {scale}")
    assert said(tmp_path, f"{OWN}components: {{rebrac: {{reward_scale: {1 / largest}}}}}\n", rewards=largest) == []


@pytest.mark.parametrize("largest", [0.02, 1.0, 900.0])
def test_ordinary_rewards_are_not(tmp_path: Path, largest: float) -> None:
    assert said(tmp_path, rewards=largest) == []


def test_iql_may_scale_rewards_itself(tmp_path: Path) -> None:
    iql = OWN.replace("[rebrac, bc]", "[iql, bc]").replace("kind: policy", "kind: policy, base: iql")
    (note,) = said(tmp_path, iql, rewards=1e-6)
    assert note.startswith("own, iql: ")
    authors = iql + "components: {iql: {normalize_reward: true, normalize_obs: false}}\n"
    assert said(tmp_path, authors, rewards=1e-6) == []


def test_observations_that_hardly_vary_are_noted_and_constant_ones_are_not(tmp_path: Path) -> None:
    data = {name: array for name, array in episodes(obs_dim=17, act_dim=6).items() if "observations" in name}
    for array in data.values():
        array[:, [3, 7]] *= np.float32(1e-3)
        array[:, 5] = 1e-3
    (note,) = said(tmp_path, **data)
    assert note.startswith("own: 2 × column of the observation with a standard deviation below 0.01")
