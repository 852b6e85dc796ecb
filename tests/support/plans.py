"""Short specs and their plans, on a store in which keys are published by saying so."""

from pathlib import Path
from typing import Any

from sweeps.plan.plan import Plan, build_plan
from sweeps.spec.spec import load_spec
from tests.support.parts import BUNDLED


def spec_with(folder, planner, more=""):
    file = folder / "s.yaml"
    file.write_text(f"name: s\ntasks: [{BUNDLED}]\nseeds: 1\nplanners:\n  mine: {planner}\n{more}")
    return load_spec(file)


BASE = f"""
name: mine
tasks: [{BUNDLED}]
seeds: 2
planners:
  mpc: {{kind: policy, horizon: [1, 3], updates: [1, 2]}}
baselines: [rebrac, bc]
"""


class FakeStore:
    """A store in which keys are published by saying so."""

    notices: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.published: dict[str, dict[str, Any]] = {}
        self.failures: dict[str, dict[str, Any]] = {}

    def publish(self, key: str, score: float | None = 0.0, raw: float = 0.0) -> None:
        self.published[key] = {"episodes_mean": {"normalized_score": score, "return": raw}}

    def has(self, kind: str, key: str) -> bool:
        return key in self.published

    def keys(self, kind: str) -> list[str]:
        return sorted(self.published)

    def manifest(self, kind: str, key: str) -> dict[str, Any]:
        return self.published[key]

    def failure(self, key: str) -> dict[str, Any] | None:
        return self.failures.get(key)

    def failed(self) -> set[str]:
        return set(self.failures)


def plan(folder: Path, text: str = BASE, store: Any = None, **options: Any) -> Plan:
    path = folder / "s.yaml"
    path.write_text(text)
    return build_plan(load_spec(path, **options), store or FakeStore())


def rows(plan: Plan) -> list[str]:
    """The rows of the table, each once."""
    return list(dict.fromkeys(cell.method for cell in plan.cells if cell.role == "report"))
