"""Published hyper-parameters, per D4RL task, as overrides of our component configs.

`tables/rebrac.csv` and `tables/iql.csv` hold the values of the YAML files in CORL (its ReBRAC is the authors'
own). Where ReBRAC's paper and YAML differ (hopper-medium, hopper-expert), the YAML wins.

Two conventions exist for IQL: the authors normalise rewards, CORL normalises observations. CORL's is
used for every task. Its two hopper YAMLs (medium, medium-replay) ask for both; here rewards stay as they
are there too, so that the same convention holds everywhere. AntMaze's reward normalisation is the shift
by -1, ReBRAC's AntMaze rewards are multiplied by 100. PointMaze's (maze2d) are CORL's alone: ReBRAC's
for sparse rewards, IQL's for both, none for maze2d-open.

`tables/diffuser.csv` holds what Diffuser's authors set for halfcheetah (config/locomotion.py); their planner's settings
there, `scale: 1e-3` and `unguided: 4`, are a sweep's to set.
"""

from typing import Any

from mpcwdwm.data.tasks import Task, read_table

__all__ = ["published_config"]

TABLES = {  # component → table; the other components have none
    "rebrac": "rebrac.csv",
    "iql": "iql.csv",
    "diffuser": "diffuser.csv",
}
WHOLE = ("batch_size", "hidden_dim", "policy_freq", "horizon")  # columns that hold integers
TEXT = ("multipliers",)


def _value(column: str, text: str) -> Any:
    """Return a table's cell as the bool, text, int or float that it denotes."""
    if text in ("true", "false"):
        return text == "true"
    if column in TEXT:
        return text
    return int(text) if column in WHOLE else float(text)


def published_config(task: Task, component: str) -> dict[str, Any]:
    """Return what was published for this task, as fields of the component's config.

    Empty for tasks that are not D4RL's and for components without per-task values (bc, world_model, reward).
    """
    if task.source != "d4rl" or component not in TABLES:
        return {}
    for row in read_table(TABLES[component]):
        if row.pop("task") == task.name:
            return {column: _value(column, text) for column, text in row.items()}
    return {}
