"""Rows recorded in a robot's own environment with random actions, for tests that replay them."""

import numpy as np

from mpcwdwm.envs.factory import make_env


def recorded(env_id: str = "Hopper-v4", rows: int = 300, seed: int = 0) -> dict[str, np.ndarray]:
    """Return D4RL's arrays with `infos/qpos` and `infos/qvel`; episodes end as the environment says."""
    env, rng = make_env(env_id), np.random.default_rng(seed)
    names = ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts")
    table: dict[str, list] = {name: [] for name in (*names, "infos/qpos", "infos/qvel")}
    obs, _ = env.reset(seed=seed)
    for row in range(rows):
        action = rng.uniform(-0.3, 0.3, env.action_space.shape).astype(np.float32)
        state = env.unwrapped.data.qpos.copy(), env.unwrapped.data.qvel.copy()
        after, reward, terminal, cut, _ = env.step(action)
        last = not terminal and (cut or row == rows - 1)
        for name, value in zip(table, (obs, action, reward, after, terminal, last, *state), strict=True):
            table[name].append(value)
        obs = env.reset()[0] if terminal or cut else after
    env.close()
    flags = {name: np.array(table.pop(name), dtype=bool) for name in ("terminals", "timeouts")}
    return {**{name: np.array(values, dtype=np.float32) for name, values in table.items()}, **flags}
