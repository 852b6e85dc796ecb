"""Made-up stand-ins of D4RL's files, in their exact layout and under their names, for tests of whatever reads them."""

import numpy as np

from mpcwdwm.data import Task
from mpcwdwm.data.tasks import expected_path
from tests.support.synthetic import write_hdf5

DIMS = {
    "halfcheetah": (17, 6, 9, 9),
    "hopper": (11, 3, 6, 6),
    "walker2d": (17, 6, 9, 9),
    "antmaze": (29, 8, 15, 14),
    "maze2d": (4, 2, 2, 2),
}


def stand_in(task: Task, episodes: int = 6, length: int = 80, seed: int = 0):
    """Write a small file of a D4RL task's layout where the task's is looked for, and return its path.

    Locomotion: rewards and terminals (N, 1), `metadata/`, no `next_observations`, the last episode unfinished. AntMaze:
    float32 throughout, an episode goes on after the goal is reached, with reward and terminal in each of its rows.
    PointMaze (maze2d): likewise, but no row is terminal.
    """
    rng = np.random.default_rng(seed)
    robot = task.name.split("-")[0]
    obs_dim, act_dim, nq, nv = DIMS[robot]
    rows, maze = episodes * length, robot in ("antmaze", "maze2d")
    last = np.arange(rows) % length == length - 1
    steps = rng.normal(scale=0.05, size=(episodes, length, obs_dim))
    obs = np.cumsum(steps, axis=1).reshape(rows, obs_dim)
    obs[:, 2 if maze else 0] += 1.2  # upright
    reward, terminal = (
        rng.uniform(0, 2, rows),
        last & (np.arange(rows) < rows // 2) & (robot not in ("halfcheetah", "antmaze")),
    )
    arrays = {
        "observations": obs.astype(np.float32),
        "actions": rng.uniform(-1, 1, (rows, act_dim)).astype(np.float32),
        "timeouts": last & ~terminal,
        "infos/qpos": np.zeros((rows, nq), np.float32),
        "infos/qvel": np.zeros((rows, nv), np.float32),
    }
    if maze:
        reached = np.arange(rows) % length >= length - 3
        ends = reached if robot == "antmaze" else np.zeros_like(reached)
        arrays |= {"rewards": reached.astype(np.float32), "terminals": ends.astype(np.float32)}
        arrays |= {"timeouts": last.astype(np.float32), "infos/goal": np.ones((rows, 2), np.float32)}
    else:
        arrays["timeouts"][-1] = False
        arrays |= {"rewards": reward.astype(np.float32)[:, None], "terminals": terminal[:, None]}
        arrays |= {"infos/action_log_probs": np.zeros(rows, np.float32)}
        arrays |= {"metadata/algorithm": np.bytes_("SAC"), "metadata/iteration": np.int64(1)}
        arrays |= {"metadata/policy/fc0/weight": np.zeros((4, obs_dim), np.float32)}
    path = expected_path(task)
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_hdf5(path, arrays)
