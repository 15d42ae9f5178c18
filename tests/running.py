"""A platform that runs: `cerulea up` as a user starts it, on a free port, with a home of its own.

In:      a home folder; what to wait for.
Kept:    ends what it started, and nothing else; waits for things to happen, never for time to pass.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

PATIENCE_S = 120.0


class Up:
    """One `cerulea up` and what talks to it."""

    def __init__(self, home: Path, *, workers: int = 1, environment: dict[str, str] | None = None) -> None:
        self.home, self.workers = home, workers
        self.environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "CERULEA_THREADS": "1",
            "PYTHONWARNINGS": "",
            **(environment or {}),
        }
        self.key = ""
        self.url = ""
        self.port = 0
        self.process: subprocess.Popen[str] | None = None
        self.said: list[str] = []

    def __enter__(self) -> Up:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it, and return when it says where it is."""
        if not self.port:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.port = probe.getsockname()[1]
        words = ["--home", self.home, "up", "--port", self.port, "--workers", self.workers, "--no-console", "--json"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cerulea.cli.main", *map(str, words)],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, args=(self.process,), daemon=True)
        self._reader.start()
        found = self.wait_for(self._told, "up to say where it is")
        self.url, self.key = found["url"], found["admin_key"] or self.key

    def stop(self) -> int:
        """SIGTERM, as a service manager does; the exit code."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.terminate()
        code = self.process.wait(timeout=PATIENCE_S)
        self._close()
        return code

    def kill(self) -> None:
        """kill -9 of the whole tree's root; the kernel ends the rest."""
        assert self.process is not None
        children = descendants(self.process.pid)
        self.process.kill()
        self.process.wait()
        self._close()
        self.wait_for(lambda: not any(alive(pid) for pid in children), "the tree to end with its root")
        self.said.clear()

    def child(self, part: str) -> int:
        """The pid of the server, the conductor, the agent, or of a job's process (`job`)."""
        assert self.process is not None
        words = "cerulea.cli.job" if part == "job" else f"cerulea.cli.parts {part}"
        return next((pid for pid in descendants(self.process.pid) if words in command_of(pid)), 0)

    def get(self, path: str, **query: Any) -> Any:
        """GET below /api; asked again while the server is being started again."""
        return self._ask("GET", path, params=query)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """POST below /api."""
        return self._ask("POST", path, json=body)

    def cli(self, *words: object, code: int = 0) -> list[dict[str, Any]]:
        """A command that speaks to it, with --json."""
        done = subprocess.run(
            [sys.executable, "-m", "cerulea.cli.main", *map(str, words), "--json"],
            env={**self.environment, "CERULEA_URL": self.url, "CERULEA_KEY": self.key},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == code, f"exit {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return [json.loads(line) for line in done.stdout.splitlines()]

    def job(self, job: str) -> dict[str, Any]:
        return self.get(f"/jobs/{job}")

    def wait_until(self, job: str, *statuses: str) -> dict[str, Any]:
        """Return the job when it has one of these states."""

        def there() -> dict[str, Any] | None:
            found = self.job(job)
            assert found["status"] not in {"FAILED", "CANCELLED", "SUCCEEDED"} - set(statuses), found
            return found if found["status"] in statuses else None

        return self.wait_for(there, f"{job} to be {' or '.join(statuses)}")

    def wait_for(self, look: Callable[[], Any], what: str) -> Any:
        """The first true answer of `look`."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if found := look():
                return found
            time.sleep(0.02)
        raise AssertionError(f"waited {PATIENCE_S:.0f} s for {what}; it said: {''.join(self.said[-40:])}")

    def _ask(self, method: str, path: str, **rest: Any) -> Any:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                answer = httpx.request(
                    method,
                    f"{self.url}/api{path}",
                    headers={"Authorization": f"Bearer {self.key}"},
                    timeout=30,
                    trust_env=False,
                    **rest,
                )
                assert answer.is_success, f"{answer.status_code} {answer.text}"
                return answer.json()
            except httpx.TransportError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def _close(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        self._reader.join(timeout=PATIENCE_S)
        self.process.stdout.close()
        self.process = None

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self.said.extend(iter(process.stdout.readline, ""))

    def _told(self) -> dict[str, Any] | None:
        assert self.process is not None
        for line in self.said:
            if line.startswith('{"event": "up"'):
                return json.loads(line)
        assert self.process.poll() is None, "".join(self.said)
        return None


def is_loaded(up: Up) -> bool:
    """Whether a model of the platform is loaded."""
    answer = httpx.get(f"{up.url}/v1/models", headers={"Authorization": f"Bearer {up.key}"}, trust_env=False)
    return any(model["loaded"] for model in answer.json()["data"])


def descendants(pid: int) -> list[int]:
    """Children of a process, and theirs."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            child = int(path.parent.name)
            found += [child, *descendants(child)]
    return found


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").replace("\0", " ")
    except OSError:
        return ""


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
