"""What is known of a version or a run beside its rows: the model's shape, how its training went.

In:      an open platform, a version that the caller may see, or a run's name.
Out:     plain values, as files hold them.
Not here: tensors. Torch is not imported, so that the API's process can ask; `flows.show` tells all of it at once.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from cerulea.core.errors import NotFound
from cerulea.core.files import read_json
from cerulea.core.names import is_name
from cerulea.core.settings import Settings
from cerulea.flows.platform import Platform
from cerulea.jobs.job import Job
from cerulea.registry import Teams, Version
from cerulea.train.record import read_metrics

SHOWN = ("model_type", "architectures", "shape", "game", "version", "options")  # of config.json or agent.json
LONGEST_CONFIG = 1 << 20  # bytes


def config_of(platform: Platform, version: Version) -> dict[str, Any]:
    """What a version's config.json or agent.json says of its shape; nothing where it has neither."""
    entry = version.manifest.get("config.json") or version.manifest.get("agent.json")
    if entry is None or entry["bytes"] > LONGEST_CONFIG or not platform.blobs.has(entry["sha256"]):
        return {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        platform.blobs.fetch(entry["sha256"], path)
        return shown(read_json(path))


def shown(config: dict[str, Any]) -> dict[str, Any]:
    """What of a config.json is told."""
    return {key: value for key, value in config.items() if key in SHOWN}


def record_of(settings: Settings, run: str | None) -> dict[str, Any] | None:
    """A run's record with its evaluations, where its folder lies on this machine."""
    if run is None or not is_name(run.replace("~", "-")) or not (settings.runs / run / "run.json").exists():
        return None
    return recorded(settings.runs / run)


def recorded(folder: Path) -> dict[str, Any]:
    """The record of the run in a folder, the last step that it told of, and its evaluations."""
    steps, evaluations = 0, []
    for line in read_metrics(folder / "metrics.jsonl"):
        if line["event"] == "eval":
            evaluations.append({key: line[key] for key in ("step", "bits_per_byte", "loss", "elapsed_s")})
        elif line["event"] == "progress" and line["loss"] is not None:
            steps = line["step"]
    return {**read_json(folder / "run.json"), "steps_done": steps, "evaluations": evaluations}


def find_record(platform: Platform, run: str, *, teams: Teams) -> tuple[Job, dict[str, Any]]:
    """A run's newest job and its record.

    Raises:
        NotFound: no such run, or another team's; or its folder lies elsewhere.
    """
    job, record = platform.queue.of_run(run), record_of(platform.settings, run)
    if job is None or record is None or (teams is not None and job.team not in teams):
        raise NotFound(
            f"There is no model or run {run[:120]!r} here.", fix="See what there is: cerulea models, cerulea ps --all"
        )
    return job, record
