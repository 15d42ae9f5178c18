"""How much memory this process may use: the machine's, or less where a control group allows less.

Source: the kernel's Documentation/admin-guide/cgroup-v2.rst (memory.max, memory.high) and cgroup-v1/memory.rst.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

GROUPS, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
# Beyond the second the kernel slows a process down until it stands still.
LIMITS: tuple[str, ...] = ("memory.max", "memory.high")
LIMITS_1: tuple[str, ...] = ("memory.limit_in_bytes",)


def usable_memory(groups: Path = GROUPS, own: Path = OWN) -> int:
    """Bytes: the smallest of the machine's and of the limits of this process's control groups."""
    return min([physical_memory(), *_limits(groups, own)])


def physical_memory() -> int:
    """Bytes of this machine; 0 where the system does not say."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0


def _limits(groups: Path, own: Path) -> Iterator[int]:
    """Every limit between the process's group and the root; a container may see its own group as the root."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, names, path = line.split(":", 2)
        if names == "":  # version 2
            root, files = groups, LIMITS
        elif "memory" in names.split(","):
            root, files = groups / "memory", LIMITS_1
        else:
            continue
        place = root / path.strip("/")
        for folder in (place, *place.parents):
            if folder != root and root not in folder.parents:
                break
            for name in files:
                if (found := _read(folder / name)) is not None:
                    yield found


def _read(file: Path) -> int | None:
    """A limit; None where there is none, such as `max`."""
    try:
        text = file.read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() and int(text) > 0 else None
