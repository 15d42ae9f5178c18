"""Which tokens a grammar allows next, so that what a model writes is valid by construction.

In:      a grammar as JSON text: {"schema": {...}}, {"regex": "..."}, {"lark": "..."} or {"json_object": true}.
Out:     for each sequence a Grammar: a mask before each pick, moved on by each token.
Kept:    the text of the tokens always begins a text of the grammar; a text can end only where the grammar can; ids
         that the tokenizer does not know, and special tokens other than the ends, are never allowed.
Not here: picking (`sampler`). llguidance does the work; it is imported with the first grammar.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np

from cerulea.core.errors import GrammarInvalid, Invalid
from cerulea.text.tokenizer import Tokenizer

CACHED = 128  # compiled grammars that are kept
KINDS = ("schema", "regex", "lark", "json_object")
# Blanks between the parts of JSON: some models would write them for ever.
JSON_OPTIONS = {"whitespace_pattern": r"[\x20\x0A\x0D\x09]{0,32}"}


class Grammar:
    """Where one sequence stands in its grammar.

    Attributes:
        done: the text is whole and nothing may follow but its end.
    """

    def __init__(self, matcher: Any, vocab: int, ends: Sequence[int]) -> None:
        self._matcher, self._vocab, self._ends = matcher, vocab, list(ends)

    @property
    def done(self) -> bool:
        return bool(self._matcher.is_stopped()) and not self._matcher.is_error()

    @property
    def may_end(self) -> bool:
        """Whether the text so far is a text of the grammar."""
        return bool(self._matcher.is_accepting())

    def mask(self) -> np.ndarray:
        """allowed_V, bool: the tokens that may come next.

        Raises:
            GrammarInvalid: the grammar needs more work than one token may cost.
        """
        allowed_V = np.zeros(self._vocab, bool)
        if self.done:
            allowed_V[self._ends] = True
            return allowed_V
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        known = np.unpackbits(bits, bitorder="little", count=min(self._vocab, 8 * len(bits)))
        allowed_V[: len(known)] = known
        return allowed_V

    def advance(self, token: int) -> None:
        """The token stands in the text.

        Raises:
            GrammarInvalid: as for `mask`, or the token was not allowed.
        """
        if self.done and token in self._ends:
            return
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise GrammarInvalid(
                f"The grammar stopped: {_first_line(self._matcher.get_error())}.",
                why="It is too complex, or a token came that it does not allow.",
                fix="Use a simpler grammar.",
            )


class Grammars:
    """Grammars for one model. Compiled ones are kept; one thread uses it.

    Args:
        vocab: rows of the model's head, where they are more than the tokenizer's ids.
        ends: ids that end a text; the tokenizer's end-of-text without any.
    """

    def __init__(self, tokenizer: Tokenizer, *, vocab: int = 0, ends: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._vocab = max(vocab, tokenizer.vocab)
        self._ends = list(ends) or [tokenizer.end_of_text]
        self._library: Any = None
        self._compiled: OrderedDict[str, Any] = OrderedDict()

    def knows(self, grammar: str) -> bool:
        """Whether it is compiled already; any thread may ask."""
        return grammar in self._compiled

    def start(self, grammar: str) -> Grammar:
        """The beginning of a text of the grammar.

        Raises:
            GrammarInvalid: it is malformed, or no text can meet it; says what is wrong.
            Invalid: llguidance is not installed.
        """
        if grammar in self._compiled:
            self._compiled.move_to_end(grammar)
        else:
            self._compiled[grammar] = self._compile(grammar)
            if len(self._compiled) > CACHED:
                self._compiled.popitem(last=False)
        return Grammar(self._compiled[grammar].deep_copy(), self._vocab, self._ends)

    def _compile(self, grammar: str) -> Any:
        try:
            from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
        except ImportError as error:
            raise Invalid(
                "Grammars and JSON schemas need llguidance, which is not installed.",
                fix="Install it: pip install 'cerulea[serve]'",
            ) from error
        kind, value = _read(grammar)
        try:
            if kind == "regex":
                source = LLMatcher.grammar_from_regex(value)
            elif kind == "lark":
                source = LLMatcher.grammar_from_lark(value)
            else:
                schema = {"type": "object"} if kind == "json_object" else value
                source = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=JSON_OPTIONS)
        except ValueError as error:
            raise GrammarInvalid(f"The {kind} cannot be read: {error}.", fix="Correct it.") from error
        if self._library is None:
            self._library = LLTokenizer(
                TokenizerWrapper(_Spelled(self._tokenizer, self._ends[0])), eos_token=self._ends
            )
        matcher = LLMatcher(self._library, source, log_level=0)
        if matcher.is_error():
            raise GrammarInvalid(
                f"The {kind} cannot be used: {_first_line(matcher.get_error())}.",
                fix="Correct it; `Unimplemented keys` names what is not supported.",
            )
        try:
            empty = not Grammar(matcher, self._vocab, self._ends).mask().any()
        except GrammarInvalid as error:
            if "NoExtension" not in error.what:
                raise
            empty = True
        if empty:
            raise GrammarInvalid(f"No text can meet the {kind}.", fix="Correct it.")
        return matcher


def _read(grammar: str) -> tuple[str, Any]:
    """Kind and value of a grammar's JSON text."""
    try:
        values = json.loads(grammar)
    except ValueError as error:
        raise GrammarInvalid(f"The grammar is not JSON: {error}.", fix='Give {"schema": {...}}.') from error
    if not isinstance(values, dict) or len(values) != 1 or next(iter(values)) not in KINDS:
        raise GrammarInvalid("The grammar is of no known kind.", fix=f"Give an object with one of: {', '.join(KINDS)}.")
    kind, value = next(iter(values.items()))
    wanted = {"schema": (dict,), "regex": (str,), "lark": (str,), "json_object": (bool,)}[kind]
    if not isinstance(value, wanted):
        raise GrammarInvalid(f"A {kind} cannot be {type(value).__name__}.", fix="Give a schema as an object.")
    return kind, value


def _first_line(message: str) -> str:
    """What llguidance says, without its state and the source after it."""
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
    return " ".join(lines[:3]).rstrip(".")[:300]


class _Spelled:
    """Our tokenizer as llguidance reads one. Ids without text are special, so that no grammar allows them."""

    def __init__(self, tokenizer: Tokenizer, end: int) -> None:
        self.eos_token_id, self.bos_token_id = end, None
        self._tokenizer = tokenizer
        spelling = tokenizer.spelling
        self.tokens, self.special_token_ids = list(spelling.table), []
        for i, spelt in enumerate(spelling.table):
            if not spelt:
                self.tokens[i] = spelling.names[i].encode() or f"<|no token {i}|>".encode()
                self.special_token_ids.append(i)

    def __call__(self, text: str) -> list[int]:
        """Ids of text within a text: behind a mark, for tokenizers that begin a text with a blank of their own."""
        ids = [int(i) for i in self._tokenizer.encode("\x02" + text)]
        before, rest = b"", ids
        while rest and not before.endswith(b"\x02"):
            before, rest = before + self.tokens[rest[0]], rest[1:]
        return rest if rest or not text else [int(i) for i in self._tokenizer.encode(text)]
