"""The walker's training: its arithmetic, that it learns, and that it resumes exactly."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mpcwdwm.collecting import walker
from mpcwdwm.collecting.walker import Training, Walker, WalkerConfig, trained
from mpcwdwm.errors import UserError

SMALL = WalkerConfig(ants=3, horizon=8, updates=4, epochs=2, batches=2, hidden=8, turn=0.2, restart=0.1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_advantages_are_the_discounted_errors_within_a_heading() -> None:
    """λ = 1: the return of an ant until its heading changes, bootstrapped there, less the value."""
    config = WalkerConfig(discount=0.5, gae_lambda=1.0)
    row = torch.tensor([[1.0], [2.0], [4.0], [8.0]])
    ended = torch.tensor([[False], [True], [False], [False]])
    value, following = 0.1 * row, torch.tensor([[9.0], [3.0], [9.0], [5.0]])
    following[0], following[2] = value[1], value[3]
    steps = walker._Steps(seen=row, action=row, reward=row, value=value, following=following, ended=ended)
    returns = [1 + 0.5 * (2 + 0.5 * 3), 2 + 0.5 * 3, 4 + 0.5 * (8 + 0.5 * 5), 8 + 0.5 * 5]
    expected = torch.tensor(returns)[:, None] - value
    torch.testing.assert_close(walker._advantages(steps, config), expected)


def test_a_resumed_training_is_the_uninterrupted_one() -> None:
    whole, first, second = Training(SMALL), Training(SMALL), Training(SMALL)
    for _ in range(4):
        whole.update()
    for _ in range(2):
        first.update()
    second.restore(first.state())
    for _ in range(2):
        second.update()
    one, two = whole.state(), second.state()
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.equal(value, two[name]), name


def test_a_trained_walker_is_kept_and_a_changed_config_is_trained_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    first = trained(SMALL)
    reports: list[tuple[int, int]] = []
    again = trained(SMALL, lambda done, total: reports.append((done, total)))
    assert reports == [(4, 4)]  # nothing was left to do
    state = np.random.default_rng(0).normal(size=29)
    np.testing.assert_array_equal(first.act(state, 0.5), again.act(state, 0.5))
    other = trained(SMALL.model_copy(update={"seed": 1}))
    assert (other.act(state, 0.5) != first.act(state, 0.5)).any()


def test_a_training_that_is_killed_goes_on_from_what_it_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walker, "KEEP_EVERY", 1)

    def kill(done: int, _: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(SMALL, kill)
    reports: list[int] = []
    resumed = trained(SMALL, lambda done, _: reports.append(done))
    assert reports == [2, 3, 4]
    whole = Training(SMALL)
    for _ in range(4):
        whole.update()
    state = np.random.default_rng(0).normal(size=29)
    np.testing.assert_array_equal(resumed.act(state, 1.0), Walker(whole.policy).act(state, 1.0))


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "mpcwdwm").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written"):
        trained(SMALL)


def test_a_few_updates_teach_an_ant_to_earn_more() -> None:
    training = Training(WalkerConfig(ants=8))
    earned = [training.update() for _ in range(12)]
    assert np.mean(earned[-4:]) > np.mean(earned[:4]) + 0.0008  # per step, scaled by 1 − γ; 0.0013 with this seed
