"""The task of the bundled dataset, and settings with which components train on it in a moment."""

from tests.support.parts import BUNDLED

TASK = {
    "name": BUNDLED,
    "env_id": "Hopper-v4",
    "termination": "hopper",
    "max_episode_steps": 1000,
    "reference": [-20.272305, 3234.3],
}
SMALL = {"steps": 30, "hidden_dim": 16, "batch_size": 64, "evaluations": 1}
SEEDS = (0, 1)
UNIT = {"discount": 0.9, "reward_scale": 2.0, "reward_shift": 0.5}  # of ReBRAC's critic
FIELDS = {"rebrac": UNIT, "value": {"episodes": 10, "length": 4}, "world_model": {"kind": "mlp", "ensemble": 2}}
