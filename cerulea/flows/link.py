"""The line between a worker and its desk: a thread that reports, and what it was told.

In:      what the run yields, note by note.
Out:     a reason to stop, or none.
Kept:    training never waits for the desk; while the desk is away the thread goes on trying, and every note is kept
         until the desk has it. No torch is imported here, so that a job's first report does not wait for it.
Not here: what the run is (`flows.perform`), what the desk does with it (`flows.work`).
"""

from __future__ import annotations

import dataclasses
import sys
import threading
from time import monotonic, sleep, time_ns
from typing import Any, Protocol

from cerulea.core.errors import CeruleaError, LeaseStale, Unreachable
from cerulea.core.money import cost
from cerulea.core.values import Checkpoint, Evaluation, PlayProgress, Progress, Usage
from cerulea.jobs.protocol import Assignment, Ending, Order, Report

FLUSH_S = 0.4  # metrics reach the platform within this time
RETRY_S = 1.0  # between tries while the desk does not answer
BATCH = 2_000  # notes in one message
LAST_WORD_S = 120.0  # how long a finished worker goes on trying to say so


class ReportsTo(Protocol):
    """What a worker needs of the platform."""

    def heartbeat(self, job: str, token: str, report: Report) -> Order: ...

    def record(
        self, job: str, token: str, attempt: int, entries: list[dict[str, Any]], first_seq: int, stream: str
    ) -> None: ...

    def finish(self, job: str, token: str, ending: Ending) -> object: ...


class Link:
    """Reports for one attempt."""

    def __init__(self, desk: ReportsTo, assignment: Assignment) -> None:
        self.desk, self.assignment = desk, assignment
        self.order = assignment.order
        self.report = Report()
        self.lost: LeaseStale | None = None
        self.told = False  # the desk has the ending
        self._unsent: list[dict[str, Any]] = []  # what the desk does not have yet
        self._sent = 0  # entries that the desk has
        self.trouble = ""  # why the last report was not taken
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._urgent = False  # report at the next chance
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._talk, name="report", daemon=True)

    def start(self) -> None:
        """Say that the job runs, and go on reporting."""
        self._thread.start()

    def stop(self) -> None:
        """Send what is left, and end the thread."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(timeout=30)

    def see(self, event: object) -> None:
        """Take note of what the run yields."""
        slots = self.assignment.slots
        match event:
            case Progress():
                self._progress(event, Usage(trained_tokens=event.tokens, device_ms=int(1000 * event.elapsed_s) * slots))
            case PlayProgress():
                self._progress(
                    event, Usage(agent_steps=event.agent_steps, device_ms=int(1000 * event.elapsed_s) * slots)
                )
            case Evaluation():
                self.note({"event": "eval", **dataclasses.asdict(event)})
            case Checkpoint():
                self.update(
                    checkpoint_step=event.step,
                    checkpoint_digest=event.digest,
                    checkpoint_tokens=event.card.trained_tokens,
                )
                self.note({"event": "checkpoint", "step": event.step, "digest": event.digest})
                self._urgent = True
            case _:
                pass

    def _progress(self, event: Progress | PlayProgress, usage: Usage) -> None:
        self.update(usage=usage, step=event.step, fraction=event.fraction)
        self.note({"event": "progress", **dataclasses.asdict(event)})
        self._watch_money(usage)

    def reason_to_stop(self) -> str:
        """Why the run must end now, or nothing."""
        if self.lost is not None:
            return "lost"
        if self.order.desired == "stop":
            return self.order.reason or "stop"
        paid, usage = self.order.paid, self.report.usage
        return "budget" if paid is not None and cost(usage.as_json(), self.order.rates) >= paid else ""

    def finish(self, ending: Ending) -> None:
        """Tell the desk the end, for as long as it may take it to come back.

        Raises:
            LeaseStale: the end came too late.
            Unreachable: the desk did not come back; what was trained lies in the run's folder.
        """
        job, token = self.assignment.job, self.assignment.token
        deadline, asked_before = monotonic() + LAST_WORD_S, False
        while True:
            try:
                self._flush()
                self.desk.finish(job, token, dataclasses.replace(ending, report=self.report))
                self.told = True
                return
            except Unreachable:
                if monotonic() > deadline:
                    raise
                asked_before = True
                sleep(RETRY_S)
            except LeaseStale:
                if not asked_before:
                    raise
                # The desk took it the first time, and the answer was lost on the way.
                self.told = True
                return

    # -- the thread ----------------------------------------------------------------------------------

    def _talk(self) -> None:
        job, token = self.assignment.job, self.assignment.token
        next_beat = 0.0
        while True:
            ended = self._ended.is_set()
            try:
                if self._urgent or ended or monotonic() >= next_beat:
                    self._urgent = False
                    self.order = self.desk.heartbeat(job, token, self.report)
                    next_beat = monotonic() + self.order.heartbeat_s
                self._flush()
            except LeaseStale as error:
                self.lost = error
                return
            except Exception as error:
                # Away, or unable to answer: what is paid goes on, nothing of the record is lost, and we ask again.
                if not isinstance(error, Unreachable) and str(error) != self.trouble:
                    self.trouble = str(error)
                    print(f"a report was not taken: {error}", file=sys.stderr, flush=True)
                self._urgent = True
                if not ended:
                    self._ended.wait(RETRY_S)
            if ended:
                return
            self._ended.wait(FLUSH_S)

    def _flush(self) -> None:
        with self._flushing:
            self._send()

    def _send(self) -> None:
        while True:
            with self._lock:
                batch = self._unsent[:BATCH]
            if not batch:
                return
            a = self.assignment
            try:
                self.desk.record(a.job, a.token, a.attempt, batch, self._sent, "run")
            except (LeaseStale, Unreachable):
                raise
            except CeruleaError as error:  # it will not be taken the second time either
                self.trouble = str(error)
            with self._lock:
                del self._unsent[: len(batch)]
            self._sent += len(batch)

    def note(self, entry: dict[str, Any]) -> None:
        """Keep one entry for the job's record."""
        with self._lock:
            self._unsent.append({"at": time_ns() // 1_000_000, **entry})

    def update(self, **values: Any) -> None:
        """Change what the next report says."""
        self.report = dataclasses.replace(self.report, **values)

    def _watch_money(self, usage: Usage) -> None:
        """Ask for more before the paid part ends."""
        order = self.order
        if order.paid is None or not usage.device_ms:
            return
        used = cost(usage.as_json(), order.rates)
        pace = 1000 * used / usage.device_ms  # nano-units a second, on average since the job began
        if used + 1.5 * order.heartbeat_s * pace >= order.paid:
            self._urgent = True
