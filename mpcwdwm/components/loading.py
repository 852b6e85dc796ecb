"""Finished components read back from their artifacts, several seeds stacked into one frozen module."""

from collections.abc import Sequence
from pathlib import Path

from mpcwdwm.components.artifact import read_manifest, read_weights
from mpcwdwm.components.component import Component, ComponentConfig
from mpcwdwm.components.registry import component_class, component_config
from mpcwdwm.config import Config
from mpcwdwm.errors import UserError
from mpcwdwm.nn.networks import stack_states

__all__ = ["load_component", "untrained_bases"]


def load_component(folders: Sequence[Path]) -> Component:
    """Stack finished artifacts of one component, one per seed, into one frozen module on the CPU.

    Raises:
        UserError: an artifact is damaged, or the artifacts are of different components or configs.
    """
    manifests = [read_manifest(folder) for folder in folders]
    first = manifests[0]
    for folder, manifest in zip(folders, manifests, strict=True):
        for field in ("component", "config", "obs_dim", "act_dim"):
            if manifest[field] != first[field]:
                raise UserError(
                    f"{folder}: its {field} differs from that of {folders[0]}; only equal parts can be stacked"
                )
    config = component_config(first["component"], {}, first["config"])
    part_class = component_class(first["component"], config)
    seeds = [manifest["seed"] for manifest in manifests]
    part: Component = part_class(config, first["obs_dim"], first["act_dim"], seeds)
    part.load_state_dict(stack_states([read_weights(folder) for folder in folders]))
    return part.requires_grad_(False).eval()


def untrained_bases(config: Config, dims: tuple[int, int], seeds: Sequence[int]) -> dict[str, Component]:
    """Return what stands in for the components that `config` builds on where only time counts.

    Args:
        config: of the component that builds on it.
        dims: obs_dim and act_dim.
        seeds: one per member.
    """
    assert isinstance(config, ComponentConfig)
    bases = {name: component_config(name, {}, {}) for name in config.builds_on}
    return {name: component_class(name, base)(base, *dims, seeds) for name, base in bases.items()}
