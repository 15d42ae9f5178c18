"""Whatever is sent, the answer is a refusal with a code, and never a fault of ours."""

from __future__ import annotations

import contextlib
import json
import socket
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient

from cerulea.api import app as application
from cerulea.api.app import create_app
from cerulea.client.desk import RemoteDesk
from cerulea.core.errors import CeruleaError
from cerulea.flows.platform import Platform
from cerulea.flows.work import Desk
from cerulea.jobs.protocol import Ending
from tests.serving import RECIPE, Asker, key_for, served
from tests.test_registry import HOSTILE

NAMES = [
    *("..", "../..", "../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e%2f", "....//", "a/../../b", "/etc/passwd"),
    *("C:\\Windows", "..\\..\\x", "%00", "a%00b", "a%7f", "%0a", "-rf", "--help", "~root", "$(id)", "`id`", ";ls"),
    *("' OR 1=1 --", '"; DROP TABLE job; --', "%27", "a" * 5000, "%ff%fe", "%ed%a0%80", "\u202e", "\ufeff", "é", "💣"),
    *("NaN", "null", "true", "0", "-1", "9" * 40, "1e400", "{}", "[]", "<script>", "%3Cscript%3E", "a b", " ", "%20"),
    *("con", "nul.txt", ".git", ".", "job-", "@", ":", "a@b:c", "a:b@c", "*", "?", "#"),
]


@pytest.mark.parametrize("name", NAMES)
def test_no_name_is_a_fault(name: str, ask: Asker):
    """As a job, a fund, a team, a person, a key, a model: 4xx, and problem+json."""
    for path in (
        "/api/jobs/{}",
        "/api/jobs/{}/logs",
        "/api/funds/{}/statement",
        "/api/models/{}",
        "/api/jobs?team={}",
        "/api/audit?subject={}",
        "/api/jobs?before={}",
        "/api/keys?person={}",
    ):
        answer = ask.http.get(path.format(name))
        assert answer.status_code < 500, path
        assert answer.status_code < 400 or answer.headers["content-type"] == "application/problem+json", path
    for method, path in (
        ("DELETE", "/api/keys/{}"),
        ("DELETE", "/api/teams/home/members/{}"),
        ("PATCH", "/api/teams/{}"),
    ):
        assert 400 <= ask.http.request(method, path.format(name), json={}).status_code < 500
    for body in (
        {"name": name},
        {"name": name, "team": name},
        {"recipe": RECIPE, "name": name},
        {"recipe": {name: name}},
    ):
        for path in ("/api/funds", "/api/teams", "/api/persons", "/api/keys", "/api/jobs", "/api/estimate"):
            answer = ask.http.post(path, json=body)
            assert answer.status_code < 500, (path, body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\xfe",
        b"\x00" * 100,
        b"[" * 100_000,
        b'{"recipe":' * 5_000 + b"1" + b"}" * 5_000,
        b'{"recipe": ' + b"9" * 5_000 + b"}",
        b'{"recipe": {"train": {"steps": ' + b"9" * 5_000 + b"}}}",
        b'{"recipe": {"train": {"steps": 1e400}}}',
        b'{"recipe": {"train": {"steps": NaN}}}',
        b'{"recipe": {"train": {"steps": 3}, "name": "\\ud800"}}',
        b'{"recipe": {"data": {"train": ["\\ud800"]}, "train": {"steps": 3}}}',
        b'{"recipe": {"data": {"train": ["\\u0000"]}, "train": {"steps": 3}}}',
        b'{"recipe": {"\\ud800": 1}}',
        b'{"\\ud800": 1}',
        b'{"recipe": {}, "name": "\\ud800"}',
        b'{"recipe": ' + json.dumps({"a": [[[[[[[[[[]]]]]]]]]]}).encode() + b"}",
        b'{"recipe": {"kind": "\\ud800"}}',
    ],
)
@pytest.mark.parametrize("path", ["/api/jobs", "/api/estimate", "/api/funds", "/api/keys"])
def test_no_body_is_a_fault(body: bytes, path: str, ask_both: Asker):
    for kind in ("application/json", "text/plain", ""):
        headers = {"content-type": kind, "Idempotency-Key": f"{hash((body, kind))}"} if kind else {}
        answer = ask_both.http.post(path, content=body, headers=headers)
        assert 400 <= answer.status_code < 500, answer.text[:300]
        assert answer.json()["code"] and answer.headers["content-type"] == "application/problem+json"


def test_a_body_beyond_its_limit_is_not_read(ask: Asker):
    """By its length where it says one, by counting where it does not."""
    large = b" " * (application.BODY_BYTES + 1)
    said = ask.http.post("/api/jobs", content=large, headers={"content-type": "application/json"})
    lied = ask.http.post("/api/jobs", content=iter([large[:70_000]] * 20), headers={"content-type": "application/json"})
    huge = ask.http.post("/api/jobs", content=b"{}", headers={"content-length": "9" * 30})

    assert [answer.status_code for answer in (said, lied, huge)] == [413, 413, 413]
    assert said.json()["code"] == lied.json()["code"] == "E-USE-001"


@pytest.mark.parametrize(
    "key",
    ["", "x", "Bearer", "Bearer ", "Basic YTpi", "Bearer ck_", "Bearer lt_", "Bearer ck_" + "a" * 5000, "é", "\x00"],
)
def test_no_key_is_a_fault(key: str, platform: Platform, ask: Asker):
    answer = ask.http.get("/api/me", headers=[(b"authorization", key.encode())])

    assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["code"] == "E-AUTH-002"


def test_unknown_paths_and_methods_are_problems(ask: Asker):
    assert ask.get("/api/none", status=404)["code"] == "E-NAME-001"
    assert ask.get("/", status=404)["fix"]
    answer = ask.http.delete("/api/jobs")
    assert answer.status_code == 405 and answer.headers["allow"] == "GET, POST"
    assert answer.json()["code"] == "E-USE-001"


def test_a_fault_of_ours_is_a_problem_too_and_tells_nothing(platform: Platform, ask: Asker):
    def broken(**_: object) -> None:
        raise RuntimeError("secret detail")

    platform.queue.newest = broken  # type: ignore[assignment,method-assign]

    problem = ask.get("/api/jobs", status=500)

    assert problem["code"] == "E-ALL-001" and "secret" not in str(problem)


def test_a_header_of_a_gigabyte_is_cut_off(platform: Platform):
    """The line is closed long before, and the next one is answered."""
    sent, chunk = 0, b"a" * 65_536
    with served(create_app(platform)) as url:
        host, _, port = url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=30) as line:
            line.sendall(b"GET /api/me HTTP/1.1\r\nHost: here\r\nX-Large: ")
            with contextlib.suppress(ConnectionError):
                while sent < 1 << 30:
                    line.sendall(chunk)
                    sent += len(chunk)
            with contextlib.suppress(ConnectionError):
                while line.recv(65_536):
                    pass
        assert httpx.get(f"{url}/healthz").status_code == 200

    assert sent < 32 << 20, "what the system's own buffers take, and no more"


def files_in(folder: Path) -> set[str]:
    return {
        str(path) for path in folder.rglob("*") if path.suffix != ".db" and not path.name.endswith(("-wal", "-shm"))
    }


def test_a_worker_cannot_name_a_file_out_of_its_models_folder(platform: Platform, tmp_path: Path):
    """Zip-slip without a zip: the names of a result's files come from a worker, and become files of a folder."""
    entry = {"sha256": platform.blobs.put_bytes(b"owned"), "bytes": 5}
    service = key_for(platform, "service")
    with served(create_app(platform)) as url, contextlib.closing(RemoteDesk(url, service)) as agent:
        for number, name in enumerate(HOSTILE):
            job = Asker(httpx_client(platform)).post("/api/jobs", {"recipe": RECIPE}, status=201)["id"]
            worker = f"w{number}"
            agent.enlist(worker, name="far:1", slots=1, device="cpu", kinds=("text",))
            Desk(platform).place(platform.queue.get(job), {worker: 1})
            (given,) = agent.claim(worker)
            before = files_in(tmp_path)
            model = {"files": {name: entry}, "digest": "0" * 64, "card": {}}
            with contextlib.suppress(CeruleaError):
                agent.finish(job, given.token, Ending(outcome="done", reason="steps", model=model))
            assert platform.registry.versions() == [], name
            assert platform.queue.get(job).status != "SUCCEEDED", name
            assert files_in(tmp_path) == before, name


def httpx_client(platform: Platform) -> TestClient:
    return TestClient(create_app(platform, trusted=platform.people.caller()))
