"""ReBRAC and IQL against ten updates of their authors' own code, and every known wrong variant against them.

The vectors in `tests/oracles` were recorded from the published JAX implementations in float32. A
variant that other re-implementations chose must miss them: otherwise the test could not tell.
"""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mpcwdwm.components.component import Batch, polyak_update
from mpcwdwm.components.iql import Iql, IqlConfig
from mpcwdwm.components.rebrac import Rebrac, RebracConfig
from tests.support import ROOT
from tests.support.updates import update

ORACLES = ROOT / "tests" / "oracles"
TOLERANCE = 5e-5
TARGET_TOLERANCE = 2e-6  # a target moves by polyak times what its network moves, so it is held tighter
UPDATES = 10
NETWORKS = ("actor", "critic", "target_actor", "target_critic")


def tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(array, dtype=np.float32)).unsqueeze(0)  # one member


def load(net: nn.Module, weights: dict[str, np.ndarray], hidden: int) -> None:
    """Write flax weights "…Dense_i/kernel" into our layers; the last Dense is the head."""
    with torch.no_grad():
        for i in range(hidden + 1):
            layer = net.hidden[i] if i < hidden else net.head
            layer.weight.copy_(tensor(weights[f"Dense_{i}/kernel"]))
            layer.bias.copy_(tensor(weights[f"Dense_{i}/bias"]).unsqueeze(-2))
            if f"LayerNorm_{i}/scale" in weights:
                net.norms[i].weight.copy_(tensor(weights[f"LayerNorm_{i}/scale"]).unsqueeze(-2))
                net.norms[i].bias.copy_(tensor(weights[f"LayerNorm_{i}/bias"]).unsqueeze(-2))


def distance(net: nn.Module, weights: dict[str, np.ndarray], hidden: int) -> float:
    """Largest deviation of any weight of one network."""
    largest = 0.0
    for i in range(hidden + 1):
        layer = net.hidden[i] if i < hidden else net.head
        pairs = [(layer.weight, weights[f"Dense_{i}/kernel"]), (layer.bias.squeeze(-2), weights[f"Dense_{i}/bias"])]
        if f"LayerNorm_{i}/scale" in weights:
            norm = net.norms[i]
            pairs += [(norm.weight.squeeze(-2), weights[f"LayerNorm_{i}/scale"])]
            pairs += [(norm.bias.squeeze(-2), weights[f"LayerNorm_{i}/bias"])]
        for ours, theirs in pairs:
            largest = max(largest, float((ours.detach()[0] - torch.from_numpy(theirs)).abs().max()))
    return largest


def below(vectors: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {key.removeprefix(prefix): value for key, value in vectors.items() if key.startswith(prefix)}


# ------------------------------------------------------------------------------------------ ReBRAC


@pytest.fixture(scope="module")
def rebrac_vectors() -> dict[str, np.ndarray]:
    return dict(np.load(ORACLES / "rebrac_updates.npz"))


def rebrac_distance(vectors: dict[str, np.ndarray], variant: type[Rebrac] = Rebrac) -> float:
    """Largest deviation of any parameter after any of the ten updates, in units of its tolerance."""
    config = RebracConfig(hidden_dim=32, batch_size=64, actor_bc_coef=0.05, critic_bc_coef=0.01, normalize_obs=False)
    part = variant(config, 11, 3, [0])
    for ours in (part.actor, part.target_actor):
        load(ours.net, below(vectors, "init/actor/"), 3)
    for ours in (part.critic, part.target_critic):
        load(ours.net, below(vectors, "init/critic/VmapCritic_0/"), 3)
    largest = 0.0
    allowed = {name: TARGET_TOLERANCE if name.startswith("target") else TOLERANCE for name in NETWORKS}
    for t in range(UPDATES):
        b = {name: tensor(value) for name, value in below(vectors, f"batch{t}/").items()}
        batch = Batch(b["states"], b["actions"], b["rewards"], b["next_states"], b["next_actions"], 1 - b["dones"])
        update(part, batch, {"target_action": b["standard_normal"]}, t)
        for name, ours in (("actor", part.actor), ("target_actor", part.target_actor)):
            largest = max(largest, distance(ours.net, below(vectors, f"after{t}/{name}/"), 3) / allowed[name])
        for name, ours in (("critic", part.critic), ("target_critic", part.target_critic)):
            largest = max(
                largest, distance(ours.net, below(vectors, f"after{t}/{name}/VmapCritic_0/"), 3) / allowed[name]
            )
    return largest


class TargetsEveryStep(Rebrac):
    """unifloral: the targets move at every critic update."""

    def advance(self, batch, noise, phase):
        metrics = super().advance(batch, noise, phase)
        if phase:
            polyak_update(list(self.target_critic.parameters()), list(self.critic.parameters()), self.config.polyak)
            polyak_update(list(self.target_actor.parameters()), list(self.actor.parameters()), self.config.polyak)
        return metrics


class ActorTargetAfterStep(Rebrac):
    """The actor's target follows the actor as it is after the step."""

    def actor_and_target_step(self, batch):
        metrics = self.actor_step(batch)
        polyak_update(list(self.target_actor.parameters()), list(self.actor.parameters()), self.config.polyak)
        polyak_update(list(self.target_critic.parameters()), list(self.critic.parameters()), self.config.polyak)
        return metrics


class CriticTargetBeforeStep(Rebrac):
    """The critic's target follows the critic as it was before the step."""

    def advance(self, batch, noise, phase):
        before = [p.detach().clone() for p in self.critic.parameters()]
        target = [p.detach().clone() for p in self.target_critic.parameters()]
        metrics = super().advance(batch, noise, phase)
        if phase == 0:
            polyak_update(target, before, self.config.polyak)
            with torch.no_grad():
                for ours, wrong in zip(self.target_critic.parameters(), target, strict=True):
                    ours.copy_(wrong)
        return metrics


class TwoCriticUpdates(Rebrac):
    """unifloral: two critic updates on one batch per actor update."""

    def advance(self, batch, noise, phase):
        self.critic_step(batch, noise["target_action"])
        return super().advance(batch, noise, 0)


class MeanOverActionDims(Rebrac):
    """Squared errors averaged over action dimensions instead of summed."""

    def __init__(self, config, *args):
        super().__init__(config.model_copy(update={"actor_bc_coef": config.actor_bc_coef / 3}), *args)


class TorchLayerNormEps(Rebrac):
    """torch's layer norm epsilon instead of flax's."""

    def advance(self, batch, noise, phase):
        import mpcwdwm.nn.networks as nets

        ours, nets.FLAX_LAYER_NORM_EPS = nets.FLAX_LAYER_NORM_EPS, 1e-5
        try:
            return super().advance(batch, noise, phase)
        finally:
            nets.FLAX_LAYER_NORM_EPS = ours


class NoiseUnclipped(Rebrac):
    """The target action's noise without its bound."""

    def __init__(self, config, *args):
        super().__init__(config.model_copy(update={"noise_clip": 1e9}), *args)


class QNotNormalised(Rebrac):
    """Q enters the actor loss as it is."""

    def __init__(self, config, *args):
        super().__init__(config.model_copy(update={"normalize_q": False}), *args)


class FirstCriticInActor(Rebrac):
    """TD3's habit: the actor climbs the first critic, not the minimum."""

    def actor_step(self, batch):
        action = self.actor(batch.obs)
        bc = (action - batch.action).square().sum(-1)
        q = self.critic(batch.obs, action)[:, 0]
        loss = (self.config.actor_bc_coef * bc - q / q.detach().abs().mean(-1, keepdim=True)).mean(-1)
        self.descend("actor", loss.sum())
        return {}


class CriticWithoutPenalty(Rebrac):
    """TD3+BC: no behaviour penalty in the critic's target."""

    def __init__(self, config, *args):
        super().__init__(config.model_copy(update={"critic_bc_coef": 0.0}), *args)


def test_rebrac_reproduces_its_authors_updates(rebrac_vectors):
    assert rebrac_distance(rebrac_vectors) < 1


@pytest.mark.parametrize(
    "variant",
    [
        TargetsEveryStep,
        ActorTargetAfterStep,
        CriticTargetBeforeStep,
        TwoCriticUpdates,
        MeanOverActionDims,
        TorchLayerNormEps,
        NoiseUnclipped,
        QNotNormalised,
        FirstCriticInActor,
        CriticWithoutPenalty,
    ],
)
def test_a_wrong_rebrac_misses_the_vectors(rebrac_vectors, variant):
    assert rebrac_distance(rebrac_vectors, variant) > 1


# --------------------------------------------------------------------------------------------- IQL


@pytest.fixture(scope="module")
def iql_vectors() -> dict[str, np.ndarray]:
    return dict(np.load(ORACLES / "iql_updates.npz"))


def twin(vectors: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    first, second = (below(vectors, f"{prefix}Critic_{i}/MLP_0/") for i in range(2))
    return {key: np.stack([first[key], second[key]]) for key in first}


def iql_actor(vectors: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    hidden = below(vectors, f"{prefix}MLP_0/")
    return {**hidden, **{f"Dense_2/{n}": vectors[f"{prefix}Dense_0/{n}"] for n in ("kernel", "bias")}}


def iql_distance(vectors: dict[str, np.ndarray], variant: type[Iql] = Iql, steps: int = 1000) -> float:
    config = IqlConfig(hidden_dim=32, batch_size=64, steps=steps, normalize_obs=False)
    part = variant(config, 11, 3, [0])
    load(part.actor.net, iql_actor(vectors, "init/actor/"), 2)
    load(part.value.net, below(vectors, "init/value/MLP_0/"), 2)
    for ours in (part.critic, part.target_critic):
        load(ours.net, twin(vectors, "init/critic/"), 2)
    with torch.no_grad():
        part.log_std.copy_(tensor(vectors["init/actor/log_stds"]).unsqueeze(-2))
    largest = 0.0
    for t in range(UPDATES):
        log_stds = torch.from_numpy(vectors[f"after{t}/actor/log_stds"])
        b = {name: tensor(value) for name, value in below(vectors, f"batch{t}/").items()}
        batch = Batch(
            b["observations"], b["actions"], b["rewards"], b["next_observations"], b["actions"] * 0, b["masks"]
        )
        update(part, batch, {}, t)
        largest = max(
            largest,
            distance(part.actor.net, iql_actor(vectors, f"after{t}/actor/"), 2) / TOLERANCE,
            distance(part.value.net, below(vectors, f"after{t}/value/MLP_0/"), 2) / TOLERANCE,
            distance(part.critic.net, twin(vectors, f"after{t}/critic/"), 2) / TOLERANCE,
            distance(part.target_critic.net, twin(vectors, f"after{t}/target_critic/"), 2) / TARGET_TOLERANCE,
            float((part.log_std[0, 0].detach() - log_stds).abs().max()) / TOLERANCE,
        )
    return largest


class OldValue(Iql):
    """CORL and unifloral: actor and critic use the value from before its step."""

    def advance(self, batch, noise, phase):
        with torch.no_grad():
            q = self.target_critic(batch.obs, batch.action).amin(1)
        old = {name: p.detach().clone() for name, p in self.value.named_parameters()}
        self.value_step(batch, q)
        new = {name: p.detach().clone() for name, p in self.value.named_parameters()}
        with torch.no_grad():
            for name, p in self.value.named_parameters():
                p.copy_(old[name])
        self.actor_step(batch, q)
        self.critic_step(batch)
        with torch.no_grad():
            for name, p in self.value.named_parameters():
                p.copy_(new[name])
        polyak_update(list(self.target_critic.parameters()), list(self.critic.parameters()), self.config.polyak)
        return {}


class AdvantageFromOnlineCritic(Iql):
    """Advantages from the online critics instead of the targets."""

    def actor_step(self, batch, q):
        with torch.no_grad():
            online = self.critic(batch.obs, batch.action).amin(1)
        return super().actor_step(batch, online)


class CriticFirst(Iql):
    """The critic is updated before value and actor."""

    def advance(self, batch, noise, phase):
        self.critic_step(batch)
        with torch.no_grad():
            q = self.target_critic(batch.obs, batch.action).amin(1)
        self.value_step(batch, q)
        self.actor_step(batch, q)
        polyak_update(list(self.target_critic.parameters()), list(self.critic.parameters()), self.config.polyak)
        return {}


class DeterministicActor(Iql):
    """CORL's deterministic cloning where the authors use a Gaussian."""

    def __init__(self, config, *args):
        super().__init__(config.model_copy(update={"deterministic": True}), *args)


class RewardsNormalised(Iql):
    """Rewards scaled where the recorded run did not."""

    def __init__(self, *args):
        super().__init__(*args)
        self.reward_affine[:, 0] = 3.0


def test_iql_reproduces_its_authors_updates(iql_vectors):
    assert iql_distance(iql_vectors) < 1


@pytest.mark.parametrize(
    "variant", [OldValue, AdvantageFromOnlineCritic, CriticFirst, DeterministicActor, RewardsNormalised]
)
def test_a_wrong_iql_misses_the_vectors(iql_vectors, variant):
    assert iql_distance(iql_vectors, variant) > 1


def test_iql_without_the_actors_cosine_misses_the_vectors(iql_vectors):
    assert iql_distance(iql_vectors, steps=20) > 1
