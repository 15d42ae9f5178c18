"""Start the other processes of a run on this machine, as torchrun would; how many there are where nobody says.

Kept:    rank 0 is the process that the person started; the others end with it, whatever ends it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence

import torch

from cerulea.compute.launcher import give
from cerulea.core.cores import usable_cores
from cerulea.core.errors import Invalid
from cerulea.core.files import read_json
from cerulea.core.parent import PARENT
from cerulea.core.settings import Settings
from cerulea.flows.runs import unfinished_run
from cerulea.train.checkpoint import checkpoint_folders
from cerulea.train.play_recipe import PlayRecipe
from cerulea.train.recipe import Recipe

AUTO = "auto"
SHARED_STEPS = 2048  # matches x rollout: of a smaller update, two processes spend most on meeting each other


def processes_of(settings: Settings, recipe: Recipe, wanted: str, *, resume: bool) -> int:
    """How many processes a run on this machine takes, by what its command line says.

    With `auto` a text takes one. Self-play takes as many as the run began with; a new one takes two, with half of the
    cores each, where there are two cores or more and no GPU, updates are not small, and nothing says how many threads
    to use. A fair trial would take longer than it saves: `benchmarks/selfplay.py` decided (docs/benchmarks).

    Raises:
        Invalid: neither `auto` nor a number.
        NotFound, Conflict: there is nothing to resume.
    """
    if wanted != AUTO:
        if not (wanted.isascii() and wanted.isdigit() and int(wanted)):
            raise Invalid(f"--processes is {wanted}.", fix=f"Use 1 or more, or {AUTO}.")
        return int(wanted)
    if not isinstance(recipe, PlayRecipe) or "WORLD_SIZE" in os.environ:
        return 1
    if resume:
        from cerulea.train.play_state import PROCESSES  # it loads games' compiler, which texts do not need

        for folder in reversed(checkpoint_folders(unfinished_run(settings, recipe) / "checkpoints")):
            with contextlib.suppress(OSError, ValueError, KeyError):  # a damaged one; all of a run have the same number
                return int(read_json(folder / "state.json")["binding"][PROCESSES])
    beside_gpu = settings.device != "cpu" and torch.cuda.is_available()
    threads_told = settings.threads or "OMP_NUM_THREADS" in os.environ
    free = usable_cores() >= 2 and not threads_told and not beside_gpu
    matches = recipe.game.matches
    return 2 if free and matches % 2 == 0 and matches * recipe.train.rollout >= SHARED_STEPS else 1


@contextlib.contextmanager
def together(
    processes: int, *, module: str = "cerulea.cli.main", words: Sequence[str] | None = None, first_line: str = ""
) -> Iterator[bool]:
    """Run the body in `processes` processes; yields whether this one leads.

    The others run `python -m module` with `words` (this process's own by default) and read `first_line`.

    A process that a launcher started (WORLD_SIZE is set) takes part in that launcher's team instead.
    """
    if processes < 1:
        raise Invalid(f"--processes is {processes}.", fix="Use 1 or more.")
    if "WORLD_SIZE" in os.environ:
        yield os.environ.get("RANK", "0") == "0"
        return
    if processes == 1:
        yield True
        return
    if torch.cuda.is_available() and processes > torch.cuda.device_count():
        raise Invalid(
            f"--processes is {processes}, and there are {torch.cuda.device_count()} GPUs.",
            why="Each process has a GPU of its own.",
            fix=f"Use --processes {torch.cuda.device_count()}.",
        )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if "OMP_NUM_THREADS" not in os.environ:
        shared["OMP_NUM_THREADS"] = str(max(1, usable_cores() // processes))
    command = [sys.executable, "-m", module, *(sys.argv[1:] if words is None else words)]
    shared[PARENT] = str(os.getpid())
    others = []
    for i in range(1, processes):
        own = {**os.environ, **shared, "RANK": str(i), "LOCAL_RANK": str(i)}
        other = subprocess.Popen(command, env=own, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        give(other, first_line)
        others.append(other)
    os.environ.update(shared, RANK="0", LOCAL_RANK="0")
    done = threading.Event()
    threading.Thread(target=_watch, args=(others, done), daemon=True).start()
    try:
        yield True
        done.set()
        for other in others:
            with contextlib.suppress(subprocess.TimeoutExpired):
                other.wait(timeout=60)
    finally:
        done.set()
        for other in others:
            if other.poll() is None:
                other.kill()
        for name in (*shared, "RANK", "LOCAL_RANK"):
            os.environ.pop(name, None)


def _watch(others: list[subprocess.Popen[bytes]], done: threading.Event) -> None:
    """End this process when another one fails: it would wait for that one's part of a sum, perhaps for ever."""
    while not done.wait(0.5):
        for number, other in enumerate(others, start=1):
            if other.poll() not in (None, 0) and not done.wait(2.0):
                print(f"E-RUN-001: Process {number} of the run ended with code {other.returncode}.", file=sys.stderr)
                print("  What it said is above. The last checkpoint is whole.", file=sys.stderr)
                print("  Run the same command with --resume.", file=sys.stderr, flush=True)
                for each in others:
                    each.kill()
                os._exit(1)
