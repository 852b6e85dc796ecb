"""An ant that walks in any direction: a policy that sees state and heading, trained by PPO on an open plane.

Proximal policy optimisation (Schulman et al., arXiv 1707.06347) with its clipped objective and generalised advantages;
ants walk side by side in one process. Forward speed is rewarded up to a limit, because faster gaits fall. Everything
drawn in an update follows from (seed, update), so a training resumes exactly from `Training.state`.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np
import torch
from gymnasium.envs.mujoco.mujoco_env import expand_model_path
from numpy.typing import NDArray
from torch import Tensor, nn

from mpcwdwm.collecting import headings
from mpcwdwm.collecting.headings import ACT_DIM, INPUT_DIM, applied, front_quarter, inputs, torso_axes
from mpcwdwm.config import Config, Int, Real, setting
from mpcwdwm.data.fingerprint import cache_folder
from mpcwdwm.envs import antmaze
from mpcwdwm.envs.antmaze import FRAME_SKIP, START_NOISE, ant_model
from mpcwdwm.envs.mazes import Maze
from mpcwdwm.errors import UserError
from mpcwdwm.random import derive_seed, generator
from mpcwdwm.training.checkpoint import read_checkpoint, write_checkpoint

__all__ = ["Training", "Walker", "WalkerConfig", "trained"]

PLANE = Maze(("RG",))  # without walls
FALLEN_TILT, FALLEN_HEIGHT = 0.2, 0.2  # upward part of the torso's upward axis; height [m]
STEP = 0.1  # duration of an action [s]
KEEP_EVERY = 10  # updates
EPSILON = 1e-8  # added to a standard deviation
WHOLE_STATE = mujoco.mjtState.mjSTATE_INTEGRATION

Array = NDArray[np.float64]


class WalkerConfig(Config):
    """How the walker is trained; the defaults take about 80 CPU seconds."""

    ants: Int = setting(32, "ants side by side", ge=1)
    horizon: Int = setting(64, "steps of each between two updates", unit="steps", ge=1)
    updates: Int = setting(120, "updates, each from ants × horizon steps", ge=1)
    epochs: Int = setting(8, "passes over the steps of an update", ge=1)
    batches: Int = setting(4, "gradient steps in a pass", ge=1)
    discount: Real = setting(0.97, "discount per step", gt=0, lt=1)
    gae_lambda: Real = setting(0.95, "λ of the generalised advantages", ge=0, le=1)
    clip: Real = setting(0.2, "clipping of the likelihood ratio", gt=0)
    learning_rate: Real = setting(5e-4, "Adam's step size", gt=0)
    hidden: Int = setting(128, "units of the two tanh layers of policy and value each", ge=1)
    noise_sd: Real = setting(0.6, "standard deviation of actions at the beginning", gt=0)
    speed: Real = setting(0.9, "forward speed above which more earns nothing", unit="m/s", gt=0)
    sideways: Real = setting(0.3, "cost of sideways speed", unit="s/m", ge=0)
    effort: Real = setting(0.01, "cost of the squared norm of an action", ge=0)
    alive: Real = setting(0.1, "reward of every step without a fall", ge=0)
    fall: Real = setting(10.0, "cost of a fall, after which the ant starts anew", ge=0)
    turn: Real = setting(0.02, "chance per step that the heading is drawn anew", ge=0, le=1)
    restart: Real = setting(0.0025, "chance per step that the ant starts anew", ge=0, le=1)
    seed: Int = setting(0, "of initial weights, headings, starts and noise", ge=0)


class Walker:
    """A trained policy: state (29,) and heading → mean action (8,)."""

    def __init__(self, policy: nn.Sequential) -> None:
        self.policy = policy.eval().requires_grad_(False)
        self._quarter: NDArray[np.int64] | None = None

    def start(self) -> None:
        """Forget which quarter of the torso was in front: an episode begins."""
        self._quarter = None

    def act(self, state: Array, heading: float) -> Array:
        """Return the mean action (8,), within [-1, 1], in a state (29,) for a direction in the plane [rad]."""
        states, headings = state[None], np.array([heading])
        self._quarter = front_quarter(states, headings, self._quarter)
        mean = self.policy(torch.from_numpy(inputs(states, headings, self._quarter)).float())
        return np.clip(applied(mean.double().numpy(), self._quarter)[0], -1, 1)


def trained(config: WalkerConfig, on_progress: Callable[[int, int], None] | None = None) -> Walker:
    """Return the walker that this config describes, from the user's cache folder if it was trained before.

    A training that was interrupted goes on from its last tenth update.

    Args:
        config: of the training.
        on_progress: called with updates done and in all.

    Raises:
        UserError: the cache folder cannot be written to.
    """
    with _one_thread():
        training, path = Training(config), _place(config)
        if (kept := read_checkpoint(path)) is not None:
            training.restore(kept[0])
        while training.done < config.updates:
            if on_progress:
                on_progress(training.done, config.updates)
            training.update()
            if training.done % KEEP_EVERY == 0 or training.done == config.updates:
                try:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_checkpoint(path, training.state(), config.to_dict())
                except OSError as error:
                    raise UserError(f"folder '{path.parent}' cannot be written: {error.strerror}") from None
    if on_progress:
        on_progress(training.done, config.updates)
    return Walker(training.policy)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch use one thread: in networks this small more are slower, and sums would depend on their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _place(config: WalkerConfig) -> Path:
    """Return where a training is kept: its name depends on the config and on the code and libraries that train."""
    code = [Path(module).read_text(encoding="utf-8") for module in (__file__, headings.__file__, antmaze.__file__)]
    made_by = [*code, torch.__version__, np.__version__, mujoco.mj_versionString()]
    digest = hashlib.sha256(json.dumps([config.to_dict(), *made_by]).encode()).hexdigest()
    return cache_folder() / "walkers" / f"{digest[:24]}.safetensors"


# ── Ants on a plane ───────────────────────────────────────────────────────────


class _Ants:
    """Ants side by side, each with a heading that changes now and then."""

    def __init__(self, config: WalkerConfig) -> None:
        self.config = config
        self.model = ant_model(expand_model_path("ant.xml"), PLANE).compile()
        self.data = [mujoco.MjData(self.model) for _ in range(config.ants)]
        self.headings = np.zeros(config.ants)
        self.quarters = np.zeros(config.ants, dtype=np.int64)

    def physics(self, data: "mujoco.MjData") -> Array:
        """Return an ant's state in the simulator, with all that its next step depends on."""
        state = np.empty(mujoco.mj_stateSize(self.model, WHOLE_STATE))
        mujoco.mj_getState(self.model, data, state, WHOLE_STATE)
        return state

    def states(self) -> Array:
        """Return every ant's state: (n, 29)."""
        return np.stack([np.concatenate([data.qpos, data.qvel]) for data in self.data])

    def seen(self) -> Array:
        """Return what the policy sees of each ant, (n, 29), once the quarter in front is settled."""
        states = self.states()
        self.quarters = front_quarter(states, self.headings, self.quarters)
        return inputs(states, self.headings, self.quarters)

    def start(self, which: NDArray[np.bool_], random: np.random.Generator) -> None:
        """Put some ants to the origin, turned at random, and draw their headings anew."""
        for i in np.flatnonzero(which):
            data, yaw = self.data[i], random.uniform(-math.pi, math.pi)
            mujoco.mj_resetData(self.model, data)
            data.qpos[:] += random.uniform(-START_NOISE, START_NOISE, self.model.nq)
            data.qpos[3:7] = [math.cos(yaw / 2), 0, 0, math.sin(yaw / 2)]
            data.qvel[:] = START_NOISE * random.standard_normal(self.model.nv)
            mujoco.mj_forward(self.model, data)
        self.head(which, random)

    def head(self, which: NDArray[np.bool_], random: np.random.Generator) -> None:
        """Draw the headings of some ants anew."""
        self.headings = np.where(which, random.uniform(-math.pi, math.pi, len(self.data)), self.headings)
        self.quarters = np.where(which, front_quarter(self.states(), self.headings), self.quarters)

    def step(self, actions: Array) -> tuple[Array, NDArray[np.bool_]]:
        """Apply actions (n, 8) of renumbered legs for 0.1 s; return rewards (n,) and who has fallen (n,)."""
        motors = applied(np.clip(actions, -1, 1), self.quarters)
        before = np.array([data.qpos[:2] for data in self.data])
        for data, motor in zip(self.data, motors, strict=True):
            data.ctrl[:] = motor
            mujoco.mj_step(self.model, data, FRAME_SKIP)
        states, config = self.states(), self.config
        velocity = (states[:, :2] - before) / STEP
        cos, sin = np.cos(self.headings), np.sin(self.headings)
        forwards = cos * velocity[:, 0] + sin * velocity[:, 1]
        sideways = cos * velocity[:, 1] - sin * velocity[:, 0]
        fallen = (torso_axes(states)[:, 2, 2] < FALLEN_TILT) | (states[:, 2] < FALLEN_HEIGHT)
        rewards = np.minimum(forwards, config.speed) - config.sideways * np.abs(sideways) + config.alive
        rewards -= config.effort * (motors**2).sum(axis=1)
        return np.where(fallen, rewards - config.fall, rewards), fallen


# ── Proximal policy optimisation ──────────────────────────────────────────────


def _network(hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(INPUT_DIM, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, outputs)
    )


@dataclass(frozen=True)
class _Steps:
    """Steps of every ant, (T, n, …)."""

    seen: Tensor
    action: Tensor
    reward: Tensor
    value: Tensor  # of what was seen
    following: Tensor  # value of what was seen next; 0 after a fall
    ended: Tensor  # the ant fell or started anew, or its heading was drawn anew


def _advantages(steps: _Steps, config: WalkerConfig) -> Tensor:
    """Return generalised advantages: A_t = δ_t + γ λ A_t+1 within a heading, (T, n)."""
    error = steps.reward + config.discount * steps.following - steps.value
    kept = config.discount * config.gae_lambda * ~steps.ended
    advantages, later = torch.empty_like(error), torch.zeros_like(error[0])
    for t in range(len(error) - 1, -1, -1):
        advantages[t] = later = error[t] + kept[t] * later
    return advantages


class Training:
    """PPO, an update at a time."""

    def __init__(self, config: WalkerConfig) -> None:
        self.config, self.done = config, 0
        self.policy, self.value = _network(config.hidden, ACT_DIM), _network(config.hidden, 1)
        self.log_sd = nn.Parameter(torch.full((ACT_DIM,), math.log(config.noise_sd)))
        weights = generator(config.seed, "walker's weights")
        for network, last in ((self.policy, 0.01), (self.value, 1.0)):
            layers = [layer for layer in network if isinstance(layer, nn.Linear)]
            for layer in layers:
                gain = last if layer is layers[-1] else math.sqrt(2)
                nn.init.orthogonal_(layer.weight, gain, generator=weights)
                nn.init.zeros_(layer.bias)
        self.parameters = {
            **{f"policy.{name}": value for name, value in self.policy.named_parameters()},
            **{f"value.{name}": value for name, value in self.value.named_parameters()},
            "log_sd": self.log_sd,
        }
        self.optimizer = torch.optim.Adam(self.parameters.values(), lr=config.learning_rate, eps=1e-5)
        self.ants = _Ants(config)
        self.ants.start(np.ones(config.ants, dtype=bool), self._random("start", 0))

    def update(self) -> float:
        """Let every ant walk `horizon` steps, and fit the policy to what they earned; return the mean reward."""
        steps = self._walk()
        self._fit(steps, _advantages(steps, self.config))
        self.done += 1
        return float(steps.reward.mean())

    def _walk(self) -> "_Steps":
        """Return `horizon` steps of every ant; an ant that falls, or is to, starts anew."""
        config, random, ants = self.config, self._random("walk", self.done), self.ants
        seen, action, reward, following, ended = [], [], [], [], []
        with torch.no_grad():
            for _ in range(config.horizon):
                seen.append(torch.from_numpy(ants.seen()).float())
                noise = torch.from_numpy(random.standard_normal((config.ants, ACT_DIM))).float()
                action.append(self.policy(seen[-1]) + self.log_sd.exp() * noise)
                earned, fallen = ants.step(action[-1].double().numpy())
                after = self.value(torch.from_numpy(ants.seen()).float())[:, 0]
                anew = fallen | (random.random(config.ants) < config.restart)
                turned = ~anew & (random.random(config.ants) < config.turn)
                reward.append((1 - config.discount) * torch.from_numpy(earned).float())  # values are of size one
                following.append(torch.where(torch.from_numpy(fallen), 0.0, after))
                ended.append(torch.from_numpy(anew | turned))
                ants.start(anew, random)
                ants.head(turned, random)
            value = self.value(torch.stack(seen))[..., 0]
        return _Steps(
            seen=torch.stack(seen),
            action=torch.stack(action),
            reward=torch.stack(reward),
            value=value,
            following=torch.stack(following),
            ended=torch.stack(ended),
        )

    def _fit(self, steps: "_Steps", advantages: Tensor) -> None:
        """Take the gradient steps of an update."""
        config, shuffle = self.config, generator(self.config.seed, "walker's batches", self.done)
        seen, actions = steps.seen.flatten(0, 1), steps.action.flatten(0, 1)
        targets, advantages = (advantages + steps.value).flatten(), advantages.flatten()
        advantages = (advantages - advantages.mean()) / (advantages.std() + EPSILON)
        with torch.no_grad():
            before = self._log_density(seen, actions)
        for _ in range(config.epochs):
            for rows in torch.randperm(len(seen), generator=shuffle).chunk(config.batches):
                ratio = (self._log_density(seen[rows], actions[rows]) - before[rows]).exp()
                gain = torch.minimum(
                    ratio * advantages[rows], ratio.clamp(1 - config.clip, 1 + config.clip) * advantages[rows]
                )
                error = self.value(seen[rows])[:, 0] - targets[rows]
                self.optimizer.zero_grad()
                (-gain.mean() + error.square().mean()).backward()
                self.optimizer.step()

    def _log_density(self, seen: Tensor, actions: Tensor) -> Tensor:
        standardised = (actions - self.policy(seen)) / self.log_sd.exp()
        return -(0.5 * standardised.square() + self.log_sd).sum(-1)

    def _random(self, purpose: str, update: int) -> np.random.Generator:
        return np.random.default_rng(derive_seed(self.config.seed, f"walker's {purpose}", update))

    # What a training goes on from

    def state(self) -> dict[str, Tensor]:
        """Return everything that the next update depends on, by name."""
        ants = self.ants
        physics = np.stack([ants.physics(data) for data in ants.data])
        held = {"done": torch.tensor(self.done), "physics": torch.from_numpy(physics)}
        held |= {"headings": torch.from_numpy(ants.headings), "quarters": torch.from_numpy(ants.quarters)}
        held |= {name: value.detach().clone() for name, value in self.parameters.items()}
        for name, value in self.parameters.items():
            held |= {f"{name}.{moment}": moved for moment, moved in self.optimizer.state[value].items()}
        return held

    def restore(self, held: Mapping[str, Tensor]) -> None:
        """Go on from what `state` returned."""
        self.done = int(held["done"])
        self.ants.headings, self.ants.quarters = held["headings"].numpy().copy(), held["quarters"].numpy().copy()
        for data, physics in zip(self.ants.data, held["physics"].numpy(), strict=True):
            mujoco.mj_setState(self.ants.model, data, physics, WHOLE_STATE)
            mujoco.mj_forward(self.ants.model, data)
        with torch.no_grad():
            for name, value in self.parameters.items():
                value.copy_(held[name])
                moments = ("step", "exp_avg", "exp_avg_sq")
                self.optimizer.state[value] = {moment: held[f"{name}.{moment}"].clone() for moment in moments}
