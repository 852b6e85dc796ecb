"""What is said of a process that was lost, and when its pack is not to blame; the messages are those of Ray 2.60."""

import pytest

from cluster.ray.deaths import death, death_line

HEAD = """The actor died unexpectedly before finishing this task.
\tclass_name: Worker
\tactor_id: 5b60b3c5bbdf5ba4a0f1ac1f01000000
\tpid: 4711
\tnamespace: 3f9c
\tip: 10.0.0.7
"""
NODE = "The actor died because its node has died. Node Id: 3a7f\n\tthe actor's node was terminated"
WORKER = (
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker"
    " unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process was"
    " killed by the OOM killer due to high memory usage, (2) ray stop --force was called, (3) the worker crashed"
    " unexpectedly due to SIGSEGV or other unexpected errors."
)
SILENT = (
    "The actor ad0fc96036bc9d3741b418eb01000000 is unavailable: The actor is temporarily unavailable: RpcError: RPC"
    " error: Socket closed rpc_code: 14. The task may or may not have been executed on the actor."
)
STARVED = "Task was killed due to the node running low on memory.\nMemory on the node (IP: 10.0.0.7, ID: 3a7f) where …"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f"{HEAD}{NODE} unexpectedly: health check failed due to missing too many heartbeats", "its node was lost"),
        (f"{HEAD}{NODE} expectedly: received SIGTERM", "its node was lost"),
        (
            f"{HEAD}The actor died because its node has died.\n\tthe actor's node was preempted: spot",
            "its node was preempted",
        ),
        (f"{HEAD}Worker exit detail: The process receives a SIGTERM.", "the worker was told to end (SIGTERM)"),
        ("ray.exceptions.NodeDiedError: Task failed due to the node dying.", "its node was lost"),
        (SILENT, "the worker does not answer (its node or the network was lost)"),
    ],
)
def test_who_is_lost_with_a_node_or_told_to_end_is_not_to_blame(text: str, line: str) -> None:
    failure = death(text, "log", kernel_killed=lambda address: pytest.fail("nobody need be asked"))
    assert (failure.error, failure.log) == (line, "log")
    assert (failure.lost, failure.of_the_machine, failure.out_of_memory) == (True, True, False)


def test_a_worker_that_is_killed_may_be_to_blame() -> None:
    for text in (HEAD + WORKER, STARVED, "ray::Worker.__init__()\nOSError: no torch"):
        assert not death(text, "log").lost
    assert death_line(HEAD + WORKER) == "the worker died (killed, out of memory, or it crashed)"


def test_a_kill_by_the_kernel_is_told_from_others_by_the_count_of_its_node() -> None:
    by_kernel = death(HEAD + WORKER, "log", kernel_killed=lambda address: address == "10.0.0.7")
    assert by_kernel.error.startswith("the kernel has killed processes on 10.0.0.7 for want of memory, probably this")
    assert "resources.concurrency" in by_kernel.error
    assert (by_kernel.out_of_memory, by_kernel.of_the_machine, by_kernel.lost) == (True, True, False)
    other = death(HEAD + WORKER, "log", kernel_killed=lambda address: False)
    assert (other.out_of_memory, other.of_the_machine) == (False, True)


def test_running_out_of_memory_says_what_to_do() -> None:
    failure = death(STARVED, "log")
    assert failure.error.startswith("the worker ran out of memory: run fewer at once (resources.concurrency), ")
    assert failure.out_of_memory


def test_an_error_before_the_pack_begins_is_said_in_its_own_words() -> None:
    text = "The actor died because of an error raised in its creation task, ray::Worker.__init__()\nOSError: no torch"
    assert death_line(text) == "OSError: no torch"


def test_a_lost_worker_is_said_whatever_ray_says_of_it() -> None:
    assert death_line("The actor died unexpectedly\nbefore finishing").startswith("the worker died (killed")
    assert death_line("something else\n…") == "something else"
    assert death_line("") == "no reason is known"
