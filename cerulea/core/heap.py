"""The C library's heap in a process that runs for long: what was freed goes back to the system.

Why:     every thread takes from an arena of its own, up to eight for each core, and what is freed in the middle of one
         stays the process's. A server with twenty threads that held 25 MB so kept 60 MB more, and ever more of it.
Kept:    Python's own memory and what is in use are left as they are; on a system without these calls nothing is done.
Source:  mallopt(3), malloc_trim(3) of the GNU C library.
"""

from __future__ import annotations

import ctypes
import threading
import time
from typing import Any

ARENAS = 2  # threads of Python mostly allocate one at a time; SQLite's wait for the disk more than for one another
TRIM_S = 20.0  # between two trims
_M_ARENA_MAX = -8


def keep_small(every_s: float = TRIM_S, arenas: int = ARENAS) -> None:
    """Use few arenas from now on, and give back what is free now and then, in a thread that ends with the process.

    To be called before the process has many threads: arenas that there are stay.
    """
    library = _library()
    if library is None:
        return
    library.mallopt(_M_ARENA_MAX, arenas)

    def work() -> None:
        while True:
            time.sleep(every_s)
            trim()

    threading.Thread(target=work, name="heap", daemon=True).start()


def trim() -> bool:
    """Give the pages of freed memory back; whether there were any. Others may run, and allocate, meanwhile."""
    library = _library()
    return library is not None and bool(library.malloc_trim(0))


def _library() -> Any:
    """The C library of this process, where it has both calls."""
    try:
        library = ctypes.CDLL(None)  # its calls let Python's other threads run
    except (OSError, TypeError):
        return None
    return library if hasattr(library, "malloc_trim") and hasattr(library, "mallopt") else None
