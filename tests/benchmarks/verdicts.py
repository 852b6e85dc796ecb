"""The table's sentences and intervals on simulated sweeps: how often they are false, how often true effects are found.

    PYTHONPATH=. python tests/benchmarks/verdicts.py               # eight minutes on one core
    PYTHONPATH=. python tests/benchmarks/verdicts.py --sweeps 100  # one minute

Scores are normal: policies of different seeds, starting states that a row's seeds share, and the rest each have a
standard deviation; in some natures tails are heavy, a share of the episodes falls, a share of the policies is broken,
or episodes succeed or fail. Lines are ``NAME value``, shares in %.

* ``FALSE`` sweeps with at least one sentence of gain or harm, or one mark, where nothing has an effect. Of several
  tasks, the sentences of all and of the average together.
* ``FOUND`` cells with an effect (or bases that move, or are below bc) of which the sentence (the mark) says so.
* ``COVER`` intervals that hold the true mean: over episodes of these policies, and over new training seeds.
* ``HOLM`` and ``MAX``: found cells by Holm's procedure, and by a maximum statistic that knows the true correlation of
  the cells (t statistics of a multivariate normal), the most that any such correction could find.
"""

import argparse
import re
import sys

import numpy as np
from scipy import stats

from analysis.statistics import Evidence, holm
from analysis.table.under_training import mark_bases
from analysis.table.verdicts import verdicts
from tests.support.simulated_sweeps import TASK, Nature, judged_bases, planned, planned_on_tasks

NATURES = {
    "3x10": Nature(),
    "5x10": Nature(seeds=5),
    "5x20": Nature(seeds=5, episodes=20),
    "3x10-seeds-20": Nature(seed_sd=20.0),
    "5x10-starts-15": Nature(seeds=5, start_sd=15.0),
    "3x10-starts-only": Nature(seed_sd=0.0, start_sd=15.0, rest_sd=5.0),
    "3x10-falls-5%": Nature(seed_sd=1.0, rest_sd=2.0, falls=0.05),
    "5x20-falls-5%": Nature(seeds=5, episodes=20, seed_sd=1.0, rest_sd=2.0, falls=0.05),
    "3x10-broken-20%": Nature(seed_sd=2.0, rest_sd=5.0, broken=0.2),
    "5x10-broken-20%": Nature(seeds=5, seed_sd=2.0, rest_sd=5.0, broken=0.2),
    "3x10-broken-20%-alike": Nature(seed_sd=0.5, rest_sd=0.5, broken=0.2),
    "5x10-broken-20%-alike": Nature(seeds=5, seed_sd=0.5, rest_sd=0.5, broken=0.2),
    "3x10-outcomes": Nature(outcomes=True),
    "5x20-outcomes": Nature(seeds=5, episodes=20, outcomes=True),
    "3x2": Nature(episodes=2),
    "10x3": Nature(seeds=10, episodes=3),
    "10x10": Nature(seeds=10),
    # other variances than those the formulas were chosen on
    "4x10-seeds-0-episodes-40": Nature(seeds=4, seed_sd=0.0, rest_sd=40.0),
    "5x10-seeds-30-episodes-5": Nature(seeds=5, seed_sd=30.0, rest_sd=5.0),
    "10x10-seeds-15-episodes-5": Nature(seeds=10, seed_sd=15.0, rest_sd=5.0),
    "5x20-starts-40": Nature(seeds=5, episodes=20, seed_sd=0.0, start_sd=40.0, rest_sd=5.0),
    "4x10-falls-2%": Nature(seeds=4, seed_sd=1.0, rest_sd=1.0, falls=0.02),
    "5x20-falls-10%": Nature(seeds=5, episodes=20, seed_sd=3.0, falls=0.1),
    "5x10-tails": Nature(seeds=5, tails=2.0),
    "10x10-broken-30%": Nature(seeds=10, seed_sd=1.0, rest_sd=1.0, broken=0.3),
}
TASKS = 3  # of sweeps with an average row
CELLS = (1, 8, 64)
EFFECT = 20.0


def main() -> None:
    """Print all lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=1000, help="simulated sweeps for each line of one cell")
    parser.add_argument("--natures", nargs="+", choices=NATURES, help="of these scores only, without marks")
    options = parser.parse_args()
    sweeps, chosen = options.sweeps, options.natures
    for name, nature in NATURES.items():
        if chosen and name not in chosen:
            continue
        rng = np.random.default_rng([1, list(NATURES).index(name)])
        for cells in CELLS:
            count = max(20, int(sweeps / cells**0.25))
            report(f"FALSE sentence {name} cells={cells}", *false_sentences(rng, nature, cells, count))
            report(f"FOUND gain of {EFFECT:.0f} {name} cells={cells}", *found_gains(rng, nature, cells, count // 2))
        if not nature.outcomes and not nature.broken and not nature.tails:
            coverage(name, nature, rng, 2 * sweeps)
    if chosen:
        return
    for name in ("3x10", "5x10"):
        rng = np.random.default_rng([3, list(NATURES).index(name)])
        report(
            f"FALSE sentence {name} cells=8 tasks={TASKS}", *false_sentences(rng, NATURES[name], 8, sweeps // 4, TASKS)
        )
    for name in ("3x10", "5x10", "5x20"):
        rng = np.random.default_rng([2, list(NATURES).index(name)])
        for bases in (1, 8):
            marks(name, NATURES[name], rng, bases, max(20, sweeps // 4 // bases))
        compare_corrections(name, NATURES[name], rng, sweeps)


def report(name: str, hits: int, count: int) -> None:
    """Print a share."""
    print(f"{name} {100 * hits / count:.1f}")
    sys.stdout.flush()


def false_sentences(
    rng: np.random.Generator, nature: Nature, cells: int, sweeps: int, tasks: int = 1
) -> tuple[int, int]:
    """Return how many of the sweeps without effect have a sentence of gain or harm."""
    false = 0
    for _ in range(sweeps):
        said = verdicts(
            {TASK: planned(rng, cells, nature)} if tasks == 1 else planned_on_tasks(rng, cells, nature, tasks)
        )
        false += any(re.search(r"[:;] (gain|harm) shown for", sentence) is not None for sentence in said)
    return false, sweeps


def found_gains(rng: np.random.Generator, nature: Nature, cells: int, sweeps: int) -> tuple[int, int]:
    """Return in how many sweeps the one cell with an effect is named as gaining."""
    said = (verdicts({TASK: planned(rng, cells, nature, effects=(EFFECT,))})[0] for _ in range(sweeps))
    return sum(re.search(r"gain shown for [^;]*: cell 0 ", sentence) is not None for sentence in said), sweeps


def coverage(name: str, nature: Nature, rng: np.random.Generator, tables: int) -> None:
    """Print how often the intervals of a score hold the true mean."""
    fallen = 35.0
    truth = 70.0 * (1 - nature.falls) + fallen * nature.falls
    these = new = 0
    for _ in range(tables):
        policies = nature.seed_sd * rng.normal(size=(nature.seeds, 1))
        alike = Nature(nature.seeds, nature.episodes, 0.0, nature.start_sd, nature.rest_sd, nature.falls)
        own = Evidence((dict(enumerate(alike.scores(rng) + policies)),))
        centre = truth + float(policies.mean())
        episodes, seeds = own.for_these_policies(), own.for_new_seeds()
        assert episodes is not None
        assert seeds is not None
        these += episodes.low <= centre <= episodes.high
        new += seeds.low <= truth <= seeds.high
    report(f"COVER episodes {name}", these, tables)
    report(f"COVER new seeds {name}", new, tables)


def marks(name: str, nature: Nature, rng: np.random.Generator, bases: int, sweeps: int) -> None:
    """Print how often bases are marked that neither move nor differ from bc, and how often others are."""

    def shares(rise: float, above: float) -> tuple[int, int]:
        moving = below = 0
        for _ in range(sweeps):
            groups, curves = judged_bases(rng, bases, nature, rise=rise, above=above)
            rows = [group.row for group in mark_bases({TASK: groups}, curves)[0][TASK]]
            moving += any(bool(row.still_moving) for row in rows)
            below += any(bool(row.below_cloning) for row in rows)
        return moving, below

    moving, below = shares(0.0, 0.0)
    report(f"FALSE still moving {name} bases={bases}", moving, sweeps)
    report(f"FALSE below cloning {name} bases={bases}", below, sweeps)
    if bases == 1:
        report(f"FOUND still moving by {EFFECT:.0f} {name}", shares(EFFECT, 0.0)[0], sweeps)
        report(f"FOUND {EFFECT:.0f} below bc {name}", shares(0.0, -EFFECT)[1], sweeps)


def compare_corrections(name: str, nature: Nature, rng: np.random.Generator, sweeps: int) -> None:
    """Print the power of Holm's procedure and of a maximum statistic for eight cells that share a base."""
    cells = 8

    def statistics(effect: float) -> np.ndarray:
        gains = np.stack([nature.scores(rng).mean(1) for _ in range(cells)]) - nature.scores(rng).mean(1)
        gains[0] += effect
        return gains.mean(1) / (gains.std(1, ddof=1) / np.sqrt(nature.seeds))

    critical = np.quantile([np.abs(statistics(0.0)).max() for _ in range(10 * sweeps)], 0.95)
    by_holm = by_max = 0
    for _ in range(sweeps):
        t = statistics(EFFECT)
        by_holm += holm(list(2 * stats.t.sf(np.abs(t), nature.seeds - 1)))[0]
        by_max += abs(t[0]) > critical
    report(f"HOLM gain of {EFFECT:.0f} {name} cells={cells}", by_holm, sweeps)
    report(f"MAX gain of {EFFECT:.0f} {name} cells={cells}", by_max, sweeps)


if __name__ == "__main__":
    main()
