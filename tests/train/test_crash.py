"""A run killed at any moment goes on as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cerulea.train.record import read_metrics

from ..conftest import Cerulea, prose

RECIPE = """
kind = "text"
name = "crash"
[data]
train = ["{one}", "{two}", "{three}"]
weights = [0.5, 0.3, 0.2]
valid_fraction = 0.2
[tokenizer]
kind = "bpe"
vocab = 300
[model]
layers = 2
width = 64
heads = 2
context = 32
[train]
precision = "fp32"
steps = {steps}
batch_tokens = 512
dropout = 0.1
eval_steps = 40
sample_tokens = 4
checkpoint_steps = 5
seed = 3
"""
KILLS = 20
KILLS_INSIDE_A_WRITE = 5


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Three corpora of unlike sizes, mixed by weight, with dropout."""
    names = {}
    for i, (name, documents) in enumerate((("one", 40), ("two", 60), ("three", 30))):
        folder = tmp_path / name
        folder.mkdir()
        names[name] = folder.as_posix()
        for j in range(documents):
            (folder / f"{j:02d}.txt").write_text(prose(1000 * i + j, 200))
    path = tmp_path / "crash.toml"
    path.write_text(RECIPE.format(**names, steps=400))
    return path


def only_run(home: Path) -> Path:
    (folder,) = (home / "runs").iterdir()
    return folder


def losses(folder: Path) -> list[tuple[int, float]]:
    return [(m["step"], m["loss"]) for m in read_metrics(folder / "metrics.jsonl") if m["event"] == "progress"]


def last_step(folder: Path) -> int:
    steps = losses(folder)
    return steps[-1][0] if steps else 0


def begun(home: Path) -> Callable[[], bool]:
    return lambda: any((home / "runs").glob("*/metrics.jsonl"))


def writing(folder: Path) -> Callable[[], bool]:
    return lambda: any(folder.glob("checkpoints/*.tmp"))


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 60.0) -> bool:
    """Poll quickly until `condition()` holds; False when the process ended first."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        if process.poll() is not None:
            return False
    raise AssertionError("nothing happened within a minute")


@pytest.mark.slow
def test_killed_twenty_times_a_run_ends_with_the_same_losses_and_weights(recipe: Path, tmp_path: Path):
    """kill -9 at 20 random moments, 5 of them while a checkpoint is being written: 0 bytes differ."""
    whole, cut = Cerulea(tmp_path / "whole"), Cerulea(tmp_path / "cut")
    whole.run("train", recipe)
    draw = random.Random(11)
    moments = ["anywhere"] * (KILLS - KILLS_INSIDE_A_WRITE) + ["write"] * KILLS_INSIDE_A_WRITE
    draw.shuffle(moments)
    inside = 0
    for number, moment in enumerate(moments):
        process = cut.start("train", recipe, *(["--resume"] if number else []))
        assert wait_for(begun(tmp_path / "cut"), process), process.stderr.read()
        folder = only_run(tmp_path / "cut")
        before = last_step(folder)
        if moment == "write":
            if wait_for(writing(folder), process):
                time.sleep(draw.random() * 0.01)
        else:
            time.sleep(draw.random() * 0.6 + (0.5 if before == 0 else 0.0))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        inside += any(folder.glob("checkpoints/*.tmp"))
        assert process.returncode == -signal.SIGKILL, "the run ended before it could be killed: give it more steps"

    cut.run("train", recipe, "--resume")

    assert inside >= KILLS_INSIDE_A_WRITE, f"only {inside} kills fell into a write"
    first, second = only_run(tmp_path / "whole"), only_run(tmp_path / "cut")
    assert losses(second) == losses(first)
    assert [step for step, _ in losses(second)] == list(range(1, 401))
    for name in ("model.safetensors", "optim.safetensors"):
        ours, theirs = (f / "checkpoints" / "step-00000400" / name for f in (first, second))
        assert ours.read_bytes() == theirs.read_bytes(), name


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_step_saves_and_exits_with_zero(number: int, recipe: Path, tmp_path: Path):
    """And the run goes on from there with --resume."""
    home = Cerulea(tmp_path / "home")
    process = home.start("train", recipe, "--json", "--set", "train.steps=5000")
    assert wait_for(begun(tmp_path / "home"), process)
    assert wait_for(lambda: last_step(only_run(tmp_path / "home")) > 3, process)

    process.send_signal(number)
    out, err = process.communicate(timeout=60)

    assert process.returncode == 0, err
    assert f'"stop_reason": "{signal.Signals(number).name}"' in out.splitlines()[-1]
    stopped = last_step(only_run(tmp_path / "home"))
    done = home.lines("train", recipe, "--resume", "--set", f"train.steps={stopped + 3}")[-1]
    assert (done["event"], done["step"], done["stop_reason"]) == ("done", stopped + 3, "steps")


@pytest.mark.slow
def test_one_process_then_two_then_one_read_the_same_samples(recipe: Path, tmp_path: Path):
    """Judge: the uninterrupted run of one process; losses agree within 1e-5, dropout off."""
    words = ("--set", "train.dropout=0.0", "--set", "train.micro_batch_tokens=256", "--set", "train.skip_sigma=0.0")
    whole, parts = Cerulea(tmp_path / "whole"), Cerulea(tmp_path / "parts")
    whole.run("train", recipe, *words, *stop_at(100))
    folder = None
    for steps, processes in ((30, 1), (70, 2), (100, 1)):
        resume = ["--resume"] if folder else []
        parts.run(
            "train", recipe, *words, *resume, "--processes", processes,
            *stop_at(steps),
        )  # fmt: skip
        folder = only_run(tmp_path / "parts")

    first, second = losses(only_run(tmp_path / "whole")), losses(folder)
    assert [s for s, _ in second] == [s for s, _ in first] == list(range(1, 101))
    for (step, a), (_, b) in zip(first, second, strict=True):
        assert b == pytest.approx(a, rel=1e-5), step


def stop_at(steps: int) -> list[str]:
    """Limits that end a session early without touching the schedule: constant rate, fewer steps."""
    return ["--set", "train.schedule=wsd", "--set", "train.decay_fraction=0.0", "--set", f"train.steps={steps}"]


def test_a_disk_that_fills_up_stops_the_run_with_its_reason(recipe: Path, tmp_path: Path):
    """A real limit: no file may grow beyond 1 MB, which the weights do from the first checkpoint on."""
    home = Cerulea(tmp_path / "home")
    home.run("train", recipe, "--set", "train.steps=5")
    words = [sys.executable, "-m", "cerulea.cli.main", "train", str(recipe), "--set", "train.steps=20"]
    words += ["--set", "model.width=256", "--name", "large"]

    done = subprocess.run(words, env=home.environment, capture_output=True, text=True, preexec_fn=small_files)

    assert done.returncode == 1, done.stderr
    assert "E-CHECKPOINT-002: The checkpoint of step 5 could not be written" in done.stderr
    assert "Traceback" not in done.stderr
    (folder,) = (tmp_path / "home" / "runs").glob("large-*")
    assert not any((folder / "checkpoints").iterdir())
    assert "could not be written" in json.loads((folder / "run.json").read_text())["stop_reason"]
    home.run("train", recipe, "--set", "train.steps=20", "--set", "model.width=256", "--name", "large", "--resume")


def small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))


def test_a_run_is_trained_by_one_process_at_a_time(recipe: Path, tmp_path: Path):
    home = Cerulea(tmp_path / "home")
    process = home.start("train", recipe, "--set", "train.steps=5000")
    try:
        assert wait_for(begun(tmp_path / "home"), process)
        error = home.run("train", recipe, "--set", "train.steps=5000", "--resume", code=5).stderr
        assert "is being trained by another process" in error
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_when_one_process_dies_the_run_ends_instead_of_waiting(recipe: Path, tmp_path: Path):
    home = Cerulea(tmp_path / "home")
    process = home.start("train", recipe, "--set", "train.steps=5000", "--processes", "2")
    assert wait_for(begun(tmp_path / "home"), process)
    assert wait_for(lambda: last_step(only_run(tmp_path / "home")) > 2, process)
    other = int(subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()[0])

    os.kill(other, signal.SIGKILL)
    _, err = process.communicate(timeout=60)

    assert process.returncode == 1
    assert "E-RUN-001" in err and "--resume" in err
    assert "Traceback" not in err


def test_a_second_ctrl_c_ends_at_once_with_its_code(recipe: Path, tmp_path: Path):
    home = Cerulea(tmp_path / "home")
    process = home.start("train", recipe, "--set", "train.steps=5000", "--set", "train.eval_steps=1")
    assert wait_for(begun(tmp_path / "home"), process)

    for _ in range(20):
        process.send_signal(signal.SIGINT)
        time.sleep(0.01)
    process.communicate(timeout=60)

    # 0 where step and checkpoint were done between two of them; -2 where one came as Python was leaving.
    assert process.returncode in (0, 130, -signal.SIGINT)
