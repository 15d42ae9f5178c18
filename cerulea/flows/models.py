"""Models by name: folders below CERULEA_HOME/models, until the registry takes them over.

A model is models/NAME/VERSION/, a checkpoint without what only a resume needs. Versions only grow.
Not here: aliases, owners, lineage (the registry's).
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cerulea.core.errors import Conflict, Invalid, NotFound, TokenizerInvalid
from cerulea.core.files import read_json, write_json
from cerulea.core.names import NAME_RULE, is_name
from cerulea.core.settings import Settings
from cerulea.core.values import ModelCard
from cerulea.nn.decoder import Decoder
from cerulea.nn.weights import load_decoder, refuse_pickle, save_decoder
from cerulea.text.tokenizer import Tokenizer, load_tokenizer
from cerulea.train.checkpoint import MANIFEST, RESUME_FILES


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model's folder, and its name and version where it has them."""

    folder: Path
    name: str = ""
    version: int = 0

    @property
    def label(self) -> str:
        """`brook@3`, or the folder's path."""
        return f"{self.name}@{self.version}" if self.name else str(self.folder)

    def card(self) -> dict[str, Any]:
        """card.json, or nothing for a folder that has none."""
        path = self.folder / "card.json"
        return dict(read_json(path)) if path.exists() else {}


def list_models(settings: Settings) -> list[Model]:
    """All versions of all models, by name and version."""
    if not settings.models.is_dir():
        return []
    names = sorted(p for p in settings.models.iterdir() if p.is_dir())
    return [Model(folder=_folder(settings, p.name, v), name=p.name, version=v) for p in names for v in _versions(p)]


def find_model(settings: Settings, label: str) -> Model:
    """The model that `brook`, `brook@3` or a folder's path names.

    Raises:
        NotFound: nothing of that name; names the nearest.
    """
    name, _, version = label.partition("@")
    known = {m.name for m in list_models(settings)}
    if name in known and ":" not in label:
        versions = _versions(settings.models / name)
        wanted = versions[-1] if not version else int(version) if version.isascii() and version.isdigit() else -1
        if wanted not in versions:
            raise NotFound(
                f"{name!r} has no version {version!r}.", fix=f"Its versions are {', '.join(map(str, versions))}."
            )
        return Model(folder=_folder(settings, name, wanted), name=name, version=wanted)
    folder = Path(label).expanduser()
    if folder.is_file() or (folder / "config.json").exists():
        return _folder_model(folder)
    if (folder / "checkpoints").is_dir():
        raise NotFound(
            f"{label} is a run, not a model.", fix=f"Name one of its checkpoints, or see it: cerulea show {label}"
        )
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    raise NotFound(
        f"There is no model {label!r}.",
        why=f"The nearest name is {near[0]!r}."
        if near
        else "A model is a name, name@version, or a folder with a config.json.",
        fix="See what there is: cerulea models",
    )


def _folder_model(path: Path) -> Model:
    """A folder, or a file in it that was named instead.

    Raises:
        NotFound: there is none.
        PickleRefused: a file of a kind that could run code.
    """
    if path.is_file():
        refuse_pickle(path)
        path = path.parent
    if not (path / "config.json").exists():
        raise NotFound(
            f"There is no model in {path}.", why="A model's folder has a config.json.", fix="Check the path."
        )
    return Model(folder=path)


def open_model(model: Model) -> tuple[Decoder, Tokenizer]:
    """The decoder, on the CPU in float32, and its tokenizer.

    Raises:
        TokenizerInvalid: the folder has no tokenizer, or one with ids beyond the model's.
    """
    decoder = load_decoder(model.folder).eval()
    try:
        tokenizer = load_tokenizer(model.folder)
    except NotFound as error:
        raise TokenizerInvalid(
            f"{model.label} has no tokenizer.json.",
            why="A model is used with the tokenizer it was trained with.",
            fix="Put the tokenizer's files beside its weights.",
        ) from error
    if tokenizer.vocab > decoder.shape.vocab:
        raise TokenizerInvalid(
            f"The tokenizer of {model.label} has {tokenizer.vocab:,} ids, the model {decoder.shape.vocab:,}.",
            fix="Use the tokenizer that belongs to the model.",
        )
    return decoder, tokenizer


def register(settings: Settings, source: Path, name: str, *, extra: dict[str, Any]) -> Model:
    """Make a checkpoint the next version of `name`. Files are linked where the file system can.

    The version's folder appears whole or not at all.
    """
    check_name(name)
    root = settings.models / name
    root.mkdir(parents=True, exist_ok=True)
    temporary = root / f".{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    for path in source.iterdir():
        if path.name not in (*RESUME_FILES, MANIFEST, "card.json"):
            _link(path, temporary / path.name)
    card = read_json(source / "card.json") if (source / "card.json").exists() else {}
    write_json(temporary / "card.json", {**card, "extra": {**card.get("extra", {}), **extra}})
    version = (_versions(root) or [0])[-1] + 1
    while True:
        try:
            temporary.rename(root / str(version))
            return Model(folder=root / str(version), name=name, version=version)
        except OSError:  # another process took this number first
            if not (root / str(version)).exists():
                raise
            version += 1


def import_model(settings: Settings, folder: Path, name: str) -> Model:
    """Read a Hugging Face folder whole, to be sure of it, and register what was read under `name`."""
    check_name(name)
    model = _folder_model(folder)
    decoder, tokenizer = open_model(model)
    shape = decoder.shape
    family = str(read_json(folder / "config.json").get("model_type", ""))
    card = ModelCard(
        preset=family,
        parameters=shape.parameters(),
        context=shape.context,
        vocab=shape.vocab,
        tokenizer=tokenizer.digest,
    )
    temporary = settings.models / f".import-{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        save_decoder(decoder, temporary, end_of_text=tokenizer.end_of_text)
        tokenizer.save(temporary)
        _copy_companions(folder if folder.is_dir() else folder.parent, temporary)
        write_json(temporary / "card.json", {**dataclasses.asdict(card), **_known_scores(model, card)})
        return register(settings, temporary, name, extra={"imported_from": str(folder.resolve())})
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _known_scores(model: Model, card: ModelCard) -> dict[str, Any]:
    """What an exported model's card says of its training, where it is a card of these weights' size and tokenizer."""
    try:
        theirs = model.card()
    except (ValueError, TypeError):  # a card.json of some other program's
        return {}
    if any(theirs.get(key) != getattr(card, key) for key in ("parameters", "tokenizer")):
        return {}
    return {key: theirs[key] for key in ("bits_per_byte", "loss", "trained_tokens", "corpus") if key in theirs}


def export_model(settings: Settings, label: str, folder: Path, form: str) -> str:
    """Write a model to a new folder; returns the model_type that was written.

    Args:
        form: `hf` (refused for a model that no Hugging Face class can hold) or `cerulea` (as it lies here).

    Raises:
        Conflict: the folder is not empty.
        Invalid: the form does not fit.
    """
    if form not in ("hf", "cerulea"):
        raise Invalid(f"There is no format {form!r}.", fix="Use --format hf or --format cerulea.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Conflict(f"{folder} is there already.", why="An export never overwrites.", fix="Name a new folder.")
    model = find_model(settings, label)
    family = str(json.loads((model.folder / "config.json").read_text(encoding="utf-8")).get("model_type"))
    if form == "hf" and family == "cerulea":
        raise Invalid(
            f"{model.label} has the modern preset, which no Hugging Face class can hold.",
            fix='Export it with --format cerulea, or train with preset = "compat" for a model that loads elsewhere.',
        )
    decoder, tokenizer = open_model(model)
    save_decoder(decoder, folder, end_of_text=tokenizer.end_of_text)
    tokenizer.save(folder)
    _copy_companions(model.folder, folder)
    card = model.folder / "card.json"
    if card.exists():
        shutil.copyfile(card, folder / "card.json")
    return family


def _copy_companions(source: Path, target: Path) -> None:
    """What a family keeps beside its weights: special tokens, chat template, defaults for writing."""
    for name in ("tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "chat_template.jinja"):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def check_name(name: str) -> None:
    """Refuse a name that does not follow NAME_RULE."""
    if not is_name(name):
        raise Invalid(f"{name!r} cannot name a model.", fix=NAME_RULE)


def _folder(settings: Settings, name: str, version: int) -> Path:
    return settings.models / name / str(version)


def _versions(root: Path) -> list[int]:
    return sorted(int(p.name) for p in root.iterdir() if p.name.isdigit()) if root.is_dir() else []


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
