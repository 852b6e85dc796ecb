"""What d4rl's PointMaze does, by its own code on plain MuJoCo; run by the interpreter that has d4rl, gym and mujoco.

    python d4rl_mazes_side.py GIVEN.npz FOUND.npz    of every maze in GIVEN: `<maze>_actions` (E, T, 2) → its map, goal,
                                                     states (E, T+1, 4), rewards (E, T), dense rewards (E, T)
    python d4rl_mazes_side.py                        exit code 3 if one of the three cannot be imported

d4rl steps by mujoco-py, which no longer installs; gym's own environment on `mujoco` stands in for it. It must not
import anything of this project.
"""

import contextlib
import io
import os
import sys
import tempfile
from types import SimpleNamespace

ABSENT = 3  # exit code


def main() -> int:
    os.environ["D4RL_SUPPRESS_IMPORT_ERROR"] = "1"
    os.environ.setdefault("D4RL_DATASET_DIR", tempfile.mkdtemp())  # importing d4rl makes this folder
    sys.modules["mujoco_py"] = None  # type: ignore[assignment]  # without MuJoCo 2.1 it raises more than ImportError
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # gym's banner
            import mujoco
            import numpy as np
            from d4rl.pointmaze import maze_model
    except ImportError as error:
        print(f"d4rl's mazes cannot be imported: {error}", file=sys.stderr)
        return ABSENT
    if len(sys.argv) == 1:
        return 0

    made = maze_model.point_maze

    def without_outdated_attribute(maze):
        model = made(maze)
        for compiler in (node for node in model.root.children if "coordinate" in node.attrs):
            del compiler.attrs["coordinate"]
        return model

    class Maze(maze_model.MazeEnv):
        sim = property(lambda self: SimpleNamespace(data=self.data))

        def set_marker(self):
            """Draw nothing."""

    maze_model.point_maze = without_outdated_attribute
    specs = {"open": maze_model.OPEN, "umaze": maze_model.U_MAZE}
    specs |= {"medium": maze_model.MEDIUM_MAZE, "large": maze_model.LARGE_MAZE}
    found = {"mujoco": mujoco.mj_versionString()}
    with np.load(sys.argv[1]) as given:
        actions_of = {name.removesuffix("_actions"): given[name] for name in given.files}
    for name, actions in actions_of.items():
        sparse, dense = (Maze(specs[name], reward_type=kind) for kind in ("sparse", "dense"))
        states = np.empty((len(actions), actions.shape[1] + 1, 4))
        rewards, dense_rewards = np.empty(actions.shape[:2]), np.empty(actions.shape[:2])
        for episode in range(len(actions)):
            for env in (sparse, dense):
                env.seed(episode)
                states[episode, 0] = env.reset()
            for step, action in enumerate(actions[episode]):
                states[episode, step + 1], rewards[episode, step], done, _ = sparse.step(action)
                dense_rewards[episode, step] = dense.step(action)[1]
                assert not done
        found |= {f"{name}_map": specs[name], f"{name}_goal": np.asarray(sparse.get_target(), float)}
        found |= {f"{name}_actions": actions, f"{name}_states": states}
        found |= {f"{name}_rewards": rewards, f"{name}_dense_rewards": dense_rewards}
    np.savez_compressed(sys.argv[2], **found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
