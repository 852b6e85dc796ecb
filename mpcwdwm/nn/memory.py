"""Freed memory of a process that trains or plans on a CPU stays in the process.

The temporaries of an update are allocated and freed again at each update. glibc hands blocks of that size back to the
kernel, which clears their pages again at each use: with five stacked seeds of 3 × 256 and batch 1024 that is 2,000
page faults per update, and 10 to 30 % of its time (docs/benchmarks.md). Results do not depend on it.
"""

import ctypes
import functools
import platform

__all__ = ["keep_freed_memory"]

# Parameters of mallopt(3).
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
MOST_KEPT = 512 * 2**20  # bytes, free at the end of the heap
LARGEST_BLOCK = 64 * 2**20  # bytes; larger ones go back, since they would leave gaps that nothing else fills


@functools.cache
def keep_freed_memory() -> bool:
    """Let glibc keep what this process frees, up to `MOST_KEPT` bytes; return whether the C library could be told.

    Other C libraries are left as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    tell = ctypes.CDLL(None).mallopt
    return bool(tell(MMAP_THRESHOLD, LARGEST_BLOCK)) and bool(tell(TRIM_THRESHOLD, MOST_KEPT))
