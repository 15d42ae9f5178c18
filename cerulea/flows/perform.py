"""The worker's side of a job: run it, report, obey, and stop where the money ends.

In:      an Assignment, and a desk to report to (`flows.work.Desk`, or its twin over HTTP).
Out:     what the run yields, event by event, for whoever watches; at the end an Ending, told to the desk.
Kept:    training never waits for the desk: a thread of its own reports, and goes on trying while the desk is away.
         The worker stops by itself when its paid time is used up, and takes a refusal (LeaseStale) as its end:
         from then on it writes nothing.
Not here: what the platform makes of it (`flows.work`), starting processes (`compute.launcher`).
"""

from __future__ import annotations

import dataclasses
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any, Protocol

from cerulea.core.errors import CeruleaError, Conflict, Failed, FileTrouble, Invalid, LeaseStale, Unreachable
from cerulea.core.money import cost
from cerulea.core.settings import Settings
from cerulea.core.values import Checkpoint, Evaluation, Progress, Usage
from cerulea.flows.runs import hold_run
from cerulea.flows.train import Event, Note, Started, Trained, train
from cerulea.jobs.protocol import Assignment, Ending, Order, Report
from cerulea.store.blobs import Blobs
from cerulea.train.checkpoint import MANIFEST, RESUME_FILES
from cerulea.train.recipe import recipe_from

FLUSH_S = 0.4  # metrics reach the platform within this time
RETRY_S = 1.0  # between tries while the desk does not answer
LAST_WORD_S = 120.0  # how long a finished worker goes on trying to say so


class ReportsTo(Protocol):
    """What a worker needs of the platform."""

    def heartbeat(self, job: str, token: str, report: Report) -> Order: ...

    def record(
        self, job: str, token: str, attempt: int, entries: list[dict[str, Any]], first_seq: int, stream: str
    ) -> None: ...

    def finish(self, job: str, token: str, ending: Ending) -> object: ...


def perform(
    desk: ReportsTo,
    settings: Settings,
    assignment: Assignment,
    *,
    began: float | None = None,
    asked: Callable[[], str] = lambda: "",
    report: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Iterator[Event | Ending]:
    """Run a job to its end, and yield what happens; the last value is the Ending that the desk took.

    Args:
        asked: a reason to stop that comes from this machine (a signal).

    Raises:
        LeaseStale: the job was given to another worker; nothing of this attempt counts any more.
    """
    link = _Link(desk, assignment)
    ending: Ending | None = None
    failure: BaseException | None = None
    try:
        recipe = recipe_from({**assignment.recipe, "name": assignment.name}, f"job {assignment.job}")
        folder = _run_folder(settings, assignment, link)
        link.start()
        run = train(
            settings,
            recipe,
            folder=folder,
            resume=bool(list((folder / "checkpoints").glob("step-*"))),
            began=began,
            report=report,
            should_stop=lambda: asked() or link.reason_to_stop(),
        )
        for event in run:
            link.see(event)
            if isinstance(event, Trained):
                ending = _ending(settings, event, link)
            else:
                yield event
    except LeaseStale:
        raise
    except BaseException as error:
        failure = error
        if isinstance(error, GeneratorExit):
            ending = None
        else:
            ending = _failure(error, link)
    finally:
        link.stop()
    if link.lost is not None:
        raise link.lost
    if ending is not None:
        link.finish(ending)
    if failure is not None:
        raise failure
    assert ending is not None
    yield ending


class _Link:
    """The thread that reports, and what it was told."""

    def __init__(self, desk: ReportsTo, assignment: Assignment) -> None:
        self.desk, self.assignment = desk, assignment
        self.order = assignment.order
        self.report = Report()
        self.lost: LeaseStale | None = None
        self.spent = False
        self._entries: list[dict[str, Any]] = []
        self._sent = 0  # entries that the desk has
        self._lock = threading.Lock()
        self._urgent = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._talk, name="report", daemon=True)

    def start(self) -> None:
        """Say that the job runs, and go on reporting."""
        self._thread.start()

    def stop(self) -> None:
        """Send what is left, and end the thread."""
        self._ended.set()
        self._urgent.set()
        if self._thread.is_alive():
            self._thread.join(timeout=30)

    def see(self, event: Event | Trained) -> None:
        """Take note of what the run yields."""
        slots = self.assignment.slots
        match event:
            case Started():
                self._check_resume(event)
                self._note({"event": "started", "resumed_step": event.resumed.step if event.resumed else 0})
            case Progress():
                usage = Usage(trained_tokens=event.tokens, device_ms=int(1000 * event.elapsed_s) * slots)
                self._update(usage=usage, step=event.step, fraction=event.fraction)
                self._note({"event": "progress", **dataclasses.asdict(event)})
                self._watch_money(usage)
            case Evaluation():
                self._note({"event": "eval", **dataclasses.asdict(event)})
            case Checkpoint():
                self._update(
                    checkpoint_step=event.step,
                    checkpoint_digest=event.digest,
                    checkpoint_tokens=event.card.trained_tokens,
                )
                self._note({"event": "checkpoint", "step": event.step, "digest": event.digest})
                self._urgent.set()
            case Note():
                self._note({"event": "note", "text": event.text})
            case _:
                pass

    def reason_to_stop(self) -> str:
        """Why the run must end now, or nothing."""
        if self.lost is not None:
            return "lost"
        if self.order.desired == "stop":
            return self.order.reason or "stop"
        return "budget" if self.spent else ""

    def finish(self, ending: Ending) -> None:
        """Tell the desk the end, for as long as it may take it to come back.

        Raises:
            LeaseStale: the end came too late.
            Unreachable: the desk did not come back; what was trained lies in the run's folder.
        """
        job, token = self.assignment.job, self.assignment.token
        deadline = monotonic() + LAST_WORD_S
        while True:
            try:
                self._flush()
                self.desk.finish(job, token, dataclasses.replace(ending, report=self.report))
                return
            except Unreachable:
                if monotonic() > deadline:
                    raise
                self._ended.wait(0)
                threading.Event().wait(RETRY_S)

    # -- the thread ----------------------------------------------------------------------------------

    def _talk(self) -> None:
        job, token = self.assignment.job, self.assignment.token
        next_beat = 0.0
        while True:
            try:
                if self._urgent.is_set() or monotonic() >= next_beat:
                    self._urgent.clear()
                    self.order = self.desk.heartbeat(job, token, self.report)
                    self._watch_money(self.report.usage)
                    next_beat = monotonic() + self.order.heartbeat_s
                self._flush()
            except LeaseStale as error:
                self.lost = error
                return
            except Unreachable:
                # The platform is away: the tranche that is paid goes on, and nothing of the record is lost.
                if not self._ended.wait(RETRY_S):
                    continue
            if self._ended.is_set():
                return
            self._urgent.wait(FLUSH_S)

    def _flush(self) -> None:
        with self._lock:
            entries, first = self._entries[self._sent :], self._sent
        if entries:
            a = self.assignment
            self.desk.record(a.job, a.token, a.attempt, entries, first, "run")
            self._sent = first + len(entries)

    def _note(self, entry: dict[str, Any]) -> None:
        with self._lock:
            self._entries.append(entry)

    def _update(self, **values: Any) -> None:
        self.report = dataclasses.replace(self.report, **values)

    def _watch_money(self, usage: Usage) -> None:
        """Ask for more before the paid part ends; stop where it does."""
        order = self.order
        if order.paid is None:
            self.spent = False
            return
        used = cost(usage.as_json(), order.rates)
        self.spent = used >= order.paid
        # Half of what a report's interval has cost so far, on average: near enough to the end to ask at once.
        pace = used / max(1, usage.device_ms) * 1000
        if used + 1.5 * order.heartbeat_s * pace >= order.paid:
            self._urgent.set()

    def _check_resume(self, started: Started) -> None:
        """A resumed attempt begins where the platform knows it must, or not at all."""
        known, resumed = self.assignment, started.resumed
        self._update(resumed_step=resumed.step if resumed else 0, run=started.run)
        if known.checkpoint_step is None:
            return
        step = resumed.step if resumed else 0
        same_step_differs = (
            resumed is not None
            and step == known.checkpoint_step
            and (resumed.digest, resumed.card.trained_tokens) != (known.checkpoint_digest, known.checkpoint_tokens)
        )
        if step < known.checkpoint_step or same_step_differs:
            raise ResumeDiffers(
                f"The job was saved at step {known.checkpoint_step:,} ({str(known.checkpoint_digest)[:12]}); what lies "
                f"here is step {step:,}{f' ({resumed.digest[:12]})' if resumed else ''}.",
                why="A resumed job must go on from the checkpoint that the platform knows.",
                fix=f"Go on from what is there: cerulea resume {known.job}",
            )


class ResumeDiffers(Conflict):
    """The checkpoint that an attempt would go on from is not the one that the platform knows."""

    code = "E-RESUME-002"


def _run_folder(settings: Settings, assignment: Assignment, link: _Link) -> Path:
    """The run's folder; a copy of it where another process, perhaps one that was given up, still holds it."""
    folder = settings.runs / assignment.run
    try:
        with hold_run(folder):
            return folder
    except Conflict:
        copy = folder.with_name(f"{assignment.run.split('~')[0]}~{assignment.attempt}")
        shutil.copytree(
            folder,
            copy,
            copy_function=_link_or_copy,
            ignore=shutil.ignore_patterns(".lock", "*.tmp"),
            dirs_exist_ok=True,
        )
        link.report = dataclasses.replace(link.report, run=copy.name)
        return copy


def _link_or_copy(source: str, target: str) -> str:
    """Checkpoints never change and are shared; what grows (metrics, the record) is copied."""
    if "/checkpoints/" in source:
        Path(target).hardlink_to(source)
        return target
    return str(shutil.copyfile(source, target))


def _ending(settings: Settings, trained: Trained, link: _Link) -> Ending:
    """What the desk is told of a run that ended by itself, or because it was asked to."""
    stopped = not trained.finished
    reason = link.reason_to_stop() or trained.stop_reason
    result = {
        "stop_reason": reason if stopped else trained.stop_reason,
        "step": trained.step,
        "model_step": trained.model_step,
        "train_s": round(trained.train_s, 3),
        "bits_per_byte": trained.card.get("bits_per_byte"),
        "loss": trained.card.get("loss"),
    }
    model = None
    if not stopped or reason not in ("preempt", "drain", "budget", "lost"):
        model = _upload(settings, trained)
    link.report = dataclasses.replace(link.report, usage=link.report.usage.at_least(trained.usage))
    return Ending(outcome="stopped" if stopped else "done", reason=reason, result=result, model=model)


def _upload(settings: Settings, trained: Trained) -> dict[str, Any]:
    """Keep the model's files by their content, and say which they are."""
    blobs = Blobs(settings.blobs)
    files = {}
    for path in sorted(trained.best.iterdir()):
        if path.name not in (*RESUME_FILES, MANIFEST, "card.json"):
            files[path.name] = {"sha256": blobs.put_file(path), "bytes": path.stat().st_size}
    return {
        "files": files,
        "digest": trained.digest,
        "card": trained.card,
        "corpus": str(trained.card.get("corpus", "")),
    }


def _failure(error: BaseException, link: _Link) -> Ending:
    """Whose fault it was decides whether it is tried again, and who pays."""
    if isinstance(error, ResumeDiffers):
        reason = "resume_mismatch"
    elif isinstance(error, (Invalid, Conflict)):
        reason = "user_error"
    elif isinstance(error, (FileTrouble, Unreachable, OSError)):
        reason = "platform"
    elif isinstance(error, Failed):
        reason = "user_error"
    else:
        reason = "crash"
    detail = str(error) if isinstance(error, CeruleaError) else f"{type(error).__name__}: {error}"
    return Ending(outcome="failed", reason=reason, detail=detail[:2000], report=link.report)


__all__ = ["ReportsTo", "perform"]
