"""The hall of live matches: whose matches end with what, and who is told."""

from __future__ import annotations

import io
import json
import queue
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cerulea.games.replay import read_replay
from cerulea.train import live
from cerulea.train.live import Hall, Table, open_table
from tests.toy_models import wait_for

WISH = {
    "id": "one",
    "game": "connect-four",
    "options": {},
    "players": ["bot:random", "bot:random"],
    "folders": {},
    "seed": 1,
    "speed": 1.0,
    "turn_s": 60.0,
    "replay": "",
}


class Said(list[dict[str, Any]]):
    """What a hall has said."""

    def kinds(self) -> list[str]:
        return [next(iter(message)) for message in self]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [message[kind] for message in self if kind in message]


@pytest.fixture
def said() -> Said:
    return Said()


@pytest.fixture
def hall(said: Said) -> Hall:
    return Hall(said.append)


def seated(hall: Hall, name: str, tmp_path: Path) -> Table:
    """A match that has begun."""
    table, about = open_table({**WISH, "id": name, "replay": str(tmp_path / f"{name}.replay")})
    hall.take_in({"begin": {"id": name}})
    hall.take_in({"opened": table, "about": about, "id": name})
    return table


def test_who_asks_for_a_match_that_has_just_ended_is_answered(hall: Hall, said: Said):
    hall.take_in({"order": ["gone", 0, "ada", 3, [1], "ref-1"]})
    hall.take_in({"take": ["gone", 0, "ada", "ref-2"]})
    hall.take_in({"watch": ["gone", 1]})

    refused = said.of("refused")
    assert [one["ref"] for one in refused] == ["ref-1", "ref-2"] and len(said) == 2
    assert refused[0]["error"]["code"] == "E-NAME-001"


def test_a_game_that_shows_nothing_ends_its_own_match_alone(hall: Hall, said: Said, tmp_path: Path):
    one, two = seated(hall, "one", tmp_path), seated(hall, "two", tmp_path)
    one.match.frame = lambda: {}["board"]  # type: ignore[method-assign]
    hall.take_in({"watch": ["one", 1]})
    one.due = two.due = 0.0
    hall.tick(time.monotonic())

    assert [failed["id"] for failed in said.of("failed")] == ["one"] and "KeyError" in str(said.of("failed"))
    assert list(hall.tables) == ["two"] and two.match.number == 1


def test_a_frame_that_is_no_json_ends_its_own_match_alone(tmp_path: Path):
    said = Said()
    hall = Hall(lambda message: said.append(json.loads(json.dumps(message))))
    one = seated(hall, "one", tmp_path)
    one.match.frame = lambda: {"board": np.zeros(3)}  # type: ignore[method-assign]
    hall.take_in({"watch": ["one", 1]})

    assert said.of("failed")[0]["id"] == "one" and not hall.tables


def test_a_match_that_is_stopped_is_not_late(hall: Hall, said: Said, tmp_path: Path):
    seated(hall, "one", tmp_path)
    hall.take_in({"stop": "one"})
    hall.tick(time.monotonic())

    assert said.of("ended")[0]["stopped"] and list(hall.late_ms) == []


def test_a_match_is_known_before_it_is_loaded(monkeypatch: pytest.MonkeyPatch):
    """Else it could be open before the hall has heard of it, which would then wait for it for ever."""
    heard: list[str] = []

    class Named(queue.SimpleQueue):  # type: ignore[type-arg]
        def __init__(self, name: str) -> None:
            self.name = name

        def put(self, item: Any, *more: Any) -> None:
            heard.append(self.name)

    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps({"begin": WISH}) + "\n"))
    live._read(Named("inbox"), Named("loads"), Named("shows"))

    assert heard == ["inbox", "loads", "inbox"]


def test_frames_are_computed_for_whoever_still_waits(monkeypatch: pytest.MonkeyPatch):
    """By a thread of their own; what was asked for too long ago is left."""
    shown: list[dict[str, Any]] = []
    shows: queue.SimpleQueue[Any] = queue.SimpleQueue()
    monkeypatch.setattr(live, "_shown", lambda wish: wish)
    threading.Thread(target=live._show, args=(shows, shown.append), daemon=True).start()

    shows.put(({"ref": "late"}, time.monotonic() - 1))
    shows.put(({"ref": "early"}, time.monotonic() + 60))

    wait_for(lambda: shown != [])
    assert shown == [{"ref": "early"}]


def test_a_replay_says_where_a_person_played(hall: Hall, tmp_path: Path):
    table = seated(hall, "one", tmp_path)
    match = table.match
    match.take(0, "hand")
    while not match.step():
        if match.number == 3:
            match.take(1, "another")

    table.save(match)

    kept = read_replay(tmp_path / "one.replay")
    assert kept.players == ["person", "person+bot:random"]
    assert kept.steps == match.number
