"""What d4rl's own readers make of a task's dataset, written as NPZ; run by an interpreter that has d4rl and gym.

    python d4rl_side.py TASK STEPS FILE

FILE gets the numeric arrays of `get_dataset` under their names; as ``qlearning/…`` the arrays of `qlearning_dataset`,
with the number of each transition's row in place of its reward; and d4rl's version. Exit code 3: d4rl cannot be
imported. This file imports nothing of this package, and runs on Python 3.8.
"""

import contextlib
import importlib
import importlib.metadata
import io
import os
import sys
from typing import Any

ABSENT = 3  # exit code
NUMERIC = "fiub"  # kinds of dtype


def main(task: str, steps: int, file: str) -> int:
    """Write the arrays; `steps` is the time limit to which d4rl counts in files without timeouts."""
    os.environ["D4RL_SUPPRESS_IMPORT_ERROR"] = "1"
    modules: dict[str, Any] = sys.modules
    modules["mujoco_py"] = None  # no simulator is needed; without MuJoCo 2.1 its import raises more than ImportError
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # gym's banner
            d4rl, gym, h5py, np = (importlib.import_module(name) for name in ("d4rl", "gym", "h5py", "numpy"))
            offline = importlib.import_module("d4rl.offline_env")
    except ImportError as error:
        sys.stderr.write(str(error))
        return ABSENT
    url = d4rl.infos.DATASET_URLS.get(task)
    if url is None:
        sys.exit("it has no dataset of this name")
    with h5py.File(offline.download_dataset_from_url(url), "r") as stored:
        shapes = {name: stored[name].shape[1:] for name in ("observations", "actions")}

    spaces = [gym.spaces.Box(-np.inf, np.inf, shapes[name]) for name in ("observations", "actions")]
    facts = {"observation_space": spaces[0], "action_space": spaces[1], "_max_episode_steps": steps}
    env = type("WithoutSimulator", (offline.OfflineEnv,), facts)(dataset_url=url)
    arrays = {name: values for name, values in env.get_dataset().items() if np.asarray(values).dtype.kind in NUMERIC}
    numbered = dict(arrays, rewards=np.arange(len(arrays["rewards"]), dtype=np.float64))
    transitions = d4rl.qlearning_dataset(env, numbered)
    arrays.update(("qlearning/" + name, values) for name, values in transitions.items())
    np.savez(file, version=np.array(importlib.metadata.version("d4rl")), **arrays)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
