"""Refusals and failures as they travel: RFC 9457 problems, with our codes.

In:      a CeruleaError.
Out:     a Problem: the HTTP status of its class, its code, what, why and what to do.
"""

from __future__ import annotations

from fastapi import Response
from pydantic import BaseModel, ConfigDict

from cerulea.core.errors import (
    CeruleaError,
    Conflict,
    Failed,
    Invalid,
    KeyEnded,
    KeyUnknown,
    NotAllowed,
    NotFound,
    Refused,
    Unreachable,
)

MEDIA = "application/problem+json"
# The nearest class above an error decides.
STATUSES: dict[type[CeruleaError], int] = {
    Invalid: 400,
    NotFound: 404,
    Refused: 402,
    NotAllowed: 403,
    KeyUnknown: 401,
    KeyEnded: 401,
    Conflict: 409,
    Unreachable: 503,
    Failed: 500,
    CeruleaError: 500,
}
TITLES = {
    400: "What was asked for cannot be",
    401: "No valid key",
    402: "Money says no",
    403: "Not allowed",
    404: "Not found",
    405: "No such method here",
    409: "Conflict",
    413: "Too large",
    422: "Malformed request",
    500: "Failed",
    503: "Not reachable",
}


class Problem(BaseModel):
    """A refusal or a failure (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    why: str = ""
    fix: str = ""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:cerulea:error:E-FUND-002",
                    "title": "Money says no",
                    "status": 402,
                    "detail": "Fund 'lab' has 5.00 left to draw; 12.50 was asked for.",
                    "code": "E-FUND-002",
                    "why": "20.00 came in, 15.00 was drawn or went back.",
                    "fix": "Grant what is missing: cerulea fund grant lab 7.50",
                }
            ]
        }
    )


def problem_of(error: CeruleaError, status: int | None = None) -> Problem:
    """An error as a problem."""
    if status is None:
        status = next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)
    return Problem(
        type=f"urn:cerulea:error:{error.code}",
        title=TITLES.get(status, "Refused"),
        status=status,
        detail=_text(error.what),
        code=error.code,
        why=_text(error.why),
        fix=_text(error.fix),
    )


def respond(error: CeruleaError, status: int | None = None, headers: dict[str, str] | None = None) -> Response:
    """The answer to a request that met this error."""
    problem = problem_of(error, status)
    extra = {"WWW-Authenticate": "Bearer"} if problem.status == 401 else {}
    return Response(
        problem.model_dump_json(), status_code=problem.status, media_type=MEDIA, headers={**extra, **(headers or {})}
    )


def _text(text: str) -> str:
    """What can be sent: a request may have brought half of a surrogate pair into the words."""
    return text.encode("utf-8", "replace").decode("utf-8")
