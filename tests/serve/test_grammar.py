"""Random logits under grammars: what is written is valid, judged by jsonschema_rs; what cannot be met is refused."""

from __future__ import annotations

import json
import random
import re
import sys

import jsonschema_rs
import numpy as np
import pytest
import torch

from cerulea.core.errors import GrammarInvalid, Invalid
from cerulea.serve.grammar import Grammar, Grammars
from cerulea.serve.request import SamplingParams
from cerulea.serve.sampler import Row, pick
from cerulea.text.stream import text_of
from cerulea.text.tokenizer import Tokenizer

from ..text.families import FAMILIES, family

PADDED = 40  # rows of the head beyond the tokenizer's ids
LIMIT = 1500  # tokens


def some_schema(draw: random.Random, depth: int = 0) -> dict:
    """Objects, arrays, enums, constants, bounds, patterns, lengths, choices and references, nested up to three deep."""
    kinds = ["integer", "number", "string", "length", "pattern", "enum", "const", "boolean", "null"]
    kinds += ["object", "object", "array", "anyOf", "ref"] * (depth < 3)
    kind = draw.choice(kinds[-10:]) if depth == 0 else draw.choice(kinds)
    low = draw.randrange(-50, 50)
    simple = {
        "integer": {"type": "integer", "minimum": low, "maximum": low + draw.randrange(200)},
        "number": {"type": "number", "minimum": low, "exclusiveMaximum": low + 7.5},
        "string": {"type": "string"},
        "length": {"type": "string", "minLength": low % 4, "maxLength": 4 + low % 5},
        "pattern": {"type": "string", "pattern": draw.choice(["^[a-f0-9]{4}$", "^(yes|no)$", r"^\d{3}-[A-Z]+$"])},
        "enum": {"enum": draw.sample(["a", "zwei", 3, None, True, 4.5, "日本"], k=3)},
        "const": {"const": draw.choice(["x", 7, {"a": [1]}])},
        "boolean": {"type": "boolean"},
        "null": {"type": "null"},
    }
    if kind in simple:
        return simple[kind]
    if kind == "array":
        return {"type": "array", "items": some_schema(draw, depth + 1), "minItems": low % 2, "maxItems": 3}
    if kind == "anyOf":
        return {"anyOf": [some_schema(draw, depth + 1) for _ in range(2)]}
    if kind == "ref":
        inner = {"type": "object", "properties": {"id": simple["integer"]}, "required": ["id"]}
        closed = {**inner, "additionalProperties": False}
        if depth:
            return {"type": "array", "items": simple["length"], "maxItems": 2}
        return {"$defs": {"one": closed}, "type": "array", "items": {"$ref": "#/$defs/one"}, "maxItems": 3}
    names = draw.sample(["name", "age", "tags", "größe", "x y"], k=draw.randrange(1, 4))
    return {
        "type": "object",
        "properties": {name: some_schema(draw, depth + 1) for name in names},
        "required": names[: draw.randrange(len(names) + 1)],
        "additionalProperties": False,
    }


def written(tokenizer: Tokenizer, grammar: Grammar, sampling: SamplingParams) -> tuple[list[int], bool]:
    """What random logits write, and whether they ended."""
    generator = torch.Generator().manual_seed(sampling.seed)
    row, ids = Row(sampling), []
    while len(ids) < LIMIT:
        row.allowed = grammar.mask()
        logits = torch.randn(1, tokenizer.vocab + PADDED, generator=generator) * 2
        token = pick(logits, [row])[0].token
        grammar.advance(token)
        row.wrote(token)
        if token == tokenizer.end_of_text:
            return ids, True
        ids.append(token)
    return ids, False


def closers(tokenizer: Tokenizer) -> tuple[tuple[int, float], ...]:
    """A pull towards quotes, brackets and the end: a random walk through a long string ends by chance alone."""
    ends = {b'"': 5.0, b"}": 3.0, b"]": 3.0}
    found = [(i, ends[spelt]) for i, spelt in enumerate(tokenizer.token_bytes) if spelt in ends]
    return (*found, (tokenizer.end_of_text, 3.0))


@pytest.mark.parametrize("name", ["bpe", "llama"])
def test_a_hundred_schemas_give_a_hundred_valid_texts(name: str):
    """Each by greedy or at temperature 1, with a pull towards closing; every one ends within the limit."""
    tokenizer = family(name)
    grammars = Grammars(tokenizer, vocab=tokenizer.vocab + PADDED)
    draw = random.Random(4)
    for n in range(100):
        schema = some_schema(draw)
        sampling = SamplingParams(
            seed=n, temperature=n % 2, logit_bias=closers(tokenizer), stop_ids=(tokenizer.end_of_text,)
        )

        ids, ended = written(tokenizer, grammars.start(json.dumps({"schema": schema})), sampling)

        text = text_of(tokenizer, ids)
        assert ended, (schema, text)
        jsonschema_rs.validate(schema, json.loads(text))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_text_ends_only_where_its_grammar_ends(name: str):
    """Any object by json_object; ids of the padded head and special tokens are never allowed."""
    tokenizer = family(name)
    grammar = Grammars(tokenizer, vocab=tokenizer.vocab + PADDED).start('{"json_object": true}')
    special = [i for i in tokenizer.specials.values() if i != tokenizer.end_of_text]
    ends = []
    for token in map(tokenizer.token_bytes.index, (b"{", b"}")):
        mask = grammar.mask()
        assert mask.shape == (tokenizer.vocab + PADDED,)
        assert not mask[tokenizer.vocab :].any() and not mask[special].any()
        ends.append(bool(mask[tokenizer.end_of_text]))
        grammar.advance(token)

    assert ends == [False, False]
    assert grammar.done and grammar.may_end
    assert np.flatnonzero(grammar.mask()).tolist() == [tokenizer.end_of_text]
    grammar.advance(tokenizer.end_of_text)
    assert grammar.done


def test_every_end_of_a_model_may_end_a_text():
    tokenizer = family("bytes")
    ends = (tokenizer.end_of_text, tokenizer.specials["<|end|>"])
    grammar = Grammars(tokenizer, ends=ends).start('{"regex": "a+"}')
    grammar.advance(ord("a"))

    assert set(np.flatnonzero(grammar.mask()).tolist()) == {ord("a"), *ends}
    assert grammar.may_end and not grammar.done
    grammar.advance(ends[1])
    assert grammar.done


def test_regular_expressions_and_lark_grammars_hold():
    tokenizer = family("bpe")
    grammars = Grammars(tokenizer, vocab=tokenizer.vocab + PADDED)
    lark = 'start: "(" start ")" | "x"'
    for seed in range(20):
        sampling = SamplingParams(seed=seed, stop_ids=(tokenizer.end_of_text,))
        ids, ended = written(tokenizer, grammars.start(json.dumps({"regex": r"[a-c]{2,5}(日本)?"})), sampling)
        assert ended and re.fullmatch(r"[a-c]{2,5}(日本)?", text_of(tokenizer, ids))
        ids, ended = written(tokenizer, grammars.start(json.dumps({"lark": lark})), sampling)
        text = text_of(tokenizer, ids)
        assert ended and text == "(" * (len(text) // 2) + "x" + ")" * (len(text) // 2)


def test_sequences_of_one_grammar_move_alone():
    tokenizer = family("bytes")
    grammars = Grammars(tokenizer)
    one, other = (grammars.start('{"regex": "ab"}') for _ in range(2))

    one.advance(ord("a"))

    assert [np.flatnonzero(g.mask()).tolist() for g in (one, other)] == [[ord("b")], [ord("a")]]


@pytest.mark.parametrize(
    ("grammar", "wrong"),
    [
        ("{", "not JSON"),
        ("[]", "no known kind"),
        ('{"schema": {}, "regex": "a"}', "no known kind"),
        ('{"xml": "a"}', "no known kind"),
        ('{"regex": 3}', "cannot be int"),
        ('{"schema": "object"}', "cannot be str"),
        ('{"schema": false}', "cannot be bool"),
        ('{"schema": {"type": "strin"}}', "Invalid type: strin"),
        ('{"schema": {"enum": []}}', "Unsatisfiable"),
        ('{"schema": {"type": "integer", "minimum": 5, "maximum": 3}}', "5.*3"),
        ('{"schema": {"allOf": [{"type": "string"}, {"type": "number"}]}}', "incompatible types"),
        ('{"schema": {"$ref": "#/nope"}}', "nope"),
        ('{"schema": {"type": "string", "pattern": "("}}', "unclosed group|regex"),
        ('{"schema": {"type": "object", "properties": {"a": false}, "required": ["a"]}}', "'a'"),
        ('{"schema": {"not": {}}}', "not"),
        ('{"regex": "("}', "unclosed group|regex"),
        ('{"regex": "[^\\\\s\\\\S]"}', "No text can meet"),
        ('{"lark": "start: x"}', "unknown name"),
    ],
)
def test_what_cannot_be_met_is_refused_and_says_why(grammar: str, wrong: str):
    with pytest.raises(GrammarInvalid, match=wrong):
        Grammars(family("bytes")).start(grammar)


def test_a_token_that_is_not_allowed_fails_that_grammar_alone():
    grammar = Grammars(family("bytes")).start('{"regex": "ab"}')

    with pytest.raises(GrammarInvalid, match="stopped"):
        grammar.advance(ord("z"))


def test_without_llguidance_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)

    with pytest.raises(Invalid, match=r"cerulea\[serve\]"):
        Grammars(family("bytes")).start('{"regex": "a"}')
