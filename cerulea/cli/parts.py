"""The processes that `cerulea up` starts: server, conductor, agent. Each reads one line first: what it must know.

Each is a program of its own, so that one that crashes is started again while the others go on. They die with the
process that started them.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from cerulea.compute.launcher import ProcessLauncher
from cerulea.core import heap
from cerulea.core.parent import die_with_parent
from cerulea.core.settings import Settings, read_settings

SWITCH_S = 0.0005  # after which a thread of the server lets another one go on


class _Asked:
    """Becomes true at SIGTERM or Ctrl-C."""

    def __init__(self) -> None:
        self._asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def __call__(self) -> bool:
        return self._asked


def serve(settings: Settings, host: str, port: int) -> None:
    """The HTTP API and the models behind it, until SIGTERM: then what runs is finished, and nothing new is taken."""
    import uvicorn

    from cerulea.api.app import create_app
    from cerulea.api.door import door_of
    from cerulea.flows.conduct import say_open
    from cerulea.flows.host import gateway_of
    from cerulea.flows.platform import open_platform

    class Server(uvicorn.Server):
        """Says that it answers once it does: from then on the conductor expects workers to report."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            threading.Thread(target=announce, daemon=True).start()
            self.loading = asyncio.create_task(gateway.preload(say))

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            if self.stops_at:  # asked twice
                self.should_exit = True
            gateway.draining = True
            self.stops_at = time.monotonic() + settings.serve_grace_s

        stops_at = 0.0

        async def on_tick(self, counter: int) -> bool:
            if self.stops_at and (not gateway.busy or time.monotonic() > self.stops_at):
                self.should_exit = True
            return await super().on_tick(counter)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            gateway.abort()  # what is left after the grace
            await gateway.idle()
            await super().shutdown(sockets)
            self.loading.cancel()
            await asyncio.to_thread(app.state.matches.close)
            await gateway.close()

    closed = threading.Event()

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def announce() -> None:
        while not closed.is_set():
            try:
                say_open(platform)
            except Exception as error:  # the database is away for a moment; the next second may be better
                say(f"the server cannot write to the database: {error}")
            closed.wait(1.0)

    # The event loop gives up Python's lock at each call of a socket. With many threads at the database it would get it
    # back after 5 ms, Python's default, each time.
    sys.setswitchinterval(SWITCH_S)
    heap.keep_small(apart=heap.APART)
    with open_platform(settings) as platform:
        gateway = gateway_of(platform)
        # h11 ends a request whose head has more than 64 KiB; httptools, where it is installed, would keep all of it.
        app = create_app(platform, gateway=gateway)
        door = door_of(app)
        config = uvicorn.Config(app, host=host, port=port, http=door, ws=_websockets(), **QUIET)
        config.timeout_graceful_shutdown = 3
        # `up` says early that it stops, while its workers still save and need us.
        signal.signal(signal.SIGUSR1, lambda number, frame: setattr(gateway, "draining", True))
        Server(config).run()
        closed.set()
        platform.people.note_uses()


QUIET: dict[str, Any] = {"log_level": "warning", "access_log": False}


def _websockets() -> Any:
    """What speaks to browsers that watch matches, where it is installed (`games`)."""
    return "websockets-sansio" if importlib.util.find_spec("websockets") else "none"


def conduct(settings: Settings) -> None:
    """The conductor, until SIGTERM."""
    from cerulea.flows.conduct import TICK_S, Conductor
    from cerulea.flows.platform import open_platform
    from cerulea.flows.work import Desk

    asked = _Asked()
    with open_platform(settings) as platform:
        conductor = Conductor(platform, Desk(platform))
        while not asked():
            leads = conductor.tick()
            time.sleep(TICK_S if leads else 1.0)
        conductor.leave()


def work(settings: Settings, url: str, key: str, slots: int) -> None:
    """A worker for the platform at `url`, until SIGTERM; then its jobs save and go back to the queue."""
    from cerulea.client.desk import RemoteDesk
    from cerulea.core.cores import usable_threads
    from cerulea.flows.agent import Agent

    asked = _Asked()
    agent = Agent(
        RemoteDesk(url, key),
        ProcessLauncher(),
        url=url,
        slots=slots,
        device=device_of(settings),
        threads=settings.threads or usable_threads(),
        home=settings.home.absolute(),
        say=lambda text: print(text, flush=True),
    )
    agent.run(asked)


def device_of(settings: Settings) -> str:
    """What this machine's jobs run on, found without loading torch."""
    if settings.device != "auto":
        return settings.device
    return "cuda" if Path("/dev/nvidia0").exists() else "cpu"


def main() -> int:
    """`python -m cerulea.cli.parts`, with its part and what it must know in the first line."""
    die_with_parent()
    first: dict[str, Any] = json.loads(sys.stdin.readline())
    part, home = first.pop("part"), Path(first.pop("home"))
    settings = read_settings(home=home)
    programs: dict[str, Callable[..., None]] = {"server": serve, "conductor": conduct, "agent": work}
    programs[part](settings, **first)
    return 0


if __name__ == "__main__":
    sys.exit(main())
