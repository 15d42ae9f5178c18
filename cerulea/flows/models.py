"""Models as tensors: open one, read a Hugging Face folder in, write one out.

Not here: which model a label names, where its files lie (`flows.model_folders`).
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

from cerulea.core.errors import Conflict, Invalid, ModelKindWrong, NotFound, TokenizerInvalid
from cerulea.core.files import read_json, write_json
from cerulea.core.values import ModelCard
from cerulea.flows.model_folders import MARK, Model, check_plays, check_writes, find_model, folder_model, register
from cerulea.flows.platform import HOME, Platform
from cerulea.nn.decoder import Decoder
from cerulea.nn.weights import load_decoder, save_decoder
from cerulea.registry import check_name
from cerulea.text.tokenizer import Tokenizer, load_tokenizer


def open_model(model: Model) -> tuple[Decoder, Tokenizer]:
    """The decoder, on the CPU in float32, and its tokenizer.

    Raises:
        TokenizerInvalid: the folder has no tokenizer, or one with ids beyond the model's.
        ModelKindWrong: it is an agent.
    """
    check_writes(model)
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


def import_model(platform: Platform, folder: Path, name: str, *, team: str = HOME, actor: str = "owner") -> Model:
    """Read a Hugging Face folder whole, to be sure of it, and register what was read under `name`."""
    check_name(name)
    model = folder_model(folder)
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
    temporary = platform.settings.models / f".import-{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        save_decoder(decoder, temporary, end_of_text=tokenizer.end_of_text)
        tokenizer.save(temporary)
        _copy_companions(folder if folder.is_dir() else folder.parent, temporary)
        write_json(temporary / "card.json", {**dataclasses.asdict(card), **_known_scores(model, card)})
        extra = {"imported_from": str(folder.resolve())}
        made = register(platform, temporary, name, team=team, actor=actor, extra=extra)
        platform.people.record(actor, "model.import", made.label, team, extra)
        return made
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


def export_model(platform: Platform, label: str, folder: Path, form: str | None, *, game: str | None = None) -> str:
    """Write a model to a new folder; returns the model_type that was written.

    Args:
        form: `hf` (refused for a model that no Hugging Face class can hold), `cerulea` (as it lies here), or for an
            agent `onnx`; without one `hf`, and `cerulea` for an agent.
        game: of an agent for `onnx`: its game, where that is a module of one's own.

    Raises:
        Conflict: the folder is not empty.
        Invalid: the form does not fit.
    """
    if form not in (None, "hf", "cerulea", "onnx"):
        raise Invalid(f"There is no format {form!r}.", fix="Use --format hf, cerulea or onnx.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Conflict(f"{folder} is there already.", why="An export never overwrites.", fix="Name a new folder.")
    model = find_model(platform, label)
    if model.plays or form == "onnx":
        return _export_agent(model, folder, form or "cerulea", game)
    family = str(json.loads((model.folder / "config.json").read_text(encoding="utf-8")).get("model_type"))
    if form in (None, "hf") and family == "cerulea":
        raise Invalid(
            f"{model.label} has the modern preset, which no Hugging Face class can hold.",
            fix='Export it with --format cerulea, or train with preset = "compat" for a model that loads elsewhere.',
        )
    decoder, tokenizer = open_model(model)
    save_decoder(decoder, folder, end_of_text=tokenizer.end_of_text)
    tokenizer.save(folder)
    _copy_companions(model.folder, folder)
    if model.card():
        write_json(folder / "card.json", model.card())
    return family


def _export_agent(model: Model, folder: Path, form: str, named: str | None) -> str:
    """An agent's folder as it lies here, or as an ONNX graph."""
    check_plays(model)
    if form == "hf":
        raise ModelKindWrong(
            f"{model.label} is an agent, which no Hugging Face class can hold.", fix="Use --format onnx or cerulea."
        )
    if form == "onnx":
        from cerulea.games.catalog import make_game, name_in_file
        from cerulea.train.agent import load_agent
        from cerulea.train.export_onnx import export_onnx

        agent = load_agent(model.folder)
        game = make_game(name_in_file(agent.game, named), 1, **agent.about.get("options", {}))
        agent.check(game)
        export_onnx(agent, folder, agent.sides.players)
        return "onnx"
    shutil.copytree(model.folder, folder, ignore=shutil.ignore_patterns(MARK), dirs_exist_ok=True)
    return "agent"


def _copy_companions(source: Path, target: Path) -> None:
    """What a family keeps beside its weights: special tokens, chat template, defaults for writing."""
    for name in ("tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "chat_template.jinja"):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
