"""Which finished runs may go on: those that are given a later end than the one that they reached."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cerulea.core.errors import Conflict, NotFound
from cerulea.core.files import write_json
from cerulea.core.settings import Settings
from cerulea.flows.runs import unfinished_run
from cerulea.train.recipe import Recipe, recipe_from
from tests.toy_games import play_recipe

TEXT = {"name": "words", "train": {"steps": 9}}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


def limited(recipe: Any, **limits: float) -> Any:
    """A recipe that ends at these and at no other of its limits."""
    return replace(recipe, train=replace(recipe.train, **(dict.fromkeys(recipe.ends.values(), 0) | limits)))


def finished(settings: Settings, recipe: Recipe, reason: str, done: bool = True) -> Path:
    folder = settings.runs / f"{recipe.name}-1"
    folder.mkdir(parents=True)
    told = {"began": "2026-11-29T00:00:00Z", "recipe": recipe.as_json(), "finished": done, "stop_reason": reason}
    write_json(folder / "run.json", told)
    return folder


def test_a_run_that_was_stopped_goes_on_as_it_is(settings: Settings):
    recipe = limited(play_recipe(), steps=5)

    folder = finished(settings, recipe, "interrupted", done=False)

    assert unfinished_run(settings, recipe) == folder


def test_a_name_without_a_run_is_told(settings: Settings):
    with pytest.raises(NotFound, match="no run of"):
        unfinished_run(settings, play_recipe())


@pytest.mark.parametrize(
    ("reason", "later", "goes_on"),
    [
        ("steps", {"steps": 6}, True),
        ("steps", {"steps": 0, "minutes": 9}, True),  # 0 is no limit
        ("steps", {"steps": 5}, False),
        ("steps", {"steps": 4}, False),
        ("steps", {"steps": 5, "minutes": 99}, False),  # its clock had not ended it
        ("minutes", {"steps": 5, "minutes": 9}, True),
        ("minutes", {"steps": 99}, False),
        # The record does not tell which of its limits it was: its key is 0, or there is none.
        ("agent_steps", {"steps": 6}, True),
        ("agent_steps", {"steps": 5, "minutes": 9}, True),
        ("agent_steps", {"steps": 5}, False),
        ("", {"steps": 6}, True),
        ("", {"steps": 5, "minutes": 2}, False),
    ],
)
def test_a_finished_run_goes_on_when_what_ended_it_is_later(
    settings: Settings, reason: str, later: dict[str, float], goes_on: bool
):
    folder = finished(settings, limited(play_recipe(), steps=5, minutes=2), reason)
    wanted = limited(play_recipe(), **({"minutes": 2} | later))

    if goes_on:
        assert unfinished_run(settings, wanted) == folder
        return
    with pytest.raises(Conflict, match="is finished") as refused:
        unfinished_run(settings, wanted)
    ended_it = [reason] if reason in ("steps", "minutes") else ["steps", "minutes"]
    for key in ("steps", "minutes"):
        assert (f"--set train.{key}=N" in str(refused.value.fix)) == (key in ended_it)


@pytest.mark.parametrize(("target", "goes_on"), [(0.9, True), (0, True), (1.0, False), (1.1, False)])
def test_a_target_of_bits_is_later_when_it_is_lower(settings: Settings, target: float, goes_on: bool):
    recipe = recipe_from(TEXT)
    folder = finished(settings, limited(recipe, steps=9, target_bits_per_byte=1.0), "target")
    wanted = limited(recipe, steps=9, target_bits_per_byte=target)

    if goes_on:
        assert unfinished_run(settings, wanted) == folder
    else:
        with pytest.raises(Conflict, match=r"N below 1\.0"):
            unfinished_run(settings, wanted)
