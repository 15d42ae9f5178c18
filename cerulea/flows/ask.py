"""What one request asks of a model and what comes of it, as plain values.

In:      an Ask: some prompts, all to be continued in the same way.
Out:     Pieces, as text comes; Texts, when it has ended.
Not here: who makes them (`flows.complete`), HTTP (`api`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from cerulea.serve.request import SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What is to be continued."""

    ids: tuple[int, ...]
    text: str | None = None  # as it was written; None where it came as ids


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request: some prompts, all to be continued in the same way."""

    id: str
    endpoint: str
    prompts: tuple[Prompt, ...]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    fill: bool = False  # as many of max_tokens as the context has room for, instead of a refusal
    best_of: int = 1  # texts of each prompt
    shown: tuple[str, ...] = ()  # special tokens that are part of the text: those that mark calls of tools
    stops: tuple[str, ...] = ()  # strings that end a text and are not part of it
    echo: bool = False  # the text begins with the prompt
    strict: bool = False  # hold the money for the longest answer at once
    share_prefix: bool = True
    embed: bool = False


class Told(NamedTuple):
    """What is reported of one token: its log probability, the likeliest beside it, where it begins in the text."""

    token: int
    logprob: float | None  # None for the first token of a prompt
    top: tuple[tuple[int, float], ...]
    offset: int


@dataclass(frozen=True, slots=True)
class Piece:
    """Some more text of one choice."""

    index: int  # of the sequence: prompt * best_of + choice
    text: str = ""
    told: tuple[Told, ...] = ()
    finish: str = ""  # stop | length, with the last piece
    detail: str = ""  # with it, where there is more to say: budget, context, aborted
    embedding: tuple[float, ...] = ()
    ids: tuple[int, ...] = ()  # tokens written since the piece before


@dataclass(slots=True)
class Text:
    """One text that has ended."""

    index: int
    text: str = ""
    told: list[Told] = field(default_factory=list)
    finish: str = ""
    detail: str = ""
    embedding: tuple[float, ...] = ()
    ids: tuple[int, ...] = ()


def joined(count: int, pieces: Iterable[Piece]) -> list[Text]:
    """The texts, by index, that these pieces are all of."""
    texts = [Text(index) for index in range(count)]
    for piece in pieces:
        whole = texts[piece.index]
        whole.text += piece.text
        whole.told += piece.told
        whole.embedding += piece.embedding
        whole.ids += piece.ids
        whole.finish, whole.detail = piece.finish or whole.finish, piece.detail or whole.detail
    return texts
