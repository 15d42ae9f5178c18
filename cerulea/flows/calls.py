"""Tools that a model may call: what makes it call one, and which calls a text makes.

In:      tools as OpenAI writes them, which of them is to be called, and the text.
Out:     a grammar that forces a call; the text beside the calls, and the calls.
Kept:    a forced call is one JSON object, {"name": ..., "arguments": {...}}, whatever the model's family; a free one is
         what the family writes (`text.tools`). Arguments are given as JSON text, as they travel.
Not here: how tools are shown to a model (`text.chat`), HTTP.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cerulea.core.errors import Invalid
from cerulea.text.tools import CallStream, Style, ToolCall


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


class Calls:
    """The text of one answer as it comes, and the calls in it.

    Args:
        style: how the model calls; None where the whole text is one forced call.
    """

    def __init__(self, style: Style | None) -> None:
        self._stream = CallStream(style) if style else None
        self._held = ""

    def push(self, text: str) -> tuple[str, list[Call]]:
        """What is said beside calls, and calls that are whole."""
        if self._stream is None:
            self._held += text
            return "", []
        return _plain(*self._stream.push(text))

    def end(self) -> tuple[str, list[Call]]:
        """The rest; a call that was cut off is text."""
        if self._stream is not None:
            return _plain(*self._stream.end())
        try:
            found = json.loads(self._held)
            return "", [Call(found["name"], json.dumps(found["arguments"], ensure_ascii=False))]
        except (ValueError, KeyError, TypeError):
            return self._held, []


def _plain(text: str, calls: Sequence[ToolCall]) -> tuple[str, list[Call]]:
    return text, [Call(call.name, call.arguments) for call in calls]
