"""Models by name on the command line: import, labels, aliases, retiring, listing, export."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cerulea.api.app import create_app
from cerulea.core.settings import read_settings
from cerulea.flows.platform import open_platform
from cerulea.nn.decoder import Decoder
from cerulea.nn.shape import preset_shape
from cerulea.nn.weights import save_decoder
from cerulea.text.tokenizer import bytes_tokenizer

from ..conftest import TINY, Cerulea, prose
from ..serving import key_for, served


def save_model(folder: Path, seed: int) -> Path:
    """A GPT-2 of four thousand parameters over bytes."""
    torch.manual_seed(seed)
    tokenizer = bytes_tokenizer()
    shape = preset_shape("gpt2", layers=1, width=16, heads=2, context=16, vocab=tokenizer.vocab)
    save_decoder(Decoder(shape), folder, end_of_text=tokenizer.end_of_text)
    tokenizer.save(folder)
    return folder


class Elsewhere(Cerulea):
    """The same commands from another machine: a home of its own, and the platform behind a URL."""

    def __init__(self, home: Path, url: str, key: str) -> None:
        super().__init__(home)
        self.environment |= {"CERULEA_URL": url, "CERULEA_KEY": key}


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


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cerulea, Elsewhere]]:
    """A model that was trained and one that was imported, seen at their machine and from elsewhere."""
    root = tmp_path_factory.mktemp("two")
    (root / "corpus").mkdir()
    for i in range(20):
        (root / "corpus" / f"{i}.txt").write_text(prose(i, 200), encoding="utf-8")
    recipe = root / "tiny.toml"
    recipe.write_text(TINY.format(corpus=(root / "corpus").as_posix()), encoding="utf-8")
    here = Cerulea(root / "home")
    here.run("train", recipe)
    here.run("import", save_model(root / "source", 1), "--name", "brook")
    with open_platform(read_settings({}, home=here.home)) as platform, served(create_app(platform)) as url:
        yield here, Elsewhere(root / "elsewhere", url, key_for(platform, "developer"))


def test_a_platform_elsewhere_lists_and_shows_the_same(two: tuple[Cerulea, Elsewhere]):
    """Equal keys in equal order, and equal values but for the folder, which lies on the other machine."""
    here, there = two
    run = here.lines("show", "tiny")[0]["run"]["run"]

    for words in (("models",), ("models", "--retired"), ("show", "tiny"), ("show", "brook@1"), ("show", run)):
        ours, theirs = here.lines(*words), there.lines(*words)
        assert [list(one) for one in ours] == [list(one) for one in theirs], words
        assert [{**one, "folder": None} for one in ours] == theirs, words
        assert all(one["folder"] for one in ours), words
    assert here.lines("show", "tiny")[0]["config"]["shape"]
    assert here.run("models").stdout == there.run("models").stdout
    assert not (there.home / "core.db").exists(), "no platform was opened here"


def test_a_platform_elsewhere_moves_aliases_and_retires(two: tuple[Cerulea, Elsewhere]):
    here, there = two

    (moved,) = there.lines("alias", "brook", "prod")
    assert (moved["before"], moved["after"], moved["actor"].split("/")[0]) == (None, 1, "developer-home")
    assert here.lines("show", "brook:prod")[0]["aliases"] == ["prod"]
    assert here.lines("alias", "brook", "prod", "--history") == there.lines("alias", "brook", "prod", "--history")
    assert "Give the alias another version" in there.run("retire", "brook@1", code=5).stderr
    (removed,) = there.lines("alias", "brook", "prod", "--remove")
    assert list(removed) == list(moved) and removed["after"] is None
    assert there.lines("retire", "brook@1") == [{"model": "brook", "version": 1, "retired": True}]
    assert [m["model"] for m in here.lines("models")] == [m["model"] for m in there.lines("models")] == ["tiny"]
    assert there.run("retire", "brook@1", "--undo").stdout == "brook@1: back in use\n"
    assert "nearest name is 'brook'" in there.run("show", "broook", code=2).stderr


def test_a_url_goes_before_the_home_and_a_home_before_the_variable(two: tuple[Cerulea, Elsewhere], tmp_path: Path):
    _, there = two

    assert there.lines("models", "--home", tmp_path / "own") == []
    assert len(there.lines("models", "--home", tmp_path / "own", "--url", there.environment["CERULEA_URL"])) == 2
    assert "does not answer" in there.run("models", "--url", "http://127.0.0.1:1", code=6).stderr


def test_what_is_to_be_written_is_written_there(two: tuple[Cerulea, Elsewhere], tmp_path: Path):
    """This platform runs no models, and says so; a home that is named is meant."""
    here, there = two

    refused = there.run("sample", "brook", code=2).stderr
    assert "This server runs no models" in refused
    there.run("import", here.home.parent / "source", "--name", "own")
    (written,) = there.lines("sample", "own", "--max-tokens", 2, "--home", there.home)
    assert written["completion_tokens"] <= 2
