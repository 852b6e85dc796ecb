"""The pretrained components: ReBRAC, IQL, behaviour cloning, the world model, the reward model."""

from mpcwdwm.components.component import Batch, Component, ComponentConfig
from mpcwdwm.components.loading import load_component, untrained_bases
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
    "component_class",
    "component_config",
    "load_component",
    "untrained_bases",
]
