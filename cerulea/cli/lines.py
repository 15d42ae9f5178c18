"""Lines that programs read, and what moves while a person waits."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from cerulea.core.errors import CeruleaError
from cerulea.core.files import json_line

LINE_S = 5.0  # seconds between plain lines of progress


def add_names(table: Any, title: str, names: Iterable[str]) -> None:
    """A table's column of what may be typed next: it is never cut off, the others give way in a narrow terminal."""
    table.add_column(title, overflow="fold", no_wrap=True, min_width=max(map(len, names)))


def waiting(text: str) -> AbstractContextManager[Any]:
    """Something that moves on a terminal while a person waits; nothing elsewhere."""
    if not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status(text)


def telling(status: Any, name: str) -> Callable[[str, int, int], None]:
    """What takes note of how far something is: in the moving line of `waiting`, elsewhere a line now and then.

    Args:
        status: what `waiting` gave.
    """
    told = time.monotonic()

    def report(what: str, done: int, total: int) -> None:
        nonlocal told
        line = f"{name}: {what}, {done:,} of {total:,}"
        if status is not None:
            status.update(line)
        elif time.monotonic() - told >= LINE_S:
            told = time.monotonic()
            print(line, file=sys.stderr, flush=True)

    return report


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
