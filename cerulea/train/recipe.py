"""Recipes: all that decides a run, as a TOML file read into frozen values.

In:      a TOML file, and `--set path=value` changes.
Out:     a TextRecipe whose every value is checked.
Kept:    an unknown key is an error that names the nearest known one; equal recipes on equal data give equal
         losses on the same device (but for `minutes`, whose schedule follows the clock).
Not here: torch, files of a corpus (`text`), what a machine can do (`nn.precision`).
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
import tomllib
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from cerulea.core.errors import NotFound, RecipeInvalid
from cerulea.core.names import NAME_RULE, is_name
from cerulea.nn.shape import GPT2_SIZES, DecoderShape, preset_shape
from cerulea.text.tokenizer import KINDS
from cerulea.train.keys import key
from cerulea.train.play_recipe import PlayRecipe


@dataclass(frozen=True, slots=True, kw_only=True)
class DataKeys:
    """What is read, and what of it is held out."""

    train: list[str] = key(
        ["stdlib"],
        "Files, folders, globs or `stdlib`; `--data` replaces this list. Each entry is one corpus.",
        path=True,
    )
    weights: list[float] = key([], "Share of each corpus in what is trained on; by default in proportion to its size.")
    field: str = key("text", "Field of .jsonl and column of .parquet that holds the text.")
    valid_fraction: float = key(
        0.05, "Share of documents held out, by their digest; of a single document its last part."
    )
    valid: list[str] = key([], "Files that are held out whole, instead of a share.", path=True)
    valid_tail: float = key(0.0, "Share of the end of one file that is held out, instead of a share of documents.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerKeys:
    """How text becomes token ids."""

    kind: str = key("bpe", "`bytes`, `bpe` (trained on the corpus), `gpt2` (its two files) or `hf` (a tokenizer.json).")
    vocab: int = key(4096, "Number of ids of a trained BPE, special tokens included.")
    folder: str = key("", "Folder of the files of `gpt2` and `hf`.", path=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelKeys:
    """The decoder's shape."""

    preset: str = key(
        "modern", "`modern` (fastest to a loss), `compat` (Qwen3-shaped, loads elsewhere) or `gpt2` (exactly)."
    )
    size: str = key("", f"One of OpenAI's sizes instead of the numbers below: {', '.join(GPT2_SIZES)}.")
    layers: int = key(6, "Number of blocks.")
    width: int = key(384, "Channels of the residual stream.")
    heads: int = key(6, "Attention heads; width / heads is a head's size.")
    kv_heads: int = key(0, "Key-value heads shared by the query heads; 0 means as many as heads.")
    hidden: int = key(0, "Channels inside the MLP; 0 means 4 x width (compat: 8/3 x width, up to a multiple of 64).")
    context: int = key(256, "Longest sequence in tokens.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainKeys:
    """How long, how fast and how carefully."""

    steps: int = key(
        0, "Stop after this many optimizer steps. At least one of steps, tokens, epochs, minutes is needed."
    )
    tokens: int = key(0, "Stop after this many training tokens.")
    epochs: float = key(0.0, "Stop after reading the most-read corpus this often.")
    minutes: float = key(0.0, "Stop this many wall-clock minutes after the first step began, evaluation included.")
    target_bits_per_byte: float = key(0.0, "Stop when the held-out set is scored this low.")
    patience: int = key(0, "Stop after this many evaluations in a row without a new best.")
    batch_tokens: int = key(8192, "Tokens of one optimizer step, over all processes.")
    batch_ramp: list[list[float]] = key(
        [], "Smaller batches early: [[share of the run done, share of batch_tokens], ...]; the first share is 0."
    )
    micro_batch_tokens: int = key(
        0, "Tokens of one forward pass; 0 fits the machine. Gradients add up to the same batch."
    )
    seed: int = key(1, "Decides initial weights, data order, dropout and samples.")
    dropout: float = key(0.0, "Share of embedding and branch outputs set to zero while training.")
    optimizer: str = key("auto", "`muon`, `adamw`, or `auto`: adamw for gpt2 and muon for the others.")
    learning_rate: float = key(0.0, "Peak rate of matrices (adamw: of everything); 0 takes the preset's.")
    embedding_rate: float = key(0.0, "Peak rate of embeddings under muon; 0 takes the preset's.")
    head_rate: float = key(0.0, "Peak rate of an untied head under muon; 0 takes the preset's.")
    vector_rate: float = key(0.0, "Peak rate of norm weights, biases and scalars under muon; 0 takes the preset's.")
    weight_decay: float = key(0.1, "Weight decay of matrices; under muon cautious, falling with the rate.")
    beta1: float = key(0.0, "AdamW's first decay; 0 takes 0.9 (adamw) or 0.8 (muon's other parameters).")
    beta2: float = key(0.95, "AdamW's second decay.")
    momentum: float = key(0.95, "Muon's momentum, reached after 100 steps from 0.10 below.")
    orthogonal_steps: int = key(5, "Polynomials of Muon's orthogonalisation, 1 to 5; small models win time with 3.")
    clip: float = key(-1.0, "Largest gradient norm; 0 does not clip, -1 takes 1.0 for adamw and none for muon.")
    schedule: str = key(
        "auto", "`wsd` (constant, then a linear fall), `cosine`, `linear`, or `auto`: cosine for gpt2, else wsd."
    )
    warmup_steps: int = key(10, "Steps of linear warm-up.")
    decay_fraction: float = key(0.6, "Share of the run in which `wsd` falls.")
    final_rate: float = key(0.05, "Rate at the end, as a share of the peak.")
    skip_sigma: float = key(
        6.0, "Leave out a step whose loss or gradient norm lies this many standard deviations high; 0 never."
    )
    eval_first: bool = key(False, "Score the held-out set also before the first step.")
    eval_steps: int = key(50, "Score the whole held-out set every so many steps; 0 only at the end.")
    eval_minutes: float = key(0.0, "Score it also when so many minutes have passed since the last time.")
    eval_at_minutes: list[float] = key([], "Score it also once at each of these minutes after the command began.")
    sample_tokens: int = key(48, "Tokens of the sample written at each evaluation; 0 writes none.")
    sample_prompt: str = key("", "Text that the sample continues.")
    checkpoint_steps: int = key(0, "Save every so many steps.")
    checkpoint_minutes: float = key(10.0, "Save when so many minutes have passed since the last time; 0 never.")
    keep_last: int = key(2, "Newest checkpoints that are kept.")
    keep_best: int = key(1, "Best evaluated checkpoints that are kept besides.")
    precision: str = key("auto", "`fp32`, `bf16`, or `auto`: what a probe at the start finds fastest.")
    compile: str = key(
        "auto", "`on`, `off`, or `auto`: on a GPU, and on a CPU where a long run wins more than it costs."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRecipe:
    """A text run from corpus to checkpoint."""

    # The key of [train] that ends a run, by the reason that the run gives.
    ends: ClassVar[dict[str, str]] = {
        **{key: key for key in ("steps", "tokens", "epochs", "minutes", "patience")},
        "target": "target_bits_per_byte",
    }

    kind: str = key("text", "What is trained; `text` is a language model.")
    name: str = key("model", "The model's name among your models.")
    data: DataKeys = dataclasses.field(default_factory=DataKeys)
    tokenizer: TokenizerKeys = dataclasses.field(default_factory=TokenizerKeys)
    model: ModelKeys = dataclasses.field(default_factory=ModelKeys)
    train: TrainKeys = dataclasses.field(default_factory=TrainKeys)

    def __post_init__(self) -> None:
        _check(self)

    def shape(self, vocab: int) -> DecoderShape:
        """The decoder's shape, with the vocabulary that the tokenizer has."""
        m = self.model
        layers, width, heads = GPT2_SIZES[m.size] if m.size else (m.layers, m.width, m.heads)
        return preset_shape(
            m.preset,
            vocab=vocab,
            layers=layers,
            width=width,
            heads=heads,
            context=m.context,
            kv_heads=m.kv_heads or None,
            hidden=m.hidden or None,
        )

    @property
    def rows(self) -> int:
        """Rows of one full batch."""
        return self.train.batch_tokens // self.model.context

    def as_json(self) -> dict[str, Any]:
        """All keys with their values, defaults included."""
        return dataclasses.asdict(self)

    def digest(self) -> str:
        """sha256 over all values."""
        return hashlib.sha256(json.dumps(self.as_json(), sort_keys=True).encode()).hexdigest()


Recipe = TextRecipe | PlayRecipe
KINDS_OF_RUN: dict[str, type] = {"text": TextRecipe, "selfplay": PlayRecipe}


def read_recipe(path: Path, *, changes: list[str] | None = None, data: list[str] | None = None) -> Recipe:
    """Read a TOML recipe, apply `--set path=value` changes and `--data` entries.

    Raises:
        NotFound: no such file.
        RecipeInvalid: anything in it that cannot be right.
    """
    if not path.is_file():
        raise NotFound(
            f"There is no recipe {path}.",
            why=f"The nearest is {near}." if (near := _nearest(path)) else "",
            fix="Recipes that ship lie in recipes/, for example recipes/tiny.toml.",
        )
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeInvalid(f"{path} is not TOML: {error}.", fix="Correct that line.") from error
    for change in changes or []:
        _set(values, change)
    if data:
        values.setdefault("data", {})
        values["data"]["train"] = list(data)
        values["data"].pop("weights", None)
    return recipe_from(values, str(path), changes)


def recipe_from(values: dict[str, Any], source: str = "the recipe", changes: list[str] | None = None) -> Recipe:
    """A recipe from plain values, as TOML or `as_json` gives them.

    Args:
        source: where the values stand, for the words of an error.
        changes: `path=value` of those that `--set` gave instead.
    """
    changed = {change.partition("=")[0].strip(): f"--set {change}" for change in changes or []}

    def origin(at: str) -> str:
        inside = (words for path, words in changed.items() if path == at or path.startswith(f"{at}."))
        return changed.get(at.partition("[")[0]) or next(inside, source)

    kind = values.get("kind", "text")
    if kind not in KINDS_OF_RUN:
        raise RecipeInvalid(
            f"{origin('kind')} has kind {kind!r}.",
            why=f"This version trains recipes of kind {' and '.join(KINDS_OF_RUN)}.",
            fix='Set kind = "text" or kind = "selfplay".',
        )
    return _build(KINDS_OF_RUN[kind], values, "", origin)  # type: ignore[no-any-return]


def _set(values: dict[str, Any], change: str) -> None:
    path, equals, text = change.partition("=")
    if not equals or not path.strip():
        raise RecipeInvalid(f"--set {change!r} has no '='.", fix="Write --set train.steps=100.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    *parents, last = path.strip().split(".")
    table = values
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise RecipeInvalid(f"--set {change!r}: {parent} is no table.", fix="Write --set train.steps=100.")
    table[last] = value


def _build(kind: type, values: Any, path: str, origin: Callable[[str], str]) -> Any:
    """One dataclass from one table, every key checked; `origin` tells where a key was given."""
    if not isinstance(values, dict):
        raise RecipeInvalid(
            f"[{path}] in {origin(path)} is {values!r}, not a table.", fix=f"Write its keys below [{path}]."
        )
    known = {f.name: f for f in fields(kind)}
    types_of = typing.get_type_hints(kind)
    taken: dict[str, Any] = {}
    for name, value in values.items():
        at = f"{path}.{name}" if path else name
        if name not in known:
            raise _unknown(at, name, list(known), path, origin(at))
        taken[name] = (
            _build(types_of[name], value, at, origin)
            if dataclasses.is_dataclass(types_of[name])
            else _typed(at, value, types_of[name], origin(at))
        )
    return kind(**taken)


def _nearest(path: Path) -> Path | None:
    """The recipe with the nearest name, beside the one that is not there or in recipes/."""
    known = {
        found.name: found
        for folder in (Path("recipes"), path.parent)
        if folder.is_dir()
        for found in folder.glob("*.toml")
    }
    near = difflib.get_close_matches(path.with_suffix(".toml").name, known, n=1, cutoff=0.5)
    return known[near[0]] if near else None


def _unknown(at: str, name: str, known: list[str], path: str, source: str) -> RecipeInvalid:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    elsewhere = [
        f"{table}.{name}"
        for table, kind in typing.get_type_hints(TextRecipe).items()
        if dataclasses.is_dataclass(kind) and name in {f.name for f in fields(kind)}
    ]
    guess = elsewhere[0] if elsewhere else (f"{path}.{near[0]}" if path else near[0]) if near else ""
    return RecipeInvalid(
        f"{source} has an unknown key {at!r}.",
        why=f"The nearest known key is {guess!r}." if guess else f"Known here: {', '.join(known)}.",
        fix="Correct or remove it; docs/recipes.md lists every key.",
    )


_NAMES = {
    int: "a whole number",
    float: "a number",
    str: "a text in quotes",
    list: "a list in brackets",
    bool: "true or false",
    dict: "a table",
}


def _typed(at: str, value: Any, wanted: Any, source: str) -> Any:
    origin = typing.get_origin(wanted) or wanted
    if isinstance(wanted, types.UnionType):
        origin = typing.get_args(wanted)[0]
    if origin is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if origin is list and isinstance(value, list):
        inner = typing.get_args(wanted)[0]
        return [_typed(f"{at}[{i}]", item, inner, source) for i, item in enumerate(value)]
    if isinstance(value, origin) and not (isinstance(value, bool) and origin is not bool):
        return value
    raise RecipeInvalid(
        f"{at} in {source} is {value!r}.",
        why=f"It must be {_NAMES[origin]}.",
        fix=f"Correct {at}; docs/recipes.md shows it.",
    )


def _check(recipe: TextRecipe) -> None:
    """Refuse values out of range, each in one line."""
    d, t, m = recipe.data, recipe.train, recipe.model

    def need(right: bool, what: str, fix: str) -> None:
        if not right:
            raise RecipeInvalid(what, fix=fix)

    need(is_name(recipe.name), f"name is {recipe.name!r}.", NAME_RULE)
    need(bool(d.train), "data.train is empty.", 'Name at least one corpus, for example train = ["stdlib"].')
    need(
        not d.weights or len(d.weights) == len(d.train),
        f"data.weights has {len(d.weights)} entries for {len(d.train)} corpora.",
        "Give one weight for each entry of data.train.",
    )
    need(
        all(w > 0 for w in d.weights),
        f"data.weights is {d.weights}.",
        "Every weight is above 0; leave a corpus out instead.",
    )
    need(0 <= d.valid_fraction < 1, f"data.valid_fraction is {d.valid_fraction}.", "Use a share from 0 to below 1.")
    need(0 <= d.valid_tail < 1, f"data.valid_tail is {d.valid_tail}.", "Use a share from 0 to below 1.")
    need(
        not (d.valid and d.valid_tail),
        "data.valid and data.valid_tail are both set.",
        "Hold out files or a tail, not both.",
    )
    need(
        recipe.tokenizer.kind in KINDS,
        f"tokenizer.kind is {recipe.tokenizer.kind!r}.",
        f"Use one of {', '.join(KINDS)}.",
    )
    need(
        recipe.tokenizer.kind not in ("gpt2", "hf") or bool(recipe.tokenizer.folder),
        f"tokenizer.kind {recipe.tokenizer.kind!r} has no folder.",
        "Set tokenizer.folder to where its files lie.",
    )
    need(
        not m.size or m.size in GPT2_SIZES,
        f"model.size is {m.size!r}.",
        f"Use one of {', '.join(GPT2_SIZES)}, or layers, width and heads.",
    )
    need(m.context >= 2, f"model.context is {m.context}.", "Use at least 2 tokens.")
    limits = t.steps or t.tokens or t.epochs or t.minutes
    need(
        limits > 0,
        "The recipe never stops.",
        "Set at least one of train.steps, tokens, epochs or minutes; it also ends the learning-rate schedule.",
    )
    need(
        min(t.steps, t.tokens, t.epochs, t.minutes, t.patience, t.target_bits_per_byte) >= 0,
        "A stop rule is negative.",
        "Use 0 for no such rule.",
    )
    need(
        t.batch_tokens > 0 and t.batch_tokens % m.context == 0,
        f"train.batch_tokens {t.batch_tokens:,} is not a whole number of {m.context:,}-token rows.",
        f"Use a multiple of {m.context:,}.",
    )
    need(
        t.micro_batch_tokens % m.context == 0,
        f"train.micro_batch_tokens {t.micro_batch_tokens:,} is not a whole number of {m.context:,}-token rows.",
        f"Use a multiple of {m.context:,}, or 0.",
    )
    ramp = t.batch_ramp
    need(
        all(len(p) == 2 and 0 <= p[0] < 1 and 0 < p[1] <= 1 for p in ramp)
        and (not ramp or ramp[0][0] == 0)
        and ramp == sorted(ramp),
        f"train.batch_ramp is {ramp}.",
        "Write [[0.0, 0.25], [0.3, 1.0]]: rising shares of the run, each with a share of batch_tokens.",
    )
    need(0 <= t.dropout < 1, f"train.dropout is {t.dropout}.", "Use a share from 0 to below 1.")
    for name, known in (
        ("optimizer", ("auto", "muon", "adamw")),
        ("schedule", ("auto", "wsd", "cosine", "linear")),
        ("precision", ("auto", "fp32", "bf16")),
        ("compile", ("auto", "on", "off")),
    ):
        need(getattr(t, name) in known, f"train.{name} is {getattr(t, name)!r}.", f"Use one of {', '.join(known)}.")
    need(
        0 <= t.decay_fraction <= 1 and 0 <= t.final_rate <= 1,
        "train.decay_fraction or final_rate is out of range.",
        "Use shares from 0 to 1.",
    )
    need(t.keep_last >= 1 and t.keep_best >= 0, "train.keep_last is below 1.", "Keep at least one checkpoint.")
    need(
        min(t.eval_steps, t.eval_minutes, t.checkpoint_steps, t.checkpoint_minutes, t.sample_tokens, t.warmup_steps)
        >= 0,
        "An interval in [train] is negative.",
        "Use 0 for never.",
    )
    for name in ("learning_rate", "embedding_rate", "head_rate", "vector_rate", "weight_decay", "skip_sigma"):
        need(0 <= getattr(t, name) < math.inf, f"train.{name} is {getattr(t, name)}.", "Use a number of 0 or more.")
    for name in ("beta1", "beta2", "momentum"):
        need(0 <= getattr(t, name) < 1, f"train.{name} is {getattr(t, name)}.", "Use a share from 0 to below 1.")
    need(1 <= t.orthogonal_steps <= 5, f"train.orthogonal_steps is {t.orthogonal_steps}.", "Use 1 to 5.")
    need(0 <= t.seed < 2**63, f"train.seed is {t.seed}.", "Use a whole number from 0 to 2^63 - 1.")
    recipe.shape(vocab=max(recipe.tokenizer.vocab, 1))
