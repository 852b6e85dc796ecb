"""A trainer in place of RLlib, and an environment in which a policy's return is known: the sum of its actions."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np
import torch

from cluster.collect.policies import Policy
from cluster.collect.rows import Rows
from cluster.collect.training import Seen, State, TrainingConfig
from mpcwdwm.data.hdf5 import Arrays

ENV_ID = "tests.support.stand_in_trainer:Steady-v0"
LIMIT = 10  # steps of an episode
LEVELS = (0.0, 0.1, 0.35, 0.5, 0.9, 0.8)  # mean action after each segment: the fifth is expert, the third medium


class Steady(gymnasium.Env[Any, Any]):
    """Rewards the action; the observation counts steps and begins anywhere."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.count = self.np_random.uniform()
        return np.array([self.count], dtype=np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.count += 1
        return np.array([self.count], dtype=np.float32), float(action[0]), False, False, {}


gymnasium.register("Steady-v0", Steady, max_episode_steps=LIMIT)


def constant_policy(mean: float, log_std: float = -4.0) -> Policy:
    """A policy of Steady whose distribution does not depend on the observation."""
    log = np.float32([log_std])
    return Policy((np.zeros((1, 1), np.float32),), (np.float32([mean]),), log, np.zeros(1), np.ones(1))


class StandIn:
    """Its policy gets the next of `levels` by every segment; what it saw is numbered from the first step on.

    Args:
        levels: mean actions, one more than segments.
        stop_in: number of the segment, from 1, in which a KeyboardInterrupt comes.
    """

    def __init__(self, levels: tuple[float, ...] = LEVELS, stop_in: int | None = None) -> None:
        self.levels, self.stop_in = levels, stop_in
        self.segments: list[int] = []  # trained by this object

    def begin(self, seed: int) -> State:
        return {"segment": torch.tensor(0), "seeds": torch.tensor([seed])}

    def segment(
        self, state: State, seen: Seen, steps: int, seed: int, on_step: Callable[[int], None]
    ) -> tuple[State, Rows]:
        number = int(state["segment"]) + 1
        if number == self.stop_in:
            raise KeyboardInterrupt
        self.segments.append(number)
        first = sum(len(arrays.obs) for arrays, _ in seen())
        count = np.arange(first, first + steps, dtype=np.float32)[:, None]
        action = np.random.default_rng(seed).uniform(-1, 1, (steps, 1)).astype(np.float32)
        over = np.arange(1, steps + 1) % LIMIT == 0
        over[-1] = True
        arrays = Arrays(count, action, action[:, 0], np.zeros(steps, bool), over, count + 1)
        on_step(steps)
        return {"segment": torch.tensor(number), "seeds": torch.cat([state["seeds"], torch.tensor([seed])])}, (
            arrays,
            {},
        )

    def policy(self, state: State) -> Policy:
        return constant_policy(self.levels[int(state["segment"])])


def maker(trainer: StandIn) -> Callable[[TrainingConfig], Any]:
    """What `train` and `collect` are given."""

    @contextmanager
    def make(config: TrainingConfig) -> Iterator[StandIn]:
        yield trainer

    return make


def small_config(**fields: Any) -> TrainingConfig:
    """Five segments of 60 steps."""
    return TrainingConfig(**{"env_id": ENV_ID, "steps": 300, "snapshots": 5, "seed": 0, **fields})
