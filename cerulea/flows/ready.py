"""What is there before work begins: compiled loops, results, packages of others. A few looks at the disk, no torch.

In:      names of games, settings.
Out:     answers, or a refusal that would otherwise come after a minute.
Not here: the compiling itself, which Numba does when a loop first runs, once for a version of its sources.
"""

from __future__ import annotations

import importlib.util
import re

from cerulea.core.errors import Failed
from cerulea.core.settings import Settings
from cerulea.games.catalog import GAMES, RIFT, find_maker

TAKES = "once for each version: about a minute of one core"


def compiling(game: str, *, scripted: bool) -> str:
    """A line for whoever has to wait because a game's loops are not compiled yet; nothing where they are.

    Args:
        scripted: whether bots other than the random one play too.
    """
    if game not in RIFT:
        return ""
    from cerulea.games.rift import are_compiled

    return "" if are_compiled(scripted=scripted) else f"compiling {game}, {TAKES}"


def file_stem(name: str) -> str:
    """A game's name as the beginning of a file's."""
    return re.sub("[^A-Za-z0-9._-]", "_", name)


def has_results(settings: Settings, game: str) -> bool:
    """Whether matches of any version of a game were counted here; the game is not made for it.

    Raises:
        NotFound: there is no such game; names the nearest.
    """
    find_maker(game)
    others = tuple(f"{name}-" for name in GAMES if name.startswith(f"{game}-"))  # rift-duel beside rift
    found = settings.results.glob(f"{file_stem(game)}-*.jsonl")
    return any(not path.name.startswith(others) for path in found)


def sides_of(game: str) -> int:
    """How many sides a game has; the games that are compiled are not made for it.

    Raises:
        NotFound, GameInvalid: see `games.catalog.make_game`.
    """
    return 2 if game in RIFT else max(find_maker(game)(1).teams) + 1


def check_onnx() -> None:
    """Refuse at once what would need a package that is not there.

    Raises:
        Failed: onnx is not installed.
    """
    if importlib.util.find_spec("onnx") is None:
        raise Failed("onnx is not installed.", fix="pip install 'cerulea[onnx]', or here: pip install -e '.[onnx]'")
