"""What is wrong with a config, in one line and in YAML's terms.

pydantic finds it; the words are ours. Names of settings that people know from other programs are recognised: "gamma" is
`discount`.
"""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from mpcwdwm.errors import did_you_mean

__all__ = ["Finding", "Where", "dotted", "first_finding", "meanings", "name_hint", "shortened"]

EXPECTED = {  # pydantic's kind of error → what was expected, in YAML's terms; pydantic's own text for all others
    "bool_type": "should be true or false",
    "dict_type": "should be a mapping",
    "float_type": "should be a number",
    "int_from_float": "should be a whole number",
    "int_type": "should be a whole number",
    "list_type": "should be a list",
    "model_type": "should be a mapping",
    "string_type": "should be text, in quotes if it looks like something else",
    "too_short": "should have at least one entry",
    "tuple_type": "should be a list",
}
# Settings of CORL, d3rlpy, CleanRL, TD-MPC2, RLlib, Hydra and MLflow → ours; of several, the one that the config at
# hand has.
OTHER_NAMES = {
    "_target_": ("kind",),
    "actor": ("base",),
    "actor_beta": ("actor_bc_coef",),
    "actor_hidden_dims": ("hidden_dim",),
    "actor_learning_rate": ("actor_lr", "lr"),
    "actor_n_hiddens": ("hidden_layers",),
    "agents": ("baselines", "planners"),
    "algo": ("kind", "baselines"),
    "algorithm": ("kind", "baselines"),
    "algorithms": ("baselines", "planners"),
    "algos": ("baselines", "planners"),
    "alpha": ("step_size", "actor_bc_coef"),
    "benchmarks": ("tasks",),
    "beta": ("temperature", "actor_bc_coef"),
    "cache_dir": ("storage",),
    "checkpoint": ("storage",),
    "checkpoint_dir": ("storage",),
    "checkpoints_path": ("storage",),
    "ckpt_dir": ("storage",),
    "class": ("kind",),
    "comment": ("description",),
    "cpu": ("cpus",),
    "critic_beta": ("critic_bc_coef",),
    "critic_hidden_dims": ("hidden_dim",),
    "critic_learning_rate": ("critic_lr",),
    "critic_n_hiddens": ("hidden_layers",),
    "cuda": ("gpus",),
    "dataset_id": ("dataset",),
    "dataset_name": ("tasks", "dataset"),
    "dataset_path": ("dataset",),
    "depth": ("hidden_layers",),
    "device": ("gpus", "resources"),
    "devices": ("gpus", "resources"),
    "diffusion_steps": ("denoising_steps",),
    "discount_factor": ("discount",),
    "dynamics": ("components",),
    "e": ("updates",),
    "elite_size": ("elites",),
    "ema_decay": ("ema",),
    "encoder_factory": ("hidden_dim",),
    "ensemble_size": ("ensemble",),
    "env_args": ("env_kwargs",),
    "env_id": ("env", "tasks"),
    "env_name": ("env", "tasks"),
    "env_names": ("tasks",),
    "environment": ("env",),
    "envs": ("tasks",),
    "epochs": ("steps",),
    "eval": ("evaluation",),
    "eval_env_seed": ("env_seed",),
    "eval_every": ("evaluations",),
    "eval_freq": ("evaluations",),
    "eval_interval": ("evaluations",),
    "eval_period": ("evaluations",),
    "eval_seed": ("env_seed",),
    "evaluation_interval": ("evaluations",),
    "evaluator": ("evaluation",),
    "exp_name": ("name",),
    "experiment": ("name",),
    "experiment_name": ("name",),
    "file": ("dataset",),
    "gamma": ("discount",),
    "gpu": ("gpus", "resources"),
    "grad_steps": ("updates",),
    "gradient_steps": ("updates", "steps"),
    "grid": ("planners",),
    "h": ("horizon",),
    "hidden_dims": ("hidden_dim",),
    "hidden_size": ("hidden_dim",),
    "hidden_sizes": ("hidden_dim",),
    "hidden_units": ("hidden_dim",),
    "hparams": ("planners", "components"),
    "hyperparameters": ("planners", "components"),
    "id": ("env",),
    "inner_lr": ("step_size",),
    "inner_steps": ("updates",),
    "iql_deterministic": ("deterministic",),
    "iql_tau": ("expectile",),
    "iterations": ("updates", "steps"),
    "layers": ("hidden_layers",),
    "learning_rate": ("step_size", "lr", "actor_lr"),
    "log_dir": ("storage",),
    "log_path": ("storage",),
    "logdir": ("storage",),
    "logger": ("tracking",),
    "lookahead": ("horizon",),
    "lr": ("step_size", "actor_lr"),
    "m": ("rollouts",),
    "max_concurrent_trials": ("concurrency",),
    "max_epochs": ("steps",),
    "max_steps": ("max_episode_steps", "steps"),
    "max_timesteps": ("steps", "max_episode_steps"),
    "max_workers": ("concurrency",),
    "method": ("baselines",),
    "methods": ("baselines", "planners"),
    "mini_batch_size": ("batch_size",),
    "minibatch_size": ("batch_size",),
    "mlflow": ("tracking",),
    "model": ("components",),
    "models": ("components",),
    "mpc_horizon": ("horizon",),
    "n_critics": ("ensemble",),
    "n_elites": ("elites",),
    "n_episodes": ("episodes", "eval_episodes"),
    "n_epochs": ("steps",),
    "n_eval_episodes": ("episodes", "eval_episodes"),
    "n_gpus": ("gpus", "resources"),
    "n_grad_steps": ("updates",),
    "n_iterations": ("updates",),
    "n_jobs": ("concurrency",),
    "n_layers": ("hidden_layers",),
    "n_models": ("ensemble",),
    "n_particles": ("rollouts", "samples"),
    "n_rollouts": ("rollouts",),
    "n_runs": ("seeds",),
    "n_samples": ("samples", "rollouts"),
    "n_seeds": ("seeds",),
    "n_steps": ("steps",),
    "n_timesteps": ("denoising_steps", "steps"),
    "n_updates": ("updates", "steps"),
    "n_workers": ("concurrency",),
    "net_arch": ("hidden_dim",),
    "network_arch": ("hidden_dim",),
    "networks": ("components",),
    "normalize": ("normalize_obs",),
    "normalize_states": ("normalize_obs",),
    "notes": ("description",),
    "num_cpus": ("cpus",),
    "num_elites": ("elites",),
    "num_env_runners": ("concurrency",),
    "num_episodes": ("episodes", "eval_episodes"),
    "num_epochs": ("steps",),
    "num_eval_episodes": ("episodes", "eval_episodes"),
    "num_gpus": ("gpus",),
    "num_grad_steps": ("updates",),
    "num_iterations": ("updates", "steps"),
    "num_layers": ("hidden_layers",),
    "num_models": ("ensemble",),
    "num_particles": ("rollouts", "samples"),
    "num_rollouts": ("rollouts",),
    "num_runs": ("seeds",),
    "num_samples": ("samples", "rollouts"),
    "num_seeds": ("seeds",),
    "num_sgd_iter": ("steps",),
    "num_steps": ("steps", "updates"),
    "num_train_steps": ("steps",),
    "num_updates": ("updates", "steps"),
    "num_workers": ("concurrency",),
    "observation_scaler": ("normalize_obs",),
    "out_dir": ("storage",),
    "output": ("storage",),
    "output_dir": ("storage",),
    "output_path": ("storage",),
    "parallelism": ("concurrency",),
    "param_space": ("planners",),
    "parameters": ("planners", "components"),
    "params": ("planners", "components"),
    "particles": ("rollouts", "samples"),
    "path": ("dataset",),
    "plan_horizon": ("horizon",),
    "planning_horizon": ("horizon",),
    "policy": ("base",),
    "policy_frequency": ("policy_freq",),
    "policy_lr": ("actor_lr",),
    "pop_size": ("samples",),
    "population": ("samples",),
    "population_size": ("samples",),
    "q_lr": ("critic_lr",),
    "qf_lr": ("critic_lr",),
    "random_seed": ("seeds",),
    "random_state": ("seeds",),
    "ray": ("resources",),
    "ray_address": ("address",),
    "ray_init": ("resources",),
    "repeat": ("seeds",),
    "repeats": ("seeds",),
    "replicates": ("seeds",),
    "resources_per_trial": ("resources",),
    "result_dir": ("storage",),
    "results_dir": ("storage",),
    "reward_scaler": ("normalize_reward", "reward_scale"),
    "rng_seed": ("seeds",),
    "rollout_horizon": ("horizon",),
    "root": ("storage",),
    "run_name": ("name",),
    "save_dir": ("storage",),
    "save_path": ("storage",),
    "search_space": ("planners",),
    "seed": ("seeds",),
    "soft_target_update_rate": ("polyak",),
    "sweeper": ("planners",),
    "target": ("kind",),
    "target_network_update_rate": ("polyak",),
    "target_smoothing_clip": ("noise_clip",),
    "target_smoothing_sigma": ("policy_noise",),
    "target_update_rate": ("polyak",),
    "tau": ("polyak",),
    "time_limit": ("max_episode_steps",),
    "timesteps": ("steps", "denoising_steps"),
    "title": ("description",),
    "top_k": ("elites",),
    "total_steps": ("steps",),
    "total_timesteps": ("steps",),
    "tracker": ("tracking",),
    "tracking_server": ("uri", "tracking"),
    "tracking_uri": ("uri", "tracking"),
    "train_batch_size": ("batch_size",),
    "train_epochs": ("steps",),
    "train_seed": ("seeds",),
    "train_seeds": ("seeds",),
    "train_steps": ("steps",),
    "training_steps": ("steps",),
    "type": ("kind",),
    "update_actor_interval": ("policy_freq",),
    "use_gpu": ("gpus", "resources"),
    "vf_lr": ("value_lr",),
    "wandb": ("tracking",),
    "weight_temp": ("temperature",),
    "width": ("hidden_dim",),
    "work_dir": ("storage",),
    "workers": ("concurrency",),
}

NUMBERS = ("float_type", "int_type")
WORDS = "words"  # of an error's context: what is allowed beside a number

Where = tuple[str | int, ...]
"""Where a value stands: mapping keys and list positions from the top, ("planners", "mpc", "horizon")."""


@dataclass(frozen=True)
class Finding:
    """The first thing that is wrong, in a line."""

    at: Where
    message: str
    in_key: bool  # the key, not its value


def first_finding(
    error: ValidationError,
    known: Callable[[Where], Iterable[str]],
    locate: Callable[[Where], Where] = lambda at: at,
    elsewhere: Callable[[str], str] = lambda name: "",
) -> Finding:
    """Return pydantic's findings as one line: the first, and how many more.

    An unknown key comes before a missing one, which it is often meant to be.

    Args:
        error: what pydantic found.
        known: place of a mapping → the keys it may have.
        locate: pydantic's location → the place in the document.
        elsewhere: an unknown key → a hint where else it belongs.
    """
    found = _without_unions(error.errors(include_url=False))
    found.sort(key=lambda each: each["type"] == "missing")
    kind, location, given = found[0]["type"], found[0]["loc"], found[0]["input"]
    in_key = location[-1:] == ("[key]",)  # pydantic's way to say that the key itself is wrong
    at = locate(location[:-1] if in_key else location)
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    name, owner = str(at[-1]) if at else "", dotted(at[:-1])
    inside = f" in {owner}" if owner else ""
    if kind == "extra_forbidden":
        hint = name_hint(name, known(at[:-1]), elsewhere)
        return Finding(at, f"unknown key '{name}'{inside}{hint}{more}", True)
    if kind == "missing" and isinstance(at[-1], str):
        return Finding(at[:-1], f"missing key '{name}'{inside}{more}", False)
    if kind == "missing":  # an entry of a list of fixed length
        return Finding(at[:-1], f"{owner} has too few entries{more}", False)
    place = f"{dotted(at)} " if at else ""
    if kind == "value_error":
        said = found[0]["msg"].removeprefix("Value error, ")
        return Finding(at, f"{place.strip()}: {said}{more}".removeprefix(": "), in_key)
    said = EXPECTED.get(kind) or found[0]["msg"].removeprefix("Input ")
    said += "".join(f" or {word}" for word in found[0].get("ctx", {}).get(WORDS, ()))
    hint = did_you_mean(given, re.findall(r"'(.*?)'", said)) if isinstance(given, str) else ""
    if kind in NUMBERS and isinstance(given, str) and re.fullmatch(r"[-+.0-9eE]*[0-9]", given):
        hint = ": leave out the quotes"
    return Finding(at, f"{place}{said}, not {shortened(given)}{hint}{more}", False)


def _without_unions(found: list[Any]) -> list[Any]:
    """Return pydantic's errors, those of a number that may also be a word as one: the number's, with the words."""
    kept: list[Any] = []
    for each in found:
        location, words = each["loc"], each["type"] == "literal_error" and each["ctx"]["expected"]
        if words and kept and location[-1] == f"literal[{words}]" and kept[-1]["loc"][:-1] == location[:-1]:
            kept[-1] = {**kept[-1], "ctx": {WORDS: [words] if isinstance(each["input"], str) else []}}
            kept[-1]["loc"] = location[:-1]
        else:
            kept.append(each)
    return kept


def name_hint(name: str, known: Iterable[str], elsewhere: Callable[[str], str] = lambda name: "") -> str:
    """Return ``" (did you mean 'discount'?)"``: the known name that another program's means, else the nearest.

    Before the nearest comes what ``elsewhere`` says of the name: that it belongs to another place.
    """
    known = list(known)
    meant = next((ours for ours in meanings(name) if ours in known), None)
    return f" (did you mean '{meant}'?)" if meant else elsewhere(name) or did_you_mean(_plain(name), known)


def meanings(name: str) -> tuple[str, ...]:
    """Return the settings that a name may mean: itself, and what it is called here."""
    return _plain(name), *OTHER_NAMES.get(_plain(name), ())


def _plain(name: str) -> str:
    return name.lower().replace("-", "_").replace(" ", "_")


def dotted(at: Where) -> str:
    """Write a place as people do: planners.mpc.horizon[1]."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in at)
    return text.removeprefix(".")


def shortened(value: Any) -> str:
    """Write a value as YAML would, cut to the length of a message."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "…"
