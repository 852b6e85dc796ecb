"""What reads YAML and HDF5, for fuzzing: whatever the bytes, they are read or refused in one line."""

import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from mpcwdwm.errors import UserError
from tests.support import ROOT
from tests.support.parts import BUNDLED
from tests.support.synthetic import episodes, write_hdf5

__all__ = ["SHIPPED", "SPEC", "TARGETS", "read_hdf5", "read_yaml", "seeds"]

SPEC = f"""
name: mine
tasks: [{BUNDLED}, {{name: other, dataset: x.hdf5, env: Hopper-v4, terminals: rule}}]
seeds: [0, 1]
components: {{rebrac: {{steps: 100, actor_bc_coef: [0.1, 0.4]}}, world_model: {{kind: diffusion, denoising_steps: 5}}}}
planners:
  mpc: {{kind: policy, horizon: [1, 3], rollouts: 8, updates: [1, 2], step_size: 1e-5}}
baselines: [rebrac, iql, bc]
overrides: [{{tasks: ["hopper-*"], planners: {{mpc: {{step_size: 1e-6}}}}}}]
evaluation: {{episodes: 10, env_seed: 0, select: {{seeds: [100], env_seed: 1000, episodes: 10}}}}
resources: {{concurrency: 2, actor: {{cpus: 1, gpus: 0.25}}}}
cluster:
  slurm: {{nodes: 4, cpus_per_node: 16, partition: gpu, time: "24:00:00", variables: {{A: b}}}}
  kubernetes: {{image: x/y, claim: z, workers: 2, cpus_per_node: 4}}
compute: {{capture: auto, tf32: false}}
storage: runs
tracking: {{uri: "sqlite:///runs/mlflow.db"}}
"""
SHIPPED = [
    "\n".join(line for line in path.read_text().split("\n") if not line.lstrip().startswith("#"))
    for path in (ROOT / "quickstart.yaml", ROOT / "sweeps/specs/table2.yaml", ROOT / "sweeps/specs/mazes.yaml")
]


def read_yaml(data: bytes) -> None:
    """Read a YAML as far as it is read before tasks and torch are needed, and write it again."""
    from sweeps.spec.document import parse_document, write_yaml
    from sweeps.spec.places import elsewhere
    from sweeps.spec.schema import SpecFile, known_keys
    from sweeps.spec.source_checks import check_by_source

    with contextlib.suppress(UserError):
        document = parse_document(data.decode(errors="replace"), "x.yaml")
        assert repr(parse_document(write_yaml(document.data), "x.yaml").data) == repr(
            document.data
        )  # NaN is not itself
        try:
            file = SpecFile.model_validate(document.data)
        except ValidationError as error:
            raise document.translated(error, lambda at: at, known_keys, elsewhere) from None
        check_by_source(document, file)


def read_hdf5(data: bytes) -> None:
    """Read a dataset, in whatever layout it has, and what the file says of its environment."""
    from mpcwdwm.data import read_dataset
    from mpcwdwm.data.conversion import in_d4rl_layout
    from mpcwdwm.data.verify import recorded_env

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.hdf5"
        path.write_bytes(data)
        with contextlib.suppress(UserError):
            recorded_env(path)
        with contextlib.suppress(UserError):
            read_dataset(in_d4rl_layout(path))


TARGETS: dict[str, Callable[[bytes], None]] = {"yaml": read_yaml, "hdf5": read_hdf5}


def seeds(kind: str) -> list[bytes]:
    """Return inputs that are right, to begin with."""
    if kind == "yaml":
        return [text.encode() for text in (SPEC, *SHIPPED)]
    with tempfile.TemporaryDirectory() as folder:
        return [write_hdf5(Path(folder) / "x.hdf5", episodes()).read_bytes()]
