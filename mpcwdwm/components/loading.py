"""Finished components read back from their artifacts, several seeds stacked into one frozen module."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from mpcwdwm.components.artifact import read_manifest, read_weights
from mpcwdwm.components.component import Component, ComponentConfig
from mpcwdwm.components.registry import component_class, component_config
from mpcwdwm.errors import UserError
from mpcwdwm.nn.networks import stack_states

__all__ = ["Member", "load_component", "stacked", "untrained_bases"]


class Member(Protocol):
    """One seed's finished component, as `train` returns it or as its artifact holds it."""

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """Parameters and buffers."""
        ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """What its manifest says: component, config, obs_dim, act_dim and seed."""
        ...


@dataclass(frozen=True)
class _Stored:
    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]


def load_component(folders: Sequence[Path]) -> Component:
    """Stack finished artifacts of one component, one per seed, into one frozen module on the CPU.

    Raises:
        UserError: an artifact is damaged, or the artifacts are of different components or configs.
    """
    manifests = [read_manifest(folder) for folder in folders]
    for folder, manifest in zip(folders, manifests, strict=True):
        _refuse_unequal(manifest, manifests[0], str(folder), str(folders[0]))
    return stacked([_Stored(read_weights(folder), facts) for folder, facts in zip(folders, manifests, strict=True)])


def stacked(members: Sequence[Member]) -> Component:
    """Stack what one component's training returned, one member per seed, into one frozen module on the CPU.

    Raises:
        UserError: no members, or of different components or configs.
    """
    if not members:
        raise UserError("no members to stack: give the results of a training")
    first = members[0].facts
    for member in members:
        _refuse_unequal(member.facts, first, f"seed {member.facts['seed']}", f"seed {first['seed']}")
    config = component_config(first["component"], {}, first["config"])
    part_class = component_class(first["component"], config)
    part = part_class(config, first["obs_dim"], first["act_dim"], [member.facts["seed"] for member in members])
    part.load_state_dict(stack_states([dict(member.tensors) for member in members]))
    return part.requires_grad_(False).eval()


def _refuse_unequal(facts: Mapping[str, Any], first: Mapping[str, Any], name: str, first_name: str) -> None:
    for field in ("component", "config", "obs_dim", "act_dim"):
        if facts[field] != first[field]:
            raise UserError(f"{name}: its {field} differs from that of {first_name}; only equal parts can be stacked")


def untrained_bases(config: ComponentConfig, dims: tuple[int, int], seeds: Sequence[int]) -> dict[str, Component]:
    """Return what stands in for the components that `config` builds on where only time counts.

    Args:
        config: of the component that builds on it.
        dims: obs_dim and act_dim.
        seeds: one per member.
    """
    bases = {name: component_config(name, {}, {}) for name in config.builds_on}
    return {name: component_class(name, base)(base, *dims, seeds) for name, base in bases.items()}
