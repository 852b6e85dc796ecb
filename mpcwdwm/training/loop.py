"""Training of a component, all seeds stacked in one process, resumable to the bit.

At each step the loop draws row numbers and noise, gathers a batch and calls the component's `advance`; at times it
adds a point to the learning curve and writes a checkpoint. The last parameters are the result, not the best ones.

All that an update reads or writes stays in place on the device: data, the random numbers of a block of steps, the
step within the block, parameters, optimizer state, sums of metrics. So an update can be captured
(`mpcwdwm.nn.compute`), and nothing waits for the device between two points of the curve.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import JsonValue
from torch import Tensor

from mpcwdwm.components.component import ActorComponent, Component, ComponentConfig, Context, Member
from mpcwdwm.components.registry import component_class
from mpcwdwm.data import Dataset
from mpcwdwm.errors import Interrupted, UserError
from mpcwdwm.nn.compute import Captured, arithmetic, compiled, execution_of, library_of, record
from mpcwdwm.nn.compute_config import ComputeConfig
from mpcwdwm.nn.networks import member_state
from mpcwdwm.random import BLOCK_STEPS, Draws, Integers
from mpcwdwm.training.buffer import Buffer, usable_rows
from mpcwdwm.training.checkpoint import read_checkpoint, write_checkpoint
from mpcwdwm.training.evaluators import heldout_evaluator, policy_evaluator

__all__ = ["Training", "train"]

CHECKPOINT_SECONDS = 20.0  # the most work a kill can cost
PROGRESS_STEPS = 50  # steps between progress reports
DEFAULT_MAX_STEPS = 1000


class Training:
    """A training run of S members; `run` continues it to the end.

    The arguments are those of `train`; `dtype` is that of parameters and data, float64 for tests. `name` is also the
    purpose of the random numbers.

    Raises:
        UserError: the config is another component's, no seeds, not one dataset per seed, no usable rows, `compute` asks
            for what is not there, or `bases` lack one or are of other seeds.
    """

    def __init__(
        self,
        name: str,
        config: ComponentConfig,
        datasets: Dataset | Sequence[Dataset],
        seeds: Sequence[int],
        *,
        bases: Mapping[str, Component] | None = None,
        termination: Callable[[Tensor], Tensor] | None = None,
        goal_reward: float | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        compute: ComputeConfig | None = None,
    ) -> None:
        self.compute = compute or ComputeConfig()
        self.name, self.config, self.seeds = name, config, tuple(seeds)
        self.datasets = [datasets] * len(self.seeds) if isinstance(datasets, Dataset) else list(datasets)
        part_class = component_class(name, config)
        if not isinstance(config, part_class.config_class):
            wanted, named = part_class.config_class.__name__, type(config).__name__
            raise UserError(f"{name} is configured by {wanted}, not by {named}: see mpcwdwm.component_config")
        if not all(isinstance(dataset, Dataset) for dataset in self.datasets):
            raise UserError("a component is trained on datasets: give what mpcwdwm.read_dataset(FILE) returns")
        if not self.seeds or len(self.datasets) != len(self.seeds):
            given = f"{len(self.datasets)} datasets for {len(self.seeds)} seeds"
            raise UserError(f"{given}: give one seed or more, and one dataset for all or one for each")
        first = self.datasets[0]
        pays = part_class.compile_pays
        self.path = execution_of(self.compute, device, updates=config.steps, compile_pays=pays)
        self.library = library_of(self.compute, device)
        heldout = None if config.train_on == "all" else False
        rows = [usable_rows(dataset, part_class.rows, heldout=heldout) for dataset in self.datasets]
        self.buffer = Buffer(self.datasets, rows, device=device, dtype=dtype)
        self.part: Component = part_class(config, first.obs_dim, first.act_dim, self.seeds, dtype)
        for member, (dataset, own) in enumerate(zip(self.datasets, rows, strict=True)):
            self.part.fit(member, dataset, own)
        self.part.to(device)
        checked = {name: _checked_base(bases, name, self.seeds) for name in config.builds_on}
        self._bases = {name: _weights_hash(base) for name, base in checked.items()}
        if checked:
            frozen = {name: base.to(device, dtype).requires_grad_(False) for name, base in checked.items()}
            self.part.build_on(frozen, Context(self.datasets, rows, termination, goal_reward))
        noise = self.part.noise(config.batch_size)
        recipes = [{"rows": Integers(size, (config.batch_size,)), **noise} for size in self.buffer.sizes]
        self.draws = Draws(self.seeds, name, recipes, device=device, dtype=dtype)
        self.device, self.dtype = torch.device(device), dtype
        self.step = 0
        self.curves: list[list[dict[str, float]]] = [[] for _ in self.seeds]
        self._sums: dict[str, Tensor] = {}  # metric → (S,), summed since the last point of the curve
        self._counts = Counter[str]()
        self._drawn: dict[str, Tensor] = {}  # random numbers of the present block of steps
        self._block = -1  # its number
        self._within = torch.zeros(1, dtype=torch.int64, device=device)  # (1,): the next step's place in it
        self._metrics: dict[int, tuple[str, ...]] = {}  # phase → names of its metrics, once seen
        self._captures = self.path == "graph" or (self.path == "compile" and self.device.type == "cuda")
        if self._captures:  # a captured update reads its step size from the device; the fused optimizer's is a float32
            for optimizer in self.part.optimizers.values():
                for group in optimizer.param_groups:
                    group.update(capturable=True, lr=torch.tensor(group["lr"], dtype=torch.float32, device=device))
        self._advance = compiled(self.part) if self.path == "compile" else self.part.advance
        self._updates = [self._update_of(phase) for phase in range(self.part.period)]
        self._points = {round((i + 1) * config.steps / config.evaluations) for i in range(config.evaluations)}

    # ------------------------------------------------------------------------------------ loop

    def run(
        self,
        *,
        until: int | None = None,
        checkpoint: Path | None = None,
        evaluate: Callable[[Component], list[dict[str, float]]] | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Train to the end (or to step `until`), writing checkpoints on the way.

        Raises:
            Interrupted: `on_progress` has raised it; where there is a checkpoint it is of that step.
        """
        steps = self.config.steps if until is None else min(until, self.config.steps)
        saved = time.monotonic()
        while self.step < steps:
            with arithmetic(self.compute, self.library):
                self._update()
            if self.step in self._points:
                self._add_point(evaluate(self.part) if evaluate else [{} for _ in self.seeds])
            if on_progress and (self.step % PROGRESS_STEPS == 0 or self.step == steps):
                try:
                    on_progress(self.step, self.config.steps)
                except Interrupted:
                    if checkpoint:
                        self.save(checkpoint)
                    raise
            if checkpoint and (time.monotonic() - saved > CHECKPOINT_SECONDS or self.step == steps):
                self.save(checkpoint)
                saved = time.monotonic()

    def _update(self) -> None:
        """Do the next update."""
        block, within = divmod(self.step, BLOCK_STEPS)
        if block != self._block:
            for name, values in self.draws.block(block).items():
                self._drawn.setdefault(name, values).copy_(values)  # in place, where a captured update reads them
            self._within.fill_(within)
            self._block = block
        phase = self.step % self.part.period
        self.part.set_learning_rates(self.step)
        self._updates[phase]()
        self.step += 1
        self._counts.update(self._metrics[phase])

    def _update_of(self, phase: int) -> Callable[[], None]:
        """Return what does an update of this phase."""

        def update() -> None:
            draws = {name: values.index_select(1, self._within).squeeze(1) for name, values in self._drawn.items()}
            metrics = self._advance(self.buffer.gather(draws.pop("rows")), draws, phase)
            self._within += 1
            for key, value in metrics.items():
                self._sums.setdefault(key, torch.zeros_like(value)).add_(value)
            self._metrics[phase] = tuple(metrics)

        return Captured(update, self.device) if self._captures else update

    def _add_point(self, evaluations: list[dict[str, float]]) -> None:
        means = {key: (self._sums[key] / count).tolist() for key, count in self._counts.items()}
        for member, (curve, evaluation) in enumerate(zip(self.curves, evaluations, strict=True)):
            losses = {key: values[member] for key, values in means.items()}
            curve.append({"step": float(self.step), **losses, **evaluation})
        self._counts.clear()
        for total in self._sums.values():
            total.zero_()

    # ------------------------------------------------------------------------------ checkpoints

    def save(self, path: Path) -> None:
        """Write parameters, optimizer state, step and curves; the next `load` continues from here."""
        tensors = {f"part/{name}": value for name, value in self.part.state_dict().items()}
        for name, optimizer in self.part.optimizers.items():
            for i, state in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer/{name}/{i}/{key}": value for key, value in state.items()}
        tensors |= {f"sums/{key}": value for key, value in self._sums.items()}
        write_checkpoint(
            path,
            tensors,
            {**self._identity(), "step": self.step, "curves": self.curves, "counts": self._counts},
        )

    def load(self, path: Path) -> bool:
        """Continue from a checkpoint of this very run; return whether there was one."""
        found = read_checkpoint(path)
        if found is None:
            return False
        tensors, facts = found
        if any(facts.get(key) != value for key, value in self._identity().items()):
            return False
        self.part.load_state_dict(_below(tensors, "part/"))
        for name, optimizer in self.part.optimizers.items():
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in _below(tensors, f"optimizer/{name}/").items():
                i, field = key.split("/")
                state.setdefault(int(i), {})[field] = value
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        self._sums = {key: value.to(self.device) for key, value in _below(tensors, "sums/").items()}
        self._counts, self.curves, self.step = Counter(facts["counts"]), facts["curves"], facts["step"]
        self._block = -1  # of the step it stood at
        self._updates = [self._update_of(phase) for phase in range(self.part.period)]
        return True

    def _identity(self) -> dict[str, Any]:
        # What a checkpoint must agree in; anything else could not have been continued exactly.
        return {
            "component": self.name,
            "config": self.config.to_dict(),
            "seeds": list(self.seeds),
            "datasets": [dataset.sha256 for dataset in self.datasets],
            "bases": self._bases,
        }

    # ----------------------------------------------------------------------------------- result

    def trained(self) -> list[Member]:
        """Return every member as an artifact's content."""
        return [
            Member(
                tensors=member_state(self.part, member),
                facts={
                    "component": self.name,
                    "config": self.config.to_dict(),
                    "obs_dim": self.part.obs_dim,
                    "act_dim": self.part.act_dim,
                    "seed": seed,
                    "rows": self.buffer.sizes[member],
                    "compute": record(self.compute, self.device, self.path),
                    "metrics": {k: v for k, v in (curve[-1] if curve else {}).items() if k != "step"},
                },
                curve=curve,
            )
            for member, (seed, curve) in enumerate(zip(self.seeds, self.curves, strict=True))
        ]


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _weights_hash(part: Component) -> str:
    weights = hashlib.sha256()
    for tensor in part.state_dict().values():
        weights.update(tensor.cpu().numpy().tobytes())
    return weights.hexdigest()


def _checked_base(bases: Mapping[str, Component] | None, name: str, seeds: tuple[int, ...]) -> Component:
    base = (bases or {}).get(name)
    if not isinstance(base, Component):
        given = f"bases={{'{name}': mpcwdwm.stacked(train('{name}', …))}}"
        raise UserError(f"this config builds on a trained {name}: give it in {given}")
    if base.seeds != seeds:
        raise UserError(f"the {name} has seeds {list(base.seeds)}, the training {list(seeds)}: load equal seeds")
    return base


# ------------------------------------------------------------------------------- the whole training


def train(
    name: str,
    config: ComponentConfig,
    datasets: Dataset | Sequence[Dataset],
    seeds: Sequence[int],
    *,
    bases: Mapping[str, Component] | None = None,
    termination: Callable[[Tensor], Tensor] | None = None,
    goal_reward: float | None = None,
    device: str | torch.device = "cpu",
    checkpoint: Path | None = None,
    env_id: str | None = None,
    env_kwargs: Mapping[str, JsonValue] | None = None,
    max_episode_steps: int = DEFAULT_MAX_STEPS,
    reference: tuple[float, float] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    compute: ComputeConfig | None = None,
) -> list[Member]:
    """Train one component for every seed, stacked, and return one result per seed, in order.

    Args:
        name: "rebrac", "iql", "bc", "world_model", "reward" or "value".
        config: its config.
        datasets: one for all seeds, or one per seed.
        seeds: the members; a seed's result does not depend on the others.
        bases: the pretrained components that `config.builds_on` names, one member per seed, in order.
        termination: the robot's rule, for what is imagined in training.
        goal_reward: a step that earns more has reached the goal, and ends what is imagined; None: no goal.
        device: where to train.
        checkpoint: a file that is written on the way and continued from if it is there.
        env_id: environment of a policy's learning curve; without it the curve holds losses only.
        env_kwargs: what the environment is made with.
        max_episode_steps: episodes of the curve are cut here.
        reference: D4RL's (min, max) return, for normalized scores in the curve.
        on_progress: called with (steps done, steps in all); it may raise `Interrupted`.
        compute: how updates are run.

    Raises:
        UserError: see `Training`.
        Interrupted: see `Training.run`.
    """
    training = Training(
        name,
        config,
        datasets,
        seeds,
        bases=bases,
        termination=termination,
        goal_reward=goal_reward,
        device=device,
        compute=compute,
    )
    if checkpoint is not None:
        training.load(checkpoint)
    evaluate = None
    if isinstance(training.part, ActorComponent):
        if env_id is not None and config.eval_episodes:
            evaluate = policy_evaluator(env_id, seeds, config.eval_episodes, max_episode_steps, reference, env_kwargs)
    elif all(dataset.heldout.any() for dataset in training.datasets):
        evaluate = heldout_evaluator(training.part, training.datasets)
    training.run(checkpoint=checkpoint, evaluate=evaluate, on_progress=on_progress)
    return training.trained()
