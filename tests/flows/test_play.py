"""Live matches beside a process that is only played: what becomes of them when callers leave or the process fails."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cerulea.core.errors import EngineFailed, FileTrouble, QueueFull
from cerulea.flows import play
from cerulea.flows.platform import Platform
from cerulea.flows.play import Matches, Wish
from tests.serving import platform_in
from tests.toy_models import wait_for

# A process of matches that plays nothing: it begins what it is asked to, answers `take` and never `leave`, and ends at
# `order`; a `stop` gets nonsense.
PROCESS = """
import json, sys
def say(**message): print(json.dumps(message), flush=True)
for line in sys.stdin:
    (verb, value), = json.loads(line).items()
    if verb == "begin":
        about = {"version": "1", "seats": [], "teams": [], "heads": [], "step_s": 1.0, "limit": 0}
        say(begun={"id": value["id"], **about})
    elif verb == "take":
        say(done={"ref": value[-1], "step": 0})
    elif verb == "order":
        break
    elif verb == "stop":
        print("nonsense", flush=True)
        say(ended={"id": value})
        say(ended={"id": value, "step": 3, "winner": -1, "cut": False, "stopped": True})
"""
WISH = Wish(game="connect-four", players=("bot:random", "bot:random"), seed=1)


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    with platform_in(tmp_path / "home") as opened:
        yield opened


@pytest.fixture
def matches(platform: Platform) -> Iterator[Matches]:
    made = Matches(platform, command=(sys.executable, "-c", PROCESS))
    yield made
    made.close()


def begin(matches: Matches, **more: Any) -> str:
    return matches.begin(matches.platform.people.caller(), WISH, **more).id


def status(matches: Matches, match: str) -> str:
    return matches.get(matches.platform.people.caller(), match).status


def test_who_leaves_before_the_answer_ends_no_match(matches: Matches):
    """The answer comes when nobody waits for it any more; the match goes on, and so do answers to others."""
    match = begin(matches)

    async def talk() -> dict[str, Any]:
        gone = asyncio.wrap_future(matches.act("take", match, 0, "ada"))
        gone.cancel()
        return await asyncio.wrap_future(matches.act("take", match, 1, "bob"))

    assert asyncio.run(talk())["step"] == 0
    assert status(matches, match) == "running"


def test_when_the_process_ends_everybody_is_told(matches: Matches):
    """Also where somebody has left who asked, and was not answered."""
    one, two = begin(matches), begin(matches)

    async def leave() -> None:
        asyncio.wrap_future(matches.act("leave", one, 0, "ada")).cancel()
        await asyncio.sleep(0)

    asyncio.run(leave())
    with pytest.raises(EngineFailed):
        matches.act("order", one, 0, "ada", 0, [0]).result(10)
    wait_for(lambda: {status(matches, one), status(matches, two)} == {"failed"})


def test_a_message_that_is_not_understood_ends_no_match(matches: Matches):
    one, two = begin(matches), begin(matches)

    matches.stop(matches.platform.people.caller(), one)

    wait_for(lambda: status(matches, one) == "ended")
    assert status(matches, two) == "running"


def test_a_match_that_cannot_be_kept_never_was(platform: Platform, matches: Matches):
    """There is a file where replays would lie."""
    platform.settings.replays.parent.mkdir(parents=True, exist_ok=True)
    platform.settings.replays.write_text("in the way")

    with pytest.raises(FileTrouble, match="cannot be kept"):
        begin(matches, key="k")
    assert matches.newest(platform.people.caller()) == []
    platform.settings.replays.unlink()
    assert status(matches, begin(matches, key="k")) == "running"


def test_without_a_process_no_match_is_left_loading(platform: Platform):
    matches = Matches(platform, command=(str(platform.settings.home / "no-such-program"),))

    with pytest.raises(EngineFailed, match="no-such-program"):
        begin(matches)
    assert matches.newest(platform.people.caller()) == []


def test_of_matches_that_are_forgotten_nothing_is_left(matches: Matches, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(play, "REMEMBERED", 1)
    caller = matches.platform.people.caller()
    for number in range(4):
        match = begin(matches, key=f"k{number}")
        matches.stop(caller, match)
        wait_for(lambda match=match: status(matches, match) == "ended")

    assert set(matches._feeds) == set(matches._matches) and len(matches._matches) == 2
    assert len(matches._keyed) == 2 and not matches._begun


def test_so_many_ask_for_frames_at_a_time(matches: Matches, monkeypatch: pytest.MonkeyPatch):
    """The next one is sent away at once; when an answer has not come in time, there is room again."""
    monkeypatch.setattr(play, "BEGIN_WAIT_S", 1.0)
    begin(matches)
    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(matches.frames, "one.replay", 0, 1) for _ in range(play.MOST_SHOWN)]
        wait_for(lambda: len(matches._shown) == play.MOST_SHOWN)
        with pytest.raises(QueueFull):
            matches.frames("one.replay", 0, 1)
        for one in waiting:
            with pytest.raises(EngineFailed, match="not computed in time"):
                one.result(10)

    assert not matches._shown and not matches._asked
