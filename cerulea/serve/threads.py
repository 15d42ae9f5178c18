"""The environment that the process of an engine starts with, so that its threads do not wait for one another.

In:      how many threads the engine may use.
Out:     variables, to be set before the process starts: the libraries read them when they are loaded.
Not here: starting it (`flows`).
"""

from __future__ import annotations

from cerulea.core.cores import usable_threads


def engine_environment(threads: int = 0) -> dict[str, str]:
    """Variables for an engine's process.

    A compiled step is one parallel region: its threads meet the library's barrier once, and share parts among
    themselves in between (`turns`). Threads that wait there at once have to be woken for each token, those that spin
    long lose nearly everything beside a busy process; spinning briefly is within noise of the best on both. The
    compiled step does not use torch's threads.
    """
    count = str(threads or usable_threads())
    return {
        "OMP_NUM_THREADS": count,
        "NUMBA_NUM_THREADS": count,
        "NUMBA_THREADING_LAYER": "omp",
        "GOMP_SPINCOUNT": "2000",
        "OMP_DYNAMIC": "FALSE",
    }
