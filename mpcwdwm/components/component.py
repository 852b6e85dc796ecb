"""Pretrained components: stacked modules that update themselves from batches.

The S members of a component, one per training seed, lie along the first dimension of every parameter and buffer.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from mpcwdwm.config import Config, Int, Real, setting
from mpcwdwm.data import Dataset
from mpcwdwm.nn.networks import Init, Mlp
from mpcwdwm.random import Integers, Normal, generator

__all__ = [
    "ActorComponent",
    "Batch",
    "Component",
    "ComponentConfig",
    "Context",
    "CriticComponent",
    "CriticConfig",
    "DynamicsComponent",
    "Member",
    "ModelConfig",
    "Rows",
    "clip_norm",
    "fit_quality",
    "polyak_update",
    "third_party",
]

Rows = Literal["next_action", "next_value", "next_obs", "all"]
"""Rows a component can learn from: with a next action or terminal (ReBRAC), with a next observation or terminal
(IQL), with a next observation (world models), or all."""

LEARNABLE_REWARDS = (1e-2, 1e3)  # a critic's learning rates suit rewards whose largest is within: D4RL's are 0.1 to 100
CONSTANT_VARIANCE = 1e-12  # relative to the mean square: below it, values are constant but for rounding


class ComponentConfig(Config):
    """Fields every component has."""

    steps: Int = setting(1_000_000, "gradient updates", unit="updates", paper=1_000_000, ge=1, le=10**9)
    batch_size: Int = setting(256, "transitions per update", unit="rows", ge=1, le=10**6)
    hidden_dim: Int = setting(256, "width of every hidden layer", unit="units", ge=1, le=2**14)
    evaluations: Int = setting(10, "points of the learning curve", unit="points", ge=1, le=1000)
    eval_episodes: Int = setting(5, "episodes per point of the learning curve", unit="episodes", ge=0, le=1000)
    train_on: Literal["all", "train"] = setting(
        "all", "episodes learnt from: all of them, or only those not held out", paper="all"
    )

    def brief(self) -> Self:
        """Return a config whose updates take the same time but need little preparation, to measure them."""
        return self

    @property
    def code_roots(self) -> tuple[str, ...]:
        """Modules whose code shapes the result, beside the component's own and what that imports."""
        return ("mpcwdwm.training.loop", "mpcwdwm.data.mapped")

    @property
    def builds_on(self) -> tuple[str, ...]:
        """Return the components that have to be trained before this one."""
        return ()

    @property
    def improves(self) -> str:
        """Return the component whose policy this one's is an improvement of, over which its gain is shown; or ""."""
        return ""


class CriticConfig(ComponentConfig):
    """Fields of components with a bootstrapped critic."""

    discount: Real = setting(0.99, "discount γ", unit="per step", paper=0.99, ge=0, le=1)
    polyak: Real = setting(5e-3, "share of the network in each target update", paper=5e-3, gt=0, le=1)
    reward_scale: Real = setting(1.0, "rewards are multiplied by this", paper="1; ReBRAC on AntMaze: 100", gt=0)
    reward_shift: Real = setting(0.0, "then this is added", unit="reward", paper="0; IQL on AntMaze: -1")

    @property
    def scales_rewards(self) -> bool:
        """Whether training itself brings rewards to a scale of its own."""
        return False

    def doubt_of_rewards(self, largest: float) -> str | None:
        """Return why the critic would learn rewards of this size badly, None if it would not.

        Learning rates, initial weights and coefficients of the losses suit rewards around one.

        Args:
            largest: largest recorded reward, without sign.
        """
        low, high = LEARNABLE_REWARDS
        scaled = largest * self.reward_scale
        if largest == 0 or self.scales_rewards or low <= scaled <= high:
            return None
        fits = f"its learning rates suit {low:g} to {high:g}"
        return f"the largest reward is {scaled:.2g}, {fits}: set its reward_scale, such as {1 / largest:.1g}"


def third_party(value: object) -> str:
    """Return what is known of a setting that the paper does not report."""
    return f"unknown ({value} in a third-party v2)"


class ModelConfig(ComponentConfig):
    """Fields of the learnt models, whose curve is measured on held-out episodes."""

    steps: Int = setting(200_000, "gradient updates", unit="updates", paper=third_party("200k"), ge=1, le=10**9)
    lr: Real = setting(3e-4, "Adam step size", paper=third_party("3e-4"), gt=0)
    train_on: Literal["all", "train"] = setting("train", "episodes learnt from", paper="unknown")


@dataclass(frozen=True)
class Context:
    """What a component that builds on others may use in addition."""

    datasets: Sequence[Dataset]  # one per member
    rows: Sequence[Tensor]  # the rows each member learns from
    termination: Callable[[Tensor], Tensor] | None = None  # the robot's rule: obs (…, obs_dim) → bool (…)
    goal_reward: float | None = None  # a step that earns more [data's unit] has reached the goal; None: no goal


@dataclass(frozen=True)
class Batch:
    """One minibatch per member."""

    obs: Tensor  # (S, B, obs_dim)
    action: Tensor  # (S, B, act_dim)
    reward: Tensor  # (S, B)
    next_obs: Tensor  # (S, B, obs_dim)
    next_action: Tensor  # (S, B, act_dim); zeros where mask is 0
    mask: Tensor  # (S, B): 1 bootstraps, 0 is a true terminal


class Component(nn.Module):
    """S stacked, trainable members of one kind. Subclasses define `build` and `advance`.

    Args:
        config: of the kind.
        obs_dim: of an observation.
        act_dim: of an action.
        seeds: one per member.
        dtype: of parameters and buffers.
    """

    config_class: ClassVar[type[ComponentConfig]] = ComponentConfig
    config: ComponentConfig
    rows: ClassVar[Rows] = "all"
    # "cpu" or "cuda" → updates from which on compiling pays: it takes 10 to 60 s (docs/benchmarks.md)
    compile_pays: ClassVar[Mapping[str, int]] = MappingProxyType({})
    period: int = 1  # updates after which the computation repeats; each phase of it is captured on its own

    def __init__(
        self,
        config: ComponentConfig,
        obs_dim: int,
        act_dim: int,
        seeds: Sequence[int],
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.config, self.obs_dim, self.act_dim, self.seeds = config, obs_dim, act_dim, tuple(seeds)
        self.stack = (len(self.seeds),)
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.build(dtype)

    def build(self, dtype: torch.dtype) -> None:
        """Make networks, buffers and optimizers; called once, when config, dimensions and seeds are known."""

    def initialize(self, net: Mlp, purpose: str, hidden: Init, head: Init) -> None:
        """Initialise every member of a network from its own seed."""
        for member, seed in enumerate(self.seeds):
            net.initialize(member, generator(seed, purpose), hidden, head)

    def noise(self, batch_size: int) -> Mapping[str, Normal | Integers]:
        """Return the random numbers one member's update consumes."""
        return {}

    def fit(self, member: int, dataset: Dataset, rows: Tensor) -> None:
        """Set what is computed from the data before training (normalisers, reward scale)."""

    def build_on(self, bases: Mapping[str, "Component"], context: "Context") -> None:
        """Take the frozen components of `config.builds_on`, of the same seeds and on the same device."""
        raise TypeError(f"{type(self).__name__} builds on nothing")

    def advance(self, batch: Batch, noise: Mapping[str, Tensor], phase: int) -> dict[str, Tensor]:
        """Do one update of every member, `phase` being the step modulo `period`; return metrics (S,), detached.

        It must not wait for the device.
        """
        raise TypeError(f"{type(self).__name__} defines no update")

    def learning_rates(self, step: int) -> Mapping[str, float]:
        """Return the step sizes that change with the step, by optimizer."""
        return {}

    def set_learning_rates(self, step: int) -> None:
        """Give the optimizers their step sizes for this step."""
        for name, rate in self.learning_rates(step).items():
            for group in self.optimizers[name].param_groups:
                if isinstance(group["lr"], Tensor):  # lies on the device, where a captured update reads it
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate

    def descend(self, name: str, loss: Tensor, *, clip: float | None = None) -> None:
        """One step of the named optimizer on `loss`, touching its own parameters only.

        `loss` is the sum over members of each member's mean, so no gradient crosses members. With `clip`, each
        member's gradient is scaled to a norm of at most that.
        """
        optimizer = self.optimizers[name]
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = torch.autograd.grad(loss, parameters)
        if clip is not None:
            gradients = clip_norm(gradients, clip)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.contiguous()  # a compiled one may be padded, which the fused optimizer refuses
        optimizer.step()

    def heldout_noise(self, batch_size: int) -> Mapping[str, Normal]:
        """Return the random numbers one member's held-out evaluation consumes."""
        return {}

    def heldout(self, batch: Batch, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return metrics of shape (S,) on held-out rows; none by default."""
        return {}


class ActorComponent(Component):
    """A component that can act. Its learning curve is played in the environment, if `eval_episodes` is above 0."""

    actor: nn.Module  # obs (S, B, obs_dim) → action (S, B, act_dim)


class CriticComponent(Component):
    """A component that learns action values by bootstrapping."""

    config: CriticConfig
    critic: nn.Module  # obs (S, B, obs_dim), action (S, B, act_dim) → twins (S, 2, B)
    reward_affine: Tensor  # (S, 2): the critic's rewards are scale · r + shift

    def build(self, dtype: torch.dtype) -> None:
        """Keep the scale and shift of rewards, of every member."""
        affine = torch.tensor([self.config.reward_scale, self.config.reward_shift], dtype=dtype)
        self.register_buffer("reward_affine", affine.repeat(len(self.seeds), 1))

    @torch.no_grad()
    def target(self, batch: Batch, next_value: Tensor) -> Tensor:
        """Return r + γ (1 − d) V', r being the scaled reward and V' the next state's value; (S, B)."""
        scale, shift = self.reward_affine.unbind(-1)
        reward = batch.reward * scale.unsqueeze(-1) + shift.unsqueeze(-1)
        return reward + self.config.discount * batch.mask * next_value

    def regress(self, batch: Batch, target: Tensor) -> dict[str, Tensor]:
        """One step of both critics on their squared errors."""
        q = self.critic(batch.obs, batch.action)  # (S, 2, B)
        loss = (q - target.unsqueeze(1)).square().mean(-1).sum(-1)  # (S,)
        self.descend("critic", loss.sum())
        return {"critic/loss": loss.detach(), "critic/q_mean": q.detach().mean((1, 2))}


class DynamicsComponent(Component):
    """A component that predicts next observations, and whose error is also measured over several steps."""

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of one transition's noise, usually one vector."""
        return (self.obs_dim,)

    def open_loop(self, obs: Tensor, action: Tensor, reached: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """Return metrics of shape (S,) of the state that is predicted after H recorded actions.

        Args:
            obs: where it begins, (S, B, obs_dim).
            action: what was done, (H, S, B, act_dim).
            reached: where it led, (S, B, obs_dim).
            noise: (H, S, B, *noise_shape).
        """
        raise TypeError(f"{type(self).__name__} defines no error over several steps")


@dataclass(frozen=True)
class Member:
    """One seed's finished component."""

    tensors: Mapping[str, Tensor]  # parameters and buffers, on the CPU
    facts: Mapping[str, Any]  # what its manifest says: component, config, obs_dim, act_dim, seed, final metrics, …
    curve: Sequence[Mapping[str, float]] = ()  # points of its learning curve


# --------------------------------------------------------------------------------- shared steps


def fit_quality(predicted: Tensor, actual: Tensor) -> dict[str, Tensor]:  # (S, B) each → (S,)
    """Return the root mean squared error, and the share of variance explained."""
    error = (predicted - actual).square().mean(-1)
    # Relative to the values, so that rewards in another unit are judged alike; constant ones would divide by 0.
    least = CONSTANT_VARIANCE * actual.square().mean(-1) + torch.finfo(actual.dtype).tiny
    variance = torch.maximum(actual.var(-1, correction=0), least)
    return {"heldout/rmse": error.sqrt(), "heldout/r2": 1 - error / variance}


def clip_norm(gradients: Sequence[Tensor], limit: float) -> tuple[Tensor, ...]:
    """Scale each member's gradient to a norm of at most `limit`, over all its parameters."""
    squares = sum(g.flatten(1).square().sum(1) for g in gradients)  # (S,)
    assert isinstance(squares, Tensor)
    scale = (limit / (squares.sqrt() + 1e-6)).clamp(max=1.0)  # 1e-6 as in torch's clip_grad_norm_
    return tuple(g * scale.view(-1, *[1] * (g.dim() - 1)) for g in gradients)


@torch.no_grad()
def polyak_update(target: Iterable[Tensor], source: Iterable[Tensor], polyak: float) -> None:
    """Move every target towards its source: target ← (1 − polyak) target + polyak source."""
    torch._foreach_lerp_(list(target), list(source), polyak)
