"""STAND-IN: games by name."""

from __future__ import annotations

import difflib
from typing import Any

from cerulea.core.errors import NotFound
from cerulea.games.game import Game

GAMES = {"rift-duel": "One against one.", "rift-skirmish": "Three against three.", "rift": "Five against five."}


def make_game(name: str, matches: int, **options: Any) -> Game:
    """A game."""
    if name not in GAMES:
        near = difflib.get_close_matches(name, GAMES, n=1)
        raise NotFound(
            f"There is no game {name!r}.", why=f"The nearest is {near[0]!r}." if near else "", fix="cerulea games"
        )
    from cerulea.games.rift.env import Rift

    return Rift(name.removeprefix("rift-"), matches, **options)  # type: ignore[return-value]
