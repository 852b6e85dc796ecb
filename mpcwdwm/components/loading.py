"""Finished components read back from their artifacts, several seeds stacked into one frozen module."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from mpcwdwm.components.artifact import read_manifest, read_weights
from mpcwdwm.components.component import Component, ComponentConfig, Member
from mpcwdwm.components.registry import component_class, component_config
from mpcwdwm.errors import UserError
from mpcwdwm.nn.networks import stack_states

__all__ = ["load_component", "stacked", "untrained_bases"]


def load_component(folders: Sequence[Path]) -> Component:
    """Stack finished artifacts of one component, one per seed, into one frozen module on the CPU.

    Raises:
        UserError: an artifact is damaged, or the artifacts are of different components or configs.
    """
    members = [Member(facts=read_manifest(folder), tensors=read_weights(folder)) for folder in folders]
    return _stacked(members, [str(folder) for folder in folders])


def stacked(members: Sequence[Member]) -> Component:
    """Stack what one component's training returned, one member per seed, into one frozen module on the CPU.

    Raises:
        UserError: no members, or of different components or configs.
    """
    return _stacked(members, [f"seed {member.facts['seed']}" for member in members])


def _stacked(members: Sequence[Member], names: Sequence[str]) -> Component:
    if not members:
        raise UserError("no members to stack: give the results of a training")
    first, seeds = members[0].facts, [member.facts["seed"] for member in members]
    for member, name in zip(members, names, strict=True):
        for field in ("component", "config", "obs_dim", "act_dim"):
            if member.facts[field] != first[field]:
                raise UserError(f"{name}: its {field} differs from that of {names[0]}; only equal parts can be stacked")
    config = component_config(first["component"], {}, first["config"])
    part = component_class(first["component"], config)(config, first["obs_dim"], first["act_dim"], seeds)
    part.load_state_dict(stack_states([dict(member.tensors) for member in members]))
    return part.requires_grad_(False).eval()


def untrained_bases(
    config: ComponentConfig,
    dims: tuple[int, int],
    seeds: Sequence[int],
    known: Mapping[str, ComponentConfig] = MappingProxyType({}),
) -> dict[str, Component]:
    """Return untrained components in place of those that `config` builds on, to measure time.

    Args:
        config: of the component that builds on them.
        dims: obs_dim and act_dim.
        seeds: one per member.
        known: their configs; the others have their defaults.
    """
    valued = {"value": {"of": config.improves or "base"}}
    bases = {name: known.get(name) or component_config(name, {}, valued.get(name, {})) for name in config.builds_on}
    return {name: component_class(name, base)(base, *dims, seeds) for name, base in bases.items()}
