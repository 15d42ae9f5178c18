"""`rift`: two sides of up to five heroes, lanes, waves, towers and an ancient to destroy.

Numba keeps compiled kernels beside the sources and looks at the file of each kernel alone: a change of `rules.py`
would go unnoticed by kernels of other files that read it. So what was compiled from other sources is removed here,
before any kernel is loaded.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path


def _forget_other_sources() -> None:
    folder = Path(__file__).parent
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(folder.glob("*.py")))).hexdigest()
    stamp = folder / "__pycache__" / "kernels.sha256"
    with contextlib.suppress(OSError):  # a folder that cannot be written keeps no kernels either
        if stamp.exists() and stamp.read_text(encoding="ascii") == digest:
            return
        for kernel in [*stamp.parent.glob("*.nbi"), *stamp.parent.glob("*.nbc")]:
            kernel.unlink(missing_ok=True)
        stamp.parent.mkdir(exist_ok=True)
        stamp.write_text(digest, encoding="ascii")


_forget_other_sources()
