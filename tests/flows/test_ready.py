"""What is looked up before a person has to wait."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from cerulea.core.errors import Failed, NotFound
from cerulea.core.settings import Settings
from cerulea.flows import ready
from cerulea.games import rift


def test_a_cold_game_is_told_until_all_its_kernels_lie_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rift, "_probe", SimpleNamespace(stats=SimpleNamespace(cache_path=str(tmp_path))))
    assert "compiling rift-duel" in ready.compiling("rift-duel", scripted=False)

    for name in ("env._begin_all", "env._show", "env._step"):
        (tmp_path / f"{name}-1.py311.nbi").touch()

    assert ready.compiling("rift-duel", scripted=False) == ""
    assert "compiling rift-duel" in ready.compiling("rift-duel", scripted=True)
    (tmp_path / "bots.script_all-1.py311.nbi").touch()
    assert ready.compiling("rift-duel", scripted=True) == ""
    assert ready.compiling("connect-four", scripted=True) == ""


def test_results_are_of_the_game_itself_and_not_of_its_presets(tmp_path: Path):
    settings = Settings(home=tmp_path)
    settings.results.mkdir(parents=True)
    (settings.results / "rift-duel-4.jsonl").touch()

    assert ready.has_results(settings, "rift-duel")
    assert not ready.has_results(settings, "rift") and not ready.has_results(settings, "connect-four")
    with pytest.raises(NotFound, match="connect-four"):
        ready.has_results(settings, "conect-four")


def test_sides_are_told_without_making_a_game_that_is_compiled():
    assert {name: ready.sides_of(name) for name in ("rift", "connect-four", "cartpole")} == {
        "rift": 2,
        "connect-four": 2,
        "cartpole": 1,
    }


def test_a_missing_package_is_refused_before_torch_is_loaded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ready.importlib.util, "find_spec", lambda name: None)

    with pytest.raises(Failed, match="onnx is not installed"):
        ready.check_onnx()
