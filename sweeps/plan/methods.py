"""The methods that are compared: a table's rows on one task.

A method is a pretrained policy, or one point of a planner's grid with one variant of each component it uses.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from mpcwdwm.components import ComponentConfig, policies
from mpcwdwm.components.value import ValueConfig
from mpcwdwm.planning import PlannerConfig
from sweeps.spec.grid import Choice, ResolvedTask, label
from sweeps.spec.spec import Spec

__all__ = ["Method", "baseline_methods", "component_of", "is_frozen", "planner_methods", "within"]

MAX_METHODS = 200_000  # of one planner on one task; more is a mistake in the YAML


@dataclass(frozen=True)
class Method:
    """What is evaluated, for every training seed."""

    name: str  # of the planner or baseline in the spec
    label: str  # the row's
    planner: Choice[PlannerConfig] | None
    base: str
    parts: dict[str, Choice[ComponentConfig]]  # component name → the variant used
    variant: str  # what differs in the components
    trained_with: dict[str, Choice[ComponentConfig]] = field(default_factory=dict)  # bases of parts alone

    @property
    def choices(self) -> dict[str, Choice[ComponentConfig]]:
        """Return the variant of every component that has to be trained."""
        return {**self.parts, **self.trained_with}


def baseline_methods(spec: Spec, task: ResolvedTask) -> list[Method]:
    """Return the policies without a planner, one per variant of each."""
    return [
        Method(name, f"{name} {label(choice)}".strip(), None, name, {name: choice}, label(choice), others)
        for name in spec.baselines
        for choice in task.components[name]
        for others in _trained_with({name: choice}, task.components)
    ]


def planner_methods(spec: Spec, task: ResolvedTask, name: str) -> list[Method]:
    """Return a planner's grid, each point crossed with the variants of the parts it uses."""
    variants = task.components
    values = {base: _values_of(base, variants["value"]) for base in policies(variants)}
    methods = []
    for choice in task.planners[name]:
        base = choice.config.base
        used = dict.fromkeys((base, *choice.config.needs))
        found = {part: values[base] if part == "value" else variants[part] for part in used}
        for combination in itertools.product(*found.values()):
            parts = dict(zip(used, combination, strict=True))
            for others in _trained_with(parts, variants):
                differs = [label(part, f"{component}.") for component, part in {**parts, **others}.items()]
                variant = " ".join(text for text in differs if text)
                text = " ".join(part for part in (name, label(choice), variant) if part)
                methods.append(Method(name, text, choice, base, parts, variant, others))
            if len(methods) > MAX_METHODS:
                raise spec.document.error(("planners", name), f"planners.{name} has more than {MAX_METHODS} cells")
        if not all(found.values()):
            message = f"planners.{name} adapts {base}, and components.value is of other policies: leave out its 'of'"
            raise spec.document.error(("planners", name), message)
    return methods


def _values_of(base: str, variants: Sequence[Choice[ComponentConfig]]) -> list[Choice[ComponentConfig]]:
    """Return the variants of the component value that are of this policy, those of "base" among them."""
    each = [(variant, variant.config) for variant in variants if isinstance(variant.config, ValueConfig)]
    of_base = [replace(v, config=config.model_copy(update={"of": base})) for v, config in each if config.of == "base"]
    return [*of_base, *(variant for variant, config in each if config.of == base)]


def _trained_with(
    parts: Mapping[str, Choice[ComponentConfig]], variants: Mapping[str, list[Choice[ComponentConfig]]]
) -> list[dict[str, Choice[ComponentConfig]]]:
    """Return what parts build on and is no part itself: one entry per combination of its variants."""
    needed = dict[str, list[Choice[ComponentConfig]]]()
    for part, choice in parts.items():
        for name in choice.config.builds_on:
            improved = choice.config.improves
            if name == "value" and improved:
                needed[within(part, name)] = _values_of(improved, variants[name])
            elif name not in parts:
                needed[name] = variants[name]
    return [dict(zip(needed, found, strict=True)) for found in itertools.product(*needed.values())]


def within(part: str, name: str) -> str:
    """Return the name under which a component is chosen that `part` alone builds on: the value of another policy."""
    return f"{part}/{name}"


def is_frozen(method: Method) -> bool:
    """Return whether a method's policy acts as it was trained."""
    return method.planner is None or method.planner.config.kind == "none"


def component_of(choice: str) -> str:
    """Return the component of a name in `Method.choices`, which `within` may have made."""
    return choice.rpartition("/")[2]
