"""What a run leaves behind: run.json (what it was) and metrics.jsonl (what happened).

Kept:    run.json is replaced whole or not at all; metrics.jsonl is cut back to a checkpoint's offset on resume,
         so that its loss column has every step once.
Not here: checkpoints (`checkpoint`), where runs lie (`flows.train`).
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cerulea.core.files import json_line, read_json, write_json

PACKAGES = ("cerulea", "torch", "numpy", "tokenizers", "safetensors")


class Metrics:
    """An append-only file of JSON lines whose length is known."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        """Open `path`, cut back to `offset` bytes."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")
        self._file.truncate(offset)
        self._file.seek(offset)
        self.offset = offset

    def add(self, event: str, values: dict[str, Any]) -> None:
        """Append one line, readable by others at once."""
        line = (json_line({"event": event, **values}) + "\n").encode()
        self._file.write(line)
        self._file.flush()
        self.offset += len(line)

    def sync(self) -> None:
        """Make all lines durable: a checkpoint that names an offset must find them."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of metrics.jsonl; a last line cut short by a crash is left out."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").split("\n"):
        if line:
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                return


def surroundings() -> dict[str, Any]:
    """Code revision, package versions and machine, for the run record."""
    return {
        "code": _revision(),
        "packages": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "machine": {"system": platform.platform(), "processor": processor(), "cores": os.cpu_count()},
    }


def now() -> str:
    """UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def update_record(folder: Path, **values: Any) -> None:
    """Change some keys of run.json."""
    path = folder / "run.json"
    record = read_json(path) if path.exists() else {}
    write_json(path, {**record, **values})


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def processor() -> str:
    """The processor's name, as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor()


def _revision() -> dict[str, Any]:
    """The git commit of the code that runs, and whether it was changed since; empty outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return {}
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, timeout=10)
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return {"commit": commit.stdout.strip(), "changed": bool(dirty.stdout.strip())} if commit.returncode == 0 else {}
