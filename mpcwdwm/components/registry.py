"""The components and the kinds of world models by name, and which of them can act or judge actions."""

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import AfterValidator, Strict

from mpcwdwm.components.component import ActorComponent, Component, ComponentConfig, CriticComponent
from mpcwdwm.components.world_models.world_model import WorldModel, WorldModelConfig
from mpcwdwm.errors import UserError
from mpcwdwm.registry import Registry, subclass_of
from mpcwdwm.validation import name_hint

__all__ = [
    "COMPONENTS",
    "DEFAULT_WORLD_MODEL",
    "WORLD_MODELS",
    "CriticSource",
    "PolicyName",
    "ValueOf",
    "check_policy",
    "component_class",
    "component_config",
    "curve_played",
    "policies",
]

DEFAULT_WORLD_MODEL = "diffusion"  # the method's own
COMPONENTS: Registry[type[Component]] = Registry(
    "component",
    "mpcwdwm.components",
    subclass_of(Component),
    "a subclass of mpcwdwm.components.Component, its config_class one of ComponentConfig",
    {
        "rebrac": "mpcwdwm.components.rebrac:Rebrac",
        "iql": "mpcwdwm.components.iql:Iql",
        "bc": "mpcwdwm.components.bc:BehaviorCloning",
        "world_model": "mpcwdwm.components.world_models.diffusion:DiffusionModel",  # others: WORLD_MODELS
        "reward": "mpcwdwm.components.reward:Reward",
        "value": "mpcwdwm.components.value:Value",
        "mopo": "mpcwdwm.components.mopo:Mopo",
        "improved": "mpcwdwm.planning.improved:Improved",
        "diffuser": "mpcwdwm.components.diffuser:Diffuser",
    },
)
WORLD_MODELS: Registry[type[WorldModel]] = Registry(
    "kind of world model",
    "mpcwdwm.world_models",
    subclass_of(WorldModel),
    "a subclass of mpcwdwm.components.WorldModel, its config_class one of WorldModelConfig",
    {
        "diffusion": "mpcwdwm.components.world_models.diffusion:DiffusionModel",
        "flow": "mpcwdwm.components.world_models.flow:FlowModel",
        "meanflow": "mpcwdwm.components.world_models.meanflow:MeanFlowModel",
        "mlp": "mpcwdwm.components.world_models.mlp:MlpModel",
    },
)


def component_config(name: str, published: dict[str, Any], overrides: dict[str, Any]) -> ComponentConfig:
    """Resolve a component's config: class default < the task's published values < the user's.

    Raises:
        UserError: unknown component, or unknown kind of world model.
        pydantic.ValidationError: unknown field or impossible value.
    """
    fields = {**published, **overrides}
    if name == "world_model":
        return WORLD_MODELS[str(fields.get("kind", DEFAULT_WORLD_MODEL))].config_class.model_validate(fields)
    return COMPONENTS[name].config_class.model_validate(fields)


def component_class(name: str, config: ComponentConfig) -> type[Component]:
    """Return the class that `config` configures."""
    return WORLD_MODELS[config.kind] if isinstance(config, WorldModelConfig) else COMPONENTS[name]


def curve_played(name: str, config: ComponentConfig) -> bool:
    """Say whether a component's learning curve is played in the environment: a policy's, if episodes are asked for."""
    return issubclass(component_class(name, config), ActorComponent) and config.eval_episodes > 0


# ---------------------------------------------------------------------------- names in configs


def policies(names: Iterable[str] = COMPONENTS) -> list[str]:
    """Return which of these components can act."""
    return [name for name in names if issubclass(COMPONENTS[name], ActorComponent)]


def check_policy(name: str) -> str:
    """Return the name of a component that can act.

    Raises:
        UserError: it is no component's, or that one cannot act.
    """
    return _one_of(name, ActorComponent, "policy")


def _policy_or_base(name: str) -> str:
    return _one_of(name, ActorComponent, "policy", "base")


def _critic_source(name: str) -> str:
    return _one_of(name, CriticComponent, "critic", "base", "value", "none")


def _one_of(name: str, kind: type[Component], noun: str, *words: str) -> str:
    """Return a name that is one of the words, or a component's of the given kind."""
    if name in words or (":" in name and issubclass(COMPONENTS[name], kind)):
        return name
    known = [*words, *(each for each in COMPONENTS if issubclass(COMPONENTS[each], kind))]
    if name not in known:
        raise UserError(f"unknown {noun} '{name}'{name_hint(name, known)}; known: {', '.join(known)}")
    return name


PolicyName = Annotated[str, Strict(), AfterValidator(check_policy)]
"""A component that can act."""
ValueOf = Annotated[str, Strict(), AfterValidator(_policy_or_base)]
"""A component that can act, or "base"."""
CriticSource = Annotated[str, Strict(), AfterValidator(_critic_source)]
"""A component with a critic of actions, "base", "value" or "none"."""
