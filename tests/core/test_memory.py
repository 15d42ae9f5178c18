"""The memory that a process may use is the machine's, or less where a control group allows less."""

from __future__ import annotations

from pathlib import Path

import pytest

from cerulea.core.memory import physical_memory, usable_memory


def told(folder: Path, line: str, **limits: str) -> tuple[Path, Path]:
    """A tree of groups, `a__b__memory_max` being a/b/memory.max, and what the process is told of its own."""
    for name, text in limits.items():
        *parts, file = name.split("__")
        place = folder / "cgroup" / Path(*parts)
        place.mkdir(parents=True, exist_ok=True)
        (place / file.replace("memory_", "memory.", 1)).write_text(text + "\n", encoding="utf-8")
    (folder / "cgroup").mkdir(exist_ok=True)
    (folder / "own").write_text(line + "\n", encoding="utf-8")
    return folder / "cgroup", folder / "own"


@pytest.mark.parametrize(
    ("line", "limits", "least"),
    [
        ("0::/", {"memory_max": "4096000"}, 4_096_000),
        ("0::/", {"memory_max": "max", "memory_high": "2048000"}, 2_048_000),
        ("0::/a/b", {"a__memory_max": "3000000", "a__b__memory_max": "max"}, 3_000_000),
        ("0::/gone/in/a/container", {"memory_max": "5000000"}, 5_000_000),
        ("5:cpu,memory:/a", {"memory__a__memory_limit_in_bytes": "1000000"}, 1_000_000),
        ("5:cpu:/a", {"memory_max": "1000000"}, None),
        ("0::/", {"memory_max": "max"}, None),
        ("0::/", {"memory_max": str(1 << 62)}, None),
    ],
)
def test_the_least_limit_of_all_groups_counts(tmp_path: Path, line: str, limits: dict[str, str], least: int | None):
    assert usable_memory(*told(tmp_path, line, **limits)) == (least or physical_memory())


def test_where_nothing_is_told_the_machine_counts(tmp_path: Path):
    assert usable_memory(tmp_path / "none", tmp_path / "neither") == physical_memory()
