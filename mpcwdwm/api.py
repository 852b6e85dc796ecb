"""Finished components from a sweep's folder, ready to plan with, without the sweep."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mpcwdwm.components.artifact import read_manifest
from mpcwdwm.components.loading import load_component
from mpcwdwm.data import TASKS, Dataset, dataset_path, find_task, read_dataset
from mpcwdwm.envs.termination import RULES
from mpcwdwm.errors import UserError, did_you_mean
from mpcwdwm.planning.assemble import assemble
from mpcwdwm.planning.parts import Parts
from mpcwdwm.planning.planner import LookaheadConfig, PlannerConfig

__all__ = ["load"]

MODELS = ("world_model", "reward")


def load(
    storage: str | Path,
    *,
    task: str,
    planner: PlannerConfig | None = None,
    seed: int | Sequence[int] = 0,
    base: str = "rebrac",
    critic_from: str | None = None,
    keys: Sequence[str] = (),
    device: str = "cpu",
) -> Parts:
    """Return the finished components of one task as `Parts` for a planner.

    Args:
        storage: the folder a sweep wrote to (its YAML's `storage`).
        task: the task's name.
        planner: a planner's config; its base, critic, further components and, if needed, the dataset are loaded.
        seed: one training seed, or several, which then become the members of the parts.
        base: without a config: whose policy and critic, "rebrac" or "iql"; "bc" has a policy only.
        critic_from: without a config: whose critic instead, "rebrac", "iql" or "value", with its discount and reward
            scale.
        keys: artifact names, needed only where the folder holds several variants of a component.
        device: where the parts go.

    Raises:
        UserError: nothing there, nothing for this task or seed, several variants to choose from, or the dataset is not
            the one that was trained on.
    """
    folder = Path(storage) / "components"
    seeds = [seed] if isinstance(seed, int) else list(seed)
    if not seeds:
        raise UserError("seed is empty: give one training seed or more")
    manifests = [read_manifest(path.parent) for path in sorted(folder.glob("*/manifest.json"))]
    if not manifests:
        raise UserError(f"{folder}: no finished components; run 'mpcwdwm sweep run SPEC' first")
    known = {manifest["task"]["name"] for manifest in manifests}
    if task not in known:
        raise UserError(
            f"{folder}: nothing for task '{task}'{did_you_mean(task, known)}; it has {', '.join(sorted(known))}"
        )
    if planner is None:
        needs = (*([critic_from] if critic_from else []), *MODELS)
    else:
        base, needs = planner.base, planner.needs
        lender = planner.critic_from if isinstance(planner, LookaheadConfig) else None
        critic_from = lender if lender in needs else None
    ours = [
        manifest
        for manifest in manifests
        if manifest["task"]["name"] == task
        and manifest["config"].get("of", base) in (base, "base")  # whose value it is
    ]
    names = dict.fromkeys((base, *needs))
    found = {name: [folder / _choose(ours, name, one, keys, folder)["key"] for one in seeds] for name in names}
    facts = read_manifest(found[base][0])["task"]
    return assemble(
        {name: load_component(paths) for name, paths in found.items()},
        base,
        critic_from=critic_from,
        device=device,
        termination=RULES[facts["termination"]] if facts["termination"] else None,
        goal_reward=facts.get("goal_reward"),
        env_id=facts["env_id"],
        env_kwargs=facts.get("env_kwargs", {}),
        max_episode_steps=facts["max_episode_steps"],
        reference=tuple(facts["reference"]) if facts["reference"] else None,
        dataset=_dataset(facts) if planner is not None and planner.uses_dataset else None,
    )


def _dataset(facts: Mapping[str, Any]) -> Dataset:
    """Return the dataset that the components were trained on, from its path then or from that of its task."""
    path = Path(facts["dataset"])
    if not path.is_file() and facts["name"] in TASKS:
        path = dataset_path(find_task(facts["name"]))
    dataset = read_dataset(path)
    if dataset.sha256 != facts["dataset_sha256"]:
        raise UserError(f"{path}: the file is not the one the components were trained on: put that one there")
    return dataset


def _choose(
    manifests: Sequence[dict[str, Any]], name: str, seed: int, keys: Sequence[str], folder: Path
) -> dict[str, Any]:
    candidates = [m for m in manifests if m["component"] == name and m["seed"] == seed]
    if len(candidates) > 1:
        candidates = [m for m in candidates if m["key"] in keys] or candidates
    if not candidates:
        seeds = sorted({m["seed"] for m in manifests if m["component"] == name})
        have = f"it has seeds {seeds}" if seeds else "it has none"
        raise UserError(f"{folder}: no finished '{name}' for seed {seed}; {have}")
    if len(candidates) > 1:
        names = ", ".join(m["key"] for m in candidates)
        raise UserError(f"{folder}: several variants of '{name}' for seed {seed}; name one in keys=[…]: {names}")
    return candidates[0]
