"""What ogbench's ant does in its medium maze, which is D4RL's; run by the interpreter that has ogbench.

    python ogbench_side.py GIVEN.npz FOUND.npz    `starts` (E, 29), `actions` (E, T, 8) → `states` (E, T+1, 29)
    python ogbench_side.py                        exit code 3 if ogbench cannot be imported

Before every step the simulator is set to the state of the step before, so that each step is a comparison of its own.
It must not import anything of this project.
"""

import sys

ABSENT = 3  # exit code


def main() -> int:
    try:
        import mujoco
        import numpy as np
        from ogbench.locomaze.maze import make_maze_env
    except ImportError as error:
        print(f"ogbench cannot be imported: {error}", file=sys.stderr)
        return ABSENT
    if len(sys.argv) == 1:
        return 0
    env = make_maze_env("ant", "maze", maze_type="medium", render_mode=None)
    with np.load(sys.argv[1]) as given:
        starts, actions = given["starts"], given["actions"]
    states = np.empty((len(starts), actions.shape[1] + 1, starts.shape[1]))
    contacts = np.zeros(actions.shape[:2], dtype=bool)
    for episode, start in enumerate(starts):
        mujoco.mj_resetData(env.model, env.data)
        states[episode, 0] = start
        for step, action in enumerate(actions[episode]):
            env.set_state(states[episode, step, :15], states[episode, step, 15:])
            env.do_simulation(action, env.frame_skip)
            states[episode, step + 1] = np.concatenate([env.data.qpos, env.data.qvel])
            touched = {env.model.geom(geom).name for pair in env.data.contact.geom for geom in pair}
            contacts[episode, step] = any(name.startswith("block_") for name in touched)
    np.savez_compressed(
        sys.argv[2],
        starts=starts,
        actions=actions,
        states=states,
        walls=np.array(env.maze_map),
        touches_wall=contacts,
        mujoco=mujoco.mj_versionString(),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
