"""The C library's heap in a process that runs for long: what was freed goes back to the system.

Why:     every thread takes from an arena of its own, up to eight for each core, and what is freed in the middle of one
         stays the process's. A server with twenty threads that held 25 MB so kept 60 MB more, and ever more of it.
         SQLite takes 88 KB for the pages of each transaction that reads: small things settle in it when it is free, so
         that the next one needs new memory. Had from the system each time, such blocks leave no holes.
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
APART = 64 << 10  # bytes from which on a server has a block from the system, and gives it back at once
_M_ARENA_MAX, _M_MMAP_THRESHOLD = -8, -3


def keep_small(every_s: float = TRIM_S, arenas: int = ARENAS, apart: int = 0) -> None:
    """Use few arenas from now on, and give back what is free now and then, in a thread that ends with the process.

    To be called before the process has many threads: arenas that there are stay.

    Args:
        apart: bytes from which on a block is had from the system; 0 lets the library choose, which raises its bound
            to the largest block that was ever freed. A block then costs some 10 µs: each read of a socket by asyncio is
            one of 256 KB that is cut to what came, and would leave a hole too.
    """
    library = _library()
    if library is None:
        return
    library.mallopt(_M_ARENA_MAX, arenas)
    if apart:
        library.mallopt(_M_MMAP_THRESHOLD, apart)

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
