"""Games by name: those of the house, and anybody's through `gymnasium:ID` and `pettingzoo:MODULE`.

Not here: the games.
"""

from __future__ import annotations

import difflib
from typing import Any

from cerulea.core.errors import GameInvalid, NotFound
from cerulea.games.game import Game

GAMES = {
    "rift": "five against five: three lanes, waves, towers, fog, an ancient to destroy",
    "rift-skirmish": "the same with three against three in one lane",
    "rift-duel": "the same with one against one in one lane",
    "connect-four": "four in a row on seven columns, two players in turn",
    "cartpole": "Gymnasium's CartPole-v1: a pole to be kept upright, one player",
}
OTHERS = ("gymnasium:", "pettingzoo:")


def make_game(name: str, matches: int, **options: Any) -> Game:
    """A game with so many matches.

    Args:
        name: one of GAMES, `gymnasium:ID` (`gymnasium:Acrobot-v1`) or `pettingzoo:MODULE`
        (`pettingzoo:classic.tictactoe_v3`). options: what the game is made with.

    Raises:
        NotFound: there is no such game; the nearest name is told.
        GameInvalid: it is there and cannot be made so.
    """
    try:
        return _made(name, matches, options)
    except TypeError as error:
        raise GameInvalid(
            f"{name} cannot be made with {', '.join(options) or 'no options'}: {error}.", fix="Correct game.options."
        ) from error


def _made(name: str, matches: int, options: dict[str, Any]) -> Game:
    if name == "rift" or name.startswith("rift-"):
        preset = name.removeprefix("rift-")
        if name in GAMES:
            from cerulea.games.rift.env import Rift

            return Rift(preset, matches, **options)
    if name == "connect-four":
        from cerulea.games.connect_four import ConnectFour

        return ConnectFour(matches, **options)
    if name == "cartpole":
        from cerulea.games.gymnasium_in import GymnasiumGame

        return GymnasiumGame("CartPole-v1", matches, name="cartpole", **options)
    if name.startswith("gymnasium:"):
        from cerulea.games.gymnasium_in import GymnasiumGame

        return GymnasiumGame(name.removeprefix("gymnasium:"), matches, **options)
    if name.startswith("pettingzoo:"):
        from cerulea.games.pettingzoo_in import PettingZooGame

        return PettingZooGame(name.removeprefix("pettingzoo:"), matches, **options)
    near = difflib.get_close_matches(name, [*GAMES, *OTHERS], n=1, cutoff=0.4)
    raise NotFound(
        f"There is no game {name!r}.",
        why=f"The nearest is {near[0]!r}." if near else "",
        fix="cerulea games lists them; gymnasium:ID and pettingzoo:MODULE name other people's.",
    )
