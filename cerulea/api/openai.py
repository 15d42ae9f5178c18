"""OpenAI's API over our models: texts, embeddings, models; and tokens, requests that run, what one has used.

Kept:    the shapes of `openai_answers`; refusals come before the first byte and keep their HTTP status.
         There is no /tokenizer_info: it names no model, and here are several. Programs that look for it and for
         /tokenize (lm-eval) find one of the two and use the tokenizer they are given.
Not here: conversations (`openai_chat`), the story (`flows.complete`).
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import hashlib
import math
import secrets
import struct
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Response

from cerulea.api import openai_answers as out
from cerulea.api.answering import Asked, Begun, Through, Uses, answer_plainly, answer_streamed, whole_characters
from cerulea.api.asking import Opened
from cerulea.api.openai_errors import About, about
from cerulea.api.openai_schema import CompletionIn, DetokenizeIn, EmbeddingIn, Sampling, TokenizeIn
from cerulea.api.usage import RequestId, RequestUsageOut, show_request
from cerulea.core.errors import Invalid, NotFound
from cerulea.flows.admit import begin
from cerulea.flows.ask import Ask, Piece, Text
from cerulea.flows.complete import Completion
from cerulea.flows.grammars import grammar_of
from cerulea.flows.prompts import encode, read_prompts
from cerulea.flows.serving import Gateway, Offer, Served
from cerulea.flows.texts import best
from cerulea.people import Caller
from cerulea.serve.request import SamplingParams
from cerulea.text.stream import text_of

router = APIRouter(tags=["openai"])
DEFAULT_TOKENS = 16  # of a completion that does not say
MOST_BIAS = 100.0
SMALLEST_TOP_P = 1e-9  # OpenAI allows 0, which leaves the likeliest token
_EVENT = {
    "type": "object",
    "description": "One chunk, or [DONE]; a failure is a chunk with `error`.",
    "required": ["data"],
    "properties": {"data": {"type": "string", "contentMediaType": "application/json"}},
}
EVENTS: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {"schema": _EVENT}}}}
ModelPath = Annotated[str, Path(max_length=200, description="As /v1/models lists.", examples=["brook@3"])]


@router.post("/v1/completions", response_model=out.CompletionOut, responses=EVENTS)
async def create_completion(body: CompletionIn, caller: Uses, call: Asked) -> Response:
    """Texts that go on from prompts."""
    call.refuse_stream(body)
    n, best_of = _choices(body)
    reports = body.logprobs is not None

    async def start() -> tuple[Served, Completion]:
        served = await open_model(call.gateway, caller, body.model)
        sampling = await sampling_of(served, body, DEFAULT_TOKENS if body.max_tokens is None else body.max_tokens)
        logprobs = max(-1 if body.logprobs is None else body.logprobs, 0 if best_of > n else -1)
        with about("prompt"):
            prompts = await read_prompts(served, body.prompt, begin=bool(body.add_special_tokens))
            ask = Ask(
                id=f"cmpl-{secrets.token_hex(12)}",
                endpoint="completions",
                prompts=prompts,
                sampling=with_logprobs(sampling, logprobs, echo=bool(body.echo and reports)),
                fill=body.max_tokens is None or bool(body.fit_context),
                best_of=best_of,
                stops=stops_of(body),
                echo=bool(body.echo),
                strict=bool(body.strict),
                share_prefix=body.share_prefix is not False,
            )
            return served, await begin(call.gateway, caller, served, ask)

    def choice(served: Served, piece: Piece | Text, index: int) -> dict[str, Any]:
        told = out.logprobs_of(piece.told, served.tokenizer, body.logprobs or 0) if reports else None
        return {
            "text": piece.text,
            "index": index,
            "logprobs": told if piece.told or isinstance(piece, Text) else None,
            "finish_reason": piece.finish or None,
            **({"token_ids": list(piece.ids)} if body.return_token_ids else {}),
            **detail_of(piece.detail),
        }

    if body.stream:
        served, completion = await start()
        head = head_of(completion, "text_completion")
        return answer_streamed(body, completion, head, lambda piece: [choice(served, piece, piece.index)])

    async def begun() -> Begun:
        served, completion = await start()

        def tell(texts: list[Text]) -> dict[str, Any]:
            chosen = enumerate(best(completion, texts, n))
            choices = [choice(served, text, index) for index, text in chosen]
            return {
                **head_of(completion, "text_completion"),
                "choices": choices,
                "usage": out.usage_of(completion),
            }

        return Begun(completion, tell)

    return await answer_plainly(call, caller, begun)


@router.post("/v1/embeddings", response_model=out.EmbeddingsOut)
async def create_embeddings(body: EmbeddingIn, caller: Uses, call: Asked) -> Response:
    """Texts as vectors of length 1: the mean of the model's last hidden states."""
    if body.dimensions is not None:
        raise About(
            Invalid(
                "dimensions cannot be chosen.",
                why="A part of these models' vectors means nothing by itself.",
                fix="Leave dimensions out.",
            ),
            "dimensions",
        )
    if "" in ([body.input] if isinstance(body.input, str) else body.input):
        raise About(Invalid("An input is an empty text.", fix="Leave it out."), "input")

    async def begun() -> Begun:
        served = await open_model(call.gateway, caller, body.model)
        with about("input"):
            ask = Ask(
                id=f"embd-{secrets.token_hex(12)}",
                endpoint="embeddings",
                prompts=await read_prompts(served, body.input),
                sampling=SamplingParams(max_tokens=0),
                embed=True,
            )
            completion = await begin(call.gateway, caller, served, ask)
        return Begun(completion, lambda texts: _embeddings(completion, texts, body.encoding_format == "base64"))

    return await answer_plainly(call, caller, begun)


def _embeddings(completion: Completion, texts: list[Text], packed: bool) -> dict[str, Any]:
    data = []
    for text in texts:
        length = math.sqrt(sum(value * value for value in text.embedding)) or 1.0
        vector = [value / length for value in text.embedding]
        data.append({"object": "embedding", "index": text.index, "embedding": _packed(vector) if packed else vector})
    used = completion.usage.prompt_tokens
    return {
        "object": "list",
        "data": data,
        "model": completion.served.label,
        "usage": {"prompt_tokens": used, "total_tokens": used},
    }


def _packed(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


# -- models and tokens -------------------------------------------------------------------------------


@router.get("/v1/models", response_model=out.ModelItems)
async def list_models(caller: Uses, gateway: Through) -> Any:
    """Models that can be asked for."""
    return {"object": "list", "data": [_item(offer) for offer in await asyncio.to_thread(gateway.host.models, caller)]}


@router.get("/v1/models/{model}", response_model=out.ModelItem)
async def show_model(model: ModelPath, caller: Uses, gateway: Through) -> Any:
    """One of them: `brook@3`; `brook`, its newest version; `brook:prod`, what an alias names."""
    offers = await asyncio.to_thread(gateway.host.models, caller)
    for offer in reversed(offers):
        name = offer.label.partition("@")[0]
        if model in (offer.label, name, *(f"{name}:{alias}" for alias in offer.aliases)):
            return _item(offer)
    known = ", ".join(offer.label for offer in offers[:20]) or "none"
    raise About(
        NotFound(f"There is no model {model[:100]!r}.", why=f"There are: {known}.", fix="See them: GET /v1/models"),
        "model",
        "model_not_found",
    )


def _item(offer: Offer) -> dict[str, Any]:
    return {
        "id": offer.label,
        "object": "model",
        "created": offer.created_at // 1000,
        "owned_by": offer.team,
        "aliases": list(offer.aliases),
        "loaded": offer.loaded,
        **({"max_model_len": offer.context} if offer.context else {}),
    }


@router.post("/tokenize", response_model=out.TokenizedOut, dependencies=[Depends(whole_characters)])
async def tokenize(body: TokenizeIn, caller: Uses, gateway: Through) -> Any:
    """Tokens of a text, in which special tokens may be spelled out."""
    served = await open_model(gateway, caller, body.model)
    (ids,) = await encode(served, [body.prompt])
    tokenizer = served.tokenizer
    if body.add_special_tokens and tokenizer.begin_of_text != tokenizer.end_of_text:
        ids = [tokenizer.begin_of_text, *ids]
    return {
        "tokens": ids,
        "count": len(ids),
        "max_model_len": served.context,
        "token_strs": [out.spelled(tokenizer, token).text for token in ids],
    }


@router.post("/detokenize", response_model=out.DetokenizedOut, dependencies=[Depends(whole_characters)])
async def detokenize(body: DetokenizeIn, caller: Uses, gateway: Through) -> Any:
    """Text of tokens, special ones spelled out."""
    served = await open_model(gateway, caller, body.model)
    if not body.tokens:
        return {"prompt": ""}
    with about("tokens"):
        (prompt,) = await read_prompts(served, body.tokens)
    tokenizer = served.tokenizer
    return {"prompt": text_of(tokenizer, prompt.ids, shown=tuple(tokenizer.specials))}


# -- requests ----------------------------------------------------------------------------------------


@router.delete("/v1/requests/{request_id}", response_model=out.AbortedOut)
async def abort_request(request_id: RequestId, caller: Uses, gateway: Through) -> Any:
    """Stop a request of one's team that runs in this process: its text ends where it is, and that is charged."""
    found = gateway.running.get(request_id)
    if found is None or (caller.teams is not None and found.caller.team not in caller.teams):
        raise NotFound(f"No request {request_id!r} runs here.", why="It has ended, or it never was.")
    found.abort()
    return {"id": request_id, "object": "request.aborted", "aborted": True}


@router.get("/v1/usage/{request_id}", response_model=RequestUsageOut)
def show_usage(request_id: RequestId, caller: Uses, platform: Opened) -> RequestUsageOut:
    """What one request of one's team used and cost, also when nobody waited for its end."""
    return show_request(request_id, caller, platform)


# -- what completions and chat share -----------------------------------------------------------------


async def open_model(gateway: Gateway, caller: Caller, label: str) -> Served:
    """The loaded model; what is not there is refused with what there is."""
    try:
        return await gateway.open(caller, label)
    except NotFound as error:
        if not error.fix:
            known = ", ".join(offer.label for offer in gateway.host.models(caller)[:20]) or "none"
            error = NotFound(error.what, why=error.why or f"There are: {known}.", fix="See them: GET /v1/models")
        raise About(error, "model", "model_not_found") from None


async def sampling_of(
    served: Served, body: Sampling, max_tokens: int, more_stops: tuple[int, ...] = ()
) -> SamplingParams:
    """How tokens are picked, as OpenAI's arguments and ours say it."""
    bias = [(int(token), value) for token, value in (body.logit_bias or {}).items()]
    for token, value in bias:
        if token >= served.vocab or not -MOST_BIAS <= value <= MOST_BIAS:
            raise About(
                Invalid(f"logit_bias {token}: {value} cannot be.", why=f"Ids are below {served.vocab:,}, values ±100."),
                "logit_bias",
            )
    if any(token >= served.vocab for token in body.stop_token_ids or ()):
        raise About(Invalid(f"stop_token_ids are below {served.vocab:,}."), "stop_token_ids")
    stops = {*(body.stop_token_ids or ()), *(() if body.ignore_eos else (served.tokenizer.end_of_text, *more_stops))}
    with about("response_format"):
        grammar = grammar_of(body.response_format.model_dump(by_alias=True) if body.response_format else None)
        await served.grammars.check(grammar)
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=1.0 if body.temperature is None else body.temperature,
        top_k=max(0, body.top_k or 0),
        top_p=1.0 if body.top_p is None else max(SMALLEST_TOP_P, body.top_p),
        min_p=body.min_p or 0.0,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        repetition_penalty=body.repetition_penalty or 1.0,
        logit_bias=tuple(sorted(bias)),
        seed=secrets.randbits(63) if body.seed is None else body.seed % 2**64,
        stop_ids=tuple(sorted(stops)),
        least_tokens=min(body.min_tokens or 0, max_tokens),
        grammar=grammar,
        deterministic=bool(body.deterministic),
    )


def with_logprobs(sampling: SamplingParams, logprobs: int, *, echo: bool) -> SamplingParams:
    """The same, with what is to be reported."""
    return dataclasses.replace(sampling, logprobs=logprobs, prompt_logprobs=logprobs if echo else -1)


def stops_of(body: Sampling) -> tuple[str, ...]:
    """The strings that end a text."""
    return (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())


def head_of(completion: Completion, kind: str) -> dict[str, Any]:
    """What an answer and all of its chunks begin with."""
    label = completion.served.label
    return {
        "id": completion.id,
        "object": kind,
        "created": completion.created,
        "model": label,
        "system_fingerprint": "fp_" + hashlib.sha256(label.encode()).hexdigest()[:10],
    }


def detail_of(detail: str) -> dict[str, Any]:
    """Why a text ended, where there is more to say than OpenAI has words for."""
    return {"cerulea": {"stop_detail": detail}} if detail else {}


def _choices(body: CompletionIn) -> tuple[int, int]:
    """N and best_of, which fit each other."""
    if body.suffix:
        raise About(Invalid("suffix is not served.", why="These models write forward only."), "suffix")
    n = body.n or 1
    best_of = n if body.best_of is None else body.best_of
    if best_of < n:
        raise About(Invalid(f"best_of {best_of} is below n {n}.", why="n of best_of texts are given."), "best_of")
    if body.stream and best_of > n:
        raise About(Invalid("best_of is not streamed.", why="The best is known at the end."), "best_of")
    return n, best_of
