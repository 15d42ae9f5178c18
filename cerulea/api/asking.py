"""Who asks, whether that one may, and whether the same was asked before.

In:      a request.
Out:     a Caller with the scope that the route needs; for writes a Write, which does the work once for each key.
Kept:    a route without a scope is not served (`app` refuses to start with one); no key and a wrong key are 401, a key
         that does not reach is 403; what belongs to another team is not there (404).
Not here: roles (`people`), what is done (`flows`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, Header, Request, Response
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection

from cerulea.api.problems import problem_of
from cerulea.core.clock import new_id
from cerulea.core.errors import CeruleaError, KeyUnknown
from cerulea.flows.once import LONGEST_KEY, Answer, check_key, once
from cerulea.flows.platform import Platform
from cerulea.people import Caller
from cerulea.store.database import Tx

LEASE = "lt_"  # in front of the token of one attempt


def platform_of(request: Request) -> Platform:
    """The platform that this application serves."""
    platform: Platform = request.app.state.platform
    return platform


class Needs:
    """A dependency: the caller, who has one of these scopes; any caller where none is named.

    Raises:
        KeyUnknown, KeyEnded: nobody we know.
        RoleLacks: somebody who may not.
    """

    def __init__(self, *scopes: str) -> None:
        self.scopes = scopes

    async def __call__(self, request: Request) -> Caller:
        caller = await caller_of(request)
        if self.scopes and not any(caller.may(scope) for scope in self.scopes):
            caller.need(self.scopes[0])
        request.state.caller = caller
        return caller


class NeedsLease(Needs):
    """The same for a worker's reports, which the token of the attempt opens as well: None is whoever has that."""

    async def __call__(self, request: Request) -> Caller | None:  # type: ignore[override]
        return None if _lease(request) is not None else await super().__call__(request)


def lease_token(request: Request) -> str | None:
    """The attempt's token, where the request came with one instead of a key."""
    return _lease(request)


def _lease(request: HTTPConnection) -> str | None:
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    return text.strip().removeprefix(LEASE) if scheme.lower() == "bearer" and text.strip().startswith(LEASE) else None


async def caller_of(request: HTTPConnection, key: str | None = None) -> Caller:
    """Who asks.

    Args:
        key: an API key that did not come as a header, where there is none: browsers' websockets cannot send any.

    Raises:
        KeyUnknown, KeyEnded: nobody we know.
    """
    header = request.headers.get("authorization", key)
    trusted: Caller | None = request.app.state.trusted
    if header is None and trusted is not None:
        return trusted
    if header is not None and _lease(request) is not None:
        raise KeyUnknown(
            "The token of an attempt opens the reports of its own job and nothing else.",
            fix="Use an API key (ck_...).",
        )
    platform: Platform = request.app.state.platform
    people = platform.people
    if (caller := people.known.recall(header or "")) is not None:
        return caller
    return await run_in_threadpool(people.authenticate, header or "")


class Write:
    """One write of one caller. Called with the work, it answers as the work did, or as it did the first time."""

    def __init__(self, request: Request, key: str | None, body: bytes) -> None:
        self.request, self.key, self.body = request, key, body

    def __call__(
        self,
        work: Callable[[Tx, str], BaseModel],
        *,
        status: int = 200,
        kept: Callable[[Any], BaseModel] | None = None,
    ) -> Response:
        """Do `work` in one transaction.

        Args:
            work: gets the transaction, and a key for the ledger and the queue that is this caller's and route's alone.
            kept: what of its answer may be written down; for answers that hold a secret.
        """
        caller: Caller = self.request.state.caller
        platform = platform_of(self.request)
        route: str = self.request.scope["route"].path
        scope = f"{caller.person}@{caller.team} {self.request.method} {route}"
        if self.key is None:
            made = platform.database.write(lambda tx: work(tx, new_id("req") + new_id("")))
            return _response(Answer(status, made.model_dump_json()))
        check_key(self.key)
        inner = f"api-{hashlib.sha256(f'{scope} {self.key}'.encode()).hexdigest()[:40]}"
        given: list[BaseModel] = []  # the answer as it is, of whoever asked first

        def keep(tx: Tx) -> Answer:
            made = work(tx, inner)
            given[:] = [made]
            return Answer(status, (kept(made) if kept else made).model_dump_json())

        def refuse(error: CeruleaError) -> Answer:
            problem = problem_of(error)
            return Answer(problem.status, problem.model_dump_json())

        answer = once(platform, scope, self.key, self._fingerprint(), keep, refuse)
        if given and not answer.repeated and answer.status == status:
            answer = answer._replace(body=given[0].model_dump_json())
        return _response(answer)

    def _fingerprint(self) -> str:
        """Equal for equal requests: path, query and the body's values."""
        try:
            body = json.dumps(json.loads(self.body), sort_keys=True) if self.body else ""
        except ValueError:
            body = self.body.decode("utf-8", "replace")
        url = self.request.url
        return hashlib.sha256(f"{url.path}?{url.query}\n{body}".encode("utf-8", "replace")).hexdigest()


def key_header(what: str, *, examples: list[str] | None = None) -> Any:
    """The header of a write's key, and what a repeat with the same key does there."""
    return Header(
        alias="Idempotency-Key", max_length=LONGEST_KEY, pattern=r"^[!-~]+$", description=what, examples=examples
    )


async def _write(
    request: Request,
    idempotency_key: Annotated[
        str | None,
        key_header(
            "A repeat with the same key gets the first answer, refusals too, and does nothing.",
            examples=["3f2f6a1c-6d1e-4b7e-9a0c-2f1f6a7d8e90"],
        ),
    ] = None,
) -> Write:
    return Write(request, idempotency_key, await request.body())


def _response(answer: Answer) -> Response:
    kind = "application/json" if answer.status < 400 else "application/problem+json"
    headers = {"Idempotency-Replayed": "true"} if answer.repeated else {}
    return Response(answer.body, status_code=answer.status, media_type=kind, headers=headers)


async def _opened(request: Request) -> Platform:
    """The same as a dependency; `async`, so that no thread is asked for it."""
    return platform_of(request)


Opened = Annotated[Platform, Depends(_opened)]
Writes = Annotated[Write, Depends(_write)]
