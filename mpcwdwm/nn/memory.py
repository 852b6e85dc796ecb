"""Freed memory of a process that trains or plans on a CPU stays in the process.

The temporaries of an update are allocated and freed again at each update. glibc hands blocks of that size back to the
kernel, which clears their pages again at each use: with five stacked seeds of 3 × 256 and batch 1024 that is 2,000
page faults per update, and 10 to 30 % of its time (docs/benchmarks.md). Results do not depend on it.

What one training has left behind, another of other sizes fills badly. So it goes back to the kernel between the two.
"""

import ctypes
import functools
import gc
import platform

__all__ = ["keep_freed_memory", "return_freed_memory"]

# Parameters of mallopt(3).
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
MOST_KEPT = 512 * 2**20  # bytes, free at the end of the heap
LARGEST_BLOCK = 64 * 2**20  # bytes; larger ones go back, since they would leave gaps that nothing else fills


@functools.cache
def keep_freed_memory() -> bool:
    """Let glibc keep what this process frees, up to `MOST_KEPT` bytes; return whether the C library could be told.

    Other C libraries are left as they are.
    """
    if not _is_glibc():
        return False
    tell = ctypes.CDLL(None).mallopt
    return bool(tell(MMAP_THRESHOLD, LARGEST_BLOCK)) and bool(tell(TRIM_THRESHOLD, MOST_KEPT))


def return_freed_memory() -> None:
    """Hand the kernel all that this process has freed, once a piece of work is done."""
    gc.collect()
    if _is_glibc():
        ctypes.CDLL(None).malloc_trim(0)


@functools.cache
def _is_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"
