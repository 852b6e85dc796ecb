"""The ids under which Gymnasium makes our environments; `import mpcwdwm` registers them.

D4RL's two datasets of an ant's maze ("play" and "diverse") are evaluated alike, but each has its id, so that an id
names a task of D4RL. Environments are imported, and with them MuJoCo, when one is made.
"""

import gymnasium

__all__ = ["ANTMAZES", "MAZE_IDS", "POINTMAZES", "register"]

# D4RL's name → maze and its limit of steps
ANTMAZES = {
    "umaze": ("umaze", 700),
    "umaze-diverse": ("umaze", 700),
    "medium-play": ("medium", 1000),
    "medium-diverse": ("medium", 1000),
    "large-play": ("large", 1000),
    "large-diverse": ("large", 1000),
}

# D4RL's name and version → maze, whether rewards are dense, and the limit of steps
POINTMAZES = {
    "open-v0": ("open", False, 150),
    "umaze-v1": ("umaze", False, 300),
    "medium-v1": ("medium", False, 600),
    "large-v1": ("large", False, 800),
    "open-dense-v0": ("open", True, 150),
    "umaze-dense-v1": ("umaze", True, 300),
    "medium-dense-v1": ("medium", True, 600),
    "large-dense-v1": ("large", True, 800),
}

MAZE_IDS = (
    *(f"mpcwdwm/AntMaze-{name}-v2" for name in ANTMAZES),
    *(f"mpcwdwm/PointMaze-{name}" for name in POINTMAZES),
)


def register() -> None:
    """Register `mpcwdwm/AntMaze-umaze-v2`, `mpcwdwm/PointMaze-umaze-v1` and the others, once."""
    for name, (maze, steps) in ANTMAZES.items():
        _register(f"AntMaze-{name}-v2", "antmaze:AntMaze", steps, maze=maze)
    for name, (maze, dense, steps) in POINTMAZES.items():
        _register(f"PointMaze-{name}", "pointmaze:PointMaze", steps, maze=maze, dense=dense)


def _register(name: str, entry_point: str, steps: int, **kwargs: object) -> None:
    env_id = f"mpcwdwm/{name}"
    if env_id not in gymnasium.registry:
        gymnasium.register(env_id, entry_point=f"mpcwdwm.envs.{entry_point}", max_episode_steps=steps, kwargs=kwargs)


register()
