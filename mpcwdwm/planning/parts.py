"""The parts of a planner: a policy to adapt, and frozen models to imagine with.

Everything is batched over N = members × episodes rows, the rows of a member (one training seed) side by side. Every
row has its own policy parameters; the frozen networks are shared by a member's rows. Any object with the same call
signatures can replace a part; `ModulePolicy` makes a policy of any `torch.nn.Module`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar, runtime_checkable

import torch
from pydantic import JsonValue
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from mpcwdwm.data import Dataset
from mpcwdwm.errors import UserError
from mpcwdwm.planning.evaluations import counted

__all__ = [
    "Behavior",
    "CriticFunction",
    "DisagreeingModel",
    "ModulePolicy",
    "Params",
    "Parts",
    "Policy",
    "RewardFunction",
    "TrajectoryModel",
    "TransitionModel",
]

Params = dict[str, Tensor]
"""ψ: one policy's parameters per row, every tensor (N, …)."""
CriticFunction = Callable[[Tensor, Tensor], Tensor]
"""(obs (N, B, obs_dim), action (N, B, act_dim)) → (N, C, B): C estimates (twins) of the action value."""
Behavior = Callable[[Tensor], Tensor]
"""obs (N, B, obs_dim) → E[a | s] (N, B, act_dim): a policy cloned from the data."""
RewardFunction = Callable[[Tensor, Tensor], Tensor]
"""(obs, action) as above → (N, B): the reward in the critic's unit."""


@runtime_checkable
class Policy(Protocol):
    """A policy whose parameters are passed in, one set per row."""

    def initial(self, episodes: int) -> Params:
        """Return the pretrained parameters ψ₀ for every row."""
        ...

    def __call__(self, psi: Params, obs: Tensor) -> Tensor:
        """(N, B, obs_dim) → (N, B, act_dim)."""
        ...


@runtime_checkable
class TransitionModel(Protocol):
    """A transition that is a deterministic, differentiable function once its noise is given."""

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of one transition's noise."""
        ...

    def sample(self, obs: Tensor, action: Tensor, noise: Tensor) -> Tensor:
        """(N, B, obs_dim), (N, B, act_dim), (N, B, *noise_shape) → next_obs (N, B, obs_dim)."""
        ...


@runtime_checkable
class DisagreeingModel(TransitionModel, Protocol):
    """A world model that estimates its own error."""

    def disagreement(self, obs: Tensor, action: Tensor) -> Tensor:
        """Return (N, B), in standard deviations of the state."""
        ...


@runtime_checkable
class TrajectoryModel(Protocol):
    """A diffusion model of trajectories with a value that guides it: windows (N, B, H, numbers), standardised."""

    @property
    def alpha_bars(self) -> Sequence[float]:
        """Return ᾱ of the T diffusion steps; step 0 is the least noisy."""
        ...

    @property
    def window(self) -> tuple[int, int]:
        """Return a window's shape, (H, numbers): rows of action and observation."""
        ...

    def denoise(self, x: Tensor, step: int) -> Tensor:
        """Return the clean window that is expected behind a noisy one."""
        ...

    def value(self, x: Tensor, step: int) -> Tensor:
        """Return the return (N, B) that is expected behind a noisy window, differentiable."""
        ...

    def condition(self, x: Tensor, obs: Tensor) -> Tensor:
        """Return the windows with `obs` (N, B, obs_dim) as first observations."""
        ...

    def action(self, x: Tensor) -> Tensor:
        """Return the first actions (N, B, act_dim), in the environment's unit."""
        ...


@dataclass
class Parts:
    """What `mpcwdwm.load` returns and planners take. Replace any field by your own."""

    policy: Policy
    critic: CriticFunction | None = None  # None: the plan ends without a terminal value
    world_model: TransitionModel | None = None
    reward: RewardFunction | None = None
    termination: Callable[[Tensor], Tensor] | None = None  # obs (…, obs_dim) → bool (…)
    goal_reward: float | None = None  # a step that earns more [data's unit] has reached the goal; None: no goal
    discount: float = 0.99
    members: int = 1
    env_id: str = ""
    env_kwargs: Mapping[str, JsonValue] = field(default_factory=dict)  # what the environment is made with
    max_episode_steps: int = 1000
    reference: tuple[float, float] | None = None  # D4RL's (min, max) return
    behavior: Behavior | None = None  # for planners that stay near the data
    trajectories: TrajectoryModel | None = None  # for Diffuser
    dataset: Dataset | None = None  # for planners that measure something on its held-out episodes
    reward_affine: Tensor | None = None  # (members, 2): the critic's reward is scale · r + shift; None: r itself
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def base(self) -> str | None:
        """The component whose policy this is; None: a user's own."""
        return self.policy.component if isinstance(self.policy, StackedPolicy) else None

    @property
    def critic_of(self) -> str | None:
        """The component whose critic this is; None: there is none, or a user's own."""
        return self.critic.component if isinstance(self.critic, SharedCritic | SharedValue) else None


# -------------------------------------------------------------------------------- our own components


def per_row(stacked: Params, episodes: int) -> Params:
    """Return every member's tensors, repeated for each of its episodes."""
    return {name: value.detach().repeat_interleave(episodes, 0) for name, value in stacked.items()}


class StackedPolicy:
    """The actor of a trained component, one copy of its parameters per row."""

    def __init__(self, actor: nn.Module, component: str | None = None) -> None:
        self.actor, self.component = actor, component
        self._buffers: dict[int, Params] = {}  # normalisers, expanded to a number of rows

    def initial(self, episodes: int) -> Params:
        """Return ψ₀: every member's parameters, repeated for its episodes."""
        return per_row(dict(self.actor.named_parameters()), episodes)

    def __call__(self, psi: Params, obs: Tensor) -> Tensor:
        """Apply every row's own policy."""
        rows = len(obs)
        if rows not in self._buffers:
            own = dict(self.actor.named_buffers())
            self._buffers[rows] = per_row(own, rows // len(next(iter(own.values()))))
        return functional_call(self.actor, {**self._buffers[rows], **psi}, (obs,))


P = TypeVar("P")


class SharedByMember(Generic[P]):
    """A frozen component of S members applied to N = S · episodes rows."""

    def __init__(self, part: P, members: int) -> None:
        self.part, self.members = part, members

    def fold(self, x: Tensor) -> Tensor:  # (N, B, …) → (S, episodes · B, …)
        """Put a member's rows beside each other."""
        return x.reshape(self.members, -1, *x.shape[2:])

    def unfold(self, values: Tensor, obs: Tensor) -> Tensor:  # (S, C, episodes · B) → (N, C, B)
        """Give every row of `obs` (N, B, obs_dim) its own estimates."""
        n, b = obs.shape[:2]
        return values.unflatten(-1, (n // self.members, b)).transpose(1, 2).reshape(n, -1, b)


class SharedCritic(SharedByMember[nn.Module]):
    """Twin critics on rows."""

    def __init__(self, part: nn.Module, members: int, component: str | None = None) -> None:
        super().__init__(part, members)
        self.component = component

    def __call__(self, obs: Tensor, action: Tensor) -> Tensor:
        """Return (N, 2, B)."""
        return self.unfold(self.part(self.fold(obs), self.fold(action)), obs)


class SharedValue(SharedByMember[Callable[[Tensor], Tensor]]):
    """An ensemble of state values on rows, in a critic's place: of the state alone, whatever the action."""

    component = "value"

    def __call__(self, obs: Tensor, action: Tensor) -> Tensor:
        """Return (N, E, B)."""
        return self.unfold(self.part(self.fold(obs)), obs)


class SharedReward(SharedByMember[Callable[[Tensor, Tensor], Tensor]]):
    """A reward model on rows, in the unit of a critic trained on scale · r + shift."""

    def __init__(self, part: Callable[[Tensor, Tensor], Tensor], members: int, affine: Tensor) -> None:
        super().__init__(part, members)
        self.scale, self.shift = affine[:, :1], affine[:, 1:]  # (S, 1)

    def __call__(self, obs: Tensor, action: Tensor) -> Tensor:
        """Return (N, B)."""
        reward = self.part(self.fold(obs), self.fold(action))  # (S, episodes · B)
        return (reward * self.scale + self.shift).reshape(obs.shape[:2])


class SharedWorldModel(SharedByMember[TransitionModel]):
    """A world model on rows."""

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of one transition's noise."""
        return self.part.noise_shape

    def sample(self, obs: Tensor, action: Tensor, noise: Tensor) -> Tensor:
        """Return next_obs (N, B, obs_dim)."""
        return self.part.sample(self.fold(obs), self.fold(action), self.fold(noise)).reshape(obs.shape)


class SharedEnsemble(SharedWorldModel):
    """A world model of several networks on rows."""

    part: DisagreeingModel

    def disagreement(self, obs: Tensor, action: Tensor) -> Tensor:
        """Return (N, B)."""
        return self.part.disagreement(self.fold(obs), self.fold(action)).reshape(obs.shape[:2])


class SharedBehavior(SharedByMember[Callable[[Tensor], Tensor]]):
    """A cloned policy on rows."""

    def __call__(self, obs: Tensor) -> Tensor:
        """Return (N, B, act_dim)."""
        return self.part(self.fold(obs)).reshape(*obs.shape[:2], -1)


class SharedTrajectories(SharedByMember[TrajectoryModel]):
    """A model of trajectories on rows."""

    @property
    def alpha_bars(self) -> Sequence[float]:
        """ᾱ of the diffusion steps."""
        return self.part.alpha_bars

    @property
    def window(self) -> tuple[int, int]:
        """Shape of a window."""
        return self.part.window

    def denoise(self, x: Tensor, step: int) -> Tensor:
        """Return the clean windows (N, B, H, numbers)."""
        return counted(lambda: self.part.denoise(self.fold(x), step).reshape(x.shape), x.shape[:2].numel())

    def value(self, x: Tensor, step: int) -> Tensor:
        """Return (N, B)."""
        return counted(lambda: self.part.value(self.fold(x), step).reshape(x.shape[:2]), x.shape[:2].numel())

    def condition(self, x: Tensor, obs: Tensor) -> Tensor:
        """Return the windows that begin at `obs`."""
        return self.part.condition(self.fold(x), self.fold(obs)).reshape(x.shape)

    def action(self, x: Tensor) -> Tensor:
        """Return (N, B, act_dim)."""
        return self.part.action(self.fold(x)).reshape(*x.shape[:2], -1)


# -------------------------------------------------------------------------------- a user's own policy


BATCH_DEPENDENT = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)  # in training mode


class ModulePolicy:
    """Any `torch.nn.Module` (obs (B, obs_dim) → action (B, act_dim)) as an adaptable policy.

    Args:
        modules: one per member, of equal architecture.

    Raises:
        UserError: no modules, modules that differ or have no parameters, or dropout or batch normalisation in training
            mode, whose output is not one of the observation alone.
    """

    def __init__(self, *modules: nn.Module) -> None:
        if not modules:
            raise UserError("ModulePolicy() needs a module for every member: give one or more")
        for module in modules:
            if not isinstance(module, nn.Module):
                raise UserError(f"ModulePolicy() takes torch.nn.Module objects, not {module!r}")
        for layer in (layer for module in modules for layer in module.modules()):
            if layer.training and isinstance(layer, BATCH_DEPENDENT):
                raise UserError(f"the policy has a {type(layer).__name__} in training mode: call eval() on it first")
        self.module = modules[0]
        self._members = len(modules)
        try:
            self._params, self._buffers = stack_module_state(list(modules))
        except (RuntimeError, KeyError) as error:
            raise UserError(f"the modules of a ModulePolicy have to be of one architecture: {error}") from error
        if not self._params:
            raise UserError(f"the policy {type(self.module).__name__} has no parameters: nothing could be adapted")

    def initial(self, episodes: int) -> Params:
        """Return ψ₀ for every row."""
        return per_row(self._params, episodes)

    def __call__(self, psi: Params, obs: Tensor) -> Tensor:
        """Apply every row's own parameters."""

        def single(params: Params, buffers: Params, rows: Tensor) -> Tensor:
            return functional_call(self.module, (params, buffers), (rows,))

        buffers = per_row(self._buffers, len(obs) // self._members)
        return counted(lambda: vmap(single)(psi, buffers, obs), obs.shape[:-1].numel())
