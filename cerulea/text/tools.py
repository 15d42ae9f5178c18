"""Tool calls in what a model wrote, found while it is written.

In:      text as it comes; the style of calls that the model's template teaches.
Out:     text that is no call, as soon as that is sure, and whole calls.
Styles:  hermes   <tool_call>{"name": ..., "arguments": {...}}</tool_call>, one after the other (Hermes, Qwen)
         mistral  [TOOL_CALLS] [{"name": ..., "arguments": {...}}, ...] at the end, or [TOOL_CALLS]name[ARGS]{...} of
                  newer ones, several times
         llama3   {"name": ..., "parameters": {...}}, nothing before it but <|python_tag|>; several parted by ;
Kept:    any split of a text gives the same text and calls; what turns out to be no call is text again, to the letter.
Not here: which tools there are, and whether the arguments fit them (`api`); how tools are told to a model (`chat`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Style = Literal["hermes", "mistral", "llama3"]

_OPEN = {"hermes": "<tool_call>", "mistral": "[TOOL_CALLS]", "llama3": "<|python_tag|>"}
_CLOSE = "</tool_call>"
# Special tokens of a style: text.stream leaves them out unless it is told to show them.
SHOWN = ("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call."""

    name: str
    arguments: str  # JSON of an object


def style_of(template: str) -> Style | None:
    """The style that a chat template teaches, by the marks in its source; None where it has none."""
    if "<tool_call>" in template:
        return "hermes"
    if "[TOOL_CALLS]" in template:
        return "mistral"
    if "<|python_tag|>" in template or ('"parameters": ' in template and "ipython" in template):
        return "llama3"
    return None


def parse_calls(text: str, style: Style) -> tuple[str, list[ToolCall]]:
    """The text without its calls, and the calls: exactly what a CallStream gives piece by piece."""
    stream = CallStream(style)
    shown, calls = stream.push(text)
    rest, more = stream.end()
    return shown + rest, calls + more


class CallStream:
    """Text in, text and calls out. Blanks next to a call belong to it."""

    def __init__(self, style: Style) -> None:
        self._style = style
        self._step: Callable[[bool], tuple[str, list[ToolCall], bool]] = {
            "hermes": self._hermes,
            "mistral": self._mistral,
            "llama3": self._llama3,
        }[style]
        self._held = ""
        self._started = False  # some text was shown
        self._called = False  # a call was the last thing found

    def push(self, text: str) -> tuple[str, list[ToolCall]]:
        """Text that may be shown and calls that are whole, now that this was written."""
        self._held += text
        return self._run(last=False)

    def end(self) -> tuple[str, list[ToolCall]]:
        """The rest. A call that was never closed is text."""
        return self._run(last=True)

    def _run(self, *, last: bool) -> tuple[str, list[ToolCall]]:
        shown, calls, more = "", [], True
        while more and self._held:
            text, found, more = self._step(last)
            shown += text
            calls += found
            self._started = self._started or bool(text)
            self._called = bool(found) or (self._called and not text)
        return shown, calls

    def _show(self, end: int) -> str:
        shown, self._held = self._held[:end], self._held[end:]
        return shown

    def _before(self, mark: str, *, last: bool) -> tuple[str, list[ToolCall], bool]:
        """Text before the mark; blanks stay with what may be a call."""
        at = self._held.find(mark)
        if at >= 0:
            return self._show(len(self._held[:at].rstrip())), [], True
        return self._show(len(self._held) if last else _may_begin(self._held, mark)), [], False

    def _hermes(self, last: bool) -> tuple[str, list[ToolCall], bool]:
        mark, bare = _OPEN["hermes"], self._held.lstrip()
        if self._called and not bare:  # nothing but blanks since a call
            self._held = "" if last else self._held
            return "", [], False
        if not bare.startswith(mark):
            if not self._called:
                return self._before(mark, last=last)
            if mark.startswith(bare) and not last:
                return "", [], False
            self._held, self._called = bare, False
            return "", [], True
        close = bare.find(_CLOSE)
        if close < 0 and not last:
            return "", [], False
        call = _call(_json(bare[len(mark) : close if close >= 0 else None]), "arguments")
        end = len(self._held) - len(bare) + (close + len(_CLOSE) if close >= 0 else len(bare))
        if call is None:
            self._called = False
            return self._show(end), [], True
        self._show(end)
        return "", [call], True

    def _mistral(self, last: bool) -> tuple[str, list[ToolCall], bool]:
        mark, bare = _OPEN["mistral"], self._held.lstrip()
        if not bare.startswith(mark):
            return self._before(mark, last=last)
        if not last:
            return "", [], False
        values = _json(bare[len(mark) :])
        if not isinstance(values, list):
            parted = [one.partition("[ARGS]") for one in bare.split(mark)[1:]]
            values = [{"name": name.strip(), "arguments": _json(given)} for name, _, given in parted]
        return self._whole([_call(one, "arguments") for one in values])

    def _llama3(self, last: bool) -> tuple[str, list[ToolCall], bool]:
        """Only a text that begins as a call can be one, so that braces later on are text."""
        mark, bare = _OPEN["llama3"], self._held.lstrip()
        if self._started:
            return self._show(len(self._held)), [], False
        could = not bare or bare.startswith("{") or bare.startswith(mark) or mark.startswith(bare)
        if could and not last:
            return "", [], False
        values = _several(bare.removeprefix(mark))
        calls = [_call(one, "parameters") or _call(one, "arguments") for one in values]
        return self._whole(calls) if last else (self._show(len(self._held)), [], False)

    def _whole(self, calls: list[ToolCall | None]) -> tuple[str, list[ToolCall], bool]:
        """All that is held as calls, or as text where one of them is none."""
        whole = [call for call in calls if call is not None]
        shown = self._show(len(self._held))
        return ("", whole, False) if whole and len(whole) == len(calls) else (shown, [], False)


def _may_begin(text: str, mark: str) -> int:
    """Where the end of the text that may belong to a mark begins, with the blanks before it."""
    size = next((k for k in range(min(len(mark) - 1, len(text)), 0, -1) if text.endswith(mark[:k])), 0)
    return len(text[: len(text) - size].rstrip())


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _several(text: str) -> list[Any]:
    """JSON values one after the other, parted by blanks or ;. None where it is none."""
    reader, rest = json.JSONDecoder(), text.strip()
    values: list[Any] = []
    while rest:
        try:
            value, end = reader.raw_decode(rest)
        except ValueError:
            return [*values, None]
        values.append(value)
        rest = rest[end:].lstrip("; \n\t\r")
    return values


def _call(value: Any, key: str) -> ToolCall | None:
    """The call that the value spells, or None."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not value["name"]:
        return None
    arguments = value.get(key, {} if len(value) == 1 else None)
    if isinstance(arguments, str):  # some models write the object as a text
        arguments = _json(arguments)
    if not isinstance(arguments, dict):
        return None
    return ToolCall(value["name"], json.dumps(arguments, ensure_ascii=False))
