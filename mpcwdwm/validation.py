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
# Settings of CORL, d3rlpy, CleanRL, TD-MPC2, Ray and MLflow → ours; of several, the one that the config at hand has.
OTHER_NAMES = {
    "actor_beta": ("actor_bc_coef",),
    "actor_learning_rate": ("actor_lr", "lr"),
    "actor_n_hiddens": ("hidden_layers",),
    "alpha": ("step_size", "actor_bc_coef"),
    "beta": ("temperature", "actor_bc_coef"),
    "checkpoint": ("storage",),
    "checkpoints_path": ("storage",),
    "critic_beta": ("critic_bc_coef",),
    "critic_learning_rate": ("critic_lr",),
    "critic_n_hiddens": ("hidden_layers",),
    "dataset_id": ("dataset",),
    "dataset_name": ("tasks", "dataset"),
    "dataset_path": ("dataset",),
    "depth": ("hidden_layers",),
    "diffusion_steps": ("denoising_steps",),
    "ema_decay": ("ema",),
    "ensemble_size": ("ensemble",),
    "env_args": ("env_kwargs",),
    "env_id": ("env", "tasks"),
    "env_name": ("env", "tasks"),
    "environment": ("env",),
    "epochs": ("steps",),
    "eval_every": ("evaluations",),
    "eval_freq": ("evaluations",),
    "eval_seed": ("env_seed",),
    "experiment": ("name",),
    "experiment_name": ("name",),
    "file": ("dataset",),
    "gamma": ("discount",),
    "grad_steps": ("updates",),
    "gradient_steps": ("updates", "steps"),
    "hidden_size": ("hidden_dim",),
    "hidden_sizes": ("hidden_dim",),
    "hidden_units": ("hidden_dim",),
    "id": ("env",),
    "iql_deterministic": ("deterministic",),
    "iql_tau": ("expectile",),
    "iterations": ("updates", "steps"),
    "layers": ("hidden_layers",),
    "learning_rate": ("step_size", "lr", "actor_lr"),
    "log_dir": ("storage",),
    "lookahead": ("horizon",),
    "lr": ("step_size", "actor_lr"),
    "max_steps": ("max_episode_steps", "steps"),
    "max_timesteps": ("steps", "max_episode_steps"),
    "methods": ("baselines", "planners"),
    "n_episodes": ("episodes", "eval_episodes"),
    "n_eval_episodes": ("episodes", "eval_episodes"),
    "n_critics": ("ensemble",),
    "n_iterations": ("updates",),
    "n_layers": ("hidden_layers",),
    "n_models": ("ensemble",),
    "n_rollouts": ("rollouts",),
    "n_samples": ("samples", "rollouts"),
    "n_steps": ("steps",),
    "n_timesteps": ("denoising_steps", "steps"),
    "n_updates": ("updates", "steps"),
    "normalize": ("normalize_obs",),
    "normalize_states": ("normalize_obs",),
    "num_cpus": ("cpus",),
    "num_elites": ("elites",),
    "num_episodes": ("episodes", "eval_episodes"),
    "num_eval_episodes": ("episodes", "eval_episodes"),
    "num_gpus": ("gpus",),
    "num_layers": ("hidden_layers",),
    "num_models": ("ensemble",),
    "num_rollouts": ("rollouts",),
    "num_samples": ("samples", "rollouts"),
    "num_seeds": ("seeds",),
    "num_steps": ("steps", "updates"),
    "num_train_steps": ("steps",),
    "num_updates": ("updates", "steps"),
    "num_workers": ("concurrency",),
    "observation_scaler": ("normalize_obs",),
    "output": ("storage",),
    "output_dir": ("storage",),
    "path": ("dataset",),
    "planning_horizon": ("horizon",),
    "policy_frequency": ("policy_freq",),
    "policy_lr": ("actor_lr",),
    "q_lr": ("critic_lr",),
    "qf_lr": ("critic_lr",),
    "ray_address": ("address",),
    "reward_scaler": ("normalize_reward", "reward_scale"),
    "soft_target_update_rate": ("polyak",),
    "target_smoothing_clip": ("noise_clip",),
    "target_smoothing_sigma": ("policy_noise",),
    "target_update_rate": ("polyak",),
    "tau": ("polyak",),
    "time_limit": ("max_episode_steps",),
    "timesteps": ("steps", "denoising_steps"),
    "total_steps": ("steps",),
    "total_timesteps": ("steps",),
    "tracking_uri": ("uri", "tracking"),
    "train_seed": ("seeds",),
    "train_seeds": ("seeds",),
    "train_steps": ("steps",),
    "training_steps": ("steps",),
    "update_actor_interval": ("policy_freq",),
    "vf_lr": ("value_lr",),
    "weight_temp": ("temperature",),
    "width": ("hidden_dim",),
    "workers": ("concurrency",),
}

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
    found = sorted(error.errors(include_url=False), key=lambda each: each["type"] == "missing")
    kind, location, given = found[0]["type"], found[0]["loc"], found[0]["input"]
    in_key = location[-1:] == ("[key]",)  # pydantic's way to say that the key itself is wrong
    at = locate(location[:-1] if in_key else location)
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    name, owner = str(at[-1]) if at else "", dotted(at[:-1])
    inside = f" in {owner}" if owner else ""
    if kind == "extra_forbidden":
        hint = name_hint(name, known(at[:-1])) or elsewhere(name)
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
    hint = did_you_mean(str(given), re.findall(r"'(.*?)'", said)) if kind == "literal_error" else ""
    return Finding(at, f"{place}{said}, not {shortened(given)}{hint}{more}", False)


def name_hint(name: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'discount'?)"``: the known name that another program's means, else the nearest."""
    known = list(known)
    meant = next((ours for ours in meanings(name) if ours in known), None)
    return f" (did you mean '{meant}'?)" if meant else did_you_mean(_plain(name), known)


def meanings(name: str) -> tuple[str, ...]:
    """Return the settings that a name may mean: itself, and what it is called here."""
    return _plain(name), *OTHER_NAMES.get(_plain(name), ())


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")


def dotted(at: Where) -> str:
    """Write a place as people do: planners.mpc.horizon[1]."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in at)
    return text.removeprefix(".")


def shortened(value: Any) -> str:
    """Write a value as YAML would, cut to the length of a message."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "…"
