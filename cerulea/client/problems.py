"""Problems (RFC 9457) as the errors they were."""

from __future__ import annotations

import json

from cerulea.core.errors import CeruleaError, Failed


def error_of(status: int, content: bytes) -> CeruleaError:
    """The error that a problem body tells of; Failed for an answer that is none."""
    try:
        values = json.loads(content)
        code, what = str(values["code"]), str(values["detail"])
    except (ValueError, KeyError, TypeError):
        return Failed(f"The platform answers {status}: {content[:200].decode('utf-8', 'replace')}")
    error = CeruleaError(what, why=str(values.get("why", "")), fix=str(values.get("fix", "")))
    for kind in _all(CeruleaError):
        if kind.code == code:
            # Made without its own constructor, which may want more than three sentences.
            error = kind.__new__(kind)
            CeruleaError.__init__(error, what, why=str(values.get("why", "")), fix=str(values.get("fix", "")))
    error.code = code
    return error


def _all(kind: type[CeruleaError]) -> list[type[CeruleaError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in _all(child))]
