"""`rift`: two sides of up to five heroes, lanes, waves, towers and an ancient to destroy.

Its kernels read one another's files: those of other sources are forgotten before any is loaded (`core.kernels`).
"""

from __future__ import annotations

from pathlib import Path

from numba import njit

from cerulea.core.kernels import forget_other_sources


@njit(cache=True)
def _probe():
    """Never compiled: it is here to be asked in which folder Numba keeps the kernels of this one."""


forget_other_sources(Path(__file__).parent.glob("*.py"), Path(_probe.stats.cache_path))
