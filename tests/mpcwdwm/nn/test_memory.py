"""Memory freed while training or planning is used again, without new pages from the kernel."""

import platform
import subprocess
import sys

import pytest

# Blocks of 40 MB, which glibc takes from the kernel each time unless told otherwise: three alive at a time, 20 in turn.
PROGRAM = """
import resource, torch
from mpcwdwm.nn.compute import arithmetic
from mpcwdwm.nn.compute_config import ComputeConfig

def page_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        blocks = [torch.empty(10_000_000).fill_(1.0) for _ in range(3)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

page_faults()
outside = page_faults()
with arithmetic(ComputeConfig(), "mkl"):
    page_faults()
    print(outside, page_faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library allocates in its own way")
def test_blocks_freed_under_arithmetic_are_used_again() -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    outside, inside = map(int, run.stdout.split())
    assert outside > 500, "the test allocates in a way that shows nothing"
    assert inside < 100


# Many blocks of 8 MB with small ones between them that live on: the heap cannot shrink at its end.
GAPS = """
import psutil, torch
from mpcwdwm.nn.memory import keep_freed_memory, return_freed_memory

keep_freed_memory()
blocks, between = [], []
for _ in range(40):
    blocks.append(torch.empty(2_000_000).fill_(1.0))
    between.append(torch.empty(1_000).fill_(1.0))
held = psutil.Process().memory_info().rss
blocks.append(blocks)  # a cycle, which the collector has to find
del blocks
kept = psutil.Process().memory_info().rss
return_freed_memory()
print(held, kept, psutil.Process().memory_info().rss)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library allocates in its own way")
def test_what_a_piece_of_work_has_freed_goes_back_to_the_kernel() -> None:
    run = subprocess.run([sys.executable, "-c", GAPS], capture_output=True, text=True, check=True)
    held, kept, returned = (int(number) / 2**20 for number in run.stdout.split())
    assert held - kept < 50, "the test frees in a way that shows nothing"
    assert held - returned > 250  # of 320 MB
