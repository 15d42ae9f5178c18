"""How many CPU cores this process may use."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Cores that the system lets this process run on; all of the machine's where it does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_threads() -> int:
    """CPU threads that OMP_NUM_THREADS allows, or one for each usable core."""
    given = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]  # a list sets nested levels; the first is ours
    return (int(given) if given.isascii() and given.isdigit() else 0) or usable_cores()
