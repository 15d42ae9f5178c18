"""What a text must be, as an engine takes it: OpenAI's `response_format` to a grammar.

In:      {"type": "json_object"}, {"type": "json_schema", "json_schema": {"schema": ...}}, and our `regex` and `lark`.
Out:     the JSON of `SamplingParams.grammar`; nothing where every text will do.
Kept:    a grammar that cannot be met is refused before the bill is opened; compiled ones are kept, by tokenizer.
Not here: what a grammar allows next (`serve.grammar`).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cerulea.core.errors import GrammarInvalid
from cerulea.serve.grammar import Grammars
from cerulea.text.tokenizer import Tokenizer

LONGEST = 200_000  # characters of a grammar


def grammar_of(form: Mapping[str, Any] | None) -> str:
    """The grammar of a response format.

    Raises:
        GrammarInvalid: it lacks what its type needs, or is too large.
    """
    kind = form["type"] if form else "text"
    if form is None or kind == "text":
        return ""
    if kind == "json_object":
        return json.dumps({"schema": {"type": "object"}})
    value = (form.get("json_schema") or {}).get("schema") if kind == "json_schema" else form.get(kind)
    if value is None:
        place = "json_schema.schema" if kind == "json_schema" else kind
        raise GrammarInvalid(f"response_format of type {kind} has no {place}.", fix="Give it, or use type text.")
    text = json.dumps({"schema" if kind == "json_schema" else kind: value}, sort_keys=True)
    if len(text) > LONGEST:
        raise GrammarInvalid(f"The grammar has {len(text):,} characters; the most is {LONGEST:,}.")
    return text


class Checker:
    """Tells whether grammars can be met, for one loaded model and as long as that lives.

    A thread of its own compiles, one grammar after the other: what is hard to compile delays other grammars alone.
    """

    def __init__(self, tokenizer: Tokenizer, vocab: int) -> None:
        self._grammars = Grammars(tokenizer, vocab=vocab)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="grammar")  # ends with this object

    async def check(self, grammar: str) -> None:
        """Refuse a grammar before anything is paid or waits for it.

        Raises:
            GrammarInvalid: it is malformed, or no text can meet it; says what is wrong.
            Invalid: llguidance is not installed.
        """
        if grammar and not self._grammars.knows(grammar):
            await asyncio.get_running_loop().run_in_executor(self._thread, self._grammars.start, grammar)
