"""A platform for tests, an application on it, and a real server on a loopback port."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient

from cerulea.api.app import create_app
from cerulea.core.settings import Settings
from cerulea.flows.platform import Platform, open_platform

RECIPE = {"kind": "text", "name": "brook", "data": {"train": ["stdlib"]}, "train": {"steps": 60}}


class Asker:
    """Requests of one caller: `get`, `post` and so on, with the status that is expected."""

    def __init__(self, http: TestClient, key: str = "") -> None:
        self.http = http
        self.key = key

    def __call__(self, method: str, path: str, body: Any = None, *, status: int = 200, **headers: str) -> Any:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.key:
            given["Authorization"] = f"Bearer {self.key}"
        answer = self.http.request(method, path, json=body, headers=given)
        assert answer.status_code == status, f"{method} {path}: {answer.status_code} {answer.text[:500]}"
        if status >= 400:
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["status"] == status
        return answer.json()

    def get(self, path: str, **more: Any) -> Any:
        return self("GET", path, **more)

    def post(self, path: str, body: Any = None, **more: Any) -> Any:
        return self("POST", path, body, **more)


@contextmanager
def platform_in(home: Path, database_url: str = "") -> Iterator[Platform]:
    home.mkdir(parents=True, exist_ok=True)
    with open_platform(Settings(home=home, database_url=database_url)) as platform:
        yield platform


def key_for(platform: Platform, role: str, team: str = "home", **more: Any) -> str:
    """A key for a person of that role in that team; the team draws on a fund of its own where it is new."""
    if team not in {one.name for one in platform.people.teams()}:
        platform.ledger.create_fund(team, actor="owner")
        platform.people.create_team(team, fund=team, actor="owner")
        platform.ledger.open_purse(team, team)
    person = f"{role}-{team}"
    if person not in {one.name for one in platform.people.persons()}:
        platform.people.create_person(person, team=team, role=role, actor="owner")
    return platform.people.create_key(person, team=team, name="test", actor="owner", **more)[0]


def asker_for(platform: Platform, role: str, team: str = "home") -> Asker:
    return Asker(TestClient(create_app(platform), raise_server_exceptions=False), key_for(platform, role, team))


@contextmanager
def served(app: FastAPI, http: Any = "h11") -> Iterator[str]:
    """The application behind a real server; yields its URL. The socket listens before the server does."""
    with socket.socket(proto=socket.IPPROTO_TCP) as listening:  # so that asyncio sends without delay
        listening.bind(("127.0.0.1", 0))
        listening.listen(128)
        config = uvicorn.Config(app, http=http, log_level="error", timeout_graceful_shutdown=1, lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(timeout=20)
