"""Recipes: every key checked, every mistake named with the way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from cerulea.core.errors import NotFound, RecipeInvalid, ShapeInvalid
from cerulea.train.recipe import read_recipe, recipe_from

from ..conftest import ROOT


def recipe(text: str, tmp_path: Path, **keywords: object):
    path = tmp_path / "r.toml"
    path.write_text(text)
    return read_recipe(path, **keywords)


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda p: p.stem)
def test_every_recipe_that_ships_can_be_read(path: Path):
    assert read_recipe(path).name == {"quickstart": "brook"}.get(path.stem, path.stem)


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("[train]\nstep = 5", "train.steps"),
        ("[train]\nbatch_token = 5", "train.batch_tokens"),
        ("[modl]\nlayers = 2", "model"),
        ("layers = 2", "model.layers"),
        ("[model]\nsteps = 2", "train.steps"),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(text: str, nearest: str, tmp_path: Path):
    with pytest.raises(RecipeInvalid, match=f"The nearest known key is '{nearest}'"):
        recipe(text, tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[train]\nsteps = "ten"', "train.steps in .* is 'ten'. It must be a whole number"),
        ("[train]\nsteps = 1.5", "It must be a whole number"),
        ("[train]\nsteps = true", "It must be a whole number"),
        ("[data]\ntrain = 'a.txt'", "It must be a list"),
        ("[data]\ntrain = [1]", r"data.train\[0\]"),
        ("model = 5", r"\[model\] in .* is 5, not a table"),
        ("[train]\nsteps = 5\nbatch_tokens = 100", "not a whole number of 256-token rows"),
        ("[data]\ntrain = ['a', 'b']\nweights = [1.0]\n[train]\nsteps = 1", "1 entries for 2 corpora"),
        ("[train]\nminutes = 0", "The recipe never stops"),
        ("[train]\nsteps = 1\noptimizer = 'adam'", "train.optimizer is 'adam'. Use one of auto, muon, adamw"),
        ("[train]\nsteps = 1\nbatch_ramp = [[0.5, 1.0]]", "train.batch_ramp is"),
        ("[train]\nsteps = 1\ndropout = 1.0", "train.dropout is 1.0"),
        ("[tokenizer]\nkind = 'gpt2'\n[train]\nsteps = 1", "has no folder"),
        ("name = '../x'\n[train]\nsteps = 1", "name is '../x'"),
        ("kind = 'images'", "kind 'images'"),
        ("[train\nsteps", "is not TOML"),
        ("[model]\nsize = 'gpt2-9b'\n[train]\nsteps = 1", "model.size is 'gpt2-9b'"),
    ],
)
def test_what_cannot_be_right_is_refused(text: str, message: str, tmp_path: Path):
    with pytest.raises(RecipeInvalid, match=message):
        recipe(text, tmp_path)


def test_an_impossible_shape_is_refused_before_anything_is_read(tmp_path: Path):
    with pytest.raises(ShapeInvalid, match="width of 100 cannot be divided among 3 heads"):
        recipe("[model]\nwidth = 100\nheads = 3\n[train]\nsteps = 1", tmp_path)


def test_set_changes_one_key(tmp_path: Path):
    changed = recipe(
        "[train]\nsteps = 5",
        tmp_path,
        changes=["train.steps=7", "train.dropout=0.1", "name=other", 'data.valid=["v.txt"]', "model.preset=compat"],
    )

    assert (changed.train.steps, changed.train.dropout, changed.name) == (7, 0.1, "other")
    assert (changed.data.valid, changed.model.preset) == (["v.txt"], "compat")


@pytest.mark.parametrize("change", ["train.steps", "=5", "name.x=5"])
def test_a_set_that_is_no_change_is_refused(change: str, tmp_path: Path):
    with pytest.raises(RecipeInvalid):
        recipe("name = 'a'\n[train]\nsteps = 5", tmp_path, changes=[change])


def test_data_replaces_the_corpora_and_their_weights(tmp_path: Path):
    text = "[data]\ntrain = ['a', 'b']\nweights = [1.0, 2.0]\n[train]\nsteps = 1"

    changed = recipe(text, tmp_path, data=["x.txt"])

    assert (changed.data.train, changed.data.weights) == (["x.txt"], [])


def test_a_missing_recipe_says_where_some_are(tmp_path: Path):
    with pytest.raises(NotFound, match=r"recipes/tiny\.toml"):
        read_recipe(tmp_path / "none.toml")


def test_a_recipe_comes_back_from_its_json():
    first = read_recipe(ROOT / "recipes" / "shakespeare.toml")

    assert recipe_from(first.as_json()) == first
    assert recipe_from(first.as_json()).digest() == first.digest()


def test_a_recipe_that_is_not_there_is_refused_with_the_nearest(tmp_path: Path):
    (tmp_path / "cartpole.toml").touch()

    with pytest.raises(NotFound) as refused:
        read_recipe(tmp_path / "cartpol.toml")

    assert refused.value.why == f"The nearest is {tmp_path / 'cartpole.toml'}."
