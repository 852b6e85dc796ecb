"""The ids under which Gymnasium makes our environments; `import mpcwdwm` registers them.

D4RL's two datasets of a maze ("play" and "diverse") are evaluated alike, but each has its id, so that an id names a
task of D4RL. Environments are imported, and with them MuJoCo, when one is made.
"""

import gymnasium

__all__ = ["ANTMAZES", "register"]

# D4RL's name → maze and its limit of steps
ANTMAZES = {
    "umaze": ("umaze", 700),
    "umaze-diverse": ("umaze", 700),
    "medium-play": ("medium", 1000),
    "medium-diverse": ("medium", 1000),
    "large-play": ("large", 1000),
    "large-diverse": ("large", 1000),
}


def register() -> None:
    """Register `mpcwdwm/AntMaze-umaze-v2` and the others, once."""
    for name, (maze, steps) in ANTMAZES.items():
        env_id = f"mpcwdwm/AntMaze-{name}-v2"
        if env_id not in gymnasium.registry:
            gymnasium.register(
                env_id, entry_point="mpcwdwm.envs.antmaze:AntMaze", max_episode_steps=steps, kwargs={"maze": maze}
            )


register()
