"""PPO and SAC by RLlib, one segment of a training run at a time (`cluster.collect.training.Trainer`).

RLlib's new API stack runs in this process, on the CPU, without actors. Its own checkpoints are pickled, so they are not
used: a state is taken out of the learner as named arrays and put back into a new one.
"""

import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
import torch
from gymnasium.wrappers import NormalizeObservation, NormalizeReward, TransformObservation
from gymnasium.wrappers.utils import RunningMeanStd
from numpy.typing import NDArray

from cluster.collect.policies import OBS_CLIP, Policy, Recorder
from cluster.collect.rows import Rows, concatenated
from cluster.collect.training import Seen, State, TrainingConfig
from cluster.ray import start as ray_cluster
from mpcwdwm.envs.factory import make_env
from mpcwdwm.errors import UserError

if TYPE_CHECKING:
    from ray.rllib.algorithms import Algorithm, AlgorithmConfig
    from ray.rllib.env.single_agent_episode import SingleAgentEpisode

__all__ = ["rllib_trainer"]

# PPO as it is usually run on MuJoCo's robots (Schulman et al. 2017; Andrychowicz et al. 2021).
PPO = {
    "lr": 3e-4,
    "gamma": 0.99,
    "lambda_": 0.95,
    "clip_param": 0.2,
    "use_kl_loss": False,
    "num_epochs": 10,
    "grad_clip": 0.5,
}
PPO_NETWORK = {"fcnet_hiddens": [64, 64], "fcnet_activation": "tanh"}
PPO_BATCH, PPO_MINIBATCH = 2048, 64  # steps between two updates at most, and of a gradient step
PPO_ENVS = 8  # stepped together: RLlib's cost per call is ten times that of a step

# SAC's own hyper-parameters (Haarnoja et al. 2018, appendix D), with a temperature that is tuned.
SAC = {
    "actor_lr": 3e-4,
    "critic_lr": 3e-4,
    "alpha_lr": 3e-4,
    "gamma": 0.99,
    "tau": 5e-3,
    "train_batch_size_per_learner": 256,
    "replay_buffer_config": {"type": "EpisodeReplayBuffer", "capacity": 1_000_000},
}
SAC_NETWORK = {"fcnet_hiddens": [256, 256], "fcnet_activation": "relu", "head_fcnet_hiddens": []}
SAC_FIRST_STEPS = 1000  # before the first update
SAC_REPORT = 100  # steps between two reports of progress

ENV_NAME = "mpcwdwm-collect"  # in RLlib's registry
MODULE = "default_policy"  # RLlib's name of the only policy
EPSILON = 1e-8  # added to a variance, as Gymnasium's wrappers do


@contextmanager
def rllib_trainer(config: TrainingConfig) -> "Iterator[RllibTrainer]":
    """Return a trainer for the block: with one thread, and Ray on one CPU unless it runs already.

    Raises:
        UserError: RLlib is not installed, or the environment is unfit.
    """
    _refuse_without_rllib()
    import ray

    trainer = RllibTrainer(config)
    running, threads = ray.is_initialized(), torch.get_num_threads()
    ray_cluster.start("local", cpus=1)
    torch.set_num_threads(1)
    try:
        yield trainer
    finally:
        torch.set_num_threads(threads)
        if not running:
            ray_cluster.stop()


class RllibTrainer:
    """Trains PPO or SAC, each segment with a new algorithm."""

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        env = make_env(config.env_id)
        self.obs_dim = env.observation_space.shape[0]
        self.env_config = {"env_id": config.env_id, "normalized": config.algorithm == "ppo"}
        env.close()

    def begin(self, seed: int) -> State:
        """Return new weights; nothing is normalised yet."""
        with self._built(seed, batch=PPO_BATCH, first=True) as algorithm:
            return {**_state(algorithm), **_Scales(self.obs_dim).to_tensors()}

    def segment(
        self, state: State, seen: Seen, steps: int, seed: int, on_step: Callable[[int], None]
    ) -> tuple[State, Rows]:
        """Train a new algorithm that has been given the state; its environments begin new episodes."""
        scales, episodes = _Scales.from_tensors(state), list[Rows]()
        before = seen() if self.config.algorithm == "sac" else []
        updates = -(-steps // PPO_BATCH)
        batch = -(-steps // updates)
        with self._built(seed, batch=batch, first=not before) as algorithm:
            _restore(algorithm, state)
            envs = algorithm.env_runner.env.unwrapped
            shared = {"episodes": episodes, **(scales.by_wrapper() if self.config.algorithm == "ppo" else {})}
            for name, value in shared.items():
                envs.set_attr(name, [value] * envs.num_envs)
            if self.config.algorithm == "sac":
                algorithm.local_replay_buffer.rng = np.random.default_rng(seed)  # RLlib seeds it from the system
            if before:
                algorithm.local_replay_buffer.add(list(_rllib_episodes(concatenated(before))))
            done = 0
            while done < steps:
                result = algorithm.train()
                done = int(result["num_env_steps_sampled_lifetime"])
                on_step(done)
            after = {**_state(algorithm), **scales.to_tensors()}
            envs.call("cut")
        return after, concatenated(episodes)

    def policy(self, state: State) -> Policy:
        """Return the actor alone."""
        scales = _Scales.from_tensors(state)
        ppo = self.config.algorithm == "ppo"
        encoder = "encoder.actor_encoder" if ppo else "pi_encoder"
        layers = [f"module/{encoder}.net.mlp.0", f"module/{encoder}.net.mlp.2", "module/pi.net.mlp.0"]
        return Policy(
            weights=tuple(state[f"{layer}.weight"].numpy() for layer in layers),
            biases=tuple(state[f"{layer}.bias"].numpy() for layer in layers),
            log_std=state["module/pi.log_std"].numpy() if ppo else None,
            obs_mean=scales.obs.mean if ppo else np.zeros(self.obs_dim),
            obs_std=np.sqrt(scales.obs.var + EPSILON) if ppo else np.ones(self.obs_dim),
        )

    # The algorithm

    @contextmanager
    def _built(self, seed: int, *, batch: int, first: bool) -> "Iterator[Algorithm]":
        """Make the algorithm for the block."""
        from ray.tune.registry import register_env

        register_env(ENV_NAME, _env)
        small = seed % 2**31
        random.seed(small)
        np.random.seed(small)  # RLlib draws from the global generators
        torch.manual_seed(small)
        config = (_ppo(batch) if self.config.algorithm == "ppo" else _sac(first)).debugging(seed=small)
        algorithm = config.environment(ENV_NAME, env_config=self.env_config, disable_env_checking=True).build_algo()
        try:
            yield algorithm
        finally:
            algorithm.stop()
            shutil.rmtree(algorithm.logdir, ignore_errors=True)  # RLlib's own record of the run, in ~/ray_results


def _env(config: Mapping[str, Any]) -> gymnasium.Env[Any, Any]:
    """Return an environment that records what it does; RLlib sends this function through pickle."""
    recorder = Recorder(make_env(config["env_id"]), episodes=[])
    if not config["normalized"]:
        return recorder
    normalized = NormalizeObservation(recorder, epsilon=EPSILON)
    space = normalized.observation_space
    clipped = TransformObservation(normalized, lambda obs: np.clip(obs, -OBS_CLIP, OBS_CLIP), space)
    return NormalizeReward(clipped, gamma=PPO["gamma"], epsilon=EPSILON)


def _refuse_without_rllib() -> None:
    try:
        import ray.rllib.algorithms.ppo  # noqa: F401  # its absence shows only on import
    except ImportError as error:
        raise UserError(f'collecting data needs RLlib ({error}): pip install "mpcwdwm[rllib]"') from None


def _ppo(batch: int) -> "AlgorithmConfig":
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

    # The noise's standard deviation is learned, but does not depend on the observation (free_log_std).
    network = DefaultModelConfig(**PPO_NETWORK, free_log_std=True, vf_share_layers=False)
    envs = min(PPO_ENVS, batch)
    return (
        _common(PPOConfig())
        .env_runners(num_env_runners=0, num_envs_per_env_runner=envs)
        .rl_module(model_config=network)
        .training(**PPO, train_batch_size_per_learner=batch, minibatch_size=min(PPO_MINIBATCH, batch))
    )


def _sac(first: bool) -> "AlgorithmConfig":
    from ray.rllib.algorithms.sac import SACConfig
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

    return (
        _common(SACConfig())
        .env_runners(num_env_runners=0, num_envs_per_env_runner=1)
        .rl_module(model_config=DefaultModelConfig(**SAC_NETWORK))
        .training(**SAC, num_steps_sampled_before_learning_starts=SAC_FIRST_STEPS if first else 0)
        .reporting(min_time_s_per_iteration=0, min_sample_timesteps_per_iteration=SAC_REPORT)
    )


def _common(config: "AlgorithmConfig") -> "AlgorithmConfig":
    return config.learners(num_learners=0, num_gpus_per_learner=0).debugging(log_level="ERROR")


# ── State ─────────────────────────────────────────────────────────────────────


class _Scales:
    """Running mean and variance of observations and of discounted returns, shared by all environments."""

    def __init__(self, obs_dim: int) -> None:
        self.obs, self.reward = RunningMeanStd(shape=(obs_dim,)), RunningMeanStd(shape=())

    def by_wrapper(self) -> dict[str, RunningMeanStd]:
        """Return the statistics by the attribute of the wrapper that uses and updates them."""
        return {"obs_rms": self.obs, "return_rms": self.reward}

    def to_tensors(self) -> State:
        """Return all statistics by name."""
        return {
            f"{name}_{entry}": torch.tensor(np.asarray(vars(scale)[entry]), dtype=torch.float64)
            for name, scale in (("obs", self.obs), ("reward", self.reward))
            for entry in ("mean", "var", "count")
        }

    @staticmethod
    def from_tensors(state: State) -> "_Scales":
        """Return what `to_tensors` was called on."""
        scales = _Scales(len(state["obs_mean"]))
        for name, scale in (("obs", scales.obs), ("reward", scales.reward)):
            scale.mean, scale.var = (state[f"{name}_{entry}"].numpy().copy() for entry in ("mean", "var"))
            scale.count = float(state[f"{name}_count"])
        return scales


def _state(algorithm: "Algorithm") -> State:
    """Return weights, optimisers and SAC's temperature by name."""
    group = algorithm.learner_group
    learner = group.get_state()["learner"]
    state = {f"module/{name}": torch.tensor(values) for name, values in learner["rl_module"][MODULE].items()}
    for name, optimizer in learner["optimizer"].items():
        for index, moments in optimizer["state"]["state"].items():
            state |= {f"optimizer/{name}/{index}/{moment}": torch.tensor(values) for moment, values in moments.items()}
    if f"{MODULE}_alpha" in learner["optimizer"]:
        (found,) = group.foreach_learner(lambda learner: learner.curr_log_alpha[MODULE].detach().clone())
        state["log_alpha"] = found.get()
    return state


def _restore(algorithm: "Algorithm", state: State) -> None:
    """Put what `_state` returned into a new algorithm, and its weights into what samples."""
    group = algorithm.learner_group
    optimizers = group.get_state()["learner"]["optimizer"]
    weights: dict[str, NDArray[Any]] = {}
    for name, values in state.items():
        kind, _, rest = name.partition("/")
        if kind == "module":
            weights[rest] = values.numpy()
        elif kind == "optimizer":
            optimizer, index, moment = rest.split("/")
            optimizers[optimizer]["state"]["state"].setdefault(int(index), {})[moment] = values.numpy()
    group.set_state({"learner": {"rl_module": {MODULE: weights}, "optimizer": optimizers}})
    if "log_alpha" in state:
        group.foreach_learner(lambda learner: learner.curr_log_alpha[MODULE].data.copy_(state["log_alpha"]))
    algorithm.env_runner_group.sync_weights(from_worker_or_learner_group=group, inference_only=True)


def _rllib_episodes(rows: Rows) -> "Iterator[SingleAgentEpisode]":
    """Yield the episodes as a replay buffer of RLlib takes them."""
    from ray.rllib.env.single_agent_episode import SingleAgentEpisode

    arrays, _ = rows
    ends = np.flatnonzero(arrays.marked_ends)
    for first, last in zip([0, *(ends[:-1] + 1)], ends, strict=True):
        assert arrays.next_obs is not None
        terminated = bool(arrays.terminal[last])
        yield SingleAgentEpisode(
            observations=[*arrays.obs[first : last + 1], arrays.next_obs[last]],
            actions=list(arrays.action[first : last + 1]),
            rewards=arrays.reward[first : last + 1].tolist(),
            terminated=terminated,
            truncated=not terminated,
            len_lookback_buffer=0,
        )
