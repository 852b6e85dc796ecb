"""What becomes of a large sweep on many workers, from what the driver takes: the part `simulate` of `scale.py`.

One thread serves all workers, event by event, as Ray Tune's controller does; another records what has ended. The costs
are those that the parts `limits` and `records` measure.
"""

import heapq
import itertools
import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from sweeps.execution.search_algorithm import BEAT, BEATS_PER_SECOND

SEEDS = 5  # of a pack
# Seconds of packs of ten episodes of 1,000 steps, of `planning.py` and `prediction.py` on one core: frozen policies,
# and planners of growing H, E and M. No GPU was at hand; on one they are the same work, in less time.
MEASURED = (3, 20, 28, 69, 255)
SPREAD = (0.8, 1.25)  # about each of them
PROCESSES_PER_GPU = 4
GPUS = (64, 1000)
CELLS = 100_000
MEANS = (30, 75, 300, 1200)  # seconds of a pack


def lasting(packs: int, mean: float, *, longest_first: bool = False) -> list[float]:
    """Return how long packs last, in the order in which they are handed out; the driver knows their kinds alone."""
    draw = random.Random(0)
    kinds = [draw.choice(MEASURED) for _ in range(packs)]
    known = [(kind, mean / statistics.fmean(MEASURED) * kind * draw.uniform(*SPREAD)) for kind in kinds]
    return [seconds for _, seconds in (sorted(known, key=lambda pair: -pair[0]) if longest_first else known)]


@dataclass(frozen=True)
class Costs:
    """What the driver takes, in seconds of one core; from `limits` and `records`."""

    event: float = 0.001  # of Tune, beside
    waiting: float = 4.5e-7  # for each actor, in `ray.wait`
    pack: float = 0.005  # at the end of a pack: the trial that ends, the one that follows, the driver's notes
    record: float = 0.015  # of a unit in MLflow
    beside_records: float = 2.0  # by what an event takes longer while units are recorded
    answer: float = 0.003  # from a question to an actor to its answer


@dataclass(frozen=True)
class Simulated:
    """What came out of a simulation."""

    wall: float  # seconds until the last pack has ended
    ideal: float  # without any pause
    gap: float  # mean seconds between two packs of a slot
    busy: float  # share of the time in which Tune's thread works
    recorded: float  # seconds until the last unit is recorded
    events: int


def simulate(seconds: Sequence[float], slots: int, costs: Costs, beat: float, units: int = SEEDS) -> Simulated:
    """Let packs run on slots that one thread serves, event by event, as Tune does.

    Args:
        seconds: of each pack, in the order in which they are handed out.
        slots: how many run at a time.
        costs: of the driver.
        beat: seconds between two signs of life of a pack.
        units: recorded after each pack.
    """
    each = costs.event + costs.waiting * slots
    todo, order = iter(seconds), itertools.count()
    free = recorded = worked = last = paused = 0.0
    events = 0
    due = [(0.0, next(order), "begin", 0.0) for _ in range(min(slots, len(seconds)))]
    while due:
        moment, _, what, end = heapq.heappop(due)
        cost = each + (costs.pack if what == "end" else 0.0)
        begun = max(moment, free)
        free = begun + cost * (costs.beside_records if recorded > begun else 1.0)
        worked, events = worked + free - begun, events + 1
        if what == "end":
            last, recorded = max(last, end), max(recorded, free) + units * costs.record
            heapq.heappush(due, (free + costs.answer, next(order), "begin", end))
            continue
        if what == "begin":
            own = next(todo, None)
            if own is None:
                continue
            paused, end = paused + free - end, free + own
        over = end - free <= beat
        heapq.heappush(due, (max(free, end) if over else free + beat, next(order), "end" if over else "beat", end))
    ideal = max(sum(seconds) / slots, max(seconds))
    return Simulated(last, ideal, paused / len(seconds), worked / last, max(last, recorded), events)


FREE = Costs(event=0.0, waiting=0.0, pack=0.0, record=0.0, answer=0.0)


def simulate_all() -> None:
    """Print what becomes of 100,000 cells."""
    check()
    few = BEAT
    for gpus, mean in itertools.product(GPUS, MEANS):
        slots = gpus * PROCESSES_PER_GPU
        many = max(BEAT, slots / BEATS_PER_SECOND)
        print(f"{gpus} GPUs, packs of {mean} s: of the ideal; gap; Tune's thread; recorded, units a second; events")
        for name, costs, beat, seeds, longest_first in (
            ("nothing costs", FREE, math.inf, SEEDS, False),
            ("before", Costs(), few, SEEDS, False),
            ("today", Costs(), many, SEEDS, True),
            ("a pack for each seed", Costs(), many, 1, True),
        ):
            seconds = lasting(CELLS // seeds, mean * seeds / SEEDS, longest_first=longest_first)
            found = simulate(seconds, slots, costs, beat, seeds)
            print(
                f"  {name:<22} {found.ideal / found.wall:.3f} of {found.ideal:6.0f} s; {found.gap:6.2f} s;"
                f" {found.busy:.2f}; {found.recorded:6.0f} s, {CELLS / found.recorded:.0f}; {found.events}",
                flush=True,
            )


def check() -> None:
    """Hold the simulation to what is known without it."""
    seconds = lasting(200, 10.0)
    alone = simulate(seconds, 1, FREE, math.inf)
    assert math.isclose(alone.wall, sum(seconds)), "one worker takes the sum"
    many = simulate(seconds, 200, FREE, math.inf)
    assert math.isclose(many.wall, max(seconds)), "a worker for each takes the longest"
    paced = simulate(seconds, 1, Costs(event=0.5, waiting=0.0, pack=1.0, record=0.0, answer=0.25), math.inf)
    # Of each pack its begin (0.5), its end (1.5) and an answer; before the first no answer, after the last nothing.
    assert math.isclose(paced.wall, sum(seconds) + 200 * 0.5 + 199 * 1.75), "one worker waits for each of its events"
    busy = simulate([0.0] * 5000, 100, Costs(event=0.01, waiting=0.0, pack=0.03, record=0.0, answer=0.0), math.inf)
    assert math.isclose(busy.busy, 1.0, rel_tol=0.03), "packs of nothing keep Tune's thread busy"
    late = simulate([1.0] * 100, 100, Costs(event=0.0, waiting=0.0, pack=0.0, record=1.0, answer=0.0), math.inf, 5)
    assert math.isclose(late.recorded, 501.0), "units are recorded one after the other"
