"""Models as rows, blobs and folders: kept, found, laid out, adopted; aliases and retiring with their log."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cerulea.core.errors import Conflict, FileTrouble, Invalid, NotFound, RoleLacks
from cerulea.core.settings import Settings
from cerulea.flows.curate import remove_alias, retire, set_alias
from cerulea.flows.model_folders import Model, adopt_models, find_model, find_registered, lay_out, list_models, register
from cerulea.flows.platform import HOME, Platform, open_platform
from cerulea.people import ROLES, Caller
from tests.conftest import ROOT

OWNER = Caller(person="owner", team=HOME, role="admin", scopes=ROLES["admin"])


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


@pytest.fixture
def platform(settings: Settings) -> Iterator[Platform]:
    with open_platform(settings) as opened:
        yield opened


def folder_of(path: Path, weights: str = "weights", **card: object) -> Path:
    """A folder that looks like a model's; nothing here opens it."""
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_text(weights)
    (path / "card.json").write_text(json.dumps({"parameters": 7, **card}))
    return path


def keep(platform: Platform, tmp_path: Path, name: str = "brook", weights: str = "weights", **changes) -> Model:
    source = folder_of(tmp_path / f"source-{len(list(tmp_path.iterdir()))}", weights)
    return register(platform, source, name, **{"team": HOME, "actor": "owner", "extra": {}, **changes})


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_checkpoint_is_kept_without_what_only_a_resume_needs(platform: Platform, tmp_path: Path):
    source = folder_of(tmp_path / "step-00000012", corpus="c0ffee")
    for name in ("optim.safetensors", "state.json", "MANIFEST.json"):
        (source / name).write_text("{}")

    made = register(platform, source, "brook", team=HOME, actor="ada", extra={"run": "brook-1", "step": 12})

    assert made.registered is not None
    assert sorted(made.registered.manifest) == ["config.json", "model.safetensors"]
    assert made.card() == {"parameters": 7, "corpus": "c0ffee", "extra": {"run": "brook-1", "step": 12}}
    assert (made.registered.run, made.registered.corpus, made.registered.actor) == ("brook-1", "c0ffee", "ada")
    shutil.rmtree(source)
    found = find_model(platform, "brook@1")
    assert names(found.folder) == [".manifest", "card.json", "config.json", "model.safetensors"]
    assert (found.folder / "model.safetensors").read_text() == "weights"
    assert json.loads((found.folder / "card.json").read_text()) == made.card()


def test_a_folder_is_laid_out_by_links_once(platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = keep(platform, tmp_path)
    assert not made.folder.exists()

    first = find_model(platform, "brook").folder
    blob = next((platform.settings.home / "blobs").rglob(made.registered.manifest["model.safetensors"]["sha256"]))
    assert (first / "model.safetensors").samefile(blob)
    monkeypatch.setattr(type(platform.blobs), "fetch", lambda *_: pytest.fail("fetched again"))

    assert find_model(platform, "brook@1").folder == first == made.folder


def test_many_who_ask_at_once_get_the_same_folder(platform: Platform, tmp_path: Path):
    version = keep(platform, tmp_path).registered

    with ThreadPoolExecutor(8) as pool:
        folders = set(pool.map(lambda _: lay_out(platform, version), range(16)))

    (folder,) = folders
    assert names(folder.parent) == ["1"]
    assert (folder / "model.safetensors").read_text() == "weights"


def test_a_damaged_file_is_told_and_leaves_no_folder(platform: Platform, tmp_path: Path):
    version = keep(platform, tmp_path).registered
    digest = version.manifest["model.safetensors"]["sha256"]
    blob = next((platform.settings.home / "blobs").rglob(digest))
    blob.unlink()
    blob.write_text("weighty")

    with pytest.raises(FileTrouble, match="damaged"):
        find_model(platform, "brook")

    assert names(platform.settings.models / "brook") == []


def test_a_half_made_folder_of_a_dead_process_is_not_taken_for_the_model(platform: Platform, tmp_path: Path):
    """Something lies under the version's number that was never verified: it is set aside, not lost."""
    made = keep(platform, tmp_path)
    folder_of(made.folder, "other weights")

    found = find_model(platform, "brook")

    assert (found.folder / "model.safetensors").read_text() == "weights"
    (aside,) = [p for p in made.folder.parent.iterdir() if p.name.startswith("1.replaced-")]
    assert (aside / "model.safetensors").read_text() == "other weights"


def test_a_label_goes_before_a_path_and_is_never_guessed(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Folders that are called like a model, its version and its alias."""
    keep(platform, tmp_path)
    for name in ("brook", "brook@7", "brook:prod", "creek"):
        folder_of(tmp_path / "here" / name)
    monkeypatch.chdir(tmp_path / "here")

    assert find_model(platform, "brook").label == "brook@1"
    assert find_model(platform, "./brook").label == "brook"  # a path by itself
    assert find_model(platform, "creek").folder == Path("creek")
    for label in ("brook@7", "brook:prod"):
        with pytest.raises(NotFound, match="has no"):
            find_model(platform, label)
    with pytest.raises(NotFound, match="no model 'creek'"):
        find_registered(platform, "creek")


def test_a_run_is_no_model(platform: Platform, tmp_path: Path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)

    with pytest.raises(NotFound, match="is a run"):
        find_model(platform, str(tmp_path / "run"))


def test_models_are_listed_with_their_aliases(platform: Platform, tmp_path: Path):
    keep(platform, tmp_path), keep(platform, tmp_path, weights="2"), keep(platform, tmp_path, "creek")
    set_alias(platform, OWNER, "brook@1", "prod")
    set_alias(platform, OWNER, "brook", "next")
    retire(platform, OWNER, "creek@1")

    assert [(m.label, m.aliases) for m in list_models(platform)] == [("brook@1", ("prod",)), ("brook@2", ("next",))]
    assert [(m.label, m.retired) for m in list_models(platform, retired=True)][2] == ("creek@1", True)
    assert list_models(platform, teams=["red"]) == []


def test_an_alias_moves_with_its_line_in_the_log(platform: Platform, tmp_path: Path):
    keep(platform, tmp_path), keep(platform, tmp_path, weights="2")
    set_alias(platform, OWNER, "brook@1", "prod")
    set_alias(platform, OWNER, "brook:prod", "stable")
    remove_alias(platform, OWNER, "brook", "prod")

    assert find_model(platform, "brook:stable").version == 1
    with pytest.raises(NotFound):
        find_model(platform, "brook:prod")
    log = [(e.action, e.subject, e.detail) for e in platform.people.events(action="model.alias")]
    assert log == [
        ("model.alias", "brook:prod", {"before": 1, "after": None}),
        ("model.alias", "brook:stable", {"before": None, "after": 1}),
        ("model.alias", "brook:prod", {"before": None, "after": 1}),
    ]


def test_retiring_names_one_version_and_can_be_undone(platform: Platform, tmp_path: Path):
    keep(platform, tmp_path), keep(platform, tmp_path, weights="2")
    set_alias(platform, OWNER, "brook@1", "prod")

    for label in ("brook", "brook:prod", "../brook@1", "brook@"):
        with pytest.raises(NotFound, match="names no version"):
            retire(platform, OWNER, label)
    with pytest.raises(Conflict, match="is prod"):
        retire(platform, OWNER, "brook@1")
    retire(platform, OWNER, "brook@2")
    with pytest.raises(NotFound, match="retired"):
        find_model(platform, "brook@2")
    assert retire(platform, OWNER, "brook@2", undo=True).retired_at is None
    assert find_model(platform, "brook").version == 2
    assert [e.action for e in platform.people.events(subject="brook@2")] == ["model.unretire", "model.retire"]


@pytest.mark.parametrize("role", [role for role, scopes in ROLES.items() if "models:write" not in scopes])
def test_who_may_not_write_models_moves_nothing(platform: Platform, tmp_path: Path, role: str):
    keep(platform, tmp_path)
    caller = Caller(person="eve", team=HOME, role=role, scopes=ROLES[role])

    for ask in (
        lambda: set_alias(platform, caller, "brook", "prod"),
        lambda: remove_alias(platform, caller, "brook", "prod"),
        lambda: retire(platform, caller, "brook@1"),
    ):
        with pytest.raises(RoleLacks):
            ask()
    assert platform.registry.alias_history("brook") == []


def test_another_teams_model_cannot_be_moved(platform: Platform, tmp_path: Path):
    keep(platform, tmp_path)
    caller = Caller(person="eve", team="red", role="developer", scopes=ROLES["developer"])

    for ask in (
        lambda: set_alias(platform, caller, "brook", "prod"),
        lambda: remove_alias(platform, caller, "brook", "prod"),
        lambda: retire(platform, caller, "brook@1"),
    ):
        with pytest.raises(NotFound, match="no model 'brook"):
            ask()


@pytest.mark.parametrize("name", ["../brook", "a/b", "", ".x", "x" * 101, "/tmp/x", "a\0b"])
def test_a_hostile_name_makes_nothing(platform: Platform, tmp_path: Path, name: str):
    with pytest.raises(Invalid):
        keep(platform, tmp_path, name)

    assert platform.registry.models() == []
    assert not platform.settings.models.exists()


def test_models_from_before_the_registry_are_adopted_under_their_numbers(settings: Settings):
    """Two names, a gap, a hidden leftover, a broken card, and folders that are no models."""
    folder_of(settings.models / "brook" / "1", "one", extra={"run": "brook-a"})
    folder_of(settings.models / "brook" / "3", "three", corpus="c0ffee")
    folder_of(settings.models / "brook" / "10", "ten")
    folder_of(settings.models / "creek" / "1")
    (settings.models / "creek" / "1" / "card.json").write_text("[")
    folder_of(settings.models / "creek" / ".77.tmp")
    folder_of(settings.models / "no name" / "1")
    (settings.models / "empty" / "1").mkdir(parents=True)

    with open_platform(settings) as platform:
        assert [m.label for m in list_models(platform)] == ["brook@1", "brook@3", "brook@10", "creek@1"]
        assert platform.registry.resolve("brook@1").run == "brook-a"
        assert platform.registry.resolve("brook@3").corpus == "c0ffee"
        assert platform.registry.resolve("creek").card == {"extra": {}}
        assert (find_model(platform, "brook@3").folder / "model.safetensors").read_text() == "three"
        assert names(settings.models / "brook") == ["1", "10", "3"]


def test_what_was_adopted_is_not_adopted_again(settings: Settings, tmp_path: Path):
    folder_of(settings.models / "brook" / "1", "one")
    with open_platform(settings) as platform:
        keep(platform, tmp_path, weights="two")
        find_model(platform, "brook@2")

    with open_platform(settings) as platform:
        assert adopt_models(platform, team=HOME, actor="owner") == []
        assert [v.version for v in platform.registry.versions()] == [1, 2]


def test_adopted_files_are_linked_not_copied(settings: Settings):
    folder = folder_of(settings.models / "brook" / "1", "one")

    with open_platform(settings) as platform:
        (version,) = platform.registry.versions()
        assert find_model(platform, "brook").folder == folder
        assert os.stat(folder / "model.safetensors").st_nlink == 2  # noqa: PTH116
        assert version.actor == "owner"


def test_two_programs_that_start_at_once_adopt_each_model_once(settings: Settings):
    for number in range(1, 6):
        folder_of(settings.models / "brook" / str(number), str(number))
    program = (
        "import sys, pathlib\n"
        "from cerulea.core.settings import Settings\n"
        "from cerulea.flows.platform import open_platform\n"
        "with open_platform(Settings(home=pathlib.Path(sys.argv[1]))) as platform:\n"
        "    print(len(platform.registry.versions()))"
    )

    programs = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(settings.home)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]

    assert [p.communicate(timeout=120)[0].strip() for p in programs] == ["5"] * 3


def test_a_model_trained_before_anything_was_adopted_does_not_take_its_number(settings: Settings, tmp_path: Path):
    folder_of(settings.models / "brook" / "4", "four")

    with open_platform(settings) as platform:
        assert keep(platform, tmp_path, weights="new").label == "brook@5"
