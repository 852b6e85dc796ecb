"""The schema of a sweep's YAML, one class a section; an empty section counts as left out.

The fields inside ``components`` and ``planners`` are those of the config classes of `mpcwdwm.components` and
`mpcwdwm.planning`; each may be a list (`sweeps.spec.grid`).
"""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, JsonValue, Strict, model_validator

from cluster.launch.kubernetes import KubernetesSite
from cluster.launch.slurm import SlurmSite
from mpcwdwm.config import Config, Int, Real, setting
from mpcwdwm.data.ends import EndsBy, TerminalsBy
from mpcwdwm.nn.compute_config import ComputeConfig
from mpcwdwm.validation import Where, shortened

__all__ = [
    "SECTIONS",
    "Cluster",
    "Evaluation",
    "OverrideSection",
    "PackageTaskSection",
    "Packing",
    "Resources",
    "Select",
    "Share",
    "SpecFile",
    "TaskSection",
    "Tracking",
    "known_keys",
]


def _name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value):
        raise ValueError(f"'{value}' cannot be a name: names are letters, digits, '.', '_' and '-', and never a path")
    if len(value) > MAX_NAME:
        raise ValueError(f"{shortened(value)} is a name of {len(value)} characters; at most {MAX_NAME} are allowed")
    return value


def _seeds(value: Any) -> Any:
    """Read n as 0..n-1, a list as it is."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if not (1 <= value <= MAX_SEEDS and value == int(value)):
            raise ValueError(f"should be a whole number from 1 to {MAX_SEEDS}, not {shortened(value)}")
        return tuple(range(int(value)))
    if not isinstance(value, (list, tuple)) or not value:
        raise ValueError(f"should be a number n (for 0..n-1) or a list, not {shortened(value)}")
    for index, seed in enumerate(value):
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**31:
            raise ValueError(f"every seed should be a whole number from 0 up, not {shortened(seed)}")
        if seed in value[:index]:
            raise ValueError(f"seed {seed} is given twice")
    return tuple(value)


def _gpus(value: Any) -> Any:
    """Read "1/3" as a number."""
    match = re.fullmatch(r"1\s*/\s*([1-9][0-9]{0,3})", value.strip()) if isinstance(value, str) else None
    return 1 / int(match[1]) if match else value


def _whole_or_one_of_k(value: float) -> float:
    """Return a number of GPUs that Ray fills: a whole one, or 1/k rounded so that k processes fit on a GPU."""
    if value > 1 and value != int(value):
        raise ValueError(f"above 1 it should be a whole number, not {value}")
    if value in (0, 1) or value > 1:
        return value
    processes = round(1 / value) if value * MOST_ON_A_GPU >= 1 - ROUNDED else 0
    if not processes:
        raise ValueError(f"should be 0 or at least 1/{MOST_ON_A_GPU}, not {value:g}")
    if abs(processes * value - 1) > ROUNDED:
        fitting = int(1 / value)
        raise ValueError(
            f"should be 1/k, so that k processes fill a GPU, not {value:g}: give 1/{fitting} or 1/{fitting + 1}"
        )
    return (RAY_STEPS // processes) / RAY_STEPS


MAX_NAME = 100  # characters: folders are called by names with a hash and more, and 255 is what file systems allow
MAX_SEEDS = 1000  # of "seeds: n"; more is a mistyped list
MOST_ON_A_GPU = 100  # processes; each has a CUDA context of its own, half a gigabyte
RAY_STEPS = 10_000  # Ray counts resources in ten-thousandths, and rounds up: six times 0.1667 is more than one
ROUNDED = 0.05  # of a share: 0.33, 0.17 and 0.12 are meant as 1/3, 1/6 and 1/8
GPU_SHARE = 1 / 4  # of a GPU for each actor and trial by default: the networks are small, four fit on one
Name = Annotated[str, Strict(), AfterValidator(_name)]
Seeds = Annotated[tuple[int, ...], BeforeValidator(_seeds)]
Gpus = Annotated[Real, BeforeValidator(_gpus), AfterValidator(_whole_or_one_of_k)]


class Section(Config):
    """A section of the YAML."""

    @model_validator(mode="before")
    @classmethod
    def _without_empty(cls, given: Any) -> Any:
        return {key: value for key, value in given.items() if value is not None} if isinstance(given, dict) else given


class Share(Section):
    """Resources of one Ray process."""

    cpus: Real = setting(1.0, "processor cores, also the number of threads", gt=0, le=4096)
    gpus: Gpus | None = setting(
        None,
        "GPUs: a whole number, or 1/k of one, also the part of its memory; unset: 1/4 where Ray has any",
        ge=0,
        le=64,
    )


class Packing(Section):
    """How many processes share a machine's memory and a GPU; never part of a key."""

    by_memory: bool = setting(
        True,
        "the memory that the first pack of its kind took decides how many run at a time, and one that ran out of it is "
        "tried again alone; false: the shares that are given, whatever packs take",
    )
    margin: Real = setting(1.25, "by what a measured peak is multiplied", unit="times", ge=1, le=10)
    most_per_gpu: Int = setting(
        4,
        "processes that share a GPU at most, where the share is not given; rounded down to a power of two",
        ge=1,
        le=64,
    )


class Resources(Section):
    """How the work is spread; never part of a key."""

    actor: Share = setting(Share(), "of one pretraining actor")
    trial: Share = setting(Share(), "of one evaluation trial")
    concurrency: Int | None = setting(None, "processes at a time at most; unset: as many as fit", ge=1, le=100_000)
    retries: Int = setting(2, "how often a failed pack of work is tried again", ge=0, le=1000)
    seeds_per_pack: Int = setting(16, "seeds stacked in one process at most: memory grows with them", ge=1, le=1000)
    packing: Packing = setting(Packing(), "how many processes share a machine's memory and a GPU")
    address: str | None = setting(None, "address of a running Ray cluster; unset: Ray on this machine")

    def given(self, gpus: float) -> "Resources":
        """Return these resources with unset GPU shares filled in, for a cluster (or a machine) of so many GPUs."""
        gpus = max(GPU_SHARE, 1 / self.packing.most_per_gpu) if gpus else 0.0
        shares = {"actor": self.actor, "trial": self.trial}
        unset = {name: share for name, share in shares.items() if share.gpus is None}
        return self.model_copy(update={name: share.model_copy(update={"gpus": gpus}) for name, share in unset.items()})


class Select(Section):
    """Choose among the cells of a grid on seeds other than those reported."""

    seeds: Seeds = setting(..., "training seeds used only to choose")
    env_seed: Int = setting(..., "seed of the episodes used only to choose", ge=0, lt=2**32)
    episodes: Int = setting(10, "episodes per cell and seed", ge=1, le=100_000)


class Evaluation(Section):
    """How every method is evaluated in the real environment."""

    episodes: Int = setting(10, "episodes per cell and training seed", paper=10, ge=1, le=100_000)
    env_seed: Int = setting(
        0, "seed of the episodes, the same for every method: comparisons are paired", ge=0, lt=2**32
    )
    max_episode_steps: Int | None = setting(
        None,
        "episodes end after so many steps at the latest, to try a sweep out; unset: the task's",
        unit="steps",
        ge=1,
        le=10_000_000,
    )
    traced_episodes: Int = setting(
        0,
        "of so many episodes of every cell and seed all steps are recorded: imagined and real return, and how far the "
        "action was moved; about 15 kB an episode of 1000 steps",
        ge=0,
    )
    select: Select | None = setting(None, "choose cells there, report only the chosen ones")

    @model_validator(mode="after")
    def _no_more_traced_than_played(self) -> "Evaluation":
        if self.traced_episodes > self.episodes:
            raise ValueError(f"traced_episodes is {self.traced_episodes}, but {self.episodes} episodes are played")
        return self


class Tracking(Section):
    """Where MLflow records."""

    uri: str | None = setting(None, "MLflow tracking URI; unset: sqlite beside the storage")
    system_metrics: Real | None = setting(
        None,
        "time between measurements of the driver's machine, as MLflow's system metrics; unset: none",
        unit="s",
        ge=1,
        le=86_400,
    )


class Cluster(Section):
    """What belongs to a site, for ``sweep run --cluster slurm`` and ``kubernetes``; never part of a key."""

    slurm: SlurmSite | None = setting(None, "batch jobs of Slurm")
    kubernetes: KubernetesSite | None = setting(None, "jobs of KubeRay")


class TaskSection(Section):
    """A task with a dataset of one's own."""

    name: Name = setting(..., "what the task is called")
    dataset: str = setting(..., "HDF5 in D4RL's layout or Minari's, or NPZ, relative to the YAML; or minari:ID")
    columns: dict[str, str] = setting({}, "D4RL's name of an array: the file's, where it has another")
    terminals: TerminalsBy = setting("file", "whose terminal flags count: the file's, or the termination rule's")
    ends: EndsBy = setting("flags", "where episodes end: at the file's flags, or where the observation jumps, too")
    env: str = setting(..., "Gymnasium id of the environment to evaluate in")
    env_kwargs: dict[str, JsonValue] = setting({}, "keyword arguments of the environment")
    reference: tuple[Real, Real] | None = setting(None, "returns that score 0 and 100; unset: raw returns")
    termination: str | None = setting(None, "rule that ends imagined rollouts; unset: by the environment")
    max_episode_steps: Int | None = setting(None, "time limit; unset: the environment's", ge=1, le=10_000_000)
    goal_reward: Real | None = setting(
        None, "a step that earns more has reached the goal, and ends imagined rollouts; unset: by the environment"
    )


class PackageTaskSection(Section):
    """One of D4RL's tasks, with the dataset as an installed d4rl reads it."""

    name: Name = setting(..., "D4RL's name of the task")
    source: Literal["d4rl-package"] = setting(..., "where the dataset is from")
    python: str = setting(..., "interpreter that has d4rl and gym: a path, relative to the YAML, or a command")


class OverrideSection(Section):
    """Settings for some of the tasks."""

    tasks: list[str] = setting(..., "patterns over task names", min_length=1)
    components: dict[str, Any] = setting({}, "as at the top")
    planners: dict[str, Any] = setting({}, "as at the top")


class SpecFile(Section):
    """The top level of the YAML."""

    name: Name = setting(..., "name of the sweep")
    description: str = setting("", "what the sweep is for, in a line")
    tasks: list[Any] = setting(
        ..., "names of registered tasks, patterns over them, or mappings for one's own datasets", min_length=1
    )
    seeds: Seeds = setting(..., "training seeds: n for 0..n-1, or a list")
    components: dict[str, Any] = setting({}, "what differs from the task's defaults")
    planners: dict[Name, Any] = setting({}, "named planners; a list is an axis of the grid")
    baselines: list[str] = setting(["rebrac", "iql"], "policies evaluated without a planner")
    overrides: list[OverrideSection] = setting([], "per task, applied in order")
    evaluation: Evaluation = setting(Evaluation(), "episodes and their seeds")
    compute: ComputeConfig = setting(ComputeConfig(), "how the arithmetic is done; only tf32 is part of a key")
    resources: Resources = setting(Resources(), "cores and GPUs; the defaults fit this machine")
    cluster: Cluster = setting(Cluster(), "the site where --cluster submits it")
    storage: str = setting("runs", "folder, relative to the YAML, or URL for artifacts and results")
    tracking: Tracking = setting(Tracking(), "MLflow")


SECTIONS: Mapping[Where, type[Config]] = {
    (): SpecFile,
    ("evaluation",): Evaluation,
    ("evaluation", "select"): Select,
    ("compute",): ComputeConfig,
    ("resources",): Resources,
    ("resources", "actor"): Share,
    ("resources", "trial"): Share,
    ("resources", "packing"): Packing,
    ("cluster",): Cluster,
    ("cluster", "slurm"): SlurmSite,
    ("cluster", "kubernetes"): KubernetesSite,
    ("tracking",): Tracking,
}


def known_keys(at: Where) -> Iterable[str]:
    """Return the keys that the mapping at `at` may have, for did-you-mean."""
    if at[:1] == ("tasks",):
        return {**TaskSection.model_fields, **PackageTaskSection.model_fields}
    section = OverrideSection if at[:1] == ("overrides",) else SECTIONS.get(at)
    return section.model_fields if section else ()
