"""A stand-in for vLLM, which is not installed here: the names of its V1 API that `vllm_engine` uses, around the toy.

It is no vLLM, and that tests pass beside it says nothing of vLLM itself: only that what we ask for has the names, types
and limits that its documentation gives, and that we count and lease right if it answers as documented.
"""

from __future__ import annotations

import enum
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from tests.serve.toys import VOCAB, next_token


class RequestOutputKind(enum.Enum):
    CUMULATIVE = 0
    DELTA = 1


@dataclass(kw_only=True)
class StructuredOutputsParams:
    json: Any = None
    regex: str | None = None
    grammar: str | None = None
    json_object: bool | None = None


@dataclass(kw_only=True)
class SamplingParams:
    max_tokens: int
    min_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    presence_penalty: float
    frequency_penalty: float
    repetition_penalty: float
    logit_bias: dict[int, float] | None
    seed: int
    stop_token_ids: list[int]
    ignore_eos: bool
    logprobs: int | None
    prompt_logprobs: int | None
    structured_outputs: StructuredOutputsParams | None
    detokenize: bool
    output_kind: RequestOutputKind

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or not 0 <= self.min_tokens <= self.max_tokens or not 0 <= self.seed < 2**63:
            raise ValueError("out of range")


class EngineDeadError(Exception):
    pass


@dataclass
class Opened:
    tokens: list[int]
    params: SamplingParams
    prompt: Mapping[str, Any]
    written: list[int] = field(default_factory=list)


class LLMEngine:
    """Continues every open request by one token a step."""

    def __init__(self, context: int = 64) -> None:
        self.model_config = types.SimpleNamespace(max_model_len=context, get_vocab_size=lambda: VOCAB)
        self.open: dict[str, Opened] = {}
        self.added: list[tuple[str, Opened]] = []
        self.broken: Exception | None = None
        self.refuses: Exception | None = None
        self.args: Any = None

    @classmethod
    def from_engine_args(cls, args: Any) -> LLMEngine:
        made = cls(args.max_model_len or 64)
        made.args = args
        return made

    def add_request(self, request_id: str, prompt: Mapping[str, Any], params: SamplingParams) -> None:
        if self.refuses is not None:
            raise self.refuses
        assert request_id not in self.open
        assert prompt["type"] == "token" and params.output_kind is RequestOutputKind.DELTA and not params.detokenize
        self.open[request_id] = Opened(list(prompt["prompt_token_ids"]), params, prompt)
        self.added.append((request_id, self.open[request_id]))

    def abort_request(self, request_ids: list[str]) -> None:
        for name in request_ids:
            self.open.pop(name, None)

    def step(self) -> list[Any]:
        if self.broken is not None:
            raise self.broken
        return [self._continue(name, one) for name, one in list(self.open.items())]

    def _continue(self, name: str, one: Opened) -> Any:
        first, params = not one.written, one.params
        told = None
        if first and params.prompt_logprobs is not None:
            prompt = one.tokens
            told = [None, *(_ranked(prompt[:i], prompt[i], params.prompt_logprobs) for i in range(1, len(prompt)))]
        token = next_token(one.tokens)
        logprobs = None if params.logprobs is None else [_ranked(one.tokens, token, params.logprobs)]
        one.tokens.append(token)
        one.written.append(token)
        reason = None
        if token in params.stop_token_ids and len(one.written) >= params.min_tokens:
            reason = "stop"
        elif len(one.written) >= params.max_tokens or len(one.tokens) >= self.model_config.max_model_len:
            reason = "length"
        if reason:
            del self.open[name]
        return types.SimpleNamespace(
            request_id=name,
            prompt_logprobs=told,
            num_cached_tokens=2 if first else None,
            finished=bool(reason),
            outputs=[types.SimpleNamespace(token_ids=[token], logprobs=logprobs, finish_reason=reason)],
        )


def _ranked(before: Sequence[int], token: int, most: int) -> dict[int, Any]:
    """The token itself first, then the likeliest, by id."""
    logits = torch.zeros(VOCAB)
    logits[next_token(before)] = 10.0
    values = logits.log_softmax(0)
    ids = [token, *values.argsort(descending=True, stable=True)[:most].tolist()]
    return {i: types.SimpleNamespace(logprob=float(values[i]), rank=1, decoded_token=None) for i in ids}


def modules() -> dict[str, types.ModuleType]:
    """What stands in for vLLM's modules, by name."""
    made = {name: types.ModuleType(name) for name in ("vllm", "vllm.sampling_params", "vllm.config")}
    made["vllm"].__dict__.update(
        SamplingParams=SamplingParams, LLMEngine=LLMEngine, EngineArgs=lambda **given: types.SimpleNamespace(**given)
    )
    made["vllm.sampling_params"].__dict__.update(
        RequestOutputKind=RequestOutputKind, StructuredOutputsParams=StructuredOutputsParams
    )
    made["vllm.config"].__dict__.update(StructuredOutputsConfig=lambda **given: types.SimpleNamespace(**given))
    return made
