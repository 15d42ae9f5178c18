"""Models by name on the command line: import, labels, aliases, retiring, listing, export."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from cerulea.nn.decoder import Decoder
from cerulea.nn.shape import preset_shape
from cerulea.nn.weights import save_decoder
from cerulea.text.tokenizer import bytes_tokenizer

from ..conftest import Cerulea


def save_model(folder: Path, seed: int) -> Path:
    """A GPT-2 of four thousand parameters over bytes."""
    torch.manual_seed(seed)
    tokenizer = bytes_tokenizer()
    shape = preset_shape("gpt2", layers=1, width=16, heads=2, context=16, vocab=tokenizer.vocab)
    save_decoder(Decoder(shape), folder, end_of_text=tokenizer.end_of_text)
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Cerulea:
    """Three versions of brook, one of them imported twice."""
    root = tmp_path_factory.mktemp("models")
    cerulea = Cerulea(root / "home")
    for seed in (1, 2, 2, 3):
        folder = root / f"source-{seed}"
        cerulea.lines("import", folder if folder.exists() else save_model(folder, seed), "--name", "brook")
    return cerulea


def test_the_same_files_again_are_the_same_version(home: Cerulea):
    listed = home.lines("models")

    assert [(m["model"], m["version"], m["aliases"], m["retired"]) for m in listed] == [
        ("brook", number, [], False) for number in (1, 2, 3)
    ]
    assert listed[0]["parameters"] == listed[1]["parameters"] > 0


def test_an_alias_is_given_moved_shown_and_removed(home: Cerulea):
    home.run("alias", "brook@1", "prod")
    assert home.run("alias", "brook", "prod").stdout.split("  ")[2] == "brook@1 -> brook@3"

    assert home.lines("show", "brook:prod")[0]["model"] == "brook@3"
    assert home.lines("show", "brook:prod")[0]["aliases"] == ["prod"]
    assert "prod" in home.run("models").stdout
    first, second = home.lines("alias", "brook", "prod", "--history")
    assert (first["before"], first["after"], second["before"], second["after"]) == (None, 1, 1, 3)
    assert second["actor"] == "owner" and second["at"] >= first["at"]
    home.run("alias", "brook", "prod", "--remove")
    assert "E-NAME-001" in home.run("show", "brook:prod", code=2).stderr
    assert len(home.lines("alias", "brook", "prod", "--history")) == 3


def test_a_retired_version_is_used_no_more_until_it_is_back(home: Cerulea):
    (sampled,) = home.lines("sample", "brook@2", "--max-tokens", 4, "--temperature", 0)
    assert home.run("retire", "brook@2").stdout == "brook@2: retired\n"

    refused = home.run("sample", "brook@2", code=2).stderr
    assert "brook@2 is retired" in refused and "Use brook@3" in refused
    assert [m["version"] for m in home.lines("models")] == [1, 3]
    assert [m["retired"] for m in home.lines("models", "--retired")] == [False, True, False]
    assert home.lines("retire", "brook@2", "--undo") == [{"model": "brook", "version": 2, "retired": False}]
    assert home.lines("sample", "brook@2", "--max-tokens", 4, "--temperature", 0) == [sampled]


def test_a_version_that_is_prod_cannot_be_retired(home: Cerulea):
    home.run("alias", "brook@1", "stable")

    assert "Give the alias another version" in home.run("retire", "brook@1", code=5).stderr
    home.run("alias", "brook", "stable", "--remove")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("sample", "broook"), "nearest name is 'brook'"),
        (("alias", "brook@9", "prod"), "newest versions are 1, 2, 3"),
        (("alias", "brook:prd", "prod"), "has no alias"),
        (("retire", "brook"), "names no version"),
        (("alias", "brook@1", "../prod"), "cannot name an alias"),
        (("alias", "creek", "prod"), "There is no model 'creek'"),
        (("alias", "brook", "nobody", "--remove"), "has no alias"),
        (("import", "SOURCE", "--name", "../../brook"), "cannot name a model"),
    ],
)
def test_what_is_not_there_or_cannot_be_is_refused_with_a_way_out(home: Cerulea, words: tuple[str, ...], said: str):
    words = tuple(str(home.home.parent / "source-1") if word == "SOURCE" else word for word in words)

    assert said in home.run(*words, code=2).stderr


def test_an_export_carries_its_card(home: Cerulea, tmp_path: Path):
    home.run("export", "brook@1", tmp_path / "out")

    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["parameters"] == home.lines("models")[0]["parameters"]
    assert not (tmp_path / "out" / ".manifest").exists()


def test_a_models_folder_may_go_and_comes_again(home: Cerulea):
    """CERULEA_HOME/models is a copy: what counts lies in the blobs."""
    (before,) = home.lines("sample", "brook@1", "--max-tokens", 4)
    shutil.rmtree(home.home / "models")

    assert home.lines("sample", "brook@1", "--max-tokens", 4) == [before]
