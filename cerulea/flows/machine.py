"""What this machine can do: measured once, kept in CERULEA_HOME, measured again when something changed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from cerulea.core.files import read_json, write_json
from cerulea.core.settings import Settings
from cerulea.nn.precision import Machine, measure_machine, pick_device, set_threads
from cerulea.train.record import processor


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
    write_json(path, {name: dataclasses.asdict(m) for name, m in {**kept, key: machine}.items()})
    return machine, device


def _read(path: Path) -> dict[str, Machine]:
    if not path.exists():
        return {}
    try:
        return {name: Machine(**values) for name, values in read_json(path).items()}
    except (ValueError, TypeError, AttributeError):
        return {}  # a measurement of another version: worth two seconds, not an error
