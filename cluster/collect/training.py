"""A training run that is cut into segments, each ending with a snapshot of its policy; resumed after a kill.

A segment follows from the state before it and a seed derived from (seed, segment), so a resumed run equals an
undisturbed one without the state of any generator being saved: every segment begins with new environments and an
algorithm that is built anew from weights and optimiser state. The run's folder serves every dataset made from it:

    training.json               its settings
    policy-00000.safetensors    the policy before training, with the returns of its test episodes; then one per segment
    seen-00001.safetensors      the transitions of a segment in the order in which their episodes ended
    state-00001.safetensors     what the next segment begins with; of the last finished segment only
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from pydantic import ValidationError
from torch import Tensor

from cluster.collect.policies import Policy, episode_returns
from cluster.collect.rows import Rows, claim, concatenated, found_rows, write_rows
from mpcwdwm.config import Config, Int, setting
from mpcwdwm.errors import UserError
from mpcwdwm.random import derive_seed
from mpcwdwm.training.checkpoint import read_checkpoint, write_checkpoint

__all__ = ["Run", "Seen", "Snapshot", "State", "Trainer", "TrainingConfig", "train", "training_config"]

SETTINGS = "training.json"
TEST_EPISODES = 20  # of a snapshot

State = dict[str, Tensor]  # weights, optimisers, normalisation
Seen = Callable[[], list[Rows]]  # reads the transitions of all segments so far
OnProgress = Callable[[str, int, int], None]


class TrainingConfig(Config):
    """What is trained, for how long, and how often it is kept. The paper is D4RL's (Fu et al. 2020)."""

    env_id: str = setting(..., "Gymnasium id of the environment")
    algorithm: Literal["ppo", "sac"] = setting("ppo", "what RLlib trains", paper="sac")
    steps: Int = setting(1_000_000, "environment steps of training", unit="steps", gt=0)
    snapshots: Int = setting(20, "policies kept besides the first, evenly spaced", ge=2)
    seed: Int = setting(0, "of weights, starting states and noise", ge=0)


def training_config(env_id: str, **fields: str | int) -> TrainingConfig:
    """Return the config.

    Raises:
        UserError: a field has an impossible value.
    """
    try:
        return TrainingConfig.model_validate({"env_id": env_id, **fields})
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{first['loc'][0]} of the training is {first['input']!r}: {first['msg']}") from None


class Trainer(Protocol):
    """What trains: RLlib, or a stand-in."""

    def begin(self, seed: int) -> State:
        """Return the state before training."""
        ...

    def segment(
        self, state: State, seen: Seen, steps: int, seed: int, on_step: Callable[[int], None]
    ) -> tuple[State, Rows]:
        """Train for about `steps` steps; return the new state, and the transitions seen in order.

        Args:
            state: what the segment begins with; with `seen`, `steps` and `seed` it fixes the result.
            seen: reads what earlier segments saw, for a replay buffer.
            steps: environment steps.
            seed: 63 bits, of this segment.
            on_step: is to be called with the steps done.
        """
        ...

    def policy(self, state: State) -> Policy:
        """Return the policy of a state."""
        ...


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A policy as it was after some segments."""

    number: int
    steps: int  # of training before it
    policy: Policy
    returns: tuple[float, ...]  # of its test episodes

    @property
    def mean_return(self) -> float:
        """Return the mean return of its test episodes."""
        return float(np.mean(self.returns))


@dataclass(frozen=True)
class Run:
    """A training run in its folder."""

    folder: Path
    config: TrainingConfig

    def snapshot(self, number: int) -> Snapshot:
        """Return the snapshot after so many segments; 0: the untrained policy."""
        path = _file(self.folder, "policy", number)
        found = read_checkpoint(path)
        if found is None:
            raise UserError(f"'{path}' is damaged or has gone: delete '{self.folder}' and repeat the command")
        tensors, facts = found
        return Snapshot(number, facts["steps"], Policy.from_tensors(tensors), tuple(facts["returns"]))

    def returns(self) -> list[float]:
        """Return the mean return of every snapshot in order, that of the untrained policy first."""
        return [self.snapshot(number).mean_return for number in range(self.config.snapshots + 1)]

    def seen(self, number: int) -> Rows:
        """Return the transitions that training saw before a snapshot, in order."""
        return concatenated([found_rows(_file(self.folder, "seen", each)) for each in range(1, number + 1)])


def train(
    config: TrainingConfig,
    folder: Path,
    trainer: Callable[[TrainingConfig], AbstractContextManager[Trainer]],
    on_progress: OnProgress | None = None,
    *,
    segments: int | None = None,
) -> Run:
    """Train, or continue a training run that was interrupted, or return the one that is there.

    Args:
        config: what is trained.
        folder: of the run.
        trainer: makes the trainer; called only if something is left to be trained.
        on_progress: called with what is being done, steps done, steps in all.
        segments: how many are needed; all by default, 0 for the untrained policy alone.

    Raises:
        UserError: the folder holds another run, or cannot be written; or what the trainer raises.
    """
    claim(folder / SETTINGS, config.to_dict(), "a training run", "name another folder with --training")
    run = Run(folder, config)
    needed = config.snapshots if segments is None else segments
    last = _last_state(folder, config.snapshots)
    if last is not None and last[0] >= needed:
        return run
    with trainer(config) as made:
        if last is None:
            state = made.begin(derive_seed(config.seed, "begin"))
            _keep(run, 0, 0, state, made)
            last = (0, state)
        number, state = last
        for following in range(number + 1, needed + 1):
            state = _segment(run, following, state, made, on_progress)
    return run


def _segment(run: Run, number: int, state: State, trainer: Trainer, on_progress: OnProgress | None) -> State:
    """Train one segment, keep what it leaves, and return the new state."""
    config = run.config
    before, after = (config.steps * each // config.snapshots for each in (number - 1, number))

    def seen() -> list[Rows]:
        return [found_rows(_file(run.folder, "seen", each)) for each in range(1, number)]

    def on_step(steps: int) -> None:
        if on_progress:
            on_progress("training", min(before + steps, after), config.steps)

    on_step(0)
    seed = derive_seed(config.seed, "segment", number)
    state, rows = trainer.segment(state, seen, after - before, seed, on_step)
    write_rows(_file(run.folder, "seen", number), rows)
    _keep(run, number, after, state, trainer)
    _file(run.folder, "state", number - 1).unlink(missing_ok=True)
    return state


def _keep(run: Run, number: int, steps: int, state: State, trainer: Trainer) -> None:
    """Play a snapshot's test episodes and write policy and state; the state last: with it the segment is finished."""
    policy = trainer.policy(state)
    returns = episode_returns(run.config.env_id, policy, TEST_EPISODES, derive_seed(run.config.seed, "test", number))
    facts = {"steps": steps, "returns": returns}
    try:
        write_checkpoint(_file(run.folder, "policy", number), policy.to_tensors(), facts)
        write_checkpoint(_file(run.folder, "state", number), state, {})
    except OSError as error:
        raise UserError(f"folder '{run.folder}' cannot be written: {error.strerror}") from None


def _file(folder: Path, what: str, number: int) -> Path:
    return folder / f"{what}-{number:05d}.safetensors"


def _last_state(folder: Path, snapshots: int) -> tuple[int, State] | None:
    """Return the state after the last finished segment and that segment's number, 0 before training."""
    for number in reversed(range(snapshots + 1)):
        found = read_checkpoint(_file(folder, "state", number))
        if found is not None:
            return number, found[0]
    return None
