"""Units of work: what a key names, and how units are packed for execution.

A *unit* is (component, seed) or (cell, seed): one key, one artifact or result, one MLflow run.
A *pack* is several units that differ in nothing but the seed and run stacked in one process.
Packing changes how long the work takes, never what a key means. Everything here is plain data
that survives JSON, so a pack can cross a process border or be written beside its checkpoint.
"""

import hashlib
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

from pydantic import TypeAdapter

__all__ = ["KINDS", "CellUnit", "ComponentUnit", "Kind", "Pack", "TaskRef", "Unit", "pack_from_dict"]

Kind = Literal["component", "cell"]
KINDS: tuple[Kind, ...] = ("component", "cell")


@dataclass(frozen=True)
class TaskRef:
    """A task as workers need it: its dataset and its environment."""

    name: str
    env_id: str  # Gymnasium id
    dataset: str  # path of the HDF5 file
    dataset_sha256: str
    mujoco: str  # simulator version
    termination: str | None  # name of a rule in mpcwdwm.envs.termination.RULES; None: unknown
    reference: tuple[float, float] | None  # D4RL's (min, max) return; None: raw returns are shown
    max_episode_steps: int
    source: str  # "d4rl", "bundled" or "local"
    goal_reward: float | None = None  # a step that earns more has reached the goal; None: there is none
    env_kwargs: dict[str, Any] = field(default_factory=dict, hash=False)  # what the environment is made with
    env_note: str = ""  # what a reader of its scores should know of the environment


@dataclass(frozen=True)
class ComponentUnit:
    """One pretrained part for one seed."""

    kind: ClassVar[Kind] = "component"

    key: str  # folder name: "<component>-<task>-s<seed>-<hash>"
    component: str  # "rebrac", "iql", "bc", "world_model", "reward", "value"
    config: dict[str, Any]  # fully resolved, defaults included
    task: TaskRef
    seed: int
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)  # component name → its config, for `parts`
    parts: dict[str, str] = field(default_factory=dict)  # what it is trained with: component name → component key


@dataclass(frozen=True)
class CellUnit:
    """One method evaluated on one task for one training seed."""

    kind: ClassVar[Kind] = "cell"

    key: str  # folder name: "<method>-<task>-s<seed>-<hash>"
    method: str  # row label: "rebrac", "mpc H=3 M=8 E=1 α=1e-05"
    name: str  # name of the planner or baseline in the spec: "mpc", "rebrac"
    planner: dict[str, Any] | None  # fully resolved planner config; None for a frozen baseline
    base: str  # the component whose policy acts: "rebrac", "iql", "bc"
    configs: dict[str, dict[str, Any]]  # component name → its config, for the parts below
    parts: dict[str, str]  # component name ("rebrac", "world_model", "reward") → component key
    task: TaskRef
    seed: int
    episodes: int
    env_seed: int
    role: str = "report"  # "report", or "select": used only to choose a cell
    traced_episodes: int = 0  # of so many episodes every step is recorded
    variant: str = ""  # what differs in the components when they carry axes, "" otherwise
    improves: str = ""  # the component of whose policy the frozen base is an improvement, "" if it is of none
    improves_key: str = ""  # its key


Unit = ComponentUnit | CellUnit


@dataclass(frozen=True)
class Pack:
    """Units that run stacked in one process; ``id`` follows from the keys and their order."""

    units: tuple[Unit, ...]  # of one kind
    compute: dict[str, Any] = field(default_factory=dict)  # of mpcwdwm.nn.compute_config.ComputeConfig: what differs

    @cached_property
    def id(self) -> str:
        """Return the name of the pack's working folder."""
        digest = hashlib.sha256("\n".join(unit.key for unit in self.units).encode()).hexdigest()[:12]
        return f"{self.kind}-{digest}"

    @property
    def kind(self) -> Kind:
        """Return "component" or "cell"."""
        return self.units[0].kind

    @property
    def keys(self) -> tuple[str, ...]:
        """Return the keys of the units, in stacking order."""
        return tuple(unit.key for unit in self.units)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Return the training seeds, in stacking order."""
        return tuple(unit.seed for unit in self.units)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; `pack_from_dict` is the inverse."""
        return asdict(self)


_READER = TypeAdapter(Pack)


def pack_from_dict(data: dict[str, Any]) -> Pack:
    """Rebuild a pack from `Pack.to_dict`, also after a trip through JSON."""
    return _READER.validate_python(data)
