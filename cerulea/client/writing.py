"""Texts by models: go on from a prompt, or in a conversation, as they are written.

In:      a model's label, a prompt or messages, how to write.
Out:     Pieces as they come; leaving early stops the model, and only what was written is paid.
Not here: the wire format (`api.openai`), terminals (`cli.chat`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cerulea.client.wire import Requests


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Some more text of one of the texts that were asked for."""

    index: int
    text: str = ""
    token_ids: tuple[int, ...] = ()
    finish: str = ""  # stop or length, with the last piece of a text
    detail: str = ""  # budget or context, where that says more
    usage: Mapping[str, int] | None = None  # of all texts, with the very last piece


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A whole text."""

    text: str
    token_ids: tuple[int, ...]
    prompt_tokens: int
    finish: str


class WriteCalls:
    """What models write."""

    def __init__(self, line: Requests) -> None:
        self._line = line

    def complete(self, model: str, prompt: str, **how: Any) -> Iterator[Piece]:
        """Go on from a prompt; `how` as OpenAI's completions take it (max_tokens, temperature, stop, n, …).

        Raises:
            NotFound, Invalid, Refused, Busy: see /v1/completions.
        """
        body = {"model": model, "prompt": prompt, "return_token_ids": True, **how, **_STREAMED}
        for event in self._line.events("/v1/completions", body):
            for choice in event["choices"]:
                yield _piece(choice, choice["text"])
            yield from _usage(event)

    def texts(self, model: str, prompt: str, **how: Any) -> list[Written]:
        """The same, whole: `n` of them."""
        pieces = list(self.complete(model, prompt, **how))
        read = next((piece.usage["prompt_tokens"] for piece in pieces if piece.usage), 0)
        return [
            Written(
                text="".join(piece.text for piece in pieces if piece.index == i),
                token_ids=tuple(token for piece in pieces if piece.index == i for token in piece.token_ids),
                prompt_tokens=read,
                finish=next((piece.finish for piece in pieces if piece.index == i and piece.finish), ""),
            )
            for i in range(int(how.get("n", 1)))
        ]

    def chat(self, model: str, messages: Sequence[Mapping[str, str]], **how: Any) -> Iterator[Piece]:
        """What the model says next; `how` as OpenAI's chat completions take it.

        Raises:
            NoChatTemplate: the model was trained on texts and not on conversations.
        """
        body = {"model": model, "messages": list(messages), **how, **_STREAMED}
        for event in self._line.events("/v1/chat/completions", body):
            for choice in event["choices"]:
                yield _piece(choice, choice["delta"].get("content") or "")
            yield from _usage(event)


_STREAMED = {"stream": True, "stream_options": {"include_usage": True}}


def _piece(choice: Mapping[str, Any], text: str) -> Piece:
    return Piece(
        index=choice["index"],
        text=text,
        token_ids=tuple(choice.get("token_ids") or ()),
        finish=choice.get("finish_reason") or "",
        detail=(choice.get("cerulea") or {}).get("stop_detail", ""),
    )


def _usage(event: Mapping[str, Any]) -> Iterator[Piece]:
    if event.get("usage"):
        yield Piece(index=0, usage=event["usage"])
