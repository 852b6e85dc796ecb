"""Units by the words that `sweep status` shows of them, and their logs."""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from cluster.store import Store
from mpcwdwm.errors import UserError, did_you_mean
from sweeps.watching.status import SweepStatus, UnitStatus

__all__ = ["follow_log", "logs_of", "named"]

LOOK_EVERY = 2.0  # seconds
SEED = re.compile(r"\b(?:training )?(?:seeds?[ =]?|s)(\d+)\b", re.IGNORECASE)


def named(status: SweepStatus, descriptions: Sequence[str]) -> list[UnitStatus]:
    """Return the units that are described, all of them if nothing is.

    A description is the beginning of a key, or words: each is part of the task's name, or a word of the unit's.

    Raises:
        UserError: a description fits no unit.
    """
    if not descriptions:
        return list(status.units)
    found: dict[str, UnitStatus] = {}
    for description in descriptions:
        fitting = [one for one in status.units if one.unit.key.startswith(description)]
        fitting = fitting or [one for one in status.units if _fits(one, description)]
        if not fitting:
            words = {word for one in status.units for word in (one.unit.task, *one.unit.name.split())}
            hint = "".join(did_you_mean(w, words) for w in SEED.sub(" ", description).split() if w not in words)
            raise UserError(
                f"no unit of sweep {status.sweep} is called '{description}'{hint}; `sweep status` shows them"
            )
        found |= {one.unit.key: one for one in fitting}
    return list(found.values())


def logs_of(status: SweepStatus, descriptions: Sequence[str], store: Store) -> Iterator[str]:
    """Yield the logs of the units that are described, each once under the names of its units; by default all failed."""
    chosen = named(status, descriptions)
    if not descriptions:
        chosen = [one for one in chosen if one.error]
    logs: dict[str, list[UnitStatus]] = {}
    for one in chosen:
        logs.setdefault(_log_name(one), []).append(one)
    for name, units in logs.items():
        if text := store.read_log(name) if name else None:
            yield f"{_names(units)}\n{text.rstrip()}\n"
        else:
            yield from (f"{_names([one])}: {one.state}{_progress(one)}, no log" for one in units)
    if not logs:
        yield "nothing has failed: there are no logs"


def follow_log(
    look: Callable[[], SweepStatus],
    descriptions: Sequence[str],
    store: Store,
    say: Callable[[str], None] = print,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Print a unit's log and how far it is, and go on until it does not run any more, or Ctrl-C.

    Raises:
        UserError: the description does not name one unit (or some that are computed together).
    """
    printed, said = 0, ""
    while True:
        status = look()
        units = named(status, descriptions)
        if not descriptions or len({(one.unit.task, one.unit.name) for one in units}) > 1:
            raise UserError(f"--follow: name one unit, by task, method and seed; {len(units)} are meant")
        one = units[0]
        text = store.read_log(name) if (name := _log_name(one)) else None
        if text and len(text) > printed:
            say(text[printed:].rstrip())
            printed = len(text)
        line = f"{_names([one])}: {one.state}{_progress(one)}"
        if line != said:
            say(line)
            said = line
        if one.state != "running" and not (one.state == "new" and status.runs):
            return
        try:
            sleep(LOOK_EVERY)
        except KeyboardInterrupt:
            return


def _fits(one: UnitStatus, description: str) -> bool:
    seeds = {int(found) for found in SEED.findall(description)}
    words = SEED.sub(" ", description).replace("·", " ").lower().split()
    own = one.unit.name.lower().split()
    return (not seeds or one.unit.seed in seeds) and all(word in one.unit.task.lower() or word in own for word in words)


def _log_name(one: UnitStatus) -> str:
    """Return the name of a unit's log: that of the failure, or of the pack in which it runs; "" if there is none."""
    return one.log.rsplit("/", 1)[-1].removesuffix(".log") if one.log else one.pack


def _names(units: Iterable[UnitStatus]) -> str:
    return ", ".join(str(one.unit) for one in units)


def _progress(one: UnitStatus) -> str:
    where = f" on {one.host}" if one.host else ""
    return f"{where}, {100 * one.fraction:.0f} %" if one.fraction is not None else where
