"""A replay is small, played again to the bit, and refused where it is not what was played."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zlib
from pathlib import Path

import numpy as np
import pytest

from cerulea.core.errors import GameInvalid, NotFound, ReplayInvalid
from cerulea.games.catalog import make_game
from cerulea.games.match import BotPlayer, play_match, play_series
from cerulea.games.replay import Replay, frames, read_replay, save_replay


def played(game: str, *players: str, seed: int = 7) -> Replay:
    labels = [f"bot:{name}" for name in players]
    return play_match(make_game(game, 1), [BotPlayer(name) for name in players], seed=seed, labels=labels)


@pytest.fixture(scope="module")
def match() -> Replay:
    return played("rift", "team", "laner")


@pytest.fixture(scope="module")
def four() -> Replay:
    return played("connect-four", "taker", "random")


def test_a_replay_is_small_and_played_again_to_the_bit(match, tmp_path):
    path = tmp_path / "one.replay"
    save_replay(match, path)
    again = read_replay(path)
    seen = list(frames(again))

    assert np.array_equal(again.actions, match.actions)
    assert dataclasses.replace(again, actions=match.actions) == match
    # One byte for each decision of a hero, at most, and a line.
    assert path.stat().st_size < match.steps * 10 + 600
    assert len(seen) == match.steps + 1
    assert seen[-1]["over"] and seen[-1]["winner"] == match.winner
    json.dumps(seen, allow_nan=False)


def test_750_decisions_of_ten_heroes_at_random_take_seven_and_a_half_kilobytes(match, tmp_path):
    actions = np.random.default_rng(1).integers(0, 106, (750, 10, 1)).astype(np.int32)
    save_replay(dataclasses.replace(match, steps=750, actions=actions), tmp_path / "one.replay")

    assert (tmp_path / "one.replay").stat().st_size < 7_500


@pytest.mark.parametrize("players", [("team+", "team"), ("pusher", "team+"), ("random", "random")])
def test_matches_of_every_tier_are_played_again(players):
    """`team+` has more gold, which no action tells: the label does."""
    replay = played("rift-duel", *players)
    assert len(list(frames(replay))) == replay.steps + 1


def test_matches_of_a_series_are_played_again_alone():
    def make(matches: int):
        return make_game("connect-four", matches)

    _, replays = play_series(make, BotPlayer("taker"), BotPlayer("random"), names=("a", "b"), n=9, seed=2, keep=9)
    for replay in replays:
        last = list(frames(replay))[-1]
        assert last["winner"] == replay.winner


def test_other_peoples_games_have_replays_too():
    replay = played("pettingzoo:classic.tictactoe_v3", "random", "random")
    assert len(list(frames(replay))) == replay.steps + 1


def test_a_file_that_is_cut_short_or_changed_anywhere_is_refused(four, tmp_path):
    path = tmp_path / "one.replay"
    save_replay(four, path)
    whole = path.read_bytes()
    bad = [whole[:size] for size in range(0, len(whole), 7)]
    for at in range(0, len(whole), 5):
        bad.append(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    bad += [b"hello\n", b"[1]\n", b"{}\n", b"[" * 100_000, b'{"cerulea_replay": 9}\n', whole + b"x"]
    for content in bad:
        path.write_bytes(content)
        with pytest.raises(ReplayInvalid):
            read_replay(path)
    with pytest.raises(NotFound, match="no replay"):
        read_replay(tmp_path / "none")


def forged(path: Path, **other: object) -> Path:
    """The file with other values in its first line, and a digest that fits."""
    line, _, body = path.read_bytes().partition(b"\n")
    head = {**json.loads(line), **other}
    body = other.pop("body", body)  # type: ignore[assignment]
    head.pop("body", None), head.pop("sha256")
    head["sha256"] = hashlib.sha256(json.dumps(head, sort_keys=True).encode() + body).hexdigest()
    path.write_bytes(json.dumps(head).encode() + b"\n" + body)
    return path


@pytest.mark.parametrize(
    "other",
    [
        {"seed": -1},
        {"seed": 2**64},
        {"seed": "one"},
        {"options": [1]},
        {"game": 3},
        {"steps": 5},
        {"shape": [-1, 2]},
        {"shape": [10**12, 2, 1]},
        {"bytes_each": 3},
        {"bytes_each": []},
        {"players": "ab"},
        {"players": [1, 2]},
        {"players": ["bot:taker", "\ud800"]},
        {"version": 1},
        {"winner": "0"},
        {"winner": 300},
        {"cut": 0},
        {"digest": -1},
        {"digest": 1.5},
        {"body": zlib.compress(bytes(100_000_000))},
    ],
)
def test_a_first_line_that_nobody_wrote_is_refused(four, tmp_path, other):
    save_replay(four, tmp_path / "one.replay")
    with pytest.raises(ReplayInvalid):
        read_replay(forged(tmp_path / "one.replay", **other))


def test_another_version_is_refused_with_both_versions(match):
    with pytest.raises(ReplayInvalid, match=rf"is of rift 0; here is rift {match.version}"):
        next(frames(dataclasses.replace(match, version="0")))


def test_an_unknown_game_or_option_is_refused(four):
    with pytest.raises(NotFound, match="connect-four"):
        next(frames(dataclasses.replace(four, game="connect-five")))
    with pytest.raises(GameInvalid, match="wings"):
        next(frames(dataclasses.replace(four, options={"wings": 2})))


def test_actions_that_were_never_played_are_refused(four, match):
    """Of a number that the game has not, forbidden by its mask, of other players, or only others than were played."""

    def with_action(replay: Replay, step: int, value: int) -> Replay:
        actions = replay.actions.copy()
        actions[step, step % replay.actions.shape[1]] = value
        return dataclasses.replace(replay, actions=actions)

    with pytest.raises(ReplayInvalid, match="no such action"):
        list(frames(with_action(four, 0, 200)))
    with pytest.raises(ReplayInvalid, match="no such action"):
        list(frames(with_action(match, 3, 255)))
    with pytest.raises(ReplayInvalid, match="step 3 that cannot be played: the game forbids it"):
        list(frames(with_action(match, 3, 9)))
    with pytest.raises(ReplayInvalid, match="no such action"):
        list(frames(with_action(match, 3, -1)))
    with pytest.raises(ReplayInvalid, match="its 3 labels"):
        list(frames(dataclasses.replace(four, players=["a", "b", "c"])))
    with pytest.raises(ReplayInvalid, match="its 1 labels"):
        list(frames(dataclasses.replace(four, players=["a"])))
    with pytest.raises(ReplayInvalid, match="other players"):
        list(frames(dataclasses.replace(match, actions=match.actions[:, :4])))
    with pytest.raises(ReplayInvalid, match="does not end as it ended"):
        list(frames(with_action(four, 0, (int(four.actions[0, 0, 0]) + 1) % 7)))
    with pytest.raises(ReplayInvalid, match="does not end as it ended"):
        list(frames(dataclasses.replace(four, winner=1 - four.winner)))


def test_an_action_below_zero_reaches_no_game(four, tmp_path):
    """Of four bytes, the largest are negative as numbers of 32 bits."""
    save_replay(
        dataclasses.replace(four, steps=1, actions=np.array([[[0], [70_000]]], np.int32)), tmp_path / "a.replay"
    )
    body = zlib.compress(np.array([[[0], [2**32 - 5]]], np.uint32).tobytes())
    replay = read_replay(forged(tmp_path / "a.replay", body=body))

    assert replay.actions.min() == -5
    with pytest.raises(ReplayInvalid, match="no such action"):
        list(frames(replay))


def test_some_frames_are_those_of_all(four):
    """Frames that nobody asked for are not even made."""
    every = list(frames(four))

    assert list(frames(four, first=2, count=3)) == every[2:5]
    assert list(frames(four, first=2, count=10**6)) == every[2:]
    assert list(frames(four, first=10**6, count=1)) == []


@pytest.mark.parametrize("game", ["python:evil_module", "pettingzoo:evil.module", "gymnasium:evil_module:Env-v0"])
def test_a_file_imports_no_module(four, game, tmp_path, monkeypatch):
    """Unless whoever asks has named it himself."""
    (tmp_path / "evil_module.py").write_text("raise SystemError('it ran')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(GameInvalid, match=f"--game {game}"):
        next(frames(dataclasses.replace(four, game=game)))
    if game.startswith("python:"):
        with pytest.raises(SystemError, match="it ran"):
            next(frames(dataclasses.replace(four, game=game), named=game))


@pytest.mark.parametrize("largest", [255, 256, 65_535, 65_536])
def test_actions_of_any_size_are_kept(four, tmp_path, largest):
    actions = np.array([[[0], [largest]]], np.int32)
    save_replay(dataclasses.replace(four, steps=1, actions=actions), tmp_path / "one.replay")

    assert np.array_equal(read_replay(tmp_path / "one.replay").actions, actions)
