"""Refusals and failures as OpenAI's clients read them: {"error": {message, type, param, code}}, all four always.

In:      a CeruleaError, or what the router refuses, on a path of ours that speaks OpenAI's language.
Out:     the body, with the status that makes a client do the right thing: money is 402 and never tried again, 429 and
         503 are for what passes and say when, and what another try cannot change says so (`x-should-retry`).
Kept:    `x-cerulea-code` has the code of docs/errors.md.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fastapi import Response
from pydantic import BaseModel, ConfigDict

from cerulea.core.errors import (
    Busy,
    CeruleaError,
    Conflict,
    EngineFailed,
    Failed,
    GrammarInvalid,
    Invalid,
    KeyEnded,
    KeyUnknown,
    ModelTooLarge,
    MoneyInvalid,
    NotAllowed,
    NotFound,
    NotReady,
    PromptTooLong,
    QueueFull,
    RateLimited,
    Refused,
    Unreachable,
)

PATHS = ("/v1", "/tokenize", "/detokenize")
STATUSES = (400, 401, 402, 403, 404, 405, 409, 413, 429, 500, 503)
# The nearest class above an error decides: HTTP status, type, code.
KINDS: dict[type[CeruleaError], tuple[int, str, str | None]] = {
    PromptTooLong: (400, "invalid_request_error", "context_length_exceeded"),
    GrammarInvalid: (400, "invalid_request_error", "invalid_schema"),
    NotFound: (404, "invalid_request_error", "not_found"),
    Invalid: (400, "invalid_request_error", None),
    Refused: (402, "insufficient_quota", "insufficient_quota"),
    KeyUnknown: (401, "invalid_request_error", "invalid_api_key"),
    KeyEnded: (401, "invalid_request_error", "invalid_api_key"),
    NotAllowed: (403, "invalid_request_error", "permission_denied"),
    RateLimited: (429, "rate_limit_error", "rate_limit_exceeded"),
    QueueFull: (429, "rate_limit_error", "queue_full"),
    NotReady: (503, "server_error", "not_ready"),
    Busy: (503, "server_error", "busy"),
    Unreachable: (503, "server_error", "unreachable"),
    Conflict: (409, "invalid_request_error", "conflict"),
    ModelTooLarge: (500, "server_error", "model_too_large"),
    EngineFailed: (500, "server_error", "engine_failed"),
    Failed: (500, "server_error", None),
    CeruleaError: (500, "server_error", None),
}
TRIED_IN_VAIN = (Conflict, ModelTooLarge)  # statuses that clients try again, and errors that stay


class ErrorOut(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """A refusal or a failure, in OpenAI's shape."""

    error: ErrorOut

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "error": {
                        "message": "There is no model 'brok'. The nearest is brook. See them: GET /v1/models",
                        "type": "invalid_request_error",
                        "param": "model",
                        "code": "model_not_found",
                    }
                }
            ]
        }
    )


class About(Exception):
    """An error, with the argument that it is about and the code that OpenAI has for it."""

    def __init__(self, error: CeruleaError, param: str, code: str | None = None) -> None:
        super().__init__(str(error))
        self.error, self.param, self.code = error, param, code


@contextmanager
def about(param: str, code: str | None = None) -> Iterator[None]:
    """What is refused in here is refused because of this argument; a grammar has its own."""
    try:
        yield
    except GrammarInvalid as error:
        raise About(error, "tool_choice" if param == "tool_choice" else "response_format", code) from error
    except Invalid as error:
        raise (error if isinstance(error, MoneyInvalid | NotFound) else About(error, param, code)) from None


def speaks_openai(path: str) -> bool:
    """Whether errors of this path leave in OpenAI's shape."""
    return any(path == one or path.startswith(one + "/") for one in PATHS)


def body_of(error: CeruleaError, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """The body alone, as a broken stream sends it."""
    _, kind, known = _kind_of(error)
    return _body(str(error), kind, param, code or known)


def respond(
    error: CeruleaError | About, status: int | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """The answer to a request that met this error."""
    param: str | None = None
    code: str | None = None
    if isinstance(error, About):
        param, code, error = error.param, error.code, error.error
    found, _, _ = _kind_of(error)
    extra = {"x-cerulea-code": error.code}
    if isinstance(error, Busy):
        wait_s = max(0.0, error.retry_after_s)
        extra |= {"Retry-After": str(max(1, math.ceil(wait_s))), "retry-after-ms": str(math.ceil(wait_s * 1000))}
    if isinstance(error, TRIED_IN_VAIN):
        extra["x-should-retry"] = "false"
    if found == 401:
        extra["WWW-Authenticate"] = "Bearer"
    return _response(status or found, body_of(error, param, code), {**extra, **(headers or {})})


def malformed(found: Iterable[Mapping[str, Any]]) -> Response:
    """What is wrong with a request's fields: the first one, since OpenAI's shape names one."""
    errors = list(found)
    first, param = errors[0], _param_of(errors[0])
    if first["type"] == "extra_forbidden":
        text, code = f"Unrecognized request argument supplied: {param}", "unknown_parameter"
    elif first["type"] == "missing":
        text, code = f"Missing required parameter: {param!r}.", "missing_required_parameter"
    else:
        # Where several types would do, each of them says why it does not.
        root = _places(first)[:1]
        whys = dict.fromkeys(one["msg"] for one in errors if _places(one)[:1] == root)
        hint = "" if param else " Send a JSON object, with Content-Type: application/json."
        why = "; or ".join(list(whys)[:4])
        text, code = f"Invalid value for {param or 'the body'}: {why}.{hint}", "invalid_value"
    return _response(400, _body(text, "invalid_request_error", param, code), {"x-cerulea-code": Invalid.code})


def _param_of(error: Mapping[str, Any]) -> str | None:
    return ".".join(_places(error))[:100] or None


def _places(error: Mapping[str, Any]) -> list[str]:
    """The argument, from the outside in."""
    places = [str(part) for part in error["loc"] if part not in ("body", "path", "query", "header")]
    return [part for part in places if not _is_of_union(part)]


def _is_of_union(part: str) -> bool:
    """Whether a place is the name of a union's member, as pydantic writes it, and no argument."""
    return "[" in part or part in ("str", "int", "float", "bool", "none", "constrained-str", "constrained-int")


def _kind_of(error: CeruleaError) -> tuple[int, str, str | None]:
    return next(KINDS[kind] for kind in type(error).__mro__ if kind in KINDS)


def _body(message: str, kind: str, param: str | None, code: str | None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _response(status: int, body: dict[str, Any], headers: Mapping[str, str]) -> Response:
    text = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
    return Response(text, status_code=status, media_type="application/json", headers=dict(headers))


# -- the document ------------------------------------------------------------------------------------


def schemas() -> dict[str, Any]:
    """The shape of a refusal."""
    schema = ErrorBody.model_json_schema(ref_template="#/components/schemas/{model}")
    return {**schema.pop("$defs"), "ErrorBody": schema}


def answers() -> dict[str, Any]:
    """The refusals of a route, by status."""
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}}
    return {str(status): {"description": "A refusal, in OpenAI's shape", "content": content} for status in STATUSES}
