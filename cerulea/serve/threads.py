"""The environment that the process of an engine starts with, so that its threads do not wait for one another.

In:      how many threads the engine may use.
Out:     variables, to be set before the process starts: the libraries read them when they are loaded.
Not here: starting it (`flows`).
"""

from __future__ import annotations

from cerulea.core.cores import usable_threads


def engine_environment(threads: int = 0) -> dict[str, str]:
    """Variables for an engine's process.

    The compiled step has about sixty parallel parts for each token of a twelve-layer model. Threads that spin between
    them win a little on an idle machine and lose nearly everything beside a busy process: two spinning threads wrote 13
    tokens a second where waiting ones wrote 91 (GPT-2 124M, bf16, one row, two cores that others used too). The
    compiled step does not use torch's threads, so the two pools never wait for one another.
    """
    count = str(threads or usable_threads())
    return {
        "OMP_NUM_THREADS": count,
        "NUMBA_NUM_THREADS": count,
        "NUMBA_THREADING_LAYER": "omp",
        "OMP_WAIT_POLICY": "PASSIVE",
        "OMP_DYNAMIC": "FALSE",
    }
