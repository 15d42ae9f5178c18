"""Games by name: those of the house, and anybody's through `gymnasium:ID`, `pettingzoo:MODULE` and `python:MODULE`.

Not here: the games.
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Callable
from functools import partial
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
OTHERS = ("gymnasium:", "pettingzoo:", "python:")
# Names that import nothing but the games of the house, of Gymnasium's registry and of PettingZoo itself.
_LISTED = re.compile(r"gymnasium:[\w.\-/]+|pettingzoo:(atari|butterfly|classic|sisl)\.\w+")
RIFT = ("rift", "rift-skirmish", "rift-duel")  # whose rules are compiled


def refuse_imports(name: str) -> None:
    """Refuse a name that would import a module of its writer's choice: not everybody may run what a server has on disk.

    Raises:
        GameInvalid: it would.
    """
    if ":" in name and not _LISTED.fullmatch(name):
        raise GameInvalid(
            f"{name[:80]} names a module to be imported.",
            why="Jobs and matches of a platform play listed games only.",
            fix="Use a game that `cerulea games` lists, gymnasium:ID or pettingzoo:FAMILY.NAME; or run it on a machine "
            "of your own: cerulea train",
        )


def name_in_file(name: str, named: str | None = None) -> str:
    """A game's name that stands in a file, whoever wrote that.

    Args:
        named: the same name from whoever asks; then it may import a module.

    Raises:
        GameInvalid: it would import a module that only the file names.
    """
    if name != named and ":" in name and not _LISTED.fullmatch(name):
        raise GameInvalid(
            f"The file is of {name[:80]}, a module that would be imported.",
            why="A file that came from elsewhere does not decide what is run here.",
            fix=f"Where you trust that module, name it: --game {name[:80]}",
        )
    return name


def make_game(name: str, matches: int, /, **options: Any) -> Game:
    """A game with so many matches.

    Args:
        name: one of GAMES, `gymnasium:ID` (`gymnasium:Acrobot-v1`), `pettingzoo:MODULE`
        (`pettingzoo:classic.tictactoe_v3`), or `python:MODULE`, a module of one's own with
        make_game(matches, **options).
        options: what the game is made with.

    Raises:
        NotFound: there is no such game; the nearest name is told.
        GameInvalid: it is there and cannot be made so.
    """
    if matches < 1:
        raise GameInvalid(f"{name} cannot be made with {matches} matches.", fix="Make it with 1 or more.")
    make = find_maker(name)
    try:
        return make(matches, **options)
    except TypeError as error:
        raise GameInvalid(
            f"{name} cannot be made with {', '.join(options) or 'no options'}: {error}.", fix="Correct game.options."
        ) from error


def find_maker(name: str) -> Callable[..., Game]:
    """What makes the game of that name, with (matches, **options); nothing is imported but what it needs.

    Raises:
        NotFound: there is no such game; the nearest name is told.
    """
    kind, _, rest = name.partition(":")
    if name in RIFT:
        from cerulea.games.rift.env import Rift

        return partial(Rift, name.removeprefix("rift-"))
    if name == "connect-four":
        from cerulea.games.connect_four import ConnectFour

        return ConnectFour
    if name == "cartpole":
        from cerulea.games.cartpole import CartPole

        return CartPole
    if kind == "gymnasium" and rest:
        from cerulea.games.gymnasium_in import GymnasiumGame

        return partial(GymnasiumGame, rest)
    if kind == "pettingzoo" and rest:
        from cerulea.games.pettingzoo_in import PettingZooGame

        return partial(PettingZooGame, rest)
    if kind == "python" and rest:
        return _own(rest)
    near = difflib.get_close_matches(name, [*GAMES, *OTHERS], n=1, cutoff=0.4)
    raise NotFound(
        f"There is no game {name!r}.",
        why=f"The nearest is {near[0]!r}." if near else "",
        fix="cerulea games lists them; gymnasium:ID, pettingzoo:MODULE and python:MODULE name other people's.",
    )


def _own(module: str) -> Callable[..., Game]:
    """A module's `make_game`; nothing else of it is called, for names come over the wire too."""
    try:
        found: Callable[..., Game] = importlib.import_module(module).make_game
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise NotFound(
            f"There is no game python:{module}: {error}.",
            why="A module on Python's path is looked for, and make_game(matches, **options) in it.",
            fix="Install the module, or set PYTHONPATH to its folder.",
        ) from error
    return found
