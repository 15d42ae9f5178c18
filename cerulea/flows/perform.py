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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cerulea.core.errors import (
    CeruleaError,
    Conflict,
    Failed,
    FileTrouble,
    Invalid,
    NotAllowed,
    ResumeDiffers,
    Unreachable,
)
from cerulea.core.names import is_name
from cerulea.core.settings import Settings
from cerulea.flows.link import Link
from cerulea.flows.model_folders import keep_files
from cerulea.flows.roots import check_at_start
from cerulea.flows.runs import hold_run
from cerulea.flows.story import Event, Note, Started, Trained
from cerulea.flows.train import train
from cerulea.jobs.protocol import Ending
from cerulea.store.blobs import Blobs
from cerulea.train.recipe import recipe_from

SAVED_ONLY = ("preempt", "drain", "budget", "lost")  # it goes on later: no model comes of it now


def perform(
    link: Link,
    settings: Settings,
    *,
    began: float | None = None,
    signal_means: str = "",
    report: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Iterator[Event | Ending]:
    """Run a job to its end, and yield what happens; the last value is the Ending that the desk took.

    Args:
        link: to the desk, started.
        signal_means: the reason of a stop by SIGTERM or Ctrl-C; the signal's name where nothing is given.

    Raises:
        LeaseStale: the job was given to another worker; nothing of this attempt counts any more.
    """
    assignment = link.assignment
    ending: Ending | None = None
    failure: BaseException | None = None
    run: Iterator[Event] | None = None
    try:
        recipe = recipe_from({**assignment.recipe, "name": assignment.name}, f"job {assignment.job}")
        check_at_start(assignment, settings)
        folder = _run_folder(settings, link)
        run = train(
            settings,
            recipe,
            folder=folder,
            resume=(folder / "run.json").exists(),
            began=began,
            report=report,
            should_stop=link.reason_to_stop,
        )
        for event in run:
            if isinstance(event, Started):
                _check_resume(link, event)
            elif isinstance(event, Note):
                link.note({"event": "note", "text": event.text})
            else:
                link.see(event)
            if isinstance(event, Trained):
                ending = _ending(settings, event, link, signal_means)
            else:
                yield event
    except BaseException as error:
        failure = error
        ending = _failure(error, link)
    finally:
        if run is not None:
            run.close()  # type: ignore[attr-defined]  # lets go of the run's folder, which a kept error would hold
        link.stop()
    if link.lost is not None:
        raise link.lost
    assert ending is not None, "a run that ends yields Trained"
    link.finish(ending)
    if failure is not None:
        raise failure
    yield ending


def _check_resume(link: Link, started: Started) -> None:
    """A resumed attempt begins where the platform knows it must, or not at all.

    Raises:
        ResumeDiffers: it begins earlier, or from other bytes.
    """
    known, resumed = link.assignment, started.resumed
    step = resumed.step if resumed else 0
    link.update(resumed_step=step, run=started.run)
    link.note({"event": "started", "run": started.run, "resumed_step": step, "parameters": started.parameters})
    if known.checkpoint_step is None:
        return
    as_known = (known.checkpoint_digest, known.checkpoint_tokens)
    differs = resumed is not None and (resumed.digest, resumed.card.trained_tokens) != as_known
    if step < known.checkpoint_step or (step == known.checkpoint_step and differs):
        raise ResumeDiffers(
            f"The job was saved at step {known.checkpoint_step:,} ({str(known.checkpoint_digest)[:12]}); what lies "
            f"here is step {step:,}{f' ({resumed.digest[:12]})' if resumed else ''}.",
            why="A resumed job must go on from the checkpoint that the platform knows.",
            fix=f"Go on from what is there: cerulea resume {known.job}",
        )


def _run_folder(settings: Settings, link: Link) -> Path:
    """The run's folder; a copy of it where another process, perhaps one that was given up, still holds it."""
    assignment = link.assignment
    if not is_name(assignment.run.replace("~", "-")):
        raise Invalid(f"{assignment.run[:60]!r} cannot name a run.")
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
        link.update(run=copy.name)
        return copy


def _link_or_copy(source: str, target: str) -> str:
    """Checkpoints never change and are shared; what grows (metrics, the record) is copied."""
    if "/checkpoints/" in source:
        Path(target).hardlink_to(source)
        return target
    return str(shutil.copyfile(source, target))


def _ending(settings: Settings, trained: Trained, link: Link, signal_means: str) -> Ending:
    """What the desk is told of a run that ended by itself, or because it was asked to."""
    stopped = not trained.finished
    reason = trained.stop_reason
    if stopped and reason.startswith("SIG"):
        reason = signal_means or reason
    result = {
        "stop_reason": reason,
        "step": trained.step,
        "model_step": trained.model_step,
        "train_s": round(trained.train_s, 3),
        **trained.score,
    }
    model = None
    if not stopped or reason not in SAVED_ONLY:
        model = _upload(settings, trained)
    slots = link.assignment.slots
    usage = dataclasses.replace(trained.usage, device_ms=trained.usage.device_ms * slots)
    link.update(usage=link.report.usage.at_least(usage), step=trained.step)
    return Ending(outcome="stopped" if stopped else "done", reason=reason, result=result, model=model)


def _upload(settings: Settings, trained: Trained) -> dict[str, Any]:
    """Keep the model's files by their content, and say which they are."""
    files = keep_files(Blobs(settings.blobs), trained.best)
    corpus = str(trained.card.get("corpus", ""))
    return {"files": files, "digest": trained.digest, "card": trained.card, "corpus": corpus}


def _failure(error: BaseException, link: Link) -> Ending:
    """Whose fault it was decides whether it is tried again, and who pays."""
    if isinstance(error, (GeneratorExit, KeyboardInterrupt)):
        return Ending(outcome="stopped", reason="closed", detail="Whoever watched it left.", report=link.report)
    if isinstance(error, ResumeDiffers):
        reason = "resume_mismatch"
    elif isinstance(error, (Invalid, Conflict, NotAllowed)):
        reason = "user_error"
    elif isinstance(error, (FileTrouble, Unreachable, OSError)):
        reason = "platform"
    elif isinstance(error, Failed):
        reason = "user_error"
    else:
        reason = "crash"
    detail = str(error) if isinstance(error, CeruleaError) else f"{type(error).__name__}: {error}"
    return Ending(outcome="failed", reason=reason, detail=detail[:2000], report=link.report)


__all__ = ["perform"]
