"""Texts by models: go on from a prompt, or in a conversation, as they are written.

In:      a model's label, a prompt or messages, how to write.
Out:     Pieces as they come; leaving early stops the model, and only what was written is paid.
Kept:    who asks while a model is being loaded waits for it, and is told; it is the only refusal that is asked again.
Not here: the wire format (`api.openai`), terminals (`cli.chat`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cerulea.client.wire import Requests
from cerulea.core.errors import ModelLoading

LOADING_S = 900.0
AGAIN_S = 1.0  # beside what the platform itself waits before it says so


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
    detail: str = ""  # context or budget, where those ended it


class WriteCalls:
    """What models write.

    Attributes:
        patience_s: how long a model that is being loaded is waited for.
        on_loading: is told so once for each request that waits.
    """

    def __init__(self, line: Requests) -> None:
        self._line = line
        self.patience_s = LOADING_S
        self.on_loading: Callable[[ModelLoading], None] = lambda error: None

    def open(self, model: str) -> None:
        """Have a model loaded, if it is not yet.

        Raises:
            NotFound: there is none of that name.
            ModelLoading: it takes longer than `patience_s`.
        """
        for _ in self._patiently(lambda: iter([self._line.ask("/tokenize", {"model": model, "prompt": ""})])):
            pass

    def complete(self, model: str, prompt: str, **how: Any) -> Iterator[Piece]:
        """Go on from a prompt; `how` as OpenAI's completions take it (max_tokens, temperature, stop, n, …).

        Raises:
            NotFound, Invalid, Refused, Busy: see /v1/completions.
        """
        body = {"model": model, "prompt": prompt, "return_token_ids": True, **how, **_STREAMED}
        for event in self._events("/v1/completions", body):
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
                detail=next((piece.detail for piece in pieces if piece.index == i and piece.detail), ""),
            )
            for i in range(int(how.get("n", 1)))
        ]

    def chat(self, model: str, messages: Sequence[Mapping[str, str]], **how: Any) -> Iterator[Piece]:
        """What the model says next; `how` as OpenAI's chat completions take it.

        Raises:
            NoChatTemplate: the model was trained on texts and not on conversations.
        """
        body = {"model": model, "messages": list(messages), **how, **_STREAMED}
        for event in self._events("/v1/chat/completions", body):
            for choice in event["choices"]:
                yield _piece(choice, choice["delta"].get("content") or "")
            yield from _usage(event)

    def _events(self, path: str, body: dict[str, Any]) -> Iterator[Any]:
        return self._patiently(lambda: self._line.events(path, body))

    def _patiently(self, ask: Callable[[], Iterator[Any]]) -> Iterator[Any]:
        """Ask again while the answer is that the model is being loaded; nothing was begun then."""
        waited_since = 0.0
        while True:
            try:
                yield from ask()
                return
            except ModelLoading as error:
                now = time.monotonic()
                if not waited_since:
                    waited_since = now
                    self.on_loading(error)
                if now - waited_since >= self.patience_s:
                    raise
                self._line.sleep(AGAIN_S)


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
