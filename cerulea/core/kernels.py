"""Kernels that Numba keeps on disk, and what they were compiled from.

For each kernel Numba looks at the one file in which it is written: a change of another file that was compiled into it,
such as one of rules, would go unnoticed. A package whose kernels read other files removes here, before any kernel is
loaded, what was compiled from other sources, from wherever Numba keeps it: beside the sources, or in the folder that
NUMBA_CACHE_DIR names.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable
from pathlib import Path


def forget_other_sources(sources: Iterable[Path], kernels: Path) -> None:
    """Remove the kernels that were compiled from anything else than what the sources say now.

    Args:
        sources: Python files that are compiled into one another.
        kernels: where Numba keeps what it compiled of them; made where it is missing.
    """
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(sources))).hexdigest()
    stamp = kernels / "kernels.sha256"
    with contextlib.suppress(OSError):  # a folder that cannot be written keeps no kernels either
        if stamp.exists() and stamp.read_text(encoding="ascii") == digest:
            return
        for kernel in [*kernels.glob("*.nbi"), *kernels.glob("*.nbc")]:
            kernel.unlink(missing_ok=True)
        kernels.mkdir(parents=True, exist_ok=True)
        stamp.write_text(digest, encoding="ascii")
