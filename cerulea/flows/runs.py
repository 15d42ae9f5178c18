"""Runs by name: folders below CERULEA_HOME/runs, each with its record, metrics and checkpoints.

Not here: how a run goes (`flows.train`), models (`flows.models`).
"""

from __future__ import annotations

import os
from pathlib import Path

from cerulea.core.errors import Conflict, NotFound
from cerulea.core.files import read_json
from cerulea.core.settings import Settings
from cerulea.nn.precision import Execution
from cerulea.text.shards import Shards
from cerulea.train.recipe import TextRecipe
from cerulea.train.record import now, read_metrics, surroundings, update_record


def unfinished_run(settings: Settings, name: str) -> Path:
    """The newest run of a model's name that did not reach its end.

    Raises:
        NotFound: there is no run of that name.
        Conflict: the newest one is finished.
    """
    runs = [folder for folder in list_runs(settings) if read_json(folder / "run.json")["recipe"]["name"] == name]
    if not runs:
        raise NotFound(f"There is no run of {name!r} to resume.", fix="Start one: the same command without --resume.")
    record = read_json(runs[-1] / "run.json")
    if record.get("finished"):
        raise Conflict(
            f"Run {runs[-1].name} is finished: {record['stop_reason']}.",
            why="Its learning rate has come down to the end of its schedule.",
            fix="Start a new run without --resume, or name what to train further in a new recipe.",
        )
    return runs[-1]


def list_runs(settings: Settings) -> list[Path]:
    """Folders of all runs, oldest first."""
    if not settings.runs.is_dir():
        return []
    folders = [p for p in settings.runs.iterdir() if (p / "run.json").exists()]
    return sorted(folders, key=lambda p: (read_json(p / "run.json")["began"], p.name))


def begin_record(folder: Path, recipe: TextRecipe, shards: Shards, execution: Execution, resume: bool) -> None:
    """Write run.json before the first step, or add a resume to it."""
    if resume:
        record = read_json(folder / "run.json")
        entry = {"at": now(), "execution": execution.as_json(), "code": surroundings()["code"]}
        update_record(
            folder, resumes=[*record["resumes"], entry], recipe=recipe.as_json(), stop_reason="", pid=os.getpid()
        )
        return
    update_record(
        folder,
        run=folder.name,
        began=now(),
        recipe=recipe.as_json(),
        recipe_digest=recipe.digest(),
        corpus={
            k: shards.meta[k] for k in ("corpus", "entries", "documents", "train_tokens", "valid_tokens", "valid_bytes")
        },
        tokenizer=shards.tokenizer,
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
        (line["step"], line["loss"]) for line in read_metrics(folder / "metrics.jsonl") if line["event"] == "progress"
    ]
