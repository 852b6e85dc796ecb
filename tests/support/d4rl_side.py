"""What the d4rl package computes, written where the parity test reads it; run by the interpreter that has d4rl.

    python d4rl_side.py FOLDER FILE...      transitions of each HDF5 file, tables, scores → FOLDER
    python d4rl_side.py                     exit code 3 if d4rl cannot be imported

It must not import anything of this project: it may run in an environment that has only d4rl.
"""

import contextlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path

ABSENT = 3  # exit code
MAX_EPISODE_STEPS = 1000  # hopper's; d4rl counts to it in files without timeouts
RETURNS = (-500.0, 0.0, 1234.5, 5000.0)  # whose normalized scores are compared


def main() -> int:
    os.environ["D4RL_SUPPRESS_IMPORT_ERROR"] = "1"
    os.environ.setdefault("D4RL_DATASET_DIR", tempfile.mkdtemp())  # importing d4rl makes this folder
    sys.modules["mujoco_py"] = None  # type: ignore[assignment]  # without MuJoCo 2.1 it raises more than ImportError
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # gym's banner
            import d4rl
            import gym
            import numpy as np
    except ImportError as error:
        print(f"d4rl cannot be imported: {error}", file=sys.stderr)
        return ABSENT
    if len(sys.argv) == 1:
        return 0

    class Env(d4rl.offline_env.OfflineEnv):
        _max_episode_steps = MAX_EPISODE_STEPS

        def __init__(self, obs_dim, act_dim):
            super().__init__()
            self.observation_space = gym.spaces.Box(-np.inf, np.inf, (obs_dim,))
            self.action_space = gym.spaces.Box(-1, 1, (act_dim,))

    folder = Path(sys.argv[1])
    for name in sys.argv[2:]:
        import h5py

        with h5py.File(name, "r") as file:
            env = Env(file["observations"].shape[1], file["actions"].shape[1])
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar
            arrays = env.get_dataset(name)
        numbered = {**arrays, "rewards": np.arange(len(arrays["rewards"]), dtype=np.float32)}
        found = {"rows": d4rl.qlearning_dataset(env, numbered)["rewards"].astype(np.int64)}
        found["rows_on_end"] = d4rl.qlearning_dataset(env, numbered, True)["rewards"].astype(np.int64)
        found.update(d4rl.qlearning_dataset(env, arrays))
        np.savez(folder / f"{Path(name).stem}.npz", **found)
    scores = {
        name: [float(d4rl.get_normalized_score(name, value)) for value in RETURNS] for name in d4rl.infos.REF_MIN_SCORE
    }
    tables = {
        "urls": d4rl.infos.DATASET_URLS,
        "low": d4rl.infos.REF_MIN_SCORE,
        "high": d4rl.infos.REF_MAX_SCORE,
        "returns": RETURNS,
        "scores": scores,
    }
    (folder / "tables.json").write_text(json.dumps(tables))
    return 0


if __name__ == "__main__":
    sys.exit(main())
