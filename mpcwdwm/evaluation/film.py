"""Pictures of one episode: played by the frozen policy and by planners from the same start, then rendered.

An episode is played first, and its actions are repeated in an environment that renders, so that pictures are taken at
even distances whatever the episode's length. Noise is that of an evaluation of one episode: an evaluation of several
draws other noise for its first one.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mpcwdwm.data.scores import normalized_score
from mpcwdwm.envs.factory import make_env
from mpcwdwm.errors import UserError
from mpcwdwm.evaluation.rollout import Rollout, episode_seeds, rollout
from mpcwdwm.planning.frozen import FrozenConfig
from mpcwdwm.planning.parts import Parts
from mpcwdwm.planning.planner import PlannerConfig
from mpcwdwm.planning.registry import planner_class

__all__ = ["Film", "Picture", "films"]

Picture = NDArray[np.uint8]  # (height, width, 3)
HOW = "set MUJOCO_GL=egl (or osmesa) before Python starts, and install the library it names"


@dataclass(frozen=True)
class Film:
    """One episode in pictures.

    Attributes:
        label: who acted.
        pictures: in order; the last is of the end.
        steps: done before each picture.
        return_: of the episode, in the environment's unit.
        score: normalized; None without reference scores.
        length: steps of the episode.
    """

    label: str
    pictures: tuple[Picture, ...]
    steps: tuple[int, ...]
    return_: float
    score: float | None
    length: int


def films(
    parts: Parts,
    planners: Mapping[str, PlannerConfig | None],
    *,
    seed: int = 0,
    env_seed: int = 0,
    episode: int = 0,
    pictures: int = 100,
) -> list[Film]:
    """Play one episode with each planner from the same start, and return it in pictures taken at the same steps.

    Args:
        parts: of one member: `mpcwdwm.load`.
        planners: label → config; None: the frozen policy.
        seed: of the member, for the planners' noise.
        env_seed: of the episodes, as in a sweep's evaluation.
        episode: which of them.
        pictures: of the longest episode, at most, beside that of its end.

    Raises:
        UserError: parts of several members, or pictures cannot be rendered here.
    """
    if parts.members != 1:
        raise UserError(f"a film shows one policy, the parts have {parts.members}: load them with one seed")
    start = episode_seeds(env_seed, episode + 1)[-1]
    played = {label: _play(parts, config, seed, start) for label, config in planners.items()}
    every = max(1, -(-max(len(actions) for _, actions in played.values()) // pictures))
    found = []
    for label, (outcome, actions) in played.items():
        taken, steps = _render(parts, actions, start, every)
        score = normalized_score(outcome.return_, parts.reference)
        found.append(Film(label, tuple(taken), tuple(steps), outcome.return_, score, outcome.length))
    return found


def _play(
    parts: Parts, planner: PlannerConfig | None, seed: int, start: int
) -> tuple[Rollout, list[NDArray[np.float64]]]:
    """Return an episode and its actions, each (act_dim,)."""
    config = planner or FrozenConfig.model_validate({"base": parts.base} if parts.base else {})
    planning = planner_class(config)(parts, config, seeds=[seed], episodes=1)
    actions: list[NDArray[np.float64]] = []

    def act(obs: Tensor, _: Tensor) -> Tensor:
        action = planning.act(obs)[0]
        actions.append(action[0].cpu().double().numpy().copy())
        return action

    (outcome,) = rollout(
        parts.env_id,
        act,
        [start],
        max_steps=parts.max_episode_steps,
        env_kwargs=parts.env_kwargs,
        device=parts.device,
    )
    return outcome, actions


def _render(
    parts: Parts, actions: list[NDArray[np.float64]], start: int, every: int
) -> tuple[list[Picture], list[int]]:
    """Return pictures before every so many steps and at the end, and the steps done before each."""
    if not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")  # helps where MuJoCo is not imported yet
    try:
        env = make_env(parts.env_id, {**parts.env_kwargs, "render_mode": "rgb_array"})
    except UserError as error:
        raise UserError(f"no pictures of '{parts.env_id}': {error}; {HOW}") from error
    try:
        env.reset(seed=start)
        taken, steps = [_picture(env, parts.env_id)], [0]
        for step, action in enumerate(actions, 1):
            env.step(action)
            if step % every == 0 or step == len(actions):
                taken.append(_picture(env, parts.env_id))
                steps.append(step)
    finally:
        env.close()
    return taken, steps


def _picture(env: Any, env_id: str) -> Picture:
    try:
        picture = env.render()
    except Exception as error:  # whatever MuJoCo, OpenGL and their loaders raise
        reason = " ".join(str(error).split()) or "no message"
        raise UserError(f"no pictures of '{env_id}': {type(error).__name__}: {reason}; {HOW}") from error
    return np.asarray(picture, dtype=np.uint8)
