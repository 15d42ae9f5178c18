"""What a text must be, as an engine takes it: OpenAI's `response_format` to a grammar.

In:      {"type": "json_object"}, {"type": "json_schema", "json_schema": {"schema": ...}}, and our `regex` and `lark`.
Out:     the JSON of `SamplingParams.grammar`; nothing where every text will do.
Not here: whether a grammar can be met (`text.grammar`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from cerulea.core.errors import GrammarInvalid

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
