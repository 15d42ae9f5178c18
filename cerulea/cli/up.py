"""`cerulea up` and `cerulea worker`: the platform as one tree of processes.

    up ── server      the HTTP API
       ── conductor   who runs next, what was lost, the books
       ── agent ── a process for each job

Kept:    a child that ends is started again, sooner after the first time than after the fifth; SIGTERM drains: jobs
         save and go back to the queue, then everything ends. Whatever kills `up` kills the tree: no job is lost,
         for its lease runs out and its checkpoint is on disk.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from types import FrameType
from typing import IO, Annotated, Any

import typer
from typer import Option

from cerulea.cli.lines import put
from cerulea.cli.options import Home, Json, settings_of
from cerulea.compute.launcher import give
from cerulea.core.errors import CommandInvalid, Conflict, KeyUnknown, Unreachable
from cerulea.core.parent import PARENT
from cerulea.core.settings import Settings

READY_S = 60.0
QUICK_S = 10.0  # a child that lived longer is started again at once
BACKOFF_S = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
STOP_S = 75.0  # for draining, before a child is killed


@dataclass(slots=True)
class Part:
    """One child, and how often it fell."""

    name: str
    values: dict[str, Any]
    process: subprocess.Popen[bytes] | None = None
    began: float = 0.0
    falls: int = 0
    next_start: float = 0.0
    stopping: bool = field(default=False)


def up(
    context: typer.Context,
    host: Annotated[str, Option(help="Address to listen on; the loopback alone by default.")] = "127.0.0.1",
    port: Annotated[int, Option(help="Port to listen on.")] = 7777,
    console: Annotated[bool, Option("--console/--no-console", help="There is no console yet.", hidden=True)] = True,
    workers: Annotated[int, Option(help="Jobs that run at a time on this machine; 0 for none.")] = 1,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Start the platform: API, conductor and a worker; stop it with Ctrl-C."""
    settings = settings_of(context, home)
    if workers < 0:
        raise CommandInvalid(f"--workers is {workers}.", fix="Use 0 or more.")
    _check_port(host, port)
    alone = _be_the_only_one(settings)
    shown, service = _prepare(settings)
    reach = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    url = f"http://{f'[{reach}]' if ':' in reach else reach}:{port}"
    parts = [Part("server", {"host": host, "port": port}), Part("conductor", {})]
    if workers:
        parts.append(Part("agent", {"url": url, "key": service, "slots": workers}))
    tree = _Tree(settings, parts)
    tree.start()
    try:
        tree.await_ready(url)
        if as_json:
            put({"event": "up", "url": url, "admin_key": shown, "pid": os.getpid()})
        else:
            _greet(url, shown, workers)
        tree.watch()
    finally:
        tree.stop()
    alone.close()
    if as_json:
        put({"event": "down"})


def worker(
    context: typer.Context,
    url: Annotated[str, Option(help="The platform, such as http://10.0.0.5:7777.")],
    slots: Annotated[int, Option(help="Jobs that run at a time on this machine.")] = 1,
    home: Home = None,
) -> None:
    """Run jobs of a platform elsewhere on this machine; its key, of role service, in CERULEA_KEY."""
    from cerulea.cli.parts import work

    settings = settings_of(context, home)
    if not settings.key:
        raise KeyUnknown(
            "A worker needs a key of role service.",
            fix="There: cerulea key create --role service. Here: CERULEA_KEY=ck_... cerulea worker --url " + url,
        )
    print(f"worker for {url}, {slots} at a time; stop with Ctrl-C: jobs save and go back to the queue", flush=True)
    work(settings, url, settings.key, slots)


def _be_the_only_one(settings: Settings) -> IO[str]:
    """A lock on the home, which ends with this process however it ends.

    Raises:
        Conflict: another `cerulea up` has it.
    """
    settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = (settings.home / ".up.lock").open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise Conflict(
            f"A platform is up in {settings.home} already.",
            why="Two of them would share one worker's jobs.",
            fix="Stop it first (Ctrl-C or SIGTERM), or choose another one with --home.",
        ) from error
    return file


def _prepare(settings: Settings) -> tuple[str | None, str]:
    """Bring the database up to date; the admin's key if it was made just now, and a new key for our own worker."""
    from cerulea.flows.keys import admin_key_once, worker_key
    from cerulea.flows.platform import open_platform

    with open_platform(settings) as platform:
        if not settings.data_roots:
            settings.roots[0].mkdir(exist_ok=True)  # where people put what their jobs may read
        return admin_key_once(platform), worker_key(platform)


def _check_port(host: str, port: int) -> None:
    """Refuse before anything is started.

    Raises:
        Conflict: another program listens there.
        CommandInvalid: no such address.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except (socket.gaierror, OverflowError) as error:
        raise CommandInvalid(f"{host}:{port} is no address.", fix="Use --host 127.0.0.1 --port 7777.") from error
    except OSError as error:
        raise Conflict(
            f"{host}:{port} cannot be used: {error.strerror}.",
            why="Another program listens there, perhaps another `cerulea up`.",
            fix=f"Choose another one: cerulea up --port {port + 1}",
        ) from error


def _greet(url: str, key: str | None, workers: int) -> None:
    print(f"Cerulea is up at {url}", flush=True)
    if key is not None:
        print(f"admin key, shown once:  {key}")
    else:
        print("admin key: as it was shown at the first start; make another: cerulea key create --role admin")
    print(f"what it can do: {url}/openapi.json   {workers} job{'s' if workers != 1 else ''} at a time   Ctrl-C ends")
    print("next, in another terminal:  cerulea submit recipes/tiny.toml", flush=True)


class _Tree:
    """The children, and the loop that keeps them."""

    def __init__(self, settings: Settings, parts: list[Part]) -> None:
        self.settings, self.parts = settings, parts
        self.asked = False
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True

    def start(self) -> None:
        """Start every child."""
        for part in self.parts:
            self._start(part)

    def await_ready(self, url: str) -> None:
        """Return when the API answers.

        Raises:
            Unreachable: it does not, or a child fell before it did.
        """
        from urllib.error import URLError
        from urllib.request import urlopen

        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline and not self.asked:
            server = self.parts[0].process
            if server is not None and server.poll() not in (None, 0):
                break
            with contextlib.suppress(URLError, OSError), urlopen(f"{url}/healthz", timeout=2):
                return
            time.sleep(0.05)
        if not self.asked:
            raise Unreachable(f"The server did not come up at {url}.", fix="What it said is above.")

    def watch(self) -> None:
        """Start again whoever falls, until a signal."""
        while not self.asked:
            for part in self.parts:
                self._look_after(part)
            time.sleep(0.2)

    def stop(self) -> None:
        """Drain: the agent first, while the others still answer it; then the rest."""
        server = self.parts[0].process
        if server is not None and server.poll() is None:
            server.send_signal(signal.SIGUSR1)  # it takes no new requests to models from now on
        for part in reversed(self.parts):
            if part.process is None:
                continue
            if part.process.poll() is None:
                part.process.terminate()
                try:
                    part.process.wait(timeout=max(STOP_S, self.settings.serve_grace_s + 45.0))
                except subprocess.TimeoutExpired:
                    part.process.kill()
                    part.process.wait()

    def _look_after(self, part: Part) -> None:
        now = time.monotonic()
        if part.process is not None:
            code = part.process.poll()
            if code is None:
                return
            part.process = None
            part.falls = 0 if now - part.began > QUICK_S else part.falls + 1
            part.next_start = now + BACKOFF_S[min(part.falls, len(BACKOFF_S) - 1)]
            print(f"the {part.name} ended with code {code} and is started again", file=sys.stderr, flush=True)
        if now >= part.next_start:
            self._start(part)

    def _start(self, part: Part) -> None:
        # A session of its own: Ctrl-C in this terminal is for us, and we tell the children in the right order.
        process = subprocess.Popen(
            [sys.executable, "-m", "cerulea.cli.parts", part.name],  # the name is for whoever looks at `ps`
            stdin=subprocess.PIPE,
            env={**os.environ, PARENT: str(os.getpid())},
            start_new_session=True,
        )
        first = {"part": part.name, "home": str(self.settings.home), **part.values}
        give(process, json.dumps(first))
        part.process, part.began = process, time.monotonic()
