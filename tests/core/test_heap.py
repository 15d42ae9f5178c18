"""What a process with many threads has freed is the system's again."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from typing import Any

import pytest

from cerulea.core import heap

# Eight threads take a hundred megabytes in small pieces, and keep each hundredth, so that no arena is ever empty.
PROGRAM = """
import sys, threading, time
from cerulea.core import heap

def resident_mb():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1000

kept = []

def work():
    pieces = [bytes(3000 + 8 * (n % 100)) for n in range(4000)]
    kept.extend(pieces[::100])

if sys.argv[1] == "small":
    heap.keep_small(every_s=0.02)
before = resident_mb()
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
deadline = time.monotonic() + (20 if sys.argv[1] == "small" else 0.5)
while resident_mb() - before > 15 and time.monotonic() < deadline:
    time.sleep(0.02)
print(resident_mb() - before)
"""


# Takes 300 times 90 KB after a larger block has been freed, and tells how many blocks more the system has lent. Holes
# that there are in the heap are filled first.
APART = """
import ctypes, sys
from cerulea.core import heap

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks".split() + list("abcdef")]

library = ctypes.CDLL(None)
library.mallinfo2.restype = Info
heap.keep_small(apart=int(sys.argv[1]))
large = bytearray(1 << 20)
del large
before = library.mallinfo2().hblks
kept = [bytearray(90_000) for _ in range(300)]
print(library.mallinfo2().hblks - before)
"""

needs_calls = pytest.mark.skipif(heap._library() is None, reason="the C library has no malloc_trim")
needs_counts = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="glibc before 2.33 tells no counts"
)


@needs_calls
def test_what_threads_have_freed_is_given_back():
    grown = {}
    for how in ("small", "as it is"):
        done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        grown[how] = float(done.stdout)

    assert grown["small"] <= 15 < grown["as it is"]


@needs_counts
def test_blocks_of_some_size_are_had_from_the_system_also_after_a_larger_one():
    lent = {}
    for apart in (heap.APART, 0):
        done = subprocess.run([sys.executable, "-c", APART, str(apart)], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        lent[apart] = int(done.stdout)

    assert lent[heap.APART] > 200
    assert lent[0] == 0


def test_elsewhere_nothing_is_done(monkeypatch: pytest.MonkeyPatch):
    def none(name: Any) -> Any:
        raise OSError("no such library")

    monkeypatch.setattr(ctypes, "CDLL", none)

    assert not heap.trim()
    heap.keep_small()
