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


def are_compiled(*, scripted: bool) -> bool:
    """Whether Numba keeps the kernels of a match, with `scripted` also of bots; else they compile when first run."""
    names = ("env._begin_all", "env._show", "env._step", *(("bots.script_all",) if scripted else ()))
    return all(any(Path(_probe.stats.cache_path).glob(f"{name}-*.nbi")) for name in names)
