"""Planning: one stacked program for all episodes, against a loop over episodes and against vmap.

    python tests/benchmarks/planning.py

All three compute the same adaptation step (checked before timing) with the same weights, noise, dtype and
one thread, interleaved. The last lines are ``RATIO name value``; above 1 we are faster. The limit is the
matrix products of the same shapes alone, each by the faster of torch's libraries. The loop and vmap multiply with
torch's own choice (MKL on a CPU), ours with the library given by ``--products``.
"""

import argparse
import copy
import statistics
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

from mpcwdwm.components.rebrac import Rebrac, RebracConfig
from mpcwdwm.components.reward import Reward, RewardConfig
from mpcwdwm.components.world_models.diffusion import DiffusionConfig, DiffusionModel
from mpcwdwm.nn.compute import library_of
from mpcwdwm.nn.compute_config import ComputeConfig
from mpcwdwm.nn.products import Library, multiplied_by, onednn_available
from mpcwdwm.planning import MpcConfig, Parts, adapt
from mpcwdwm.planning.parts import SharedCritic, SharedReward, SharedWorldModel, StackedPolicy
from mpcwdwm.random import generator

OBS, ACT = 11, 3
STEP_SIZE = 1e-5
SETTINGS = [  # (H, E, M, K, episodes)
    (3, 1, 8, 5, 10),
    (3, 1, 16, 5, 10),
    (3, 1, 64, 5, 10),
    (5, 5, 10, 10, 10),
]


# ---------------------------------------------------------------------------------- the three sides


class Plain:
    """The straightforward version: ordinary modules, one copy of the policy per episode, a Python loop."""

    def __init__(self, parts: "Built", config: MpcConfig) -> None:
        self.parts, self.config = parts, config
        self.model, self.reward = parts.model, parts.reward
        self.critic = parts.policy.critic

    def policies(self, episodes: int) -> list[nn.Module]:
        return [copy.deepcopy(self.parts.policy.actor).requires_grad_(True) for _ in range(episodes)]

    def value(self, policy: Callable[[Tensor], Tensor], obs: Tensor, noise: Tensor) -> Tensor:  # (o,), (H, M, K, o)
        state, total = obs.expand(1, noise.shape[1], -1), obs.new_zeros(())
        for j in range(self.config.horizon):
            action = policy(state)
            total = total + 0.99**j * self.reward(state, action).mean()
            state = self.model.sample(state, action, noise[j].unsqueeze(0))
        q = self.critic(state, policy(state)).amin(1)
        return total + 0.99**self.config.horizon * q.mean()

    def step(self, policies: list[nn.Module], obs: Tensor, noise: Tensor) -> None:
        for policy, s, z in zip(policies, obs, noise, strict=True):
            weights = list(policy.parameters())
            for _ in range(self.config.updates):
                gradients = torch.autograd.grad(self.value(policy, s, z), weights)
                with torch.no_grad():
                    for p, g in zip(weights, gradients, strict=True):
                        p.add_(g, alpha=STEP_SIZE)


class Vmapped(Plain):
    """`torch.func`: the gradient of one episode, vmapped over episodes."""

    def stacked(self, episodes: int) -> dict[str, Tensor]:
        actors = [self.parts.policy.actor for _ in range(episodes)]
        params, self.buffers = stack_module_state(actors)
        return {name: p.detach() for name, p in params.items()}

    def step_all(self, psi: dict[str, Tensor], obs: Tensor, noise: Tensor) -> dict[str, Tensor]:
        def one(params: dict[str, Tensor], buffers: dict[str, Tensor], s: Tensor, z: Tensor) -> Tensor:
            def policy(x: Tensor) -> Tensor:
                return functional_call(self.parts.policy.actor, (params, buffers), (x,))

            return self.value(policy, s, z)

        for _ in range(self.config.updates):
            gradients = vmap(grad(one))(psi, self.buffers, obs, noise)
            psi = {name: p + STEP_SIZE * gradients[name] for name, p in psi.items()}
        return psi


class Built:
    """One member's components with random weights."""

    def __init__(self, denoising_steps: int, width: int) -> None:
        self.policy = Rebrac(RebracConfig(hidden_dim=width), OBS, ACT, [0])
        self.model = DiffusionModel(DiffusionConfig(denoising_steps=denoising_steps, hidden_dim=width), OBS, ACT, [0])
        self.reward = Reward(RewardConfig(hidden_dim=width), OBS, ACT, [0])
        g = generator(0, "benchmark")
        for part in (self.policy, self.model, self.reward):
            part.requires_grad_(False)
            for p in part.parameters():
                p.copy_(torch.randn(p.shape, generator=g) * 0.05)

    def parts(self) -> Parts:
        return Parts(
            policy=StackedPolicy(self.policy.actor),
            critic=SharedCritic(self.policy.critic, 1),
            world_model=SharedWorldModel(self.model, 1),
            reward=SharedReward(self.reward, 1, self.policy.reward_affine),
        )


# ------------------------------------------------------------------------------------------ timing


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def products(
    built: Built, config: MpcConfig, denoising_steps: int, episodes: int
) -> list[tuple[int, int, int, int, int]]:
    """Return the matrix products of one gradient step: (batch, rows, in, out, how many of them)."""
    rows, h, k = episodes * config.rollouts, config.horizon, denoising_steps
    found = []
    for layer in [*built.policy.actor.net.hidden, built.policy.actor.net.head]:
        n_in, n_out = layer.weight.shape[-2:]
        # every use forward, gradients of input and of weights; the first state is one row, not M
        found.append((episodes, config.rollouts, n_in, n_out, 3 * h))
    for net, times in ((built.model.net, h * k), (built.reward.net, h)):
        for layer in [*net.hidden, net.head]:
            n_in, n_out = layer.weight.shape[-2:]
            found.append((1, rows, n_in, n_out, 2 * times))  # frozen: no gradient of weights
    for layer in [*built.policy.critic.net.hidden, built.policy.critic.net.head]:
        n_in, n_out = layer.weight.shape[-2:]
        found.append((2, rows, n_in, n_out, 2))
    return found


def products_only(
    shapes: list[tuple[int, int, int, int, int]], updates: int, device: str = "cpu"
) -> Callable[[], None]:
    """Return a function that does nothing but these matrix products, on a CPU each as the faster library does it."""
    times_of = Counter[tuple[int, int, int, int]]()  # of equal shapes one, so that large ones fit a GPU's memory
    for *shape, times in shapes:
        times_of[tuple(shape)] += times * updates
    work = list[tuple[Callable[[], object], int]]()
    for (batch, rows, n_in, n_out), times in times_of.items():
        sizes = ((rows, n_in), (n_in, n_out), (rows, n_out))
        a, b, out = (torch.randn(batch, *size, device=device) for size in sizes)
        ways = [partial(torch.bmm, a, b, out=out)]
        if device == "cpu" and onednn_available():
            ways.append(partial(by_onednn, a, b, out))
        work.append((min(ways, key=lambda way: min(seconds(way) for _ in range(20))), times))

    def all_of_them() -> None:
        for product, times in work:
            for _ in range(times):
                product()

    return all_of_them


def by_onednn(a: Tensor, b: Tensor, out: Tensor) -> None:
    for x, w, y in zip(a, b.mT, out, strict=True):
        y.copy_(torch.ops.mkldnn._linear_pointwise(x, w, None, "none", [], ""))


def measure(
    setting: tuple[int, int, int, int, int], width: int, repeats: int, library: Library
) -> dict[str, list[float]]:
    h, e, m, k, episodes = setting
    config = MpcConfig(H=h, M=m, E=e, step_size=STEP_SIZE)
    built = Built(k, width)
    parts = built.parts()
    g = generator(1, "benchmark")
    obs = torch.randn(episodes, OBS, generator=g) * 0.1
    noise = torch.randn(episodes, h, m, *built.model.noise_shape, generator=g)
    plain, vmapped = Plain(built, config), Vmapped(built, config)
    psi0, policies, stacked = parts.policy.initial(episodes), plain.policies(episodes), vmapped.stacked(episodes)

    def adapted() -> dict[str, Tensor]:
        with multiplied_by(library):
            return adapt(parts, psi0, psi0, obs, [noise] * e, config)[0]

    ours = adapted()
    plain.step(policies, obs, noise)
    theirs = vmapped.step_all(stacked, obs, noise)
    for name in psi0:  # all three compute the same
        single = torch.stack([dict(policy.named_parameters())[name].detach()[0] for policy in policies])
        assert torch.allclose(ours[name], single, atol=1e-6), name
        assert torch.allclose(ours[name], theirs[name][:, 0], atol=1e-6), name
    times: dict[str, list[float]] = {"ours": [], "loop": [], "vmap": [], "limit": []}
    limit = products_only(products(built, config, k, episodes), e)
    limit()
    for _ in range(repeats):
        times["ours"].append(seconds(adapted))
        times["loop"].append(seconds(lambda: plain.step(policies, obs, noise)))
        times["vmap"].append(seconds(lambda: vmapped.step_all(stacked, obs, noise)))
        times["limit"].append(seconds(limit))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=256, help="hidden units")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--products", choices=("auto", "mkl", "onednn"), default="auto", help="library of ours")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    library = library_of(ComputeConfig(products=arguments.products), "cpu")
    assert library is not None
    print(f"torch {torch.__version__}, 1 thread, 3 × {arguments.width}, ours by {library}; ms per real step")
    print("  H  E   M   K  episodes   ours [min, max]        loop      vmap   limit  of the limit")
    ratios = []
    for setting in SETTINGS:
        times = measure(setting, arguments.width, arguments.repeats, library)
        h, e, m, k, episodes = setting
        median = {side: statistics.median(values) for side, values in times.items()}
        spread = f"[{1e3 * min(times['ours']):.0f}, {1e3 * max(times['ours']):.0f}]"
        print(
            f"{h:3d} {e:2d} {m:3d} {k:3d} {episodes:9d} {1e3 * median['ours']:6.0f} {spread:14s}"
            f"{1e3 * median['loop']:9.0f} {1e3 * median['vmap']:9.0f} {1e3 * median['limit']:7.0f}"
            f"  {100 * median['limit'] / median['ours']:9.0f} %"
        )
        name = f"h{h}_e{e}_m{m}_k{k}_n{episodes}"
        ratios += [(f"planning_vs_loop_{name}", median["loop"] / median["ours"])]
        ratios += [(f"planning_vs_vmap_{name}", median["vmap"] / median["ours"])]
        ratios += [(f"planning_of_limit_{name}", median["limit"] / median["ours"])]
    for name, value in ratios:
        print(f"RATIO {name} {value:.2f}")


if __name__ == "__main__":
    main()
