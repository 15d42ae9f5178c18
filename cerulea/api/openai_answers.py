"""The wire format of answers about models: OpenAI's objects, for the document, and the dictionaries that are sent.

In:      Pieces and Told of `flows.complete`, ids by a tokenizer.
Out:     plain dictionaries, written as JSON as they are: a stream has no time for more.
Kept:    what is sent has the shape of the classes here; a token that was picked has the same float in
         `token_logprobs` and in `top_logprobs`.
Not here: when what is sent (`openai`, `openai_chat`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal
from weakref import WeakKeyDictionary

from pydantic import Field

from cerulea.api.openai_schema import Out
from cerulea.flows.ask import Told
from cerulea.flows.complete import Completion
from cerulea.text.stream import Piece, piece_of
from cerulea.text.tokenizer import Tokenizer

_SPELLED: WeakKeyDictionary[Tokenizer, dict[int, Piece]] = WeakKeyDictionary()
UNLIKELY = -9999.0  # how OpenAI writes what JSON has no number for


class PromptDetails(Out):
    """Of the prompt."""

    cached_tokens: int = Field(examples=[0])


class UsageOut(Out):
    """What was used, as it is charged."""

    prompt_tokens: int = Field(examples=[3])
    completion_tokens: int = Field(examples=[16])
    total_tokens: int = Field(examples=[19])
    prompt_tokens_details: PromptDetails


class StopDetail(Out):
    """Why a text ended, where OpenAI's words do not say it."""

    stop_detail: str = Field(examples=["budget"], description="budget: the money ended; context; aborted.")


class LogprobsOut(Out):
    """One entry a token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class ChoiceOut(Out):
    """One text."""

    text: str = Field(examples=[" calm that morning."])
    index: int
    logprobs: LogprobsOut | None
    finish_reason: Literal["stop", "length"]
    token_ids: list[int] | None = None
    cerulea: StopDetail | None = None


class CompletionOut(Out):
    """Texts that go on from prompts. With `stream`, events with the same shape, and `[DONE]`."""

    id: str = Field(examples=["cmpl-7f3a91c2d0b4"])
    object: Literal["text_completion"]
    created: int = Field(examples=[1767225600])
    model: str = Field(examples=["brook@3"])
    system_fingerprint: str | None
    choices: list[ChoiceOut]
    usage: UsageOut


class CalledFunction(Out):
    """What is called."""

    name: str = Field(examples=["weather"])
    arguments: str = Field(examples=['{"city": "Aveiro"}'])


class Called(Out):
    """One call of a tool."""

    id: str = Field(examples=["call_7f3a91c2d0b4"])
    type: Literal["function"]
    function: CalledFunction


class MessageOut(Out):
    """What the model says."""

    role: Literal["assistant"]
    content: str | None = Field(examples=["Calm."])
    refusal: None
    tool_calls: list[Called] | None = None


class Likely(Out):
    """A token and how likely it was."""

    token: str
    logprob: float
    bytes: list[int] | None


class ChatToken(Likely):
    """The one that was picked."""

    top_logprobs: list[Likely]


class ChatLogprobs(Out):
    """One entry a token."""

    content: list[ChatToken] | None
    refusal: None


class ChatChoice(Out):
    """One answer."""

    index: int
    message: MessageOut
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]
    cerulea: StopDetail | None = None


class ChatOut(Out):
    """What the model says next. With `stream`, `chat.completion.chunk` events, and `[DONE]`."""

    id: str = Field(examples=["chatcmpl-7f3a91c2d0b4"])
    object: Literal["chat.completion"]
    created: int = Field(examples=[1767225600])
    model: str = Field(examples=["brook@3"])
    system_fingerprint: str | None
    choices: list[ChatChoice]
    usage: UsageOut


class EmbeddingItem(Out):
    """One vector, of length 1: numbers, or the base64 of little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str = Field(examples=[[0.6, -0.8]])


class EmbeddingUsage(Out):
    """What was read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsOut(Out):
    """Vectors, in the order of the input."""

    object: Literal["list"]
    data: list[EmbeddingItem]
    model: str = Field(examples=["brook@3"])
    usage: EmbeddingUsage


class ModelItem(Out):
    """A model that can be asked for."""

    id: str = Field(examples=["brook@3"])
    object: Literal["model"]
    created: int
    owned_by: str = Field(examples=["home"], description="The team it belongs to.")
    aliases: list[str]
    loaded: bool


class ModelItems(Out):
    """Models that can be asked for."""

    object: Literal["list"]
    data: list[ModelItem]


class TokenizedOut(Out):
    """Tokens of a text."""

    tokens: list[int] = Field(examples=[[464, 5417, 373]])
    count: int
    max_model_len: int
    token_strs: list[str]


class DetokenizedOut(Out):
    """Text of tokens."""

    prompt: str = Field(examples=["The sea was"])


class AbortedOut(Out):
    """A request that was told to stop."""

    id: str
    object: Literal["request.aborted"]
    aborted: bool


# -- what is sent ------------------------------------------------------------------------------------


def usage_of(completion: Completion) -> dict[str, Any]:
    """What was used, once it has ended."""
    used = completion.usage
    return {
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.completion_tokens,
        "total_tokens": used.prompt_tokens + used.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": completion.cached_tokens},
    }


def logprobs_of(told: Sequence[Told], tokenizer: Tokenizer, most: int) -> dict[str, Any]:
    """The older form, of /v1/completions: the likeliest, and the picked one beside them where it is none of them."""
    top: list[dict[str, float] | None] = []
    for entry in told:
        if entry.logprob is None:
            top.append(None)
            continue
        likely: dict[str, float] = {}
        for token, logprob in (*entry.top[:most], (entry.token, entry.logprob)):
            likely.setdefault(spelled(tokenizer, token).text, number(logprob))
        top.append(likely)
    return {
        "tokens": [spelled(tokenizer, entry.token).text for entry in told],
        "token_logprobs": [None if entry.logprob is None else number(entry.logprob) for entry in told],
        "top_logprobs": top,
        "text_offset": [entry.offset for entry in told],
    }


def chat_logprobs_of(told: Iterable[Told], tokenizer: Tokenizer, most: int) -> dict[str, Any]:
    """The newer form, of chat."""
    content = [
        {
            **_likely(entry.token, entry.logprob or 0.0, tokenizer),
            "top_logprobs": [_likely(token, logprob, tokenizer) for token, logprob in entry.top[:most]],
        }
        for entry in told
    ]
    return {"content": content, "refusal": None}


def number(logprob: float) -> float:
    """A log probability that JSON can hold."""
    return logprob if math.isfinite(logprob) else UNLIKELY


def spelled(tokenizer: Tokenizer, token: int) -> Piece:
    """How a token alone is written; made once for each that is ever shown."""
    known = _SPELLED.setdefault(tokenizer, {})
    if (piece := known.get(token)) is None:
        piece = known[token] = piece_of(tokenizer, token)
    return piece


def _likely(token: int, logprob: float, tokenizer: Tokenizer) -> dict[str, Any]:
    piece = spelled(tokenizer, token)
    return {"token": piece.text, "logprob": number(logprob), "bytes": list(piece.bytes)}
