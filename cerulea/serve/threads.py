"""The environment that the process of an engine starts with, so that its threads do not wait for one another.

In:      how many threads the engine may use.
Out:     variables, to be set before the process starts: the libraries read them when they are loaded.
Not here: starting it (`flows`).
"""

from __future__ import annotations

from cerulea.core.cores import usable_threads


def engine_environment(threads: int = 0) -> dict[str, str]:
    """Variables for an engine's process.

    The compiled step has about sixty short parallel parts for each token. Numba's OpenMP layer hands them over in about
    a microsecond because its threads spin between them; the spinning is short, so that an engine without work, or
    beside a busy server, gives its cores back. torch's threads are not used by the compiled step.
    """
    count = str(threads or usable_threads())
    return {
        "OMP_NUM_THREADS": count,
        "NUMBA_NUM_THREADS": count,
        "NUMBA_THREADING_LAYER": "omp",
        "GOMP_SPINCOUNT": "20000",
        "OMP_DYNAMIC": "FALSE",
    }
