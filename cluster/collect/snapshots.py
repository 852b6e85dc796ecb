"""Behaviour data of one's own: PPO by RLlib, snapshots of it rolled out, written in D4RL's layout.

One PPO run (RLlib's new API stack, in this process, on the CPU) is copied at K evenly spaced steps, the last
at its end. Each snapshot contributes an equal share of the transitions, oldest first, acting with the policy's
mean plus Gaussian noise, clipped to [-1, 1]. K = 1 gives D4RL's "medium" kind of data (one policy), a larger K
its "medium-replay" kind (a policy that gets better).
"""

import copy
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray

from cluster.ray import start as ray_cluster
from mpcwdwm.data.hdf5 import MIN_ROWS, Arrays
from mpcwdwm.data.writing import refuse_unfit_target, write_arrays
from mpcwdwm.envs.factory import make_env, mujoco_version
from mpcwdwm.errors import UserError
from mpcwdwm.random import derive_seed

__all__ = ["Snapshot", "collect", "roll", "train_snapshots"]

# PPO as it is usually run on MuJoCo's robots (Schulman et al. 2017; Andrychowicz et al. 2021).
HIDDEN = (64, 64)  # tanh
LEARNING_RATE = 3e-4
DISCOUNT = 0.99
GAE_LAMBDA = 0.95
CLIP = 0.2
EPOCHS = 10
BATCH = 2048  # steps between two updates, at most
MINIBATCH = 64
GRADIENT_NORM = 0.5
OBS_CLIP = 10.0  # normalised observations beyond this are clipped
OBS_EPSILON = 1e-8  # added to their standard deviation, as RLlib does
MIN_BATCH = 32  # steps between two snapshots, at least: one update from fewer is noise
ENV_NAME = "mpcwdwm-collect"  # in RLlib's registry

OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A policy as it was after so many environment steps."""

    steps: int
    module: Any  # RLlib's RLModule, a copy that is trained no further
    obs_mean: NDArray[np.float64]  # (o,)
    obs_std: NDArray[np.float64]  # (o,)

    def mean_action(self, obs: NDArray[Any]) -> NDArray[np.float64]:
        """Return the mean (a,) of the action distribution at one observation (o,)."""
        scaled = np.clip((obs - self.obs_mean) / (self.obs_std + OBS_EPSILON), -OBS_CLIP, OBS_CLIP)
        with torch.no_grad():
            outputs = self.module.forward_inference({"obs": torch.from_numpy(scaled).float()[None]})
        distribution = self.module.get_inference_action_dist_cls().from_logits(outputs["action_dist_inputs"])
        return np.asarray(distribution.to_deterministic().sample()[0], dtype=np.float64)


def collect(
    env_id: str,
    out: Path | str,
    *,
    transitions: int,
    train_steps: int,
    noise_sd: float,
    seed: int,
    snapshots: int,
    on_progress: OnProgress | None = None,
) -> None:
    """Train, roll out and write the file; the same arguments and versions give the same file.

    Args:
        env_id: Gymnasium id; anything `mpcwdwm.envs.factory.make_env` makes.
        out: the HDF5 file to be written.
        transitions: rows in the file.
        train_steps: environment steps PPO learns from, over all snapshots.
        noise_sd: standard deviation of the noise on the mean action, which lies in [-1, 1].
        seed: of training, starting states and noise.
        snapshots: how many policies contribute.
        on_progress: called with what is being done, steps done, steps in all.

    Raises:
        UserError: RLlib is not installed, the environment is unfit, the file exists or cannot be written,
            or the numbers make no sense.
    """
    _refuse_unfit_numbers(transitions, train_steps, noise_sd, seed, snapshots)
    _refuse_without_rllib()
    refuse_unfit_target(out)
    env = make_env(env_id)
    try:
        taken = train_snapshots(env_id, train_steps, snapshots, seed, on_progress)
        arrays, infos = roll(env, taken, transitions, noise_sd, seed, on_progress)
    finally:
        env.close()
    attributes: dict[str, str | int | float] = {
        "env_id": env_id,
        "provenance": (
            f"PPO snapshots at {','.join(str(snapshot.steps) for snapshot in taken)} steps,"
            f" mean action + N(0,{noise_sd:g}^2), {transitions} transitions in equal shares, oldest first"
        ),
        "train_steps": train_steps,
        "snapshots": snapshots,
        "noise_sd": noise_sd,
        "seed": seed,
        "mujoco_version": mujoco_version() if infos else "none",
        **{f"{package}_version": version(package) for package in ("mpcwdwm", "gymnasium", "ray", "torch")},
    }
    write_arrays(out, arrays, infos=infos, attributes=attributes)


def _refuse_unfit_numbers(transitions: int, train_steps: int, noise_sd: float, seed: int, snapshots: int) -> None:
    rows, steps = max(MIN_ROWS, 2 * snapshots), MIN_BATCH * snapshots  # at least
    if snapshots < 1:
        raise UserError(f"snapshots must be at least 1, not {snapshots}")
    if transitions < rows:
        raise UserError(f"transitions must be at least {rows} with {snapshots} snapshots, not {transitions}")
    if train_steps < steps:
        raise UserError(f"train-steps must be at least {steps} with {snapshots} snapshots, not {train_steps}")
    if not (math.isfinite(noise_sd) and noise_sd >= 0):
        raise UserError(f"noise-sd must be 0 or more, not {noise_sd}")
    if seed < 0:
        raise UserError(f"seed must be 0 or more, not {seed}")


def _refuse_without_rllib() -> None:
    try:
        import ray.rllib.algorithms.ppo  # noqa: F401  # its absence shows only on import
    except ImportError as error:
        raise UserError(f'collecting data needs RLlib ({error}): pip install "mpcwdwm[rllib]"') from None


# ── Training ──────────────────────────────────────────────────────────────────


def train_snapshots(
    env_id: str, train_steps: int, snapshots: int, seed: int, on_progress: OnProgress | None = None
) -> list[Snapshot]:
    """Return K copies of one PPO policy, taken after 1/K, 2/K … K/K of the steps (rounded up to an update)."""
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.rllib.connectors.env_to_module import MeanStdFilter
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
    from ray.tune.registry import register_env

    segment = math.ceil(train_steps / snapshots)
    updates = math.ceil(segment / BATCH)  # between two snapshots, of equal size so that these are evenly spaced
    batch = math.ceil(segment / updates)
    scaling = MeanStdFilter(clip_by_value=OBS_CLIP)
    register_env(ENV_NAME, lambda _: gymnasium.wrappers.NormalizeReward(make_env(env_id), gamma=DISCOUNT))
    taken: list[Snapshot] = []
    with _local_ray():
        config = (
            PPOConfig()
            .environment(ENV_NAME, disable_env_checking=True)
            .env_runners(num_env_runners=0, env_to_module_connector=lambda *_, **__: scaling)
            .learners(num_learners=0, num_gpus_per_learner=0)
            .rl_module(
                model_config=DefaultModelConfig(
                    fcnet_hiddens=list(HIDDEN),
                    fcnet_activation="tanh",
                    free_log_std=True,  # the noise's sd is learned, but does not depend on the observation
                    vf_share_layers=False,
                )
            )
            .training(
                lr=LEARNING_RATE,
                gamma=DISCOUNT,
                lambda_=GAE_LAMBDA,
                clip_param=CLIP,
                use_kl_loss=False,
                num_epochs=EPOCHS,
                train_batch_size_per_learner=batch,
                minibatch_size=min(MINIBATCH, batch),
                grad_clip=GRADIENT_NORM,
            )
            .debugging(seed=seed, log_level="ERROR")
        )
        learner = config.build_algo()
        try:
            for _ in range(snapshots):
                for _ in range(updates):
                    result = learner.train()
                    steps = int(result["num_env_steps_sampled_lifetime"])
                    if on_progress:
                        on_progress("training", min(steps, train_steps), train_steps)
                taken.append(_snapshot(steps, learner.get_module(), scaling))
        finally:
            learner.stop()
            shutil.rmtree(learner.logdir, ignore_errors=True)  # RLlib's own record of the run, in ~/ray_results
    return taken


def _snapshot(steps: int, module: Any, scaling: Any) -> Snapshot:
    """Return a copy of the policy and of the statistics by which its observations are normalised."""
    from ray.rllib.utils.filter import RunningStat

    (state,) = scaling.get_state().values()  # one entry, that of the only actor
    (stored,) = state["running_stats"]
    stats = RunningStat.from_state(stored)
    return Snapshot(steps, copy.deepcopy(module).eval(), np.array(stats.mean), np.array(stats.std))


@contextmanager
def _local_ray() -> Iterator[None]:
    """Use one thread, enough for layers of 64, and start Ray with one CPU for the block, unless it runs already."""
    import ray

    running, threads = ray.is_initialized(), torch.get_num_threads()
    ray_cluster.start("local", cpus=1)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if not running:
            ray_cluster.stop()


# ── Rolling out ───────────────────────────────────────────────────────────────


def roll(
    env: Any,
    snapshots: list[Snapshot],
    transitions: int,
    noise_sd: float,
    seed: int,
    on_progress: OnProgress | None = None,
) -> tuple[Arrays, dict[str, NDArray[Any]]]:
    """Return the transitions in order and, for MuJoCo's robots, the state before each (qpos, qvel).

    A snapshot's last episode is cut where its share ends; like one that ran into the time limit it ends
    with a timeout. A step on which the environment ends and the limit strikes is terminal only.
    """
    states = _states(env)
    steps: list[tuple[Any, ...]] = []
    infos: dict[str, list[Any]] = {name: [] for name in states()}
    for index, snapshot in enumerate(snapshots):
        noise = np.random.default_rng([seed, index])
        obs, _ = env.reset(seed=derive_seed(seed, "collect", index) % 2**31)
        last = transitions * (index + 1) // len(snapshots) - 1
        for row in range(transitions * index // len(snapshots), last + 1):
            mean = snapshot.mean_action(obs)
            action = np.clip(mean + noise_sd * noise.standard_normal(mean.shape), -1, 1).astype(np.float32)
            for name, value in states().items():
                infos[name].append(value)
            next_obs, reward, terminal, truncated, _ = env.step(action)
            timeout = not terminal and (truncated or row == last)
            steps.append((obs, action, reward, next_obs, terminal, timeout))
            obs = env.reset()[0] if terminal or truncated else next_obs
            if on_progress:
                on_progress("collecting", row + 1, transitions)
    *floats, terminals, timeouts = zip(*steps, strict=True)
    observations, actions, rewards, successors = (np.asarray(values, dtype=np.float32) for values in floats)
    terminal, timeout = np.asarray(terminals, dtype=bool), np.asarray(timeouts, dtype=bool)
    arrays = Arrays(observations, actions, rewards, terminal, timeout, successors)
    return arrays, {name: np.asarray(values) for name, values in infos.items()}


def _states(env: Any) -> Callable[[], dict[str, NDArray[np.float64]]]:
    """Return a function that reads MuJoCo's state; for other environments it returns an empty mapping."""
    from gymnasium.envs.mujoco import MujocoEnv

    robot = env.unwrapped
    if not isinstance(robot, MujocoEnv):
        return dict
    return lambda: {"qpos": robot.data.qpos.copy(), "qvel": robot.data.qvel.copy()}
