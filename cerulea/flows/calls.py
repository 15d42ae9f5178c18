"""Tools that a model may call: what makes it call one, and which calls its text makes, found while it is written.

In:      tools as OpenAI writes them, which of them is to be called, and text as it comes.
Out:     a grammar that forces a call; a reader that parts text and calls.
Kept:    a forced call is one JSON object, {"name": ..., "arguments": {...}}, whatever the model's family; a free one is
         what the family's template teaches (`text.tools`). Any split of a text gives the same.
Not here: how tools are shown to a model (`text.chat`), HTTP.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from cerulea.core.errors import Invalid
from cerulea.text.chat import ChatTemplate
from cerulea.text.tools import CallStream, ToolCall, style_of


class Calls(Protocol):
    """Text in, text and calls out."""

    def push(self, text: str) -> tuple[str, list[ToolCall]]:
        """Text that is certainly no call, and calls that are whole."""
        ...

    def end(self) -> tuple[str, list[ToolCall]]:
        """The rest."""
        ...


class ForcedCall:
    """A text that is one call; a call that was cut off is text."""

    def __init__(self) -> None:
        self._held = ""

    def push(self, text: str) -> tuple[str, list[ToolCall]]:
        """Nothing is sure before its end."""
        self._held += text
        return "", []

    def end(self) -> tuple[str, list[ToolCall]]:
        """The call."""
        try:
            found = json.loads(self._held)
            return "", [ToolCall(found["name"], json.dumps(found["arguments"], ensure_ascii=False))]
        except (ValueError, KeyError, TypeError):
            return self._held, []


class NoCalls:
    """Text that is only text."""

    def push(self, text: str) -> tuple[str, list[ToolCall]]:
        """All of it."""
        return text, []

    def end(self) -> tuple[str, list[ToolCall]]:
        """Nothing more."""
        return "", []


def check_tools(template: ChatTemplate, label: str, *, forced: bool) -> None:
    """Refuse tools that a model would not be told of, or whose calls could not be read.

    Raises:
        Invalid: its template has no place for tools, or teaches no form of calls that is known.
    """
    if not template.writes_tools:
        raise Invalid(
            f"The chat template of {label} has no place for tools.",
            why="A model that is not told of its tools cannot call them.",
            fix="Leave tools out, or use a model that was trained with them.",
        )
    if not forced and _style(template) is None:
        raise Invalid(
            f"The chat template of {label} teaches no form of calls that is known here.",
            fix='Force a call with tool_choice "required", or leave tools out.',
        )


def read_calls(template: ChatTemplate | None, *, forced: bool) -> Calls:
    """A reader for one text of a model that may call tools."""
    if forced:
        return ForcedCall()
    style = _style(template) if template else None
    return CallStream(style) if style else NoCalls()  # type: ignore[arg-type]


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


def _style(template: ChatTemplate) -> str | None:
    sources = (template.source, *template.others.values())
    return next((style for source in sources if (style := style_of(source))), None)
