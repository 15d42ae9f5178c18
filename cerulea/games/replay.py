"""A match that was played, as its version, its seed and its actions: enough to play it again to the bit.

In:      what was done in a match. Out: a file of a few kilobytes, and the frames of the match.
Kept:    a file is written whole or not at all; one that is cut short, changed, or of another version of its game is
         refused. The last frame is checked against the state that the match ended in.

A file is one line of JSON (what the match was, and the sha256 of the rest), then the actions as bytes, zipped.
Not here: who watches (`flows`).
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cerulea.core.errors import NotFound, ReplayInvalid
from cerulea.core.files import write_bytes
from cerulea.games.catalog import make_game
from cerulea.games.game import ActionArray, Game, tick_buffers

FORMAT = 1
MOST_BYTES = 64_000_000  # of actions; more is no replay of ours


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """One match that ended."""

    game: str
    version: str
    options: dict[str, Any]
    players: list[str]  # one for each team, or for each place
    seed: int
    steps: int
    winner: int  # team, -1 for a draw
    cut: bool  # by the limit of time
    digest: int  # of the state it ended in
    actions: ActionArray  # (steps, P, A)


def replay_of(
    game: Game,
    labels: Sequence[str],
    seed: int,
    actions: Sequence[ActionArray],
    *,
    winner: int,
    cut: bool,
    match: int = 0,
) -> Replay:
    """The replay of one match of a game, which stands as it ended, from its players' actions of each step: (P, A)."""
    shape = (0, game.players, len(game.schema.heads))
    done = np.array(actions, np.int32) if len(actions) else np.zeros(shape, np.int32)
    return Replay(
        game=game.name,
        version=game.version,
        options=dict(game.options),
        players=list(labels),
        seed=seed,
        steps=len(done),
        winner=winner,
        cut=cut,
        digest=int(game.digests()[match]),
        actions=done,
    )


def save_replay(replay: Replay, path: Path) -> None:
    """Write a replay, whole or not at all."""
    actions = replay.actions
    kind = np.uint8 if actions.size == 0 or actions.max() < 256 else np.uint16
    body = zlib.compress(actions.astype(kind).tobytes(), 9)
    head = {
        "cerulea_replay": FORMAT,
        "game": replay.game,
        "version": replay.version,
        "options": replay.options,
        "players": replay.players,
        "seed": replay.seed,
        "steps": replay.steps,
        "winner": replay.winner,
        "cut": replay.cut,
        "digest": replay.digest,
        "shape": list(actions.shape),
        "bytes_each": np.dtype(kind).itemsize,
        "sha256": hashlib.sha256(body).hexdigest(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, json.dumps(head).encode() + b"\n" + body)


def read_replay(path: Path) -> Replay:
    """A replay from its file.

    Raises:
        NotFound, ReplayInvalid: there is none, or it is not whole.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise NotFound(
            f"There is no replay {path}.", fix="cerulea match A B --game GAME prints where it put them."
        ) from error
    line, _, body = content.partition(b"\n")
    try:
        head = json.loads(line)
        if head["cerulea_replay"] != FORMAT:
            raise ReplayInvalid(
                f"{path} is a replay of format {head['cerulea_replay']}; this version reads format {FORMAT}.",
                fix="Use the version of Cerulea that wrote it.",
            )
        if hashlib.sha256(body).hexdigest() != head["sha256"]:
            raise ValueError("its actions are cut short or changed")
        unzip = zlib.decompressobj()
        plain = unzip.decompress(body, MOST_BYTES)
        kind = {1: np.uint8, 2: np.uint16}[head["bytes_each"]]
        actions = np.frombuffer(plain, kind).astype(np.int32).reshape(head["shape"])
        if len(actions) != head["steps"] or actions.ndim != 3:
            raise ValueError("its actions are not as many as it says")
        names = ("game", "version", "options", "players", "seed", "steps", "winner", "cut", "digest")
        return Replay(**{name: head[name] for name in names}, actions=actions)
    except (ValueError, KeyError, TypeError, zlib.error) as error:
        raise ReplayInvalid(
            f"{path} is no replay that can be played: {error}.",
            why="A replay is played again from its actions; none may be missing.",
            fix="Fetch the file again, or play the match again with its seed.",
        ) from error


def _walk(game: Game, seed: int, actions: ActionArray) -> Iterator[int]:
    """Step a game of one match through actions; yields before the first step and after each."""
    game.reset(np.array([seed], np.uint64))
    tick = tick_buffers(1, game.players)
    yield 0
    for number, action in enumerate(actions, start=1):
        game.step(np.ascontiguousarray(action[None]), tick)
        yield number


def frames(replay: Replay) -> Iterator[dict[str, Any]]:
    """What was to be seen, before the first step and after each.

    Raises:
        ReplayInvalid: it is of another version of the game, or does not end as it ended.
    """
    game = make_game(replay.game, 1, **replay.options)
    if game.version != replay.version:
        raise ReplayInvalid(
            f"The replay is of {replay.game} {replay.version}; here is {game.name} {game.version}.",
            why="Other rules would show a match that was never played.",
            fix="Use the version of Cerulea that played it.",
        )
    for _ in _walk(game, replay.seed, replay.actions):
        yield game.frame(0)
    if int(game.digests()[0]) != replay.digest:
        raise ReplayInvalid(
            "The match does not end as it ended when it was played.",
            why="Its actions were changed, or the game's rules were without its version.",
            fix="Fetch the file again.",
        )
