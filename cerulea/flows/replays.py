"""Replays by name: files below CERULEA_HOME/replays, a folder for each team.

Not here: what is in a file (`games.replay`), who sees them over HTTP (`api.matches`).
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cerulea.core.errors import CeruleaError, NotFound
from cerulea.core.names import is_name
from cerulea.core.settings import Settings
from cerulea.games.replay import read_replay
from cerulea.registry import Teams

SUFFIX = ".replay"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A replay that lies here, and what its head says."""

    id: str
    path: Path
    team: str
    game: str
    version: str
    seats: tuple[str, ...]
    seed: int
    steps: int
    winner: int  # the team, -1 for a draw
    cut: bool  # by the limit of time
    kept_at: int  # ms


def replay_path(settings: Settings, team: str, name: str) -> Path:
    """Where a team's replay of that name lies, or would."""
    return settings.replays / team / f"{name}{SUFFIX}"


def list_replays(settings: Settings, teams: Teams = None, *, limit: int = 50) -> list[Kept]:
    """The newest replays of some teams, or of all; files that cannot be read are left out."""
    paths = sorted(_paths(settings, teams), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    return list(itertools.islice(_readable(paths), limit))


def find_replay(settings: Settings, name: str, teams: Teams = None) -> Kept:
    """A replay by its name.

    Raises:
        NotFound: there is none for these teams; names the nearest.
        ReplayInvalid: it is damaged.
    """
    known = {path.stem: path for path in _paths(settings, teams)}
    if name in known:
        return _kept(known[name])
    near = difflib.get_close_matches(name[:200], known, n=1, cutoff=0.6)
    raise NotFound(
        f"There is no replay {name[:60]!r}.",
        why=f"The nearest is {near[0]!r}." if near else "",
        fix="List them: cerulea replay",
    )


def find_file(settings: Settings, name: str) -> Path:
    """The file that a name or a path means: for whoever sits at this machine.

    Raises:
        NotFound: neither.
    """
    path = Path(name).expanduser()
    if not path.is_file() and (path.name != name or path.suffix == SUFFIX):
        raise NotFound(f"There is no file {name}.", fix="See what is kept: cerulea replay")
    return path if path.is_file() else find_replay(settings, name).path


def _paths(settings: Settings, teams: Teams) -> Iterator[Path]:
    if not settings.replays.is_dir():
        return
    for folder in settings.replays.iterdir():
        if folder.is_dir() and is_name(folder.name) and (teams is None or folder.name in teams):
            yield from folder.glob(f"*{SUFFIX}")


def _readable(paths: list[Path]) -> Iterator[Kept]:
    for path in paths:
        try:
            yield _kept(path)
        except (CeruleaError, OSError):
            continue


def _kept(path: Path) -> Kept:
    replay = read_replay(path)
    return Kept(
        id=path.stem,
        path=path,
        team=path.parent.name,
        game=replay.game,
        version=replay.version,
        seats=tuple(replay.players),
        seed=replay.seed,
        steps=replay.steps,
        winner=replay.winner,
        cut=replay.cut,
        kept_at=path.stat().st_mtime_ns // 1_000_000,
    )
