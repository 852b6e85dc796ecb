"""The pretrained components: ReBRAC, IQL, behaviour cloning, the world model, the reward model."""

from mpcwdwm.components.component import ActorComponent, Batch, Component, ComponentConfig, CriticComponent, Member
from mpcwdwm.components.loading import load_component, stacked, untrained_bases
from mpcwdwm.components.registry import (
    COMPONENTS,
    DEFAULT_WORLD_MODEL,
    WORLD_MODELS,
    component_class,
    component_config,
    policies,
)
from mpcwdwm.components.world_models.world_model import WorldModel, WorldModelConfig

__all__ = [
    "COMPONENTS",
    "DEFAULT_WORLD_MODEL",
    "WORLD_MODELS",
    "ActorComponent",
    "Batch",
    "Component",
    "ComponentConfig",
    "CriticComponent",
    "Member",
    "WorldModel",
    "WorldModelConfig",
    "component_class",
    "component_config",
    "load_component",
    "policies",
    "stacked",
    "untrained_bases",
]
