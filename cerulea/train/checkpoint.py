"""Checkpoints: atomic folders that verify, written beside training.

In:      a snapshot of weights, optimizer state and run state (tensors copied, so that training goes on).
Out:     step-00000120/ with model.safetensors, config.json, tokenizer files, optim.safetensors, state.json,
         card.json, and MANIFEST.json (sizes and sha256) that is written last.
Kept:    a folder with its final name is complete; the loader takes the newest one that verifies and says which
         it passed over; a failed write leaves the one before it whole. No pickle anywhere.
Not here: when to write (`text`), what the state means (`text`), names of weights (`nn.weights`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from cerulea.core.errors import CheckpointNotWritten, CheckpointUnusable
from cerulea.core.files import read_json, sha256_file, sync_folder
from cerulea.core.values import Checkpoint, ModelCard
from cerulea.nn.shape import DecoderShape
from cerulea.nn.weights import METADATA, file_form
from cerulea.text.tokenizer import Tokenizer

MANIFEST = "MANIFEST.json"
# What only a resume needs; a model folder is a checkpoint without these.
RESUME_FILES = ("optim.safetensors", "state.json")
_NAME = re.compile(r"step-(\d{8,})")


class Contents(Protocol):
    """What a checkpoint holds: values that nobody writes to any more."""

    @property
    def state(self) -> dict[str, Any]:
        """Plain values, `step` among them."""

    @property
    def card(self) -> ModelCard: ...

    def fill(self, folder: Path) -> None:
        """Write every file but the manifest, each durably (`write_file`, `write_tensors`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A text run's checkpoint; tensors are copies that nobody writes to."""

    shape: DecoderShape
    weights: dict[str, Tensor]  # by the decoder's own names
    optimizer: dict[str, Tensor]
    state: dict[str, Any]  # plain values, `step` among them
    card: ModelCard
    tokenizer: Tokenizer

    def fill(self, folder: Path) -> None:
        """Model, tokenizer, optimizer, state and card."""
        config, tensors = file_form(self.shape, self.weights, end_of_text=self.tokenizer.end_of_text)
        write_file(folder / "config.json", (json.dumps(config, indent=2) + "\n").encode())
        write_tensors(folder / "model.safetensors", tensors)
        write_tensors(folder / "optim.safetensors", self.optimizer)
        write_state(folder, self.state, self.card)
        self.tokenizer.save(folder)
        for path in folder.glob("tokenizer*.json"):
            _sync(path)


def write_state(folder: Path, state: dict[str, Any], card: ModelCard) -> None:
    """state.json and card.json."""
    write_file(folder / "state.json", (json.dumps(state) + "\n").encode())
    write_file(folder / "card.json", (json.dumps(dataclasses.asdict(card), indent=2) + "\n").encode())


def snapshot_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies in main memory, detached."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


def write_checkpoint(root: Path, snapshot: Contents) -> Checkpoint:
    """Write one checkpoint folder below `root` and return it once it is whole.

    Raises:
        CheckpointNotWritten: the disk is full or refuses; nothing but a temporary folder was touched.
    """
    began = perf_counter()
    step = int(snapshot.state["step"])
    final = root / f"step-{step:08d}"
    temporary = root / f"{final.name}.tmp"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        snapshot.fill(temporary)
        manifest = {
            "step": step,
            "files": {
                path.name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
                for path in sorted(temporary.iterdir())
            },
        }
        content = (json.dumps(manifest, indent=1) + "\n").encode()
        write_file(temporary / MANIFEST, content)
        sync_folder(temporary)
        # A damaged folder of the same step, passed over at a resume, gives way.
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        sync_folder(root)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointNotWritten(
            f"The checkpoint of step {step:,} could not be written to {root}: {error.strerror or error}.",
            why="The checkpoint before it is whole.",
            fix="Free space or choose another CERULEA_HOME, then run the same command with --resume.",
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    return Checkpoint(folder=final, digest=digest, step=step, card=snapshot.card, write_s=perf_counter() - began)


def write_file(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Stream tensors to disk, without a second copy of them in memory."""
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, METADATA)
    except SafetensorError as error:  # how the library tells of a full disk
        raise OSError(str(error)) from error
    path.chmod(0o644)  # the library makes it private; other files of the folder are not
    _sync(path)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def problem_of(folder: Path) -> str:
    """What is wrong with a checkpoint folder, or nothing when every file is as its manifest says."""
    try:
        manifest = read_json(folder / MANIFEST)
        files = dict(manifest["files"])
        for name, entry in files.items():
            path = folder / name
            if "/" in name or not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != entry["bytes"]:
                return f"{name} has {path.stat().st_size:,} bytes instead of {entry['bytes']:,}"
            if sha256_file(path) != entry["sha256"]:
                return f"{name} is damaged"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is missing or damaged"
    return ""


def open_checkpoint(folder: Path) -> Checkpoint:
    """A checkpoint value from a folder that verifies.

    Raises:
        CheckpointUnusable: it does not.
    """
    problem = problem_of(folder)
    if problem:
        raise CheckpointUnusable(f"{folder} cannot be used: {problem}.", fix="Use an earlier checkpoint of the run.")
    return _opened(folder)


def _opened(folder: Path) -> Checkpoint:
    """The value of a folder that was verified just now: hashing gigabytes twice would only take time."""
    card = ModelCard(**read_json(folder / "card.json"))
    digest = hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    return Checkpoint(folder=folder, digest=digest, step=read_json(folder / MANIFEST)["step"], card=card)


def newest_checkpoint(root: Path, say: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint below `root` that verifies; None where there is no checkpoint at all.

    Args:
        say: told, in one sentence, of each damaged folder that was passed over.

    Raises:
        CheckpointUnusable: there are checkpoints, and every one is damaged.
    """
    folders = checkpoint_folders(root)
    problems = []
    for folder in reversed(folders):
        problem = problem_of(folder)
        if not problem:
            return _opened(folder)
        problems.append(f"{folder.name}: {problem}")
        say(f"Checkpoint {folder.name} is passed over: {problem}.")
    if folders:
        raise CheckpointUnusable(
            f"No checkpoint in {root} can be used.",
            why="; ".join(problems) + ".",
            fix="Start the run anew, without --resume.",
        )
    return None


def checkpoint_folders(root: Path) -> list[Path]:
    """Folders with a checkpoint's final name, oldest first."""
    if not root.is_dir():
        return []
    return sorted((p for p in root.iterdir() if _NAME.fullmatch(p.name)), key=lambda p: int(p.name[5:]))


def best_checkpoint(root: Path, scores: dict[str, float]) -> Path | None:
    """The kept checkpoint folder with the lowest bits per byte; the newest where none was scored."""
    folders = checkpoint_folders(root)
    scored = [f for f in folders if str(int(f.name[5:])) in scores]
    if scored:
        return min(scored, key=lambda f: scores[str(int(f.name[5:]))])
    return folders[-1] if folders else None


def load_resume(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Optimizer tensors and run state of a verified checkpoint."""
    try:
        return load_file(folder / "optim.safetensors"), read_json(folder / "state.json")
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointUnusable(
            f"{folder} holds no state to resume from: {error}.", fix="Start anew without --resume."
        ) from error


def retain(root: Path, *, last: int, best: int, scores: dict[int, float]) -> None:
    """Remove all but the `last` newest checkpoints and the `best` with the lowest score."""
    folders = checkpoint_folders(root)
    by_score = sorted((f for f in folders if int(f.name[5:]) in scores), key=lambda f: scores[int(f.name[5:])])
    kept = {*folders[-last:], *by_score[:best]}
    for folder in folders:
        if folder not in kept:
            shutil.rmtree(folder, ignore_errors=True)


def set_aside(root: Path, after: int) -> None:
    """Rename checkpoints beyond step `after`, which a resume passed over: they must not count as kept ones."""
    for folder in checkpoint_folders(root):
        if int(folder.name[5:]) > after:
            aside = folder.with_name(f"damaged-{folder.name}")
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)


def remove_leftovers(root: Path) -> None:
    """Remove temporary folders of writes that a crash cut short."""
    for path in root.glob("step-*.tmp"):
        shutil.rmtree(path, ignore_errors=True)


class Writer:
    """Writes one checkpoint at a time in a thread of its own; hashing and disk leave Python's lock alone."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._thread: threading.Thread | None = None
        self._result: Checkpoint | BaseException | None = None

    def start(self, snapshot: Contents) -> None:
        """Begin to write; the one before must have been fetched."""
        assert self._thread is None
        self._result = None

        def work() -> None:
            try:
                self._result = write_checkpoint(self.root, snapshot)
            except BaseException as error:  # told to the run's own thread by `fetch`
                self._result = error

        self._thread = threading.Thread(target=work, name="checkpoint", daemon=True)
        self._thread.start()

    def fetch(self, *, wait: bool) -> Checkpoint | None:
        """The checkpoint once it is whole; None while it is being written and `wait` is false.

        Raises:
            CheckpointNotWritten: the write failed.
        """
        if self._thread is None or (self._thread.is_alive() and not wait):
            return None
        self._thread.join()
        self._thread, result = None, self._result
        if isinstance(result, BaseException):
            raise result
        assert result is not None, "the checkpoint thread died"
        return result
