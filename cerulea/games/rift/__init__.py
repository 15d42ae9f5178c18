"""`rift`: two sides of up to five heroes, lanes, waves, towers and an ancient to destroy.

Numba keeps compiled kernels and looks, for each, at the one file in which it is written: a change of `rules.py` would
go unnoticed by kernels of other files that read it. So what was compiled from other sources is removed here, before
any kernel is loaded, from wherever Numba keeps it: beside the sources, or in the folder that NUMBA_CACHE_DIR names.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

from numba import njit


@njit(cache=True)
def _probe():
    """Never compiled: it is here to be asked in which folder Numba keeps the kernels of this one."""


def forget_other_sources(sources: Path, kernels: Path) -> None:
    """Remove the kernels that were compiled from anything else than what the sources say now.

    Args:
        sources: a folder of Python files that read one another.
        kernels: where Numba keeps what it compiled of them; made where it is missing.
    """
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(sources.glob("*.py")))).hexdigest()
    stamp = kernels / "kernels.sha256"
    with contextlib.suppress(OSError):  # a folder that cannot be written keeps no kernels either
        if stamp.exists() and stamp.read_text(encoding="ascii") == digest:
            return
        for kernel in [*kernels.glob("*.nbi"), *kernels.glob("*.nbc")]:
            kernel.unlink(missing_ok=True)
        kernels.mkdir(parents=True, exist_ok=True)
        stamp.write_text(digest, encoding="ascii")


def are_compiled(*, scripted: bool) -> bool:
    """Whether Numba keeps the kernels of a match, with `scripted` also of bots; else they compile when first run."""
    names = ("env._begin_all", "env._show", "env._step", *(("bots.script_all",) if scripted else ()))
    return all(any(Path(_probe.stats.cache_path).glob(f"{name}-*.nbi")) for name in names)


forget_other_sources(Path(__file__).parent, Path(_probe.stats.cache_path))
