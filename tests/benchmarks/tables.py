"""What tables set in bold and what `mpcwdwm compare` calls shown, on simulated sweeps: how often both are wrong.

    PYTHONPATH=. python tests/benchmarks/tables.py               # seven minutes on one core
    PYTHONPATH=. python tests/benchmarks/tables.py --rows 100    # two minutes

Scores are drawn as in `tests/benchmarks/verdicts.py`. Lines are ``NAME value``, shares in %.

* ``LOST`` rows of which the best method is not bold, where all methods are equally good.
* ``KEPT`` methods that are in bold although they are 20 below the best.
* ``FALSE`` comparisons of two sweeps with at least one difference that is called shown, where nothing differs.
* ``FOUND`` comparisons that call the one difference of 20 among their rows shown.
"""

import argparse
import sys
from dataclasses import replace

import numpy as np

from analysis.compare.comparison import compare
from analysis.compare.sides import Side
from analysis.table.differences import Scores, perhaps_best
from analysis.table.rows import groups_of
from tests.support.simulated_sweeps import Nature, of_table

NATURES = {
    "3x10": Nature(),
    "5x10": Nature(seeds=5),
    "5x20": Nature(seeds=5, episodes=20),
    "5x10-starts-15": Nature(seeds=5, start_sd=15.0),
    "5x20-falls-5%": Nature(seeds=5, episodes=20, seed_sd=1.0, rest_sd=2.0, falls=0.05),
    "5x10-broken-20%": Nature(seeds=5, seed_sd=2.0, rest_sd=5.0, broken=0.2),
}
METHODS = (3, 8)  # of a row
ROWS = 8  # of a comparison
EFFECT = 20.0


def main() -> None:
    """Print all lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=400, help="simulated rows, and comparisons, for each line")
    rows = parser.parse_args().rows
    for place, (name, nature) in enumerate(NATURES.items()):
        rng = np.random.default_rng([4, place])
        for methods in METHODS:
            bold = np.array([in_bold(rng, nature, methods, 0.0) for _ in range(rows)])
            report(f"LOST {name} methods={methods}", 1 - bold[:, 0].mean())
            bold = np.array([in_bold(rng, nature, methods, EFFECT) for _ in range(rows)])
            report(f"KEPT {EFFECT:.0f} below {name} methods={methods}", bold[:, 1:].mean())
        shown = np.array([shown_differences(rng, nature, 0.0) for _ in range(rows)])
        report(f"FALSE difference {name} rows={ROWS}", shown.any(1).mean())
        shown = np.array([shown_differences(rng, nature, EFFECT) for _ in range(rows)])
        report(f"FOUND difference of {EFFECT:.0f} {name} rows={ROWS}", shown[:, 0].mean())


def report(name: str, share: float) -> None:
    """Print a share."""
    print(f"{name} {100 * share:.1f}")
    sys.stdout.flush()


def in_bold(rng: np.random.Generator, nature: Nature, methods: int, below: float) -> list[bool]:
    """Return which methods of a row are in bold; all but the first are so much below it."""
    drawn = (nature.scores(rng) - (below if method else 0.0) for method in range(methods))
    scores: list[list[Scores]] = [[{i: dict(enumerate(own)) for i, own in enumerate(table)}] for table in drawn]
    return [bool(best) for best in perhaps_best(scores)]


def shown_differences(rng: np.random.Generator, nature: Nature, effect: float) -> list[bool]:
    """Return which rows of a comparison are called higher or lower; the first has the effect."""

    def side(name: str, effect: float) -> Side:
        cells = []
        for row in range(ROWS):
            scores = nature.scores(rng) + (effect if row == 0 else 0.0)
            cells += of_table(scores, "rebrac", kind="policy", method=f"row {row}", name=f"row {row}")
        return Side(name, groups_of([replace(cell, key=f"{name}-{cell.key}") for cell in cells])[0], [])

    return [row.verdict in ("higher", "lower") for row in compare(side("a", 0.0), side("b", effect)).rows]


if __name__ == "__main__":
    main()
