"""The SDK: a platform elsewhere, or the one in CERULEA_HOME without any server.

    from cerulea.client import Client

    with Client("http://127.0.0.1:7777", "ck_...") as client:   # Client() is the embedded platform
        job = client.jobs.submit(recipe)
        client.jobs.wait(job.id)

Kept:    both ways answer alike, for they are the same API; errors are `core.errors`, as they were raised there.
         Importing this loads neither httpx nor FastAPI nor a database.
"""

from __future__ import annotations

from cerulea.client.answers import Me, read
from cerulea.client.jobs import JobCalls
from cerulea.client.money import FundCalls, UsageCalls
from cerulea.client.people import AuditCalls, KeyCalls, ModelCalls, PersonCalls, TeamCalls, WorkerCalls
from cerulea.client.wire import HttpWire, InnerWire, Requests, Wire
from cerulea.core.settings import Settings, read_settings

__all__ = ["Client"]


class Client:
    """A platform, as a program sees it. Safe to use from several threads."""

    def __init__(self, url: str | None = None, key: str | None = None, *, settings: Settings | None = None) -> None:
        """Nothing is opened before the first request.

        Args:
            url: of a running platform; without one the platform of `settings.home` is opened in this process.
            key: API key for it.
            settings: of this process; from the environment by default.
        """

        def open_wire() -> Wire:
            if url is not None:
                return HttpWire(url, key or "")
            return InnerWire(settings or read_settings())

        line = self._line = Requests(open_wire)
        self.jobs = JobCalls(line)
        self.funds, self.usage = FundCalls(line), UsageCalls(line)
        self.teams, self.persons, self.keys = TeamCalls(line), PersonCalls(line), KeyCalls(line)
        self.models, self.workers, self.audit = ModelCalls(line), WorkerCalls(line), AuditCalls(line)

    def me(self) -> Me:
        """Who you are there, and what you may do."""
        return read(Me, self._line.get("/api/me"))

    def close(self) -> None:
        """Let go of what is open; the next request opens it again."""
        self._line.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
