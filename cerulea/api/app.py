"""The HTTP API: which routes there are, and how errors leave it. Everything a person can do is here.

In:      an open platform; a caller to trust without a key, for the embedded platform alone.
Out:     an ASGI application: /api/..., /v1/... (OpenAI's), /healthz, /readyz, /metrics, /openapi.json.
Kept:    every route under /api and /v1 declares its scope, or the application does not start. Every refusal and failure
         leaves as a problem (RFC 9457), or in OpenAI's shape where its clients ask, here and nowhere else. A body
         beyond its limit is not read to the end.
Not here: logic (`flows`), the wire format (`schema`), who may what (`people.roles`).
"""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cerulea import __version__
from cerulea.api import (
    funds,
    jobs,
    live,
    matches,
    models,
    openai,
    openai_chat,
    openai_errors,
    operate,
    people,
    usage,
    work,
)
from cerulea.api.asking import Needs, NeedsLease
from cerulea.api.meter import Meter
from cerulea.api.model_meter import ModelMeter
from cerulea.api.problems import MEDIA, Problem, respond
from cerulea.core.clock import new_id
from cerulea.core.errors import CeruleaError, FileTrouble, Invalid, NotFound, Unreachable
from cerulea.flows.platform import Platform
from cerulea.flows.play import Matches
from cerulea.flows.serving import Gateway
from cerulea.flows.work import Desk
from cerulea.people import Caller

BODY_BYTES = 1 << 20
WORK_BODY_BYTES = 32 << 20  # a worker's batch of metrics or log lines
MODEL_BODY_BYTES = 8 << 20  # a batch of prompts, a long conversation
# Routes are tried in this order: those first that are asked for most often and must answer fastest.
ROUTERS = (openai, openai_chat, work, jobs, live, funds, usage, people, models, matches, operate)
OPEN = ("/healthz", "/readyz", "/metrics")
PROBLEMS = (400, 401, 402, 403, 404, 409, 413, 422, 503)

log = logging.getLogger("cerulea.api")


def create_app(platform: Platform, *, trusted: Caller | None = None, gateway: Gateway | None = None) -> FastAPI:
    """The application for an open platform.

    Args:
        trusted: who asks where there is no key; only for a transport that nobody else can reach.
        gateway: what models are asked through; without it there are none.
    """
    app = FastAPI(title="Cerulea", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.platform, app.state.trusted = platform, trusted
    app.state.meter, app.state.desk = Meter(platform), Desk(platform)
    app.state.matches = Matches(platform)
    gateway = app.state.gateway = gateway or Gateway(platform=platform)
    gateway.observer = ModelMeter(gateway, app.state.meter.registry)
    for part in ROUTERS:
        app.include_router(part.router)
    _check_scopes(app)
    app.add_exception_handler(CeruleaError, _refused)
    app.add_exception_handler(openai_errors.About, _refused)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _unrouted)
    app.add_exception_handler(SQLAlchemyError, _database)
    app.add_exception_handler(Exception, _broken)
    app.add_middleware(Gate, meter=app.state.meter)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def needs_of(route: APIRoute) -> Needs | None:
    """What a route asks of its caller."""
    todo = list(route.dependant.dependencies)
    while todo:
        dependant = todo.pop()
        if isinstance(dependant.call, Needs):
            return dependant.call
        todo += dependant.dependencies
    return None


def routes_of(app: FastAPI) -> list[APIRoute]:
    """Every route of ours."""
    return [route for part in ROUTERS for route in part.router.routes if isinstance(route, APIRoute)]


def _check_scopes(app: FastAPI) -> None:
    """Deny by default: what declares no scope is a mistake of ours, and nothing is served."""
    open_ones = [r.path for r in routes_of(app) if r.path not in OPEN and needs_of(r) is None]
    assert not open_ones, f"no scope: {open_ones}"


# -- errors ------------------------------------------------------------------------------------------


def _answer(request: Request, error: Any, status: int | None = None, headers: dict[str, str] | None = None) -> Response:
    """The error in the language of whoever asked: OpenAI's on its paths, unless a problem is asked for by its type."""
    if _in_openais_words(request):
        return openai_errors.respond(error, status, headers)
    return respond(error.error if isinstance(error, openai_errors.About) else error, status, headers)


def _in_openais_words(request: Request) -> bool:
    return openai_errors.speaks_openai(request.url.path) and MEDIA not in request.headers.get("accept", "")


async def _refused(request: Request, error: Any) -> Response:
    return _answer(request, error)


async def _malformed(request: Request, error: Any) -> Response:
    """What is wrong with a request, field by field."""
    if _in_openais_words(request):
        return openai_errors.malformed(error.errors())
    found = []
    for one in error.errors()[:5]:
        place = ".".join(str(part) for part in one["loc"] if part != "body")[:100]
        found.append(f"{place or 'the body'}: {one['msg']}")
    return _answer(
        request, Invalid("; ".join(found)[:600] + ".", fix="See /openapi.json for what this route takes."), 422
    )


async def _unrouted(request: Request, error: Any) -> Response:
    """What the router itself refuses: no such path, no such method, a body that is no JSON."""
    path = request.url.path[:200]
    if error.status_code == 404:
        return _answer(request, NotFound(f"There is no {path} here.", fix="/openapi.json lists what there is."))
    if error.status_code == 405:
        text = f"{path} does not take {request.method}."
        takes = {m for r in routes_of(request.app) if r.path_regex.match(request.url.path) for m in r.methods or ()}
        allow = {"Allow": ", ".join(sorted(takes))}
        return _answer(request, Invalid(text, fix=f"It takes {allow['Allow']}."), 405, allow)
    return _answer(
        request, Invalid(f"{error.detail}.", fix="Send JSON as /openapi.json describes it."), error.status_code
    )


async def _database(request: Request, error: Any) -> Response:
    log.error("%s %s", request.method, request.url.path, exc_info=error)
    what = str(getattr(error, "orig", error)).strip().splitlines() or ["no answer"]
    if isinstance(error, OperationalError) and "disk" not in what[0]:
        return _answer(
            request, Unreachable(f"The database does not answer: {what[0][:200]}.", fix="Try again in a moment.")
        )
    return _answer(request, FileTrouble(f"The database refused: {what[0][:200]}.", fix="Look at the server's log."))


async def _broken(request: Request, error: Any) -> Response:
    """A bug of ours; the traceback is in the server's log."""
    return _answer(request, CeruleaError("Something here is broken; it was noted.", fix="Please report it."))


class Gate:
    """Counts requests, and refuses bodies beyond their limit before they are read."""

    def __init__(self, app: ASGIApp, meter: Meter) -> None:
        self.app, self.meter = app, meter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path: str = scope["path"]
        models = openai_errors.speaks_openai(path)
        most = WORK_BODY_BYTES if path.startswith("/api/work/") else MODEL_BODY_BYTES if models else BODY_BYTES
        began, status, taken = self.meter.begin(), 500, 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > most:
                raise HTTPException(413, f"The body has more than {most:,} bytes")
            return message

        async def answered(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if models and not any(name == b"x-request-id" for name, _ in message["headers"]):
                    message["headers"] = [*message["headers"], (b"x-request-id", new_id("req").encode())]
            await send(message)

        try:
            length = dict(scope["headers"]).get(b"content-length", b"0")
            if length.isdigit() and int(length[:20]) > most:
                text = f"The body has {length[:20].decode()} bytes; the most is {most:,}."
                refuse = openai_errors.respond if models else respond
                await refuse(Invalid(text, fix="Send less at once."), 413)(scope, receive, answered)
            else:
                await self.app(scope, counted, answered)
        finally:
            self.meter.end(began, scope, status)


# -- /openapi.json -----------------------------------------------------------------------------------


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The document, with who may call what and how refusals look; made once."""
    if app.openapi_schema is not None:
        return app.openapi_schema
    document = get_openapi(title=app.title, version=app.version, routes=app.routes, description=__doc__.splitlines()[0])
    parts = document.setdefault("components", {})
    parts["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer", "description": "An API key, `ck_...`."},
        "lease": {"type": "http", "scheme": "bearer", "description": "The token of one attempt, `lt_...`."},
    }
    schema = Problem.model_json_schema()
    parts.setdefault("schemas", {})["Problem"] = schema
    parts["schemas"] |= openai_errors.schemas()
    for name in ("HTTPValidationError", "ValidationError"):
        parts["schemas"].pop(name, None)
    for route in routes_of(app):
        needs = needs_of(route)
        for method in route.methods or ():
            operation = document["paths"][route.path][method.lower()]
            answers = operation["responses"]
            answers.pop("422", None)
            if openai_errors.speaks_openai(route.path):
                answers |= openai_errors.answers()
            for status in () if openai_errors.speaks_openai(route.path) else PROBLEMS if needs else (503,):
                answers[str(status)] = {
                    "description": "A problem (RFC 9457)",
                    "content": {MEDIA: {"schema": {"$ref": "#/components/schemas/Problem"}}},
                }
            if needs is not None:
                operation["security"] = [{"key": [scope]} for scope in needs.scopes] or [{"key": []}]
                if isinstance(needs, NeedsLease):
                    operation["security"].append({"lease": []})
                operation["x-scopes"] = list(needs.scopes)
    app.openapi_schema = document
    return document
