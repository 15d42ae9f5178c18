"""A match that was played, as its version, its seed and its actions: enough to play it again to the bit.

In:      what was done in a match. Out: a file of a few kilobytes, and the frames of the match.
Kept:    a file is written whole or not at all; one that is cut short, changed, or of another version of its game is
         refused. No action reaches a game that its mask forbids, whoever wrote the file. The last frame is checked
         against the state that the match ended in.

A file is one line of JSON (what the match was, and the sha256 of everything), then the actions as bytes, zipped.
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
from numpy.typing import NDArray

from cerulea.core.errors import NotFound, ReplayInvalid
from cerulea.core.files import write_bytes
from cerulea.games.catalog import make_game, name_in_file
from cerulea.games.game import ActionArray, Game, observation_buffers, tick_buffers

FORMAT = 1
MOST_BYTES = 64_000_000  # of actions; more is no replay of ours
NAMES = ("game", "version", "options", "players", "seed", "steps", "winner", "cut", "digest")
KINDS = {1: np.uint8, 2: np.uint16, 4: np.uint32}  # of an action in the file, by its bytes
BOT = "bot:"  # before the name of a scripted player among `players`


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
    cut: bool  # by the limit of time; a match that was stopped by hand has neither ended nor been cut
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
    size = next(size for size in KINDS if actions.size == 0 or int(actions.max()) < 256**size)
    head = {
        "cerulea_replay": FORMAT,
        **{name: getattr(replay, name) for name in NAMES},
        "shape": list(actions.shape),
        "bytes_each": size,
    }
    body = zlib.compress(actions.astype(KINDS[size]).tobytes(), 9)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, json.dumps({**head, "sha256": _digest(head, body)}).encode() + b"\n" + body)


def _digest(head: dict[str, Any], body: bytes) -> str:
    plain = {key: value for key, value in head.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode() + body).hexdigest()


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
        if _digest(head, body) != head["sha256"]:
            raise ValueError("it is cut short or changed")
        plain = zlib.decompressobj().decompress(body, MOST_BYTES)
        actions = np.frombuffer(plain, KINDS[head["bytes_each"]]).astype(np.int32).reshape(head["shape"])
        replay = Replay(**{name: head[name] for name in NAMES}, actions=actions)
        if len(actions) != replay.steps or actions.ndim != 3:
            raise ValueError("its actions are not as many as it says")
        if not _possible(replay):
            raise ValueError("its first line says what none could")
        return replay
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError, zlib.error) as error:
        raise ReplayInvalid(
            f"{path} is no replay that can be played: {error}.",
            why="A replay is played again from its actions; none may be missing.",
            fix="Fetch the file again, or play the match again with its seed.",
        ) from error


def _possible(replay: Replay) -> bool:
    """Whether a first line has values of the right kinds; what the game has to say of them comes later."""
    return (
        isinstance(replay.players, list)
        and all(_is_text(text) for text in (replay.game, replay.version, *replay.players))
        and isinstance(replay.options, dict)
        and isinstance(replay.cut, bool)
        and all(type(number) is int for number in (replay.seed, replay.steps, replay.winner, replay.digest))
        and 0 <= replay.seed < 2**64
        and 0 <= replay.digest < 2**64
        and -1 <= replay.winner < 128
    )


def _is_text(value: object) -> bool:
    """Text that can be written; half of a surrogate pair cannot."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def frames(
    replay: Replay, *, first: int = 0, count: int | None = None, named: str | None = None
) -> Iterator[dict[str, Any]]:
    """What was to be seen, before the first step and after each.

    Args:
        first: frames before this one are not made.
        count: at most so many; the match is not played on after the last of them, nor its end compared.
        named: a game that the caller trusts by name, although it is another one's module.

    Raises:
        NotFound, GameInvalid: there is no such game here, or it would import a module of the file's choice.
        ReplayInvalid: it is of another version of the game, has an action that the game forbids, or does not end as it
        ended.
    """
    game = make_game(name_in_file(replay.game, named), 1, **replay.options)
    if game.version != replay.version:
        raise ReplayInvalid(
            f"The replay is of {replay.game} {replay.version}; here is {game.name} {game.version}.",
            why="Other rules would show a match that was never played.",
            fix="Use the version of Cerulea that played it.",
        )
    won = -1
    for number, winner in enumerate(_walk(game, replay)):
        won = winner
        if count is not None and number >= first + count:
            return
        if number >= first:
            yield game.frame(0)
    if int(game.digests()[0]) != replay.digest or won != replay.winner:
        raise ReplayInvalid(
            "The match does not end as it ended when it was played.",
            why="Its actions were changed, or the game's rules were without its version.",
            fix="Fetch the file again.",
        )


def _walk(game: Game, replay: Replay) -> Iterator[int]:
    """Step a game of one match through a replay; yields who has won, before the first step and after each."""
    heads, actions = game.schema.heads, replay.actions
    if actions.shape[1:] != (game.players, len(heads)):
        raise _forbidden(replay, 0, "it has other players")
    if len(replay.players) not in (game.players, max(game.teams) + 1):
        raise _forbidden(replay, 0, f"its {len(replay.players)} labels are of neither the places nor the sides")
    # Of 4 bytes an action may come out negative: an index that a kernel would follow.
    if len(actions) and ((actions < 0) | (actions >= [head.size for head in heads])).any():
        raise _forbidden(replay, 0, "there is no such action")
    look, tick = observation_buffers(game.schema, 1, game.players), tick_buffers(1, game.players)
    script, scratch = _scripted(game, replay.players), actions[:1].copy()
    first = np.cumsum([0, *(head.size for head in heads)])[:-1]
    game.reset(np.array([replay.seed], np.uint64))
    yield -1
    for number, action in enumerate(actions):
        game.observe(look)
        legal = np.take_along_axis(look.mask_MPN[0], (action + first).astype(np.int64), -1)
        if not legal[look.acting_MP[0]].all():
            raise _forbidden(replay, number, "the game forbids it")
        if (script >= 0).any():
            # What they do is in the replay; but a game may note who is scripted, as `rift` does of `team+`.
            game.script(script, scratch)
        game.step(np.ascontiguousarray(action[None]), tick)
        yield int(tick.winner_M[0])


def _scripted(game: Game, players: Sequence[str]) -> NDArray[np.int8]:
    """Who is scripted, (1, P): the number of a bot, or -1."""
    each = players if len(players) == game.players else [players[team] for team in game.teams]
    names = [label.removeprefix(BOT) if label.startswith(BOT) else "" for label in each]
    return np.array([[game.bots.index(name) if name in game.bots else -1 for name in names]], np.int8)


def _forbidden(replay: Replay, step: int, what: str) -> ReplayInvalid:
    return ReplayInvalid(
        f"The replay has an action at step {step:,} that cannot be played: {what}.",
        why="A match that was played has legal actions alone.",
        fix="Fetch the file again.",
    )
