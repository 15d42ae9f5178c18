"""Jobs of a platform, as a program handles them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

from cerulea.client.answers import Bucket, Estimate, Event, Job, JobDetail, Jobs, Line, News, read
from cerulea.client.problems import error_of
from cerulea.client.wire import BACKOFF_S, HttpWire, Requests, path_part
from cerulea.core.errors import Unreachable

POLL_S = 0.3  # between looks, where no line can be kept open
BREAKS = 20  # of a stream in a row, without a word in between, until it is given up


class JobCalls:
    """`client.jobs`."""

    def __init__(self, line: Requests) -> None:
        self._line = line

    def submit(self, recipe: dict[str, Any], *, key: str | None = None, **wishes: Any) -> Job:
        """Queue a job.

        Args:
            recipe: what a recipe's TOML file holds.
            key: a repeat with the same key is the same job.
            wishes: name, team, fund, priority, processes, device, max_cost, on_budget.

        Raises:
            RecipeInvalid, JobKindUnknown, NotFound, MoneyInvalid.
        """
        return read(Job, self._line.write("POST", "/api/jobs", {"recipe": recipe, **_given(wishes)}, key=key))

    def estimate(self, recipe: dict[str, Any], **wishes: Any) -> Estimate:
        """What a job would take and cost; as `submit`, and nothing is queued."""
        return read(Estimate, self._line.ask("/api/estimate", {"recipe": recipe, **_given(wishes)}))

    def list(
        self,
        *,
        team: str | None = None,
        status: Sequence[str] | None = None,
        limit: int = 50,
        before: int | None = None,
    ) -> Jobs:
        """A page of jobs, the newest first."""
        return read(Jobs, self._line.get("/api/jobs", team=team, status=list(status or []), limit=limit, before=before))

    def get(self, job: str) -> JobDetail:
        """One job, with all that is known of it. Raises NotFound."""
        return read(JobDetail, self._line.get(f"/api/jobs/{path_part(job)}"))

    def cancel(self, job: str, *, key: str | None = None) -> Job:
        """Stop a job; one that runs saves first. Raises NotFound, EdgeRefused."""
        return read(Job, self._line.write("POST", f"/api/jobs/{path_part(job)}/cancel", key=key))

    def resume(self, job: str, *, key: str | None = None) -> Job:
        """Let a paused, cancelled or failed job go on. Raises NotFound, EdgeRefused."""
        return read(Job, self._line.write("POST", f"/api/jobs/{path_part(job)}/resume", key=key))

    def rerun(self, job: str, *, key: str | None = None) -> Job:
        """Queue the same recipe as a new job. Raises NotFound."""
        return read(Job, self._line.write("POST", f"/api/jobs/{path_part(job)}/rerun", key=key))

    def events(self, job: str, *, after: int = 0) -> Sequence[Event]:
        """What happened to a job, oldest first."""
        return [read(Event, one) for one in self._line.get(f"/api/jobs/{path_part(job)}/events", after=after)["items"]]

    def logs(self, job: str, *, after: int = 0, limit: int = 1000, tail: int | None = None) -> Sequence[Line]:
        """Lines of a job's log, oldest first; the last `tail` where that is given."""
        found = self._line.get(f"/api/jobs/{path_part(job)}/logs", after=after, limit=limit, tail=tail)
        return [read(Line, one) for one in found["items"]]

    def metrics(
        self, job: str, name: str, *, points: int = 2000, first: int | None = None, last: int | None = None
    ) -> Sequence[Bucket]:
        """A curve of a job in at most `points` buckets."""
        found = self._line.get(f"/api/jobs/{path_part(job)}/metrics", name=name, points=points, first=first, last=last)
        return [read(Bucket, one) for one in found["buckets"]]

    def metric_names(self, job: str) -> Sequence[str]:
        """The curves that a job has."""
        return [str(name) for name in self._line.get(f"/api/jobs/{path_part(job)}/metrics/names")["items"]]

    def record(self, run: str) -> dict[str, Any]:
        """What a run was and how it went. Raises NotFound."""
        return dict(self._line.get(f"/api/runs/{path_part(run)}")["record"])

    def wait(self, job: str) -> JobDetail:
        """Return when a job has ended, or rests until somebody does something for it."""
        for item in self.follow(job):
            if item.type == "job" and item.data["after"] == "PAUSED":
                found = self.get(job)
                if found.status == "PAUSED" and found.on_budget == "pause":
                    return found
        return self.get(job)

    def follow(self, job: str, *, after: str = "") -> Iterator[News]:
        """What a job tells from a cursor on, as it tells it, until it ends; the last is its `end`.

        A line that breaks is taken up again where it broke.

        Raises:
            KeyEnded, RoleLacks, NotFound: the key was taken back meanwhile, or its role.
        """
        wire = self._line.wire
        return self._streamed(wire, job, after) if isinstance(wire, HttpWire) else self._polled(job, after)

    def _polled(self, job: str, cursor: str) -> Iterator[News]:
        while True:
            found = self._line.get(f"/api/jobs/{path_part(job)}/news", after=cursor)
            yield from (read(News, item) for item in found["items"])
            if found["ended"]:
                return
            cursor = found["cursor"]
            if not found["items"]:
                time.sleep(POLL_S)

    def _streamed(self, wire: HttpWire, job: str, cursor: str) -> Iterator[News]:
        breaks = 0
        while True:
            headers = {"Last-Event-ID": cursor} if cursor else {}
            try:
                with wire.stream(f"/api/jobs/{path_part(job)}/stream", headers) as lines:
                    for mark, kind, data in _messages(lines):
                        if kind == "error":  # our key has ended since the line was opened
                            problem = data.encode()
                            raise error_of(int(json.loads(problem)["status"]), problem)
                        cursor, breaks = mark or cursor, 0
                        yield News(type=kind, data=json.loads(data))
                        if kind == "end":
                            return
            except Unreachable:
                if breaks >= BREAKS:
                    raise
            # The other side went away, perhaps to come back at once: a restart is no end.
            breaks += 1
            time.sleep(min(BACKOFF_S * 2**breaks, 3.0))


def _messages(lines: Iterator[str]) -> Iterator[tuple[str, str, str]]:
    """(id, event, data) of each server-sent event."""
    mark = kind = ""
    data: list[str] = []
    for line in lines:
        if not line:
            if data:
                yield mark, kind, "\n".join(data)
            mark, kind, data = "", "", []
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "id":
            mark = value
        elif name == "event":
            kind = value
        elif name == "data":
            data.append(value)


def _given(wishes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in wishes.items() if value is not None}
