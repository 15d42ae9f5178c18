"""What this machine can do: measured once, kept in CERULEA_HOME, measured again when something changed.

Kept:    a shape that was tried here is computed the same way from then on, so that equal recipes give equal losses even
         where two ways are equally fast and a busy moment decides between them.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from cerulea.core.files import read_json, write_json
from cerulea.core.settings import Settings
from cerulea.nn.precision import Execution, Machine, measure_machine, pick_device, set_threads
from cerulea.train.record import processor

EXECUTIONS = "executions.json"


def know_machine(settings: Settings, *, again: bool = False) -> tuple[Machine, torch.device]:
    """The measured machine and the device to use; measures where no measurement of this kind is kept."""
    device = pick_device(settings.device)
    threads = set_threads(settings.threads)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    key = f"{processor()} | {name} | {threads} threads | torch {torch.__version__}"
    path = settings.home / "doctor.json"
    kept = _read(path)
    if not again and key in kept:
        return kept[key], device
    machine = measure_machine(device, threads)
    (settings.home / EXECUTIONS).unlink(missing_ok=True)  # what was chosen by the measurement before
    write_json(path, {name: dataclasses.asdict(m) for name, m in {**kept, key: machine}.items()})
    return machine, device


def know_execution(settings: Settings, what: object, choose: Callable[[], Execution]) -> Execution:
    """How `what` is computed here, as it was before or as chosen now.

    Args:
        what: a shape, and all else that the choice depends on; its repr tells one from another.
    """
    path = settings.home / EXECUTIONS
    key = hashlib.sha256(repr((processor(), torch.__version__, what)).encode()).hexdigest()[:16]
    kept: dict[str, Any] = {}
    try:
        kept = dict(read_json(path)) if path.exists() else {}
        return Execution(**kept[key])
    except (KeyError, ValueError, TypeError):  # not tried yet, or by another version
        chosen = choose()
    write_json(path, {**kept, key: dataclasses.asdict(chosen)})
    return chosen


def _read(path: Path) -> dict[str, Machine]:
    if not path.exists():
        return {}
    try:
        return {name: Machine(**values) for name, values in read_json(path).items()}
    except (ValueError, TypeError, AttributeError):
        return {}  # a measurement of another version: worth two seconds, not an error
