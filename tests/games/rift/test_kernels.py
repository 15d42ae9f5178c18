"""Compiled kernels follow the sources, wherever they are kept."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from cerulea.core.kernels import forget_other_sources
from cerulea.games import rift
from cerulea.games.rift.tick import decide
from cerulea.nn import policy_kernels
from cerulea.train import ppo_kernels


def folder_of(path: Path, **files: str) -> Path:
    path.mkdir()
    for name, text in files.items():
        (path / name.replace("_", ".")).write_text(text)
    return path


def test_a_change_of_any_source_forgets_all_kernels(tmp_path):
    sources = folder_of(tmp_path / "sources", rules_py="GOLD = 1", tick_py="")
    kernels = folder_of(tmp_path / "kernels")
    forget_other_sources(sources.glob("*.py"), kernels)
    for name in ("tick.nbi", "tick.1.nbc"):
        (kernels / name).write_text("compiled")

    forget_other_sources(sources.glob("*.py"), kernels)
    assert len(list(kernels.glob("*.nb?"))) == 2  # nothing has changed

    (sources / "rules.py").write_text("GOLD = 2")
    forget_other_sources(sources.glob("*.py"), kernels)
    assert not list(kernels.glob("*.nb?"))


def test_kernels_without_a_stamp_are_of_unknown_sources(tmp_path):
    sources, kernels = folder_of(tmp_path / "sources", rules_py=""), folder_of(tmp_path / "kernels", tick_nbi="old")
    forget_other_sources(sources.glob("*.py"), kernels)
    assert not list(kernels.glob("*.nbi"))


@pytest.mark.parametrize(("probe", "kernel"), [(rift._probe, decide), (ppo_kernels._probe, ppo_kernels.ppo_rows)])
def test_the_stamp_lies_where_numba_keeps_the_kernels(probe, kernel):
    kept = Path(kernel.stats.cache_path)
    assert kept == Path(probe.stats.cache_path)
    assert (kept / "kernels.sha256").exists()


def test_kernels_of_training_are_of_the_policys_kernels_too():
    """Functions of `nn.policy_kernels` are compiled into them, and Numba does not look at that file."""
    files = [Path(module.__file__ or "") for module in (policy_kernels, ppo_kernels)]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()

    assert (Path(ppo_kernels.ppo_rows.stats.cache_path) / "kernels.sha256").read_text() == digest
