"""Runs by name: folders below CERULEA_HOME/runs, each with its record, metrics and checkpoints.

Not here: how a run goes (`flows.train`), models (`flows.models`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cerulea.core.errors import Conflict, NotFound
from cerulea.core.files import read_json
from cerulea.core.settings import Settings
from cerulea.nn.precision import Execution
from cerulea.train.recipe import Recipe
from cerulea.train.record import now, read_metrics, surroundings, update_record


def unfinished_run(settings: Settings, recipe: Recipe) -> Path:
    """The newest run of a recipe's name, if it did not reach its end or is given a later one.

    Raises:
        NotFound: there is no run of that name.
        Conflict: the newest one is finished, and the limit that ended it is no later than it was.
    """
    name = recipe.name
    runs = [folder for folder in list_runs(settings) if read_json(folder / "run.json")["recipe"]["name"] == name]
    if not runs:
        raise NotFound(f"There is no run of {name!r} to resume.", fix="Start one: the same command without --resume.")
    record = read_json(runs[-1] / "run.json")
    before = record["recipe"]["train"]
    limits = [key for key in recipe.ends.values() if before.get(key)]
    ended_it = recipe.ends.get(record.get("stop_reason", ""), "")
    # Where the record does not tell which one ended it, any of them may have.
    keys = [ended_it] if ended_it in limits else limits
    if record.get("finished") and not any(_is_later(key, before[key], getattr(recipe.train, key)) for key in keys):
        raise Conflict(
            f"Run {runs[-1].name} is finished: {record['stop_reason']}.",
            why=" ".join(f"It ended at train.{key}={before[key]}, and is to end there or sooner." for key in keys),
            fix=" ".join(_raised(key, before[key]) for key in keys) + " Or start a new run without --resume.",
        )
    return runs[-1]


def _is_later(key: str, before: float, now: float) -> bool:
    """Whether a limit lets a run go on that it has ended; 0 is none."""
    return not now or (now < before if key == "target_bits_per_byte" else now > before)


def _raised(key: str, before: float) -> str:
    side = "below" if key == "target_bits_per_byte" else "above"
    return f"Give it a later end: --set train.{key}=N with N {side} {before}."


@contextlib.contextmanager
def hold_run(folder: Path) -> Iterator[None]:
    """Be the only process that trains this run; the lock ends with the process, however it ends.

    Raises:
        Conflict: another process trains it now.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Conflict(
                f"Run {folder.name} is being trained by another process.",
                fix="Wait for it, or stop it with Ctrl-C or SIGTERM: it saves and can be resumed.",
            ) from error
        yield


def list_runs(settings: Settings) -> list[Path]:
    """Folders of all runs, oldest first."""
    if not settings.runs.is_dir():
        return []
    folders = [p for p in settings.runs.iterdir() if (p / "run.json").exists()]
    return sorted(folders, key=lambda p: (read_json(p / "run.json")["began"], p.name))


def begin_record(folder: Path, recipe: Recipe, beside: dict[str, Any], execution: Execution, resume: bool) -> None:
    """Write run.json before the first step, or add a resume to it.

    Args:
        beside: what this kind of run keeps, such as what was read.
    """
    if resume:
        record = read_json(folder / "run.json")
        entry = {"at": now(), "execution": execution.as_json(), "code": surroundings()["code"]}
        update_record(
            folder,
            resumes=[*record["resumes"], entry],
            recipe=recipe.as_json(),
            stop_reason="",
            finished=False,
            pid=os.getpid(),
        )
        return
    update_record(
        folder,
        run=folder.name,
        began=now(),
        recipe=recipe.as_json(),
        recipe_digest=recipe.digest(),
        **beside,
        execution=execution.as_json(),
        resumes=[],
        stop_reason="",
        finished=False,
        pid=os.getpid(),
        **surroundings(),
    )


def find_run(settings: Settings, name: str) -> Path:
    """A run's folder by its name or path.

    Raises:
        NotFound: no such run.
    """
    for folder in (settings.runs / name, Path(name).expanduser()):
        if (folder / "run.json").exists():
            return folder
    raise NotFound(
        f"There is no run {name!r}.", fix=f"Runs lie in {settings.runs}; `cerulea show MODEL` names a model's run."
    )


def loss_curve(folder: Path) -> list[tuple[int, float]]:
    """(step, loss) of a run so far."""
    return [
        (line["step"], line["loss"])
        for line in read_metrics(folder / "metrics.jsonl")
        if line["event"] == "progress" and line["loss"] is not None
    ]
