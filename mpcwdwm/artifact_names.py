"""The names of the files in which artifacts and checkpoints are kept; nothing heavy is imported with them."""

__all__ = ["CHECKPOINT", "CURVE", "EPISODES", "MANIFEST", "STEPS", "WEIGHTS"]

WEIGHTS = "weights.safetensors"  # of a component
CURVE = "curve.json"  # of a component: the points of its learning curve
EPISODES = "episodes.parquet"  # of a result
STEPS = "steps.parquet"  # of a result whose episodes are traced
MANIFEST = "manifest.json"  # of both; an artifact without it is not complete
CHECKPOINT = "checkpoint.safetensors"  # of a training that is under way
