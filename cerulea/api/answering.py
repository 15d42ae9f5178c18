"""How a request to a model is answered: plainly, once for each key, or as a stream.

In:      what begins a completion, and what tells its texts in OpenAI's words.
Out:     a Response; `x-request-id` names the completion for DELETE /v1/requests/{id} and GET /v1/usage/{id}.
Kept:    who hangs up during a plain call stops it too, unless it has an Idempotency-Key: then it runs on, for whoever
         comes again with the key.
Not here: OpenAI's objects (`openai`, `openai_chat`).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Annotated, Any, NamedTuple, TypeVar

from fastapi import Depends, Request, Response

from cerulea.api.asking import Needs, key_header
from cerulea.api.openai_answers import usage_of
from cerulea.api.openai_errors import About, body_of
from cerulea.api.openai_schema import Sampling
from cerulea.api.sse import DONE, EventStream, hung_up
from cerulea.core.errors import Invalid
from cerulea.flows.ask import Piece, Text
from cerulea.flows.attach import Claim, Kept, attach
from cerulea.flows.complete import Completion
from cerulea.flows.serving import Gateway
from cerulea.flows.texts import collect
from cerulea.people import Caller

T = TypeVar("T")
CLIENT_CLOSED = 499  # nobody reads it; it is for the log

Uses = Annotated[Caller, Depends(Needs("models:read"))]


class Begun(NamedTuple):
    """A completion that runs, and how its answer is written."""

    completion: Completion
    tell: Callable[[list[Text]], dict[str, Any]]


Begin = Callable[[], Awaitable[Begun]]


async def gateway_of(request: Request) -> Gateway:
    """What this application asks models through."""
    gateway: Gateway = request.app.state.gateway
    return gateway


Through = Annotated[Gateway, Depends(gateway_of)]


async def whole_characters(request: Request) -> None:
    """Refuse half of a surrogate pair, wherever in the body: no tokenizer, database or grammar can hold one."""
    _refuse_halves(await request.body())


def _refuse_halves(body: bytes) -> None:
    if b"\\ud" not in body.lower():
        return
    try:
        json.dumps(json.loads(body), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Invalid("The body has half of a surrogate pair (\\ud800 to \\udfff alone).", fix="Send UTF-8.") from None
    except (ValueError, RecursionError):
        pass  # no JSON, which is said elsewhere


class Call:
    """One request to a model: through what it goes, and what tells whether the same came before."""

    def __init__(self, request: Request, gateway: Gateway, key: str | None, body: bytes) -> None:
        self.request, self.gateway, self.key, self.body = request, gateway, key, body

    def refuse_stream(self, body: Sampling) -> None:
        """A stream cannot be given twice."""
        if body.stream and self.key is not None:
            raise About(
                Invalid(
                    "An Idempotency-Key is for calls that are not streamed.",
                    why="A stream is not kept, so that a repeat would be charged again.",
                    fix="Leave the key out, or set stream to false.",
                ),
                "stream",
            )

    def fingerprint(self) -> str:
        """Equal for equal requests."""
        values = json.dumps(json.loads(self.body), sort_keys=True)
        return hashlib.sha256(f"{self.request.url.path}\n{values}".encode("utf-8", "replace")).hexdigest()


async def _call(
    request: Request,
    idempotency_key: Annotated[
        str | None,
        key_header("A repeat with the same key waits for the first answer, or gets it again, and is not charged."),
    ] = None,
) -> Call:
    """One dependency for all of that, since FastAPI's work for each costs more than the dependency itself."""
    body = await request.body()
    _refuse_halves(body)
    return Call(request, await gateway_of(request), idempotency_key, body)


Asked = Annotated[Call, Depends(_call)]


async def answer_plainly(call: Call, caller: Caller, begin: Begin) -> Response:
    """The whole answer, when it is there."""
    request = call.request
    if call.key is None:
        begun = await begin()
        try:
            texts = await _unless_hung_up(request, collect(begun.completion))
        finally:
            begun.completion.abort()  # changes nothing where it has ended
            await begun.completion.ended()
        if texts is None:
            return Response(status_code=CLIENT_CLOSED)
        return _respond(Kept(begun.completion.id, compact(begun.tell(texts))))

    async def work(claim: Claim) -> Kept:
        completion, tell = await begin()
        return await completion.keeping(lambda texts: Kept(completion.id, compact(tell(texts))), claim.keep)

    scope = f"{caller.person}@{caller.team} {request.method} {request.url.path}"
    kept = await _unless_hung_up(request, attach(call.gateway, scope, call.key, call.fingerprint(), work))
    return Response(status_code=CLIENT_CLOSED) if kept is None else _respond(kept)


def answer_streamed(
    body: Sampling,
    completion: Completion,
    head: dict[str, Any],
    chunks: Callable[[Piece], Iterable[dict[str, Any]]],
    opening: Iterable[dict[str, Any]] = (),
) -> Response:
    """Events as the text comes, and `[DONE]`.

    Args:
        head: what all chunks share.
        chunks: the choices that a piece is told as, each in a chunk of its own.
        opening: choices that are told before there is any text.
    """
    with_usage = bool(body.stream_options and body.stream_options.include_usage)
    shared = {**head, "usage": None} if with_usage else head
    return EventStream(completion, _events(completion, shared, chunks, opening, with_usage))


async def _events(
    completion: Completion,
    head: dict[str, Any],
    chunks: Callable[[Piece], Iterable[dict[str, Any]]],
    opening: Iterable[dict[str, Any]],
    with_usage: bool,
) -> AsyncIterator[str]:
    begin = compact(head)[:-1]  # the same in each chunk, and written once

    def written(choices: Iterable[dict[str, Any]]) -> str:
        return "".join(f'data: {begin},"choices":[{compact(choice)}]}}\n\n' for choice in choices)

    if first := written(opening):
        yield first
    async for batch in completion.pieces():
        if text := "".join(written(chunks(piece)) for piece in batch):
            yield text
    if completion.error is not None:
        yield f"data: {compact(body_of(completion.error))}\n\n"
        return
    if with_usage:
        yield f"data: {compact({**head, 'choices': [], 'usage': usage_of(completion)})}\n\n"
    yield DONE


_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def compact(value: Any) -> str:
    """JSON in one line."""
    return _JSON.encode(value)


async def _unless_hung_up(request: Request, work: Awaitable[T]) -> T | None:
    """What the work gives, or None when the client went before."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.create_task(hung_up(request.receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        leaving.cancel()
        if not working.done():
            working.cancel()
            await asyncio.wait({working})


def _respond(kept: Kept) -> Response:
    headers = {"x-request-id": kept.id, **({"Idempotency-Replayed": "true"} if kept.repeated else {})}
    return Response(kept.body, media_type="application/json", headers=headers)
