"""What may be a name: of a model, and of a run and a folder after it."""

from __future__ import annotations

NAME_RULE = "Use letters, digits, '-', '_' and '.', beginning with a letter or digit."


def is_name(text: str) -> bool:
    """Whether `text` follows NAME_RULE; such a name is safe as a folder's and cannot be read as an option."""
    return bool(text) and text[0].isalnum() and all(c.isalnum() or c in "-_." for c in text)
