"""Read-only answers: what a model or run is, how a text scores.

Not here: training (`flows.train`), names (`flows.model_folders`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cerulea.core.clock import iso
from cerulea.core.errors import Failed, NotFound
from cerulea.core.files import read_json
from cerulea.flows.known import record_of, recorded, shown
from cerulea.flows.model_folders import AGENT, CONFIG, Model, find_model
from cerulea.flows.models import open_model
from cerulea.flows.platform import Platform
from cerulea.flows.runs import find_run
from cerulea.nn.decoder import Decoder
from cerulea.nn.precision import pick_device, set_threads
from cerulea.text.tokenizer import Tokenizer
from cerulea.train.evaluate import Score, score_file
from cerulea.train.record import read_metrics
from cerulea.train.suites import run_suite


def _ready(platform: Platform, label: str) -> tuple[Decoder, Tokenizer]:
    """A model on the device that the settings choose, and its tokenizer."""
    set_threads(platform.settings.threads)
    decoder, tokenizer = open_model(find_model(platform, label))
    return decoder.to(pick_device(platform.settings.device)), tokenizer


def evaluate_files(platform: Platform, label: str, files: list[str], *, field: str, stride: int | None) -> Score:
    """Score some files with a sliding window of the model's context."""
    decoder, tokenizer = _ready(platform, label)
    scores = [score_file(decoder, tokenizer, Path(name).expanduser(), field=field, stride=stride) for name in files]
    return sum(scores[1:], scores[0])


def evaluate_suite(
    platform: Platform, label: str, suite: str, data: list[str], *, limit: int | None, stride: int | None
) -> dict[str, dict[str, Any]]:
    """Run a suite; `data` are NAME=PATH entries or folders."""
    decoder, tokenizer = _ready(platform, label)
    return run_suite(suite, decoder, tokenizer, data, limit=limit, stride=stride)


def show(platform: Platform, label: str) -> dict[str, Any]:
    """All that is known of a model or a run: its card or record, and how it went."""
    try:
        folder = find_run(platform.settings, label)
        return {"kind": "run", "folder": str(folder), **recorded(folder)}
    except NotFound:
        model = find_model(platform, label)
    return {
        "kind": "model",
        "model": model.label,
        "folder": str(model.folder),
        **_origin(platform, model),
        "card": model.card(),
        "config": shown(read_json(model.folder / (AGENT if model.plays else CONFIG))),
        "run": record_of(platform.settings, _run_of(model)),
    }


def _origin(platform: Platform, model: Model) -> dict[str, Any]:
    """What the registry knows of a version: whose it is, its aliases, where it came from and what came from it."""
    if model.registered is None:
        return {}
    version = model.registered
    line = platform.registry.lineage(version)
    aliases = platform.registry.aliases(version.model)
    return {
        "team": version.team,
        "digest": version.digest,
        "registered": iso(version.created_at),
        "by": version.actor,
        "aliases": [alias for alias, number in aliases.items() if number == version.version],
        "corpus": version.corpus,
        "job": version.job,
        "parents": [parent.label for parent in line.parents],
        "children": [child.label for child in line.children],
    }


def _run_of(model: Model) -> str:
    """The run that made a model, or nothing."""
    if model.registered and model.registered.run:
        return model.registered.run
    return str(model.card().get("extra", {}).get("run") or "")


def _source_of(platform: Platform, name: str) -> Path:
    """The folder of a run, or of the run that made a model."""
    try:
        return find_run(platform.settings, name)
    except NotFound as unknown:
        try:
            model = find_model(platform, name)
        except NotFound:
            raise unknown from None
    return find_run(platform.settings, _run_of(model) or name)


def export_tensorboard(platform: Platform, run: str, folder: Path, say: Callable[[str], None]) -> int:
    """Write a run's metrics as TensorBoard event files; returns the number of points."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise Failed(
            "tensorboardX is not installed.", fix="pip install -e '.[tensorboard]', or: pip install tensorboardX"
        ) from error
    source = _source_of(platform, run)
    points = 0
    names = {
        "progress": ("loss", "learning_rate", "gradient_norm", "tokens_per_s", "flops_utilization"),
        "eval": ("bits_per_byte", "loss"),
    }
    with SummaryWriter(str(folder)) as writer:
        for line in read_metrics(source / "metrics.jsonl"):
            place = "train" if line["event"] == "progress" else "held_out"
            for name in names.get(line["event"], ()):
                if line[name] is None:
                    continue
                writer.add_scalar(f"{place}/{name}", line[name], line["step"], walltime=line["elapsed_s"])
                points += 1
            if line.get("sample"):
                writer.add_text("sample", line["sample"], line["step"], walltime=line["elapsed_s"])
    say(f"Wrote {points:,} points of {source.name} to {folder}.")
    return points
