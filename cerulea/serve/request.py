"""What is asked of an engine and what it answers, as plain values: token ids, never text, never money.

In:      a Request, for one sequence of tokens; several choices of one question are several requests.
Out:     Deltas: the tokens that one step added to a sequence; the last one says why it ended and what it used.
Kept:    values cross a pipe as JSON and come back equal (`as_json`, `*_from_json`); floats keep every bit.
Not here: torch, text (`text.stream`), which request runs when (`scheduler`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from cerulea.core.values import Usage

# stop: an id that ends a text; length: max_tokens, the context or the lease; abort: somebody hung up; error: a failure
Finish = Literal["", "stop", "length", "abort", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How the tokens of one sequence are picked. Checked where it enters (`api`), not here."""

    max_tokens: int = 16  # 0 reads the prompt alone
    temperature: float = 1.0  # 0 picks the likeliest
    top_k: int = 0  # 0 means all
    top_p: float = 1.0
    min_p: float = 0.0  # only tokens of at least this share of the likeliest one's probability
    presence_penalty: float = 0.0  # taken once from the logit of each token that was written
    frequency_penalty: float = 0.0  # taken for each time
    repetition_penalty: float = 1.0  # logits of tokens in prompt or text are divided by it (multiplied, below zero)
    logit_bias: tuple[tuple[int, float], ...] = ()  # (id, what is added)
    seed: int = 0  # 64 bits; with `choice` and the position it decides every draw
    choice: int = 0  # which of the n texts of one question this is
    stop_ids: tuple[int, ...] = ()  # ids that end the text and are not part of it
    least_tokens: int = 0  # stop_ids cannot be picked before so many
    logprobs: int = -1  # report the picked token's log probability and this many of the likeliest; -1 reports none
    prompt_logprobs: int = -1  # the same for every token of the prompt but the first
    grammar: str = ""  # JSON of {"schema": {...}} or {"regex": "..."} or {"lark": "..."}; "" allows every token
    deterministic: bool = False  # every bit of the answer is independent of who is served beside it


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One sequence to be continued."""

    id: str
    team: str  # whose: decides fairness, and whose cached prefixes may be read
    prompt: tuple[int, ...]  # at least one id
    sampling: SamplingParams = field(default_factory=SamplingParams)
    leased: int = 0  # tokens that may be written before somebody extends the lease; more than max_tokens is no limit
    share_prefix: bool = True  # False neither reads nor leaves a cached prefix
    embed: bool = False  # answer with the mean of the last hidden states instead of tokens

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        sampling = {name: getattr(self.sampling, name) for name in _SAMPLING}
        return {**{name: getattr(self, name) for name in _REQUEST}, "sampling": sampling}


# asdict copies every value deeply, which takes longer than writing the JSON.
_SAMPLING, _REQUEST = (tuple(spec.name for spec in fields(kind)) for kind in (SamplingParams, Request))


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural log probabilities of the model itself, before temperature, penalties and filters."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()  # likeliest first; the picked token has the same float here as above


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """What one step added to one sequence."""

    id: str
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()  # one for each token, where asked for
    prompt_logprobs: tuple[TokenLogprob, ...] = ()  # once: one for each prompt token but the first
    embedding: tuple[float, ...] = ()
    finish: Finish = ""
    detail: str = ""  # lease: the lease ended; context: the context is full; or what failed
    usage: Usage | None = None  # with the last delta
    cached_tokens: int = 0  # of the prompt, read from a cached prefix; with the last delta
    queue_ms: float = 0.0  # from its coming to its start; with the last delta
    prefill_ms: float = 0.0  # from there to its first token

    def as_json(self) -> dict[str, Any]:
        """Plain values, without what is empty."""
        values: dict[str, Any] = {"id": self.id}
        for spec in fields(self)[1:]:
            if value := getattr(self, spec.name):
                values[spec.name] = value
        for name in ("logprobs", "prompt_logprobs"):
            if name in values:
                values[name] = [(one.token, one.logprob, one.top) for one in values[name]]
        if self.usage is not None:
            values["usage"] = self.usage.as_json()
        return values


def request_from_json(values: Mapping[str, Any]) -> Request:
    """The request that `as_json` wrote."""
    sampling = dict(values["sampling"])
    sampling["logit_bias"] = tuple((int(i), float(bias)) for i, bias in sampling["logit_bias"])
    sampling["stop_ids"] = tuple(sampling["stop_ids"])
    rest = {name: value for name, value in values.items() if name not in ("sampling", "prompt")}
    return Request(prompt=tuple(values["prompt"]), sampling=SamplingParams(**sampling), **rest)


def delta_from_json(values: Mapping[str, Any]) -> Delta:
    """The delta that `as_json` wrote."""
    given = dict(values)
    for name in ("logprobs", "prompt_logprobs"):
        given[name] = tuple(
            TokenLogprob(token, logprob, tuple((i, value) for i, value in top))
            for token, logprob, top in given.get(name, ())
        )
    for name in ("tokens", "embedding"):
        given[name] = tuple(given.get(name, ()))
    if "usage" in given:
        given["usage"] = Usage(**given["usage"])
    return Delta(**given)
