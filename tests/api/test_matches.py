"""Live matches over HTTP and a websocket: the server alone decides, refusals have codes, a match ends as a replay."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from cerulea.api.app import create_app
from cerulea.api.match_schema import Take
from cerulea.api.matches import _Line
from cerulea.flows import play
from cerulea.flows.fog import fogged
from cerulea.flows.model_folders import register
from cerulea.flows.platform import Platform
from tests.serving import key_for, platform_in, served
from tests.toy_games import make_agent

WAIT_S = 300  # kernels may be compiled first, on a machine that has other things to do
FOUR = {"game": "connect-four", "players": ["bot:random", "bot:random"], "seed": 5, "speed": 16.0}


class Place:
    """A server with matches, and callers of several roles."""

    def __init__(self, platform: Platform, url: str) -> None:
        self.platform, self.url = platform, url
        self.keys = {role: key_for(platform, role) for role in ("viewer", "developer", "admin")}
        self.keys["stranger"] = key_for(platform, "developer", "elsewhere")

    def ask(
        self, method: str, path: str, body: Any = None, *, who: str = "developer", **headers: str
    ) -> httpx.Response:
        given = {"Authorization": f"Bearer {self.keys[who]}", **{k.replace("_", "-"): v for k, v in headers.items()}}
        return httpx.request(method, f"{self.url}{path}", json=body, headers=given, timeout=60)

    def begin(self, **change: Any) -> dict[str, Any]:
        answer = self.ask("POST", "/api/matches", {**FOUR, **change})
        assert answer.status_code == 201, answer.text
        return answer.json()

    @contextmanager
    def line(self, match: str, who: str = "developer") -> Iterator[ClientConnection]:
        """As a browser opens it: the key among the protocols."""
        url = f"{self.url.replace('http', 'ws')}/api/matches/{match}/live"
        with connect(url, subprotocols=["cerulea.v1", self.keys[who]]) as line:
            yield line


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    home: Path = tmp_path_factory.mktemp("matches")
    with platform_in(home) as platform:
        for name, game in (("player", "connect-four"), ("balancer", "cartpole")):
            register(platform, make_agent(home / name, game), name, team="home", actor="owner", extra={})
        app = create_app(platform)
        with served(app) as url:
            yield Place(platform, url)
        app.state.matches.close()


@pytest.fixture(autouse=True)
def nothing_is_left(place: Place) -> Iterator[None]:
    yield
    for match in place.ask("GET", "/api/matches", who="admin").json()["items"]:
        if match["status"] not in ("ended", "failed"):
            place.ask("POST", f"/api/matches/{match['id']}/stop", who="admin")
            with place.line(match["id"], "admin") as line:
                _rest(line)


def said(line: ClientConnection, kind: str) -> dict[str, Any]:
    """The next message of a kind."""
    while True:
        message = json.loads(line.recv(timeout=WAIT_S))
        if message["type"] == kind:
            return message


def _rest(line: ClientConnection) -> list[dict[str, Any]]:
    """Everything until the line is closed, be it for a reason."""
    found = []
    with contextlib.suppress(ConnectionClosed):
        while True:
            found.append(json.loads(line.recv(timeout=WAIT_S)))
    return found


def tell(line: ClientConnection, **message: Any) -> dict[str, Any]:
    """The answer to what a person says."""
    line.send(json.dumps(message))
    while True:
        answer = json.loads(line.recv(timeout=WAIT_S))
        if answer["type"] in ("done", "refused"):
            return answer


def test_games_are_listed(place: Place):
    names = [game["name"] for game in place.ask("GET", "/api/games", who="viewer").json()["items"]]

    assert {"rift", "rift-skirmish", "connect-four"} <= set(names)


def test_a_match_is_watched_to_its_end_and_kept(place: Place):
    match = place.begin(players=["player", "bot:random"])
    with place.line(match["id"], "viewer") as line:
        assert line.subprotocol == "cerulea.v1"
        seen = _rest(line)

    assert seen[0]["type"] == "match" and seen[-1]["type"] == "ended"
    steps = [message["step"] for message in seen if message["type"] == "frame"]
    assert steps == sorted(set(steps))
    ended = seen[-1]["match"]
    assert (ended["status"], ended["step"], ended["winner"] in (-1, 0, 1)) == ("ended", steps[-1], True)
    kept = place.ask("GET", f"/api/replays/{ended['replay']}").json()
    assert (kept["steps"], kept["winner"], kept["game"]) == (ended["step"], ended["winner"], "connect-four")
    frames = place.ask("GET", f"/api/replays/{ended['replay']}/frames?first=2&count=500").json()["items"]
    assert [one["step"] for one in frames] == list(range(2, ended["step"] + 1))
    assert frames[-1]["frame"] == [m for m in seen if m["type"] == "frame"][-1]["frame"]


def test_a_person_plays_and_the_game_alone_says_what_is_allowed(place: Place):
    """Late, forbidden, malformed, not one's own: each is refused with its code, and the right action is taken."""
    match = place.begin()["id"]
    with place.line(match) as line:
        said(line, "match")
        assert tell(line, type="act", seat=0, step=0, action=[0])["code"] == "E-MATCH-001"  # not taken
        assert tell(line, type="take", seat=7)["code"] == "E-MATCH-001"
        assert tell(line, type="take", seat=0, ref="a") | {"step": 0} == {"type": "done", "ref": "a", "step": 0}
        frame = _my_turn(line)
        late = tell(line, type="act", seat=0, step=frame["step"] + 1, action=[0], ref="b")
        assert (late["code"], late["ref"]) == ("E-MATCH-004", "b")
        assert tell(line, type="act", seat=0, step=frame["step"], action=[99])["code"] == "E-MATCH-003"
        assert tell(line, type="act", seat=0, step=frame["step"], action=[1, 2])["code"] == "E-MATCH-003"
        assert tell(line, type="dance")["code"] == "E-USE-001"
        for nonsense in ("no json", b'{"type": "leave", "seat": 0}'):
            line.send(nonsense)
            assert said(line, "refused")["code"] == "E-USE-001"
        with place.line(match) as other:
            assert tell(other, type="take", seat=0)["code"] == "E-MATCH-002"
        column = frame["legal"]["0"][0][-1]
        assert tell(line, type="act", seat=0, step=frame["step"], action=[column])["type"] == "done"
        while (after := said(line, "frame"))["step"] == frame["step"]:  # shown again to whoever came
            pass

    # The bot may have moved as well by then: of frames only the newest is kept for who has not read it.
    assert after["step"] in (frame["step"] + 1, frame["step"] + 2)
    assert after["frame"] != frame["frame"]


def _my_turn(line: ClientConnection) -> dict[str, Any]:
    """The frame in which a person's place may act; a game without time waits for it."""
    while True:
        frame = said(line, "frame")
        if any(frame["legal"].get("0", [[]])):
            return frame


def test_a_place_is_given_back_when_its_line_ends(place: Place):
    """The match, which waited for a person, goes on by itself to its end."""
    match = place.begin()["id"]
    with place.line(match) as line:
        tell(line, type="take", seat=0)
        tell(line, type="take", seat=1)

    with place.line(match) as line:
        assert _rest(line)[-1]["match"]["status"] == "ended"


def test_a_place_is_given_back_when_its_line_ends_before_the_answer():
    """Whoever asks for a place may have it by the time the answer is lost."""

    class Silent:
        def act(self, verb: str, match: str, *values: Any) -> Future[dict[str, Any]]:
            return Future()

    async def leave(monkeypatch: pytest.MonkeyPatch) -> _Line:
        monkeypatch.setattr("cerulea.api.matches._caller", AsyncMock())
        line = _Line(None, Silent(), "match-1", [], "hand-1")  # type: ignore[arg-type]
        asked = asyncio.create_task(line._take(Take(type="take", seat=1)))
        await asyncio.sleep(0.01)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        return line

    with pytest.MonkeyPatch.context() as monkeypatch:
        assert asyncio.run(leave(monkeypatch)).seats == {1}


def test_who_plays_sees_no_more_on_a_second_line(place: Place):
    """The side that a person plays decides what all his lines to the match show; a stranger's shows everything."""
    match = place.begin(game="rift-duel", speed=2.0)["id"]
    with place.line(match) as line, place.line(match) as second, place.line(match, "viewer") as other:
        assert tell(line, type="take", seat=0)["type"] == "done"
        said(line, "frame")
        after = said(line, "frame")["step"] + 1
        one, two, three = (_frame_of(each, after)["frame"] for each in (line, second, other))

    def unseen(frame: dict[str, Any]) -> list[dict[str, Any]]:
        return [hero for hero in frame["heroes"] if hero["team"] == 1 and "x" not in hero]

    assert (len(unseen(one)), len(unseen(two)), len(unseen(three))) == (1, 1, 0)


def _frame_of(line: ClientConnection, step: int) -> dict[str, Any]:
    """The first frame from a step on."""
    while (frame := said(line, "frame"))["step"] < step:
        pass
    return frame


def test_who_may_only_watch_takes_no_place(place: Place):
    match = place.begin(speed=0.1)["id"]

    with place.line(match, "viewer") as line:
        assert tell(line, type="take", seat=0)["code"] == "E-AUTH-004"
    assert place.ask("POST", "/api/matches", FOUR, who="viewer").status_code == 403


def test_another_teams_match_is_not_there(place: Place):
    match = place.begin(speed=0.1)["id"]

    assert place.ask("GET", f"/api/matches/{match}", who="stranger").status_code == 404
    assert place.ask("POST", f"/api/matches/{match}/stop", who="stranger").status_code == 404
    assert place.ask("GET", "/api/matches", who="stranger").json()["items"] == []
    with place.line(match, "stranger") as line:
        (refused,) = _rest(line)
    assert (refused["type"], refused["code"]) == ("refused", "E-NAME-001")
    assert line.close_code == 1008


def test_a_line_without_a_key_is_refused(place: Place):
    with connect(f"{place.url.replace('http', 'ws')}/api/matches/match-x/live") as line:
        (refused,) = _rest(line)

    assert refused["code"] == "E-AUTH-002"


@pytest.mark.parametrize(
    ("change", "status", "code", "words"),
    [
        ({"game": "connect-for"}, 404, "E-NAME-001", "nearest is 'connect-four'"),
        ({"players": ["bot:randem", "bot:random"]}, 404, "E-NAME-001", "nearest is 'random'"),
        ({"players": ["plaier", "bot:random"]}, 404, "E-NAME-001", "nearest name is 'player'"),
        ({"players": ["balancer", "bot:random"]}, 409, "E-AGENT-001", "plays cartpole, not connect-four"),
        ({"players": ["bot:random"] * 3}, 400, "E-GAME-002", "2 players"),
        ({"options": {"colour": "red"}}, 400, "E-GAME-002", "colour"),
        ({"options": {"bins": 10**30}}, 422, "E-USE-001", "options"),
        ({"options": {"bins": 1e308}}, 422, "E-USE-001", "options"),
        ({"game": "rift-duel", "options": {"scatter": "x"}}, 400, "E-USE-001", "scatter"),
        ({"speed": 1000.0}, 422, "E-USE-001", "speed"),
        ({"players": []}, 422, "E-USE-001", "players"),
    ],
)
def test_what_cannot_be_played_is_refused_with_a_code(
    place: Place, change: dict[str, Any], status: int, code: str, words: str
):
    answer = place.ask("POST", "/api/matches", {**FOUR, **change})

    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (status, code)
    assert words in f"{problem['detail']} {problem['why']} {problem['fix']}"
    assert not [m for m in place.ask("GET", "/api/matches").json()["items"] if m["status"] != "ended"]


def test_a_person_has_so_many_matches_at_a_time(place: Place):
    for _ in range(play.MOST_EACH):
        place.begin(speed=0.1)

    answer = place.ask("POST", "/api/matches", FOUR)

    assert (answer.status_code, answer.json()["code"]) == (503, "E-BUSY-002")


def test_a_repeat_with_a_key_begins_no_second_match(place: Place):
    one, two = (place.ask("POST", "/api/matches", FOUR, Idempotency_Key="k").json()["id"] for _ in range(2))

    assert one == two
    other = place.ask("POST", "/api/matches", {**FOUR, "seed": 6}, Idempotency_Key="k")
    assert (other.status_code, other.json()["code"]) == (409, "E-KEY-001")


def test_a_stopped_match_is_kept_as_far_as_it_went(place: Place):
    match = place.begin(speed=0.1)["id"]

    place.ask("POST", f"/api/matches/{match}/stop")

    with place.line(match) as line:
        ended = _rest(line)[-1]["match"]
    assert (ended["status"], ended["stopped"], ended["winner"]) == ("ended", True, -1)
    assert place.ask("GET", f"/api/replays/{match}").json()["steps"] == ended["step"]


def test_a_damaged_replay_is_refused(place: Place):
    """And left out of the list."""
    folder = place.platform.settings.replays / "home"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "broken.replay").write_bytes(b"{}")

    answer = place.ask("GET", "/api/replays/broken")

    assert (answer.status_code, answer.json()["code"]) == (400, "E-GAME-004")
    assert "broken" not in {kept["id"] for kept in place.ask("GET", "/api/replays").json()["items"]}


def test_what_a_team_does_not_see_is_not_in_its_frame():
    frame = {
        "clock_s": 3.0,
        "heroes": [
            {"id": 0, "team": 0, "player": 0, "name": "A", "x": 1, "gold": 5, "seen": [0]},
            {"id": 5, "team": 1, "player": 1, "name": "B", "x": 9, "gold": 7, "seen": [1]},
        ],
        "creeps": [{"id": 10, "team": 1, "x": 3, "seen": [1]}, {"id": 11, "team": 1, "x": 4, "seen": [0, 1]}],
        "boss": {"id": 72, "team": 2, "x": 3, "seen": []},
    }

    ours = fogged(frame, 0)

    assert ours["heroes"][0] == frame["heroes"][0]
    assert ours["heroes"][1] == {"id": 5, "team": 1, "player": 1, "name": "B", "seen": [1]}
    assert [creep["id"] for creep in ours["creeps"]] == [11] and ours["boss"] is None
