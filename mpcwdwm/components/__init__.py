"""The pretrained components: ReBRAC, IQL, behaviour cloning, the world model, the reward model."""

from mpcwdwm.components.component import Batch, Component, ComponentConfig
from mpcwdwm.components.loading import Member, load_component, stacked, untrained_bases
from mpcwdwm.components.registry import (
    COMPONENTS,
    DEFAULT_WORLD_MODEL,
    POLICIES,
    WORLD_MODELS,
    component_class,
    component_config,
)

__all__ = [
    "COMPONENTS",
    "DEFAULT_WORLD_MODEL",
    "POLICIES",
    "WORLD_MODELS",
    "Batch",
    "Component",
    "ComponentConfig",
    "Member",
    "component_class",
    "component_config",
    "load_component",
    "stacked",
    "untrained_bases",
]
