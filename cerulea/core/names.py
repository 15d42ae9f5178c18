"""What may be a name: of a model, and of a run and a folder after it."""

from __future__ import annotations

import re

NAME_RULE = "Use at most 100 letters a-z, digits, '-', '_' and '.', beginning with a letter or digit."
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def is_name(text: str) -> bool:
    """Whether `text` follows NAME_RULE; such a name is safe as a folder's and cannot be read as an option."""
    return isinstance(text, str) and _NAME.fullmatch(text) is not None
