"""Tools that a model may call: what makes it call one, and which calls a text makes.

In:      tools as OpenAI writes them, which of them is to be called, and the text.
Out:     a grammar that forces a call; the text beside the calls, and the calls.
Kept:    a forced call is one JSON object, {"name": ..., "arguments": {...}}, whatever the model's family; a free one is
         what the family writes (`text.tools`). Arguments are given as JSON text, as they travel.
Not here: how tools are shown to a model (`text.chat`), HTTP.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cerulea.core.errors import Invalid


class Call(NamedTuple):
    """One call."""

    name: str
    arguments: str  # JSON


def call_grammar(tools: Sequence[Mapping[str, Any]], name: str) -> str:
    """The grammar of a call: of the tool of this name, or of any of them where it is empty.

    Raises:
        Invalid: there is no tool of that name.
    """
    functions = [tool["function"] for tool in tools]
    known = [function["name"] for function in functions]
    if name and name not in known:
        raise Invalid(f"There is no tool {name[:100]!r}.", fix=f"Choose one of {', '.join(known)}.")
    forms = [
        {
            "type": "object",
            "properties": {
                "name": {"const": function["name"]},
                "arguments": function.get("parameters") or {"type": "object"},
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for function in functions
        if not name or function["name"] == name
    ]
    return json.dumps({"schema": forms[0] if len(forms) == 1 else {"anyOf": forms}}, sort_keys=True)


def read_calls(text: str, *, forced: bool) -> tuple[str, list[Call]]:
    """What a text says beside its calls, and the calls; a call that was cut off is text."""
    if forced:
        try:
            found = json.loads(text)
            return "", [Call(found["name"], json.dumps(found["arguments"], ensure_ascii=False))]
        except (ValueError, KeyError, TypeError):
            return text, []
    content, calls = importlib.import_module("cerulea.text.tools").parse_tool_calls(text)
    return content, [Call(*call) for call in calls]
