"""What became of a process that was lost, in one line, and whether its pack is to blame: from Ray's message."""

import re
from collections.abc import Callable

from cluster.work import PackFailure

__all__ = ["death", "death_line"]

STARVED = ("OutOfMemory", "running low on memory")  # what Ray says of a process that it killed to free memory
KILLED = "worker process has died"  # and of one that ended without a word
# and of one that a scheduler, or whoever takes the machine back, has told to end
TOLD_TO_END = "receives a SIGTERM"
NODE_GONE = re.compile(r"\bnode has died|\bnode was (?:terminated|preempted)|NodeDiedError")  # and of one whose node is
# and of one that does not answer, as in the seconds until it is known that its node is gone
SILENT = re.compile(r"\bactor \w+ is (?:temporarily )?unavailable|ActorUnavailableError")
BY_PREEMPTION = re.compile(r"\bnode was (?:forcibly )?preempted")
MEND = "run fewer at once (resources.concurrency), stack fewer seeds (resources.seeds_per_pack), or shrink the batch"


def death(text: str, log: str, kernel_killed: Callable[[str], bool] = lambda address: False) -> PackFailure:
    """Return the failure of a pack whose process was lost.

    Args:
        text: Ray's message.
        log: where it can be read.
        kernel_killed: whether the kernel has killed processes for want of memory on the node at an IP address.
    """
    starved, lost = any(sign in text for sign in STARVED), _is_lost(text)
    address = re.search(r"^\s*ip: (\S+)$", text, re.MULTILINE)
    by_itself = KILLED in text and not starved and not lost
    if by_itself and address and kernel_killed(address[1]):
        line = f"the kernel has killed processes on {address[1]} for want of memory, probably this one: {MEND}"
        return PackFailure(line, log, of_the_machine=True, out_of_memory=True)
    return PackFailure(death_line(text), log, of_the_machine=True, out_of_memory=starved, lost=lost)


def death_line(text: str) -> str:
    """Return in one line what happened to a process that was lost, from Ray's message."""
    if any(sign in text for sign in STARVED):
        return f"the worker ran out of memory: {MEND}"
    if BY_PREEMPTION.search(text):
        return "its node was preempted"
    if TOLD_TO_END in text:
        return "the worker was told to end (SIGTERM)"
    if NODE_GONE.search(text):
        return "its node was lost"
    if SILENT.search(text):
        return "the worker does not answer (its node or the network was lost)"
    lines = text.strip().splitlines() or ["no reason is known"]
    if "ray::" in text:  # the traceback of an error that was raised outside the pack
        return lines[-1]
    if "actor" in text:
        return "the worker died (killed, out of memory, or it crashed)"
    return lines[0]


def _is_lost(text: str) -> bool:
    """Return whether the process ended with its node, or because it was told to: as good as ever not by its pack."""
    return TOLD_TO_END in text or any(sign.search(text) for sign in (NODE_GONE, SILENT))
