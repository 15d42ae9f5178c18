"""Compiled kernels follow the sources, wherever they are kept."""

from __future__ import annotations

from pathlib import Path

from cerulea.games import rift
from cerulea.games.rift import forget_other_sources
from cerulea.games.rift.tick import decide


def folder_of(path: Path, **files: str) -> Path:
    path.mkdir()
    for name, text in files.items():
        (path / name.replace("_", ".")).write_text(text)
    return path


def test_a_change_of_any_source_forgets_all_kernels(tmp_path):
    sources = folder_of(tmp_path / "sources", rules_py="GOLD = 1", tick_py="")
    kernels = folder_of(tmp_path / "kernels")
    forget_other_sources(sources, kernels)
    for name in ("tick.nbi", "tick.1.nbc"):
        (kernels / name).write_text("compiled")

    forget_other_sources(sources, kernels)
    assert len(list(kernels.glob("*.nb?"))) == 2  # nothing has changed

    (sources / "rules.py").write_text("GOLD = 2")
    forget_other_sources(sources, kernels)
    assert not list(kernels.glob("*.nb?"))


def test_kernels_without_a_stamp_are_of_unknown_sources(tmp_path):
    sources, kernels = folder_of(tmp_path / "sources", rules_py=""), folder_of(tmp_path / "kernels", tick_nbi="old")
    forget_other_sources(sources, kernels)
    assert not list(kernels.glob("*.nbi"))


def test_the_stamp_lies_where_numba_keeps_the_kernels():
    kept = Path(decide.stats.cache_path)
    assert kept == Path(rift._probe.stats.cache_path)
    assert (kept / "kernels.sha256").exists()
