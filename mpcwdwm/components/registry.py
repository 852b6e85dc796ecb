"""The components by name: config and class.

This module only names things; what a component computes is in its own module, and the keys of
artifacts depend on those modules, not on this list.
"""

from typing import Any

from mpcwdwm.components.bc import BcConfig, BehaviorCloning
from mpcwdwm.components.component import Component
from mpcwdwm.components.iql import Iql, IqlConfig
from mpcwdwm.components.rebrac import Rebrac, RebracConfig
from mpcwdwm.components.reward import Reward, RewardConfig
from mpcwdwm.components.value import Value, ValueConfig
from mpcwdwm.components.world_models.diffusion import DiffusionConfig, DiffusionModel
from mpcwdwm.components.world_models.flow import FlowConfig, FlowModel
from mpcwdwm.components.world_models.meanflow import MeanFlowConfig, MeanFlowModel
from mpcwdwm.components.world_models.mlp import MlpConfig, MlpModel
from mpcwdwm.config import Config
from mpcwdwm.errors import UserError, did_you_mean

__all__ = [
    "COMPONENTS",
    "COMPONENT_CLASSES",
    "DEFAULT_WORLD_MODEL",
    "POLICIES",
    "WORLD_MODELS",
    "component_class",
    "component_config",
]

COMPONENTS: dict[str, type[Config]] = {
    "rebrac": RebracConfig,
    "iql": IqlConfig,
    "bc": BcConfig,
    "world_model": DiffusionConfig,  # of the default kind; the others are in WORLD_MODELS
    "reward": RewardConfig,
    "value": ValueConfig,
}
POLICIES = ("rebrac", "iql", "bc")  # components that can act
DEFAULT_WORLD_MODEL = "diffusion"  # the method's own
WORLD_MODELS: dict[str, tuple[type[Config], type[Component]]] = {
    "diffusion": (DiffusionConfig, DiffusionModel),
    "flow": (FlowConfig, FlowModel),
    "meanflow": (MeanFlowConfig, MeanFlowModel),
    "mlp": (MlpConfig, MlpModel),
}
COMPONENT_CLASSES: dict[str, type[Component]] = {
    "rebrac": Rebrac,
    "iql": Iql,
    "bc": BehaviorCloning,
    "world_model": DiffusionModel,
    "reward": Reward,
    "value": Value,
}


def component_config(name: str, published: dict[str, Any], overrides: dict[str, Any]) -> Config:
    """Resolve a component's config: class default < the task's published values < the user's.

    Raises:
        UserError: unknown component, or unknown kind of world model.
        pydantic.ValidationError: unknown field or impossible value.
    """
    if name not in COMPONENTS:
        raise UserError(f"unknown component '{name}'{did_you_mean(name, COMPONENTS)}; known: {', '.join(COMPONENTS)}")
    fields = {**published, **overrides}
    if name != "world_model":
        return COMPONENTS[name](**fields)
    kind = fields.get("kind", DEFAULT_WORLD_MODEL)
    if kind not in WORLD_MODELS:
        hint = f"{did_you_mean(str(kind), WORLD_MODELS)}; known: {', '.join(WORLD_MODELS)}"
        raise UserError(f"unknown kind of world model '{kind}'{hint}")
    return WORLD_MODELS[kind][0](**fields)


def component_class(name: str, config: Config) -> type[Component]:
    """Return the class that `config` configures."""
    if name == "world_model":
        return WORLD_MODELS[getattr(config, "kind")][1]  # noqa: B009 - every world-model config has a kind
    return COMPONENT_CLASSES[name]
