"""What one team may see of a frame, for people who play and are not only watching.

In:      a frame, which hides nothing (`Game.frame`); a team.
Out:     the frame without what that team does not see now.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HIDDEN = ("id", "kind", "team", "player", "name", "level", "kills", "deaths", "assists", "alive", "seen")


def fogged(frame: Mapping[str, Any], team: int) -> dict[str, Any]:
    """A frame as one team may see it: what tells who sees it (`seen`), and is not seen by them, keeps HIDDEN alone."""
    return {name: _fogged(value, team) for name, value in frame.items()}


def _fogged(value: Any, team: int) -> Any:
    if isinstance(value, list):
        return [kept for item in value if (kept := _fogged(item, team)) is not None]
    if not isinstance(value, dict) or "seen" not in value or team in value["seen"] or value["team"] == team:
        return value
    return {key: value[key] for key in HIDDEN if key in value} if "player" in value else None
