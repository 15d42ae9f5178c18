"""Who finds no place in a model's line is refused as he comes: before his request is read, leased or begun."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cerulea.api import sse
from cerulea.api.app import create_app
from cerulea.api.door import door_of
from cerulea.core.errors import QueueFull
from cerulea.flows.serving import Gateway
from cerulea.people import Caller
from tests.serving import key_for, platform_in, served
from tests.toy_models import ToyBills, ToyHost, toy_gateway, wait_for

PLACES = 3


class Host(ToyHost):
    """Toys behind a line of PLACES; labels are known once they were asked for, as in a real host."""

    def __init__(self) -> None:
        super().__init__("toy@1")
        self.inside, self.known = 0, set[str]()

    async def open(self, caller: Caller, label: str):
        found = await super().open(caller, label)
        self.known.add(label)
        return found

    def line(self, caller: Caller, label: str):
        return self if label in self.known else None

    def enter(self) -> None:
        if self.inside >= PLACES:
            raise QueueFull("3 requests run and wait for toy@1; the most is 3.", retry_after_s=2.5)
        self.inside += 1

    def leave(self) -> None:
        self.inside -= 1


class Place:
    """A server with a door, and connections to it."""

    def __init__(self, url: str, key: str, gateway: Gateway, host: Host, bills: ToyBills) -> None:
        self.key, self.gateway, self.host, self.bills = key, gateway, host, bills
        self.port = int(url.rpartition(":")[2])
        self.lines: list[Line] = []

    def line(self) -> Line:
        self.lines.append(Line(self.port, self.key))
        return self.lines[-1]

    def metrics(self) -> str:
        line = self.line()
        line.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        return line.answer()[2].decode()


class Line:
    """One connection, byte by byte."""

    def __init__(self, port: int, key: str) -> None:
        self.key = key
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.file = self.socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def request(self, *, key: str = "", more: str = "", **asked: object) -> bytes:
        body = json.dumps(
            {"model": "toy", "prompt": "The sea was", "max_tokens": 4, "temperature": 0, **asked}
        ).encode()
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key or self.key}\r\n{more}"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def ask(self, **asked) -> None:
        self.send(self.request(**asked))

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        status = int(self.file.readline().split()[1])
        headers = {}
        while line := self.file.readline().strip():
            name, _, value = line.decode().partition(": ")
            headers[name.lower()] = value
        return status, headers, self.file.read(int(headers["content-length"]))

    def close(self) -> None:
        self.file.close()
        self.socket.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with platform_in(tmp_path / "home") as platform:
        host, bills = Host(), ToyBills()
        gateway = toy_gateway(platform, host, bills)
        app = create_app(platform, gateway=gateway)
        with served(app, http=door_of(app)) as url:
            place = Place(url, key_for(platform, "viewer"), gateway, host, bills)
            first = place.line()  # from here on the server knows the key and the label
            first.ask()
            assert first.answer()[0] == 200
            yield place
            host.paused = False
            for line in place.lines:
                line.close()
            wait_for(lambda: gateway.running == {})
            wait_for(lambda: host.inside == 0)


def full(place: Place) -> list[Line]:
    """Every place is taken by somebody whose text does not come yet."""
    place.host.paused = True
    inside = [place.line() for _ in range(PLACES)]
    for line in inside:
        line.ask()
    wait_for(lambda: len(place.host.flows) == PLACES)
    return inside


def test_who_comes_to_a_full_line_is_told_when_to_come_again(place: Place):
    inside, opened = full(place), len(place.bills.opened)
    late = [place.line() for _ in range(20)]

    for line in late:
        line.ask()
    answers = [line.answer() for line in late]

    assert {status for status, _, _ in answers} == {429}
    assert all(headers["retry-after"] == "3" and headers["x-request-id"] for _, headers, _ in answers)
    assert "the most is 3" in json.loads(answers[0][2])["error"]["message"]
    assert len(place.bills.opened) == opened and len(place.host.flows) == PLACES, "nothing was begun for them"
    place.host.paused = False
    assert [line.answer()[0] for line in inside] == [200] * PLACES
    for line in late:
        line.ask()
        assert line.answer()[0] == 200, "the same connection is let in once there is a place"
    assert 'cerulea_http_requests_total{method="POST",route="/v1/completions",status="429"} 20.0' in place.metrics()


def test_a_burst_is_counted_as_it_comes(place: Place):
    """Nobody of it has been read when the first is refused."""
    place.host.paused = True
    lines = [place.line() for _ in range(30)]
    for line in lines:
        line.ask()

    assert {line.answer()[0] for line in lines[PLACES:]} == {429}
    place.host.paused = False
    assert [line.answer()[0] for line in lines[:PLACES]] == [200] * PLACES


def test_the_refusal_is_a_problem_for_who_asks_for_one(place: Place):
    full(place)
    line = place.line()
    line.ask(more="Accept: application/problem+json\r\n")

    status, headers, body = line.answer()

    assert headers["content-type"] == "application/problem+json" and json.loads(body)["code"] == "E-BUSY-003"
    assert status == json.loads(body)["status"]


def test_who_hangs_up_gives_his_place_back(place: Place):
    inside = full(place)
    inside[0].close()
    wait_for(lambda: place.host.inside == PLACES - 1)
    place.host.paused = False
    line = place.line()
    line.ask()

    assert line.answer()[0] == 200


def test_what_the_door_does_not_know_goes_on_to_the_application(place: Place):
    full(place)
    unknown, keyed, other = place.line(), place.line(), place.line()

    unknown.ask(key="ck_nobody")
    keyed.ask(more="Idempotency-Key: again\r\n")
    other.ask(model="nothing")

    assert unknown.answer()[0] == 401 and other.answer()[0] == 404
    place.host.paused = False
    assert keyed.answer()[0] == 200


def test_a_request_in_pieces_and_two_at_once_are_answered_in_their_order(place: Place):
    pieces, pair = place.line(), place.line()
    whole = pieces.request()

    for at in range(0, len(whole), 40):
        pieces.send(whole[at : at + 40])
    pair.send(pair.request(max_tokens=1) + pair.request(max_tokens=2))

    assert pieces.answer()[0] == 200
    counts = [json.loads(pair.answer()[2])["usage"]["completion_tokens"] for _ in range(2)]
    assert counts == [1, 2]


def test_a_head_that_does_not_end_is_not_kept(place: Place):
    line, other = place.line(), place.line()
    # A little too long, and all at once: who closes a line on which more comes may take the answer back.
    line.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 65_600)
    other.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 40_000 + b"\r\n\r\n")

    assert line.file.readline().split()[1] == b"400"
    line.file.read()  # the line is closed
    assert other.answer()[0] == 200


def test_a_body_beside_an_unknown_upgrade_is_no_second_request(place: Place):
    """Clients that offer HTTP/2 do so with the first request they send."""
    line = place.line()
    line.send(line.request(more="Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"))

    assert line.answer()[0] == 200


def test_a_quiet_stream_says_that_it_is_open(place: Place, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sse, "BEAT_S", 0.2)
    place.host.paused = True
    line = place.line()
    line.ask(stream=True)
    while b": still here" not in (text := line.file.readline()):
        assert text
    place.host.paused = False
    while b"[DONE]" not in (text := line.file.readline()):
        assert text
