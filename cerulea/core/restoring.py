"""Errors that crossed a wire, as the classes they were."""

from __future__ import annotations

from collections.abc import Mapping

from cerulea.core.errors import CeruleaError


def restore(values: Mapping[str, str]) -> CeruleaError:
    """An error that crossed a wire (`as_json`), as the class it was: its code names that."""
    texts = {name: str(values.get(name, "")) for name in ("what", "why", "fix")}
    error, todo = CeruleaError(**texts), [CeruleaError]
    while todo:
        kind = todo.pop()
        todo += kind.__subclasses__()
        if kind.code == values.get("code"):
            # Made without its own constructor, which may want other things.
            error = kind.__new__(kind)
            CeruleaError.__init__(error, **texts)
            break
    error.code = str(values.get("code", error.code))
    return error
