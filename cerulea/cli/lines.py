"""Lines that programs read."""

from __future__ import annotations

from typing import Any

from cerulea.core.files import json_line


def put(value: Any) -> None:
    """One JSON object on one line of standard output, at once."""
    print(json_line(value), flush=True)
