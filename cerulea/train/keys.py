"""Keys of recipes: a default, and the sentence that docs/recipes.md shows."""

from __future__ import annotations

import dataclasses
from typing import Any


def key(default: Any, help: str, *, path: bool = False) -> Any:
    """A recipe key with its default and the sentence that docs/recipes.md shows.

    Args:
        path: what stands there names files, which not everybody may name (`flows.roots`).
    """
    metadata = {"help": help, **({"path": True} if path else {})}
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: default.copy(), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)
