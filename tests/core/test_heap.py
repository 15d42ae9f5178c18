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


@pytest.mark.skipif(heap._library() is None, reason="the C library has no malloc_trim")
def test_what_threads_have_freed_is_given_back():
    grown = {}
    for how in ("small", "as it is"):
        done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        grown[how] = float(done.stdout)

    assert grown["small"] <= 15 < grown["as it is"]


def test_elsewhere_nothing_is_done(monkeypatch: pytest.MonkeyPatch):
    def none(name: Any) -> Any:
        raise OSError("no such library")

    monkeypatch.setattr(ctypes, "CDLL", none)

    assert not heap.trim()
    heap.keep_small()
