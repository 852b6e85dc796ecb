"""What adaptive MPC ascends: the imagined return, and terms against the errors of critic and model.

At ReBRAC's optimum the gradient of Q is balanced, over the data, by the behaviour-cloning term. The plain return leaves
that term out, so that its gradient undoes the regularisation to first order. `objective: advantage` subtracts what the
critic alone asks for, `anchor` adds the missing term, the penalties count where critics or models disagree.
"""

from typing import Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor

from mpcwdwm.config import Real, setting
from mpcwdwm.errors import UserError
from mpcwdwm.imagination import Imagined
from mpcwdwm.planning.parts import DisagreeingModel, Params, Parts
from mpcwdwm.planning.planner import AdaptingConfig, LookaheadConfig
from mpcwdwm.planning.returns import discounted_sum, imagined_rollouts, reduced, returns_of

__all__ = [
    "ObjectiveConfig",
    "PenalisedConfig",
    "check_objective",
    "imagine",
    "objective",
    "penalised_returns",
    "worth",
]

NO_CRITIC = "objective: advantage and disagreement: critics need a critic: set critic_from to rebrac or iql"


class PenalisedConfig(AdaptingConfig):
    """What is subtracted from imagined returns where critic or model are uncertain; at the defaults nothing."""

    uncertainty: Real = setting(
        0.0, "λ: weight of the disagreement along the rollout", unit="return per disagreement", paper=0, ge=0
    )
    disagreement: Literal["critics", "world_model"] = setting(
        "critics",
        "whose: half the difference of the twin critics, in the critic's unit, or the spread of the world model's "
        "ensemble, in standard deviations of the state",
        paper="none",
    )
    critic_penalty: Real = setting(
        0.0, "β2 of the penalties that ReBRAC's critic contains and imagined rewards do not (needs bc)", paper=0, ge=0
    )

    @property
    def asks_clone(self) -> bool:
        """Whether something is measured from the cloned policy."""
        return bool(self.critic_penalty)

    @property
    def needs(self) -> tuple[str, ...]:
        """The cloned policy, where something is measured from it."""
        return tuple(dict.fromkeys((*super().needs, *(("bc",) if self.asks_clone else ()))))

    @property
    def needs_critic(self) -> bool:
        """Whether a term beside the return needs a critic."""
        return bool(self.uncertainty and self.disagreement == "critics")

    @model_validator(mode="after")
    def _critic_suffices(self) -> Self:
        if self.needs_critic and self.lender in ("bc", "none"):
            raise ValueError(NO_CRITIC)
        return self


class ObjectiveConfig(PenalisedConfig):
    """What adaptive MPC ascends; at the defaults the imagined return alone, as in the paper."""

    objective: Literal["return", "advantage"] = setting(
        "return",
        "what is ascended: Ĵ, or Ĵ minus what the critic alone would maximise at the imagined states",
        paper="return",
    )
    anchor: Real = setting(
        0.0, "β of ReBRAC's own term at real and imagined states, towards the cloned policy (bc)", paper=0, ge=0
    )

    @property
    def asks_clone(self) -> bool:
        """The anchor, too, is measured from it."""
        return bool(self.anchor) or super().asks_clone

    @property
    def needs_critic(self) -> bool:
        """The advantage, too, needs a critic."""
        return self.objective == "advantage" or super().needs_critic

    @model_validator(mode="after")
    def _critic_of_actions(self) -> Self:
        if self.objective == "advantage" and self.lender == "value":
            raise ValueError(
                "objective: advantage needs a critic of actions, and critic_from: value is one of states only; "
                "give critic_from: base, rebrac or iql"
            )
        return self


def check_objective(parts: Parts, config: PenalisedConfig) -> None:
    """Refuse a config whose terms the parts cannot compute.

    Raises:
        UserError: no critic, no cloned policy, or a world model without `disagreement`.
    """
    if parts.critic is None and config.needs_critic:
        raise UserError(NO_CRITIC)
    if parts.behavior is None and config.asks_clone:
        raise UserError("anchor and critic_penalty need a policy cloned from the data: set parts.behavior")
    asks_model = config.uncertainty and config.disagreement == "world_model"
    if asks_model and not isinstance(parts.world_model, DisagreeingModel):
        raise UserError(
            "disagreement: world_model needs a world model of several networks: "
            "world_model: {kind: mlp, ensemble: 5}, or disagreement: critics"
        )


def imagine(parts: Parts, psi: Params, obs: Tensor, noise: Tensor, config: LookaheadConfig) -> Imagined:
    """Roll the policy through the world model: s̃_0 = s, ã_j = π_ψ(s̃_j), s̃_{j+1} = f(s̃_j, ã_j, ε_j).

    Args:
        parts: policy and world model.
        psi: one set of policy parameters per row.
        obs: the real observation, (N, obs_dim).
        noise: (N, H, M, *noise_shape).
        config: termination.
    """
    return imagined_rollouts(parts, obs, noise, lambda _, state: parts.policy(psi, state), terminate=config.terminate)


def objective(parts: Parts, psi: Params, obs: Tensor, noise: Tensor, config: ObjectiveConfig) -> Tensor:
    """Ĵ(ψ), (N,): mean over rollouts of Σ_j γ^j r(s̃_j, ã_j) + γ^H Q(s̃_H, ã_H), and the terms that the config adds.

    In the critic's unit, without terms behind a termination.
    """
    imagined = imagine(parts, psi, obs, noise, config)
    return worth(parts, psi, imagined, imagined, config)


def worth(parts: Parts, psi: Params, imagined: Imagined, still: Imagined, config: ObjectiveConfig) -> Tensor:
    """Return the objective (N,) of rollouts of ψ.

    Terms whose gradient stops at the states take the states from `still`: for the ascent the rollouts themselves, to
    compare two ψ the same rollouts for both.
    """
    total = penalised_returns(parts, imagined, config)  # (N, B)
    if config.objective == "advantage":
        total = total - critics_own(parts, psi, still, config)
    if config.anchor:
        total = total - config.anchor * _scale_of_q(parts, still, config) * from_data(parts, psi, still)
    return total.mean(1)


def penalised_returns(parts: Parts, imagined: Imagined, config: PenalisedConfig) -> Tensor:
    """Return the return of every rollout, (N, B), without what critic or model are uncertain of, as configured."""
    total = returns_of(parts, imagined, config)
    if config.uncertainty:
        total = total - config.uncertainty * disagreement(parts, imagined, config)
    if config.critic_penalty:
        total = total - config.critic_penalty * penalties(parts, imagined)
    return total


# -------------------------------------------------------------------------------------------- terms


def critics_own(parts: Parts, psi: Params, imagined: Imagined, config: LookaheadConfig) -> Tensor:
    """Σ_{j=0..H} γ^j Q(sg s̃_j, π_ψ(sg s̃_j)), (N, B) in the critic's unit: what the critic alone would maximise.

    At the pretrained ψ₀, where model and critic are exact, its gradient is that of Ĵ (the policy gradient theorem).
    """
    critic = parts.critic
    assert critic is not None
    states = (obs.detach() for obs in imagined.obs)
    return discounted_sum(parts, imagined, (reduced(critic(s, parts.policy(psi, s)), config) for s in states))


def from_data(parts: Parts, psi: Params, imagined: Imagined) -> Tensor:
    """Σ_{j=0..H} γ^j ‖π_ψ(sg s̃_j) − E[a | sg s̃_j]‖², (N, B): ReBRAC's behaviour-cloning term at imagined states."""
    behavior = parts.behavior
    assert behavior is not None
    states = (obs.detach() for obs in imagined.obs)
    return discounted_sum(parts, imagined, ((parts.policy(psi, s) - behavior(s)).square().sum(-1) for s in states))


def _scale_of_q(parts: Parts, imagined: Imagined, config: LookaheadConfig) -> Tensor | float:
    """Return |Q| at the real state, (N, 1): ReBRAC's mean |Q| of a batch, for the one state of a row."""
    if parts.critic is None:
        return 1.0
    q = parts.critic(imagined.obs[0][:, :1].detach(), imagined.action[0][:, :1].detach())
    return reduced(q, config).detach().abs()


def disagreement(parts: Parts, imagined: Imagined, config: PenalisedConfig) -> Tensor:
    """Return the disagreement along the rollouts, discounted, (N, B).

    The twin critics' is the mean over the H + 1 states, since each estimates the same return; the world model's is
    the sum over the H transitions.
    """
    steps = list(zip(imagined.obs, imagined.action, strict=True))
    if config.disagreement == "world_model":
        model = parts.world_model
        assert isinstance(model, DisagreeingModel)
        return discounted_sum(parts, imagined, (model.disagreement(obs, action) for obs, action in steps[:-1]))
    assert parts.critic is not None
    total = torch.zeros_like(imagined.alive[0])
    for j, (obs, action) in enumerate(steps):
        q = parts.critic(obs, action)
        total = total + parts.discount**j * imagined.alive[j] * (0.5 * (q.amax(1) - q.amin(1))) / len(steps)
    return total


def penalties(parts: Parts, imagined: Imagined) -> Tensor:
    """Σ_{j=1..H} γ^j ‖ã_j − E[a | s̃_j]‖², (N, B): what ReBRAC's critic subtracts at every step after its own."""
    behavior = parts.behavior
    assert behavior is not None
    steps = list(zip(imagined.obs, imagined.action, strict=True))[1:]
    terms = ((action - behavior(obs)).square().sum(-1) for obs, action in steps)
    return discounted_sum(parts, imagined, terms, start=1)
