"""d3rlpy's side of `pretraining.py`, in the environment made by `make bench-peers`.

Reads one JSON command a line on stdin and answers each with one JSON line on stdout, so that the benchmark
can let both sides work in turn. Between commands it sleeps. Imports nothing of this project.

    {"do": "make", "name": …, "algorithm": "rebrac" | "iql", "layers": 3, "batch": 256, "data": FILE.npz}
    {"do": "run", "name": …, "seconds": 0.8, "sampling": true}      → {"updates": …, "seconds": …}
    {"do": "steps", "name": …}                                       → optimizer steps done, by network
"""

import json
import os
import sys
import time

import d3rlpy
import numpy as np
import torch
from d3rlpy.algos.utility import build_scalers_with_transition_picker
from d3rlpy.dataset import MDPDataset
from d3rlpy.models import VectorEncoderFactory
from d3rlpy.preprocessing import StandardObservationScaler

POOL = 16  # batches drawn beforehand, for the clock of updates without sampling


def make(command: dict) -> tuple[object, MDPDataset]:
    """Return the learner and its data, set to what `pretraining.py` says of both sides."""
    arrays = np.load(command["data"])
    data = MDPDataset(
        observations=arrays["obs"],
        actions=arrays["action"],
        rewards=arrays["reward"],
        terminals=arrays["terminal"].astype(np.float32),
        timeouts=arrays["timeout"].astype(np.float32),
        action_space=d3rlpy.ActionSpace.CONTINUOUS,
    )
    hidden = [command["width"]] * command["layers"]
    plain = VectorEncoderFactory(hidden_units=hidden)
    shared = {
        "batch_size": command["batch"],
        "actor_encoder_factory": plain,
        "observation_scaler": StandardObservationScaler(),
        "compile_graph": command["device"] != "cpu",  # works on GPUs only
    }
    if command["algorithm"] == "rebrac":
        normed = VectorEncoderFactory(hidden_units=hidden, use_layer_norm=True)  # its own default has none
        config = d3rlpy.algos.ReBRACConfig(critic_encoder_factory=normed, update_actor_interval=2, **shared)
    else:
        config = d3rlpy.algos.IQLConfig(critic_encoder_factory=plain, value_encoder_factory=plain, **shared)
    device = "cuda:0" if command["device"] == "cuda" else "cpu:0"
    learner = config.create(device=device)
    learner.build_with_dataset(data)
    build_scalers_with_transition_picker(learner, data)
    return learner, data


def parameters(learner: object) -> int:
    """Return how many numbers the optimizers adjust."""
    owners = [learner.impl.policy_optim, learner.impl.q_function_optim]
    return sum(p.numel() for optimizer in owners for group in optimizer.param_groups for p in group["params"])


def steps(learner: object) -> dict[str, int]:
    """Return how many steps each optimizer has done."""
    owners = {"actor": learner.impl.policy_optim, "critic": learner.impl.q_function_optim}
    return {name: max(int(state["step"]) for state in o.state.values()) for name, o in owners.items()}


def run(learner: object, data: MDPDataset, pool: list, seconds: float, sampling: bool) -> dict[str, float]:
    """Update for so many seconds; what `fit` does at every step, without its log and progress bar."""
    size, updates = learner.config.batch_size, 0
    if not pool:
        pool += [data.sample_transition_batch(size) for _ in range(POOL)]
    clock = time.process_time if learner.impl.device.startswith("cpu") else time.perf_counter
    started = clock()
    while (elapsed := clock() - started) < seconds:
        learner.update(data.sample_transition_batch(size) if sampling else pool[updates % POOL])
        updates += 1  # `update` returns losses as floats, so a device has been waited for
    return {"updates": updates, "seconds": elapsed}


def main() -> None:
    out = os.fdopen(os.dup(1), "w")  # d3rlpy logs to stdout: what it prints there goes to stderr
    os.dup2(2, 1)
    torch.set_num_threads(1)
    made: dict[str, tuple] = {}
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "make":
            learner, data = make(command)
            made[command["name"]] = (learner, data, [])
            answer = {
                "version": d3rlpy.__version__,
                "torch": torch.__version__,
                "threads": torch.get_num_threads(),
                "parameters": parameters(learner),
                "transitions": data.transition_count,
            }
        elif command["do"] == "run":
            answer = run(*made[command["name"]], command["seconds"], command["sampling"])
        else:
            answer = steps(made[command["name"]][0])
        print(json.dumps(answer), file=out, flush=True)


if __name__ == "__main__":
    main()
