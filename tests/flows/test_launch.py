"""How many processes `cerulea train` takes where nobody says."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from cerulea.core.errors import Invalid
from cerulea.core.settings import Settings
from cerulea.flows import launch
from cerulea.flows.launch import processes_of
from cerulea.train.play_recipe import PlayRecipe
from cerulea.train.recipe import Recipe, read_recipe
from tests.toy_games import play_recipe, write_recipe

from ..conftest import Cerulea


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "usable_cores", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("OMP_NUM_THREADS", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def with_matches(matches: int) -> PlayRecipe:
    recipe = play_recipe(rollout=32)
    return dataclasses.replace(recipe, game=dataclasses.replace(recipe.game, matches=matches))


def auto(recipe: Recipe | None = None, **settings: Any) -> int:
    home = Settings(home=Path("none"), **settings)
    return processes_of(home, recipe or with_matches(64), "auto", resume=False)


@pytest.mark.usefixtures("two_cores")
def test_self_play_takes_two_processes_where_two_cores_are_free(monkeypatch: pytest.MonkeyPatch, tiny_recipe: Path):
    assert (auto(), auto(with_matches(65)), auto(with_matches(62))) == (2, 1, 1)
    assert (auto(read_recipe(tiny_recipe)), auto(threads=2)) == (1, 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert (auto(), auto(device="cpu")) == (1, 2)
    monkeypatch.setattr(launch, "usable_cores", lambda: 1)
    assert auto(device="cpu") == 1


@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "WORLD_SIZE"])
def test_who_says_how_many_threads_or_processes_is_not_contradicted(monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setenv(name, "2")

    assert auto() == 1


@pytest.mark.parametrize("wanted", ["0", "-1", "many", "1.5", ""])
def test_neither_auto_nor_a_number(wanted: str):
    with pytest.raises(Invalid, match=f"--processes is {wanted}"):
        processes_of(Settings(), play_recipe(), wanted, resume=False)
    assert processes_of(Settings(), play_recipe(), "3", resume=False) == 3


@pytest.mark.slow
def test_a_resumed_run_takes_the_processes_that_it_began_with(cerulea: Cerulea, tmp_path: Path):
    """Begun with two, where one would be chosen now; another number is refused when it is asked for."""
    cerulea.environment["OMP_NUM_THREADS"] = "1"
    recipe = write_recipe(tmp_path / "play.toml", steps=4)

    cerulea.lines("train", recipe, "--processes", "2")
    more = cerulea.lines("train", recipe, "--set", "train.steps=6", "--resume")

    assert [line["step"] for line in more if line["event"] == "progress"] == [5, 6]
    refused = cerulea.run("train", recipe, "--set", "train.steps=8", "--resume", "--processes", "1", code=5)
    assert "another number of processes" in refused.stderr
