"""JAX's side of `pretraining.py`: ReBRAC as one compiled program, in the environment made by `make bench-peers`.

A transcription of the published rules in plain JAX: jit over a scan of critic-actor-targets, critic cycles; batches
drawn inside. One seed has no axis of seeds, since a vmap over one seed halves the rate of XLA's products on a CPU;
several seeds are one vmap. Obeys commands as `pretraining_peer.py` does, and imports nothing of this project.

    {"do": "check", "vectors": FILE.npz}    → largest deviation from ten recorded updates of the authors' code
    {"do": "make", "name": …, "layers": 3, "width": 256, "batch": 256, "seeds": 5, "data": FILE.npz}
    {"do": "run", "name": …, "seconds": 0.8}    → {"updates": …, "seconds": …}
"""

import json
import os
import sys
import time
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")  # one thread, as on the other sides

import jax
import jax.numpy as jnp
import numpy as np

DISCOUNT, POLYAK, LEARNING_RATE, NOISE, CLIP = 0.99, 0.005, 1e-3, 0.2, 0.5
BETA1, BETA2, ADAM_EPS, NORM_EPS, MIN_STD = 0.9, 0.999, 1e-8, 1e-6, 1e-3
CYCLES = 20  # of two updates in one call of the compiled program


class Batch(NamedTuple):
    obs: jax.Array  # (B, obs_dim)
    action: jax.Array  # (B, act_dim)
    reward: jax.Array  # (B,)
    next_obs: jax.Array
    next_action: jax.Array
    done: jax.Array  # (B,)


# ------------------------------------------------------------------------------------------- networks


def mlp(layers: list[dict[str, jax.Array]], x: jax.Array) -> jax.Array:
    """Linear, ReLU and, where there is a scale, layer norm; then a linear head."""
    for layer in layers[:-1]:
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
        if "scale" in layer:
            centred = x - x.mean(-1, keepdims=True)
            variance = jnp.square(centred).mean(-1, keepdims=True)
            x = centred * jax.lax.rsqrt(variance + NORM_EPS) * layer["scale"] + layer["shift"]
    return x @ layers[-1]["kernel"] + layers[-1]["bias"]


def actor(layers: Any, obs: jax.Array) -> jax.Array:
    return jnp.tanh(mlp(layers, obs))


def critic(twins: Any, obs: jax.Array, action: jax.Array) -> jax.Array:  # (2, B)
    x = jnp.concatenate([obs, action], -1)
    return jax.vmap(mlp, (0, None))(twins, x)[..., 0]


# ------------------------------------------------------------------------------------------- updates


def adam(weights: Any, gradient: Any, moments: Any) -> tuple[Any, Any]:
    count, first, second = moments
    count += 1
    first = jax.tree.map(lambda m, g: BETA1 * m + (1 - BETA1) * g, first, gradient)
    second = jax.tree.map(lambda v, g: BETA2 * v + (1 - BETA2) * g * g, second, gradient)
    fix1, fix2 = 1 - BETA1**count, 1 - BETA2**count

    def moved(w: jax.Array, m: jax.Array, v: jax.Array) -> jax.Array:
        return w - LEARNING_RATE * (m / fix1) / (jnp.sqrt(v / fix2) + ADAM_EPS)

    return jax.tree.map(moved, weights, first, second), (count, first, second)


def polyak(target: Any, source: Any) -> Any:
    return jax.tree.map(lambda t, s: t + POLYAK * (s - t), target, source)


def update(state: dict, batch: Batch, noise: jax.Array, coefs: tuple[float, float], *, full: bool) -> dict:
    """One critic update; if full, also the actor's and both targets'."""
    actor_bc, critic_bc = coefs
    state = dict(state)
    noise = jnp.clip(NOISE * noise, -CLIP, CLIP)
    next_action = jnp.clip(actor(state["target_actor"], batch.next_obs) + noise, -1, 1)
    penalty = jnp.square(next_action - batch.next_action).sum(-1)
    next_q = critic(state["target_critic"], batch.next_obs, next_action).min(0) - critic_bc * penalty
    target = batch.reward + DISCOUNT * (1 - batch.done) * next_q

    def critic_loss(twins: Any) -> jax.Array:
        return jnp.square(critic(twins, batch.obs, batch.action) - target).mean(-1).sum()

    gradient = jax.grad(critic_loss)(state["critic"])
    state["critic"], state["critic_adam"] = adam(state["critic"], gradient, state["critic_adam"])
    if not full:
        return state

    def actor_loss(layers: Any) -> jax.Array:
        action = actor(layers, batch.obs)
        q = critic(state["critic"], batch.obs, action).min(0)
        scale = 1 / jax.lax.stop_gradient(jnp.abs(q).mean())
        return (actor_bc * jnp.square(action - batch.action).sum(-1) - scale * q).mean()

    gradient = jax.grad(actor_loss)(state["actor"])
    state["target_actor"] = polyak(state["target_actor"], state["actor"])
    state["actor"], state["actor_adam"] = adam(state["actor"], gradient, state["actor_adam"])
    state["target_critic"] = polyak(state["target_critic"], state["critic"])
    return state


@partial(jax.jit, static_argnames="size", donate_argnums=0)
def cycles(state: dict, keys: jax.Array, data: Batch, size: int) -> tuple[dict, jax.Array]:
    """Train every seed for `CYCLES` cycles of two updates; with several keys, state has a leading axis of seeds."""

    def drawn(state: dict, key: jax.Array, full: bool) -> dict:
        rows, noise = jax.random.split(key)
        index = jax.random.randint(rows, (size,), 0, len(data.reward))
        batch = Batch(*(array[index] for array in data))
        return update(state, batch, jax.random.normal(noise, batch.action.shape), (0.4, 0.01), full=full)

    def cycle(carry: tuple[dict, jax.Array], _: None) -> tuple[tuple[dict, jax.Array], None]:
        state, key = carry
        key, even, odd = jax.random.split(key, 3)
        return (drawn(drawn(state, even, True), odd, False), key), None

    def one(state: dict, key: jax.Array) -> tuple[dict, jax.Array]:
        return jax.lax.scan(cycle, (state, key), None, length=CYCLES)[0]

    return one(state, keys) if keys.ndim == 0 else jax.vmap(one)(state, keys)


# ---------------------------------------------------------------------------------------- sides' work


def with_targets(actor_layers: Any, critic_layers: Any) -> dict:
    zeros = partial(jax.tree.map, jnp.zeros_like)
    state = {"actor": actor_layers, "critic": critic_layers}
    for name, layers in list(state.items()):
        state[f"target_{name}"] = jax.tree.map(jnp.array, layers)
        state[f"{name}_adam"] = (jnp.zeros(()), zeros(layers), zeros(layers))
    return state


def fresh(key: jax.Array, sizes: list[int], *, normed: bool) -> list[dict[str, jax.Array]]:
    layers = []
    for n_in, n_out in pairwise(sizes):
        key, own = jax.random.split(key)
        bound = n_in**-0.5 if n_out == sizes[1] else 3e-3
        layer = {"kernel": jax.random.uniform(own, (n_in, n_out), minval=-bound, maxval=bound)}
        layer["bias"] = jnp.full(n_out, 0.1, jnp.float32)  # a weak type would compile anew after the first call
        layers.append(layer)
    for layer in layers[:-1] if normed else ():
        layer["scale"], layer["shift"] = jnp.ones(sizes[1]), jnp.zeros(sizes[1])
    return layers


def make(command: dict) -> dict[str, Any]:
    with np.load(command["data"]) as file:
        arrays = {name: np.asarray(file[name]) for name in file.files}
    usable = arrays["usable"]  # rows with a next action, or of a true end
    obs = (arrays["obs"] - arrays["obs"][usable].mean(0)) / (arrays["obs"][usable].std(0) + MIN_STD)
    follows = np.minimum(usable + 1, len(obs) - 1)
    done = arrays["terminal"].astype(np.float32)
    fields = (obs[usable], arrays["action"][usable], arrays["reward"][usable])
    data = Batch(*map(jnp.asarray, (*fields, obs[follows], arrays["action"][follows], done[usable])))
    hidden = [command["width"]] * command["layers"]
    n_obs, n_act = data.obs.shape[1], data.action.shape[1]

    def member(key: jax.Array) -> dict:
        own, twins = jax.random.split(key)
        policy = fresh(own, [n_obs, *hidden, n_act], normed=False)
        pair = jax.vmap(partial(fresh, sizes=[n_obs + n_act, *hidden, 1], normed=True))(jax.random.split(twins))
        return with_targets(policy, pair)

    key = jax.random.key(0)
    keys = key if command["seeds"] == 1 else jax.random.split(key, command["seeds"])
    state = member(keys) if keys.ndim == 0 else jax.vmap(member)(keys)
    side = {"state": state, "keys": keys, "data": data, "batch": command["batch"]}
    advance(side)  # compiles
    counted = (side["state"]["actor"], side["state"]["critic"])
    side["parameters"] = sum(leaf.size for leaf in jax.tree.leaves(counted)) // command["seeds"]
    return side


def advance(side: dict[str, Any]) -> None:
    side["state"], side["keys"] = cycles(side["state"], side["keys"], side["data"], side["batch"])
    jax.block_until_ready(side["state"])


def run(side: dict[str, Any], seconds: float) -> dict[str, float]:
    updates, started = 0, time.process_time()
    while (elapsed := time.process_time() - started) < seconds:
        advance(side)
        updates += 2 * CYCLES
    return {"updates": updates, "seconds": elapsed}


def check(vectors: str) -> float:
    """Return the largest deviation of any weight from the recorded updates."""
    with np.load(vectors) as file:
        recorded = {name: jnp.asarray(file[name]) for name in file.files}

    def layers(prefix: str) -> list[dict[str, jax.Array]]:
        found = []
        for i in range(4):
            layer = {"kernel": recorded[f"{prefix}Dense_{i}/kernel"], "bias": recorded[f"{prefix}Dense_{i}/bias"]}
            if f"{prefix}LayerNorm_{i}/scale" in recorded:
                layer["scale"] = recorded[f"{prefix}LayerNorm_{i}/scale"]
                layer["shift"] = recorded[f"{prefix}LayerNorm_{i}/bias"]
            found.append(layer)
        return found

    inside = {"actor": "", "target_actor": "", "critic": "VmapCritic_0/", "target_critic": "VmapCritic_0/"}
    state, largest = with_targets(layers("init/actor/"), layers("init/critic/VmapCritic_0/")), 0.0
    for t in range(10):
        names = ("states", "actions", "rewards", "next_states", "next_actions", "dones")
        batch = Batch(*(recorded[f"batch{t}/{name}"] for name in names))
        state = update(state, batch, recorded[f"batch{t}/standard_normal"], (0.05, 0.01), full=t % 2 == 0)
        for name, below in inside.items():
            theirs = layers(f"after{t}/{name}/{below}")
            apart = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), state[name], theirs)
            largest = max(largest, *jax.tree.leaves(apart))
    return largest


def main() -> None:
    made: dict[str, dict[str, Any]] = {}
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "check":
            answer: dict[str, Any] = {"deviation": check(command["vectors"])}
        elif command["do"] == "make":
            side = made[command["name"]] = make(command)
            answer = {"version": jax.__version__, "parameters": side["parameters"], "rows": len(side["data"].reward)}
        else:
            answer = run(made[command["name"]], command["seconds"])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
