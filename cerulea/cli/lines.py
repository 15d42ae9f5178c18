"""Lines that programs read, and what moves while a person waits."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from cerulea.core.errors import CeruleaError
from cerulea.core.files import json_line


def waiting(text: str) -> AbstractContextManager[Any]:
    """Something that moves on a terminal while a person waits; nothing elsewhere."""
    if not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status(text)


def tell_loading(error: CeruleaError) -> None:
    """Say that a model elsewhere is waited for, where nothing moves that says so."""
    if not sys.stderr.isatty():
        print(f"({error.what} It is waited for.)", file=sys.stderr, flush=True)


def tell_waiting(line: str) -> None:
    """Say on standard error why the next answer takes long; nothing where there is no reason."""
    if line:
        print(f"({line})", file=sys.stderr, flush=True)


def put(value: Any) -> None:
    """One JSON object on one line of standard output, at once."""
    print(json_line(value), flush=True)
