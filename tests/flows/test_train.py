"""The story of a run from its corpus to its model, in this process and in two."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cerulea.core.errors import Conflict
from cerulea.core.files import read_json
from cerulea.core.settings import Settings
from cerulea.core.values import Checkpoint, Evaluation, Progress
from cerulea.flows import train as story
from cerulea.flows import train_text
from cerulea.flows.here import Done, train_here
from cerulea.flows.launch import together
from cerulea.flows.model_folders import find_model, list_models
from cerulea.flows.platform import open_platform
from cerulea.flows.runs import hold_run, list_runs, loss_curve
from cerulea.flows.story import Note, Started
from cerulea.nn.precision import Execution, Machine
from cerulea.train import checkpoint as checkpoint_module
from cerulea.train.recipe import TextRecipe, read_recipe

MACHINE = Machine(
    device="cpu",
    cores=1,
    threads=1,
    memory_bytes=8 << 30,
    matmul_fp32_gflops=100.0,
    matmul_bf16_gflops=1.0,
    memory_read_gb_per_s=10.0,
    gpus=[],
)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A home of its own, and a machine that is known without measuring it."""
    monkeypatch.setattr(story, "know_machine", lambda settings: (MACHINE, torch.device("cpu")))
    return Settings(home=tmp_path / "home", threads=1, device="cpu")


@pytest.fixture
def recipe(tiny_recipe: Path) -> TextRecipe:
    return read_recipe(tiny_recipe)


def run(settings: Settings, recipe: TextRecipe, **keywords: Any) -> list[Any]:
    return list(train_here(settings, recipe, **keywords))


def until(step: int, settings: Settings, recipe: TextRecipe, **keywords: Any) -> None:
    """Train and cease to ask after `step`: what was saved before is all that stays."""
    events = train_here(settings, recipe, **keywords)
    for event in events:
        if isinstance(event, Progress) and event.step == step:
            break
    events.close()


def test_a_recipe_becomes_a_model(settings: Settings, recipe: TextRecipe):
    events = run(settings, recipe)

    assert isinstance(events[0], Started) and isinstance(events[-1], Done)
    steps = [e.loss for e in events if isinstance(e, Progress)]
    assert len(steps) == 12 and steps[-1] < steps[0] - 0.5
    done = events[-1]
    with open_platform(settings) as platform:
        model = find_model(platform, "tiny")
        assert model.registered == platform.registry.resolve("tiny@1")
    assert model.registered.run == done.run and model.registered.job == done.job
    assert (model.version, done.version, done.stop_reason) == (1, 1, "steps")
    assert (
        model.card()["bits_per_byte"]
        == done.score["bits_per_byte"]
        == min(e.bits_per_byte for e in events if isinstance(e, Evaluation))
    )
    record = read_json(list_runs(settings)[0] / "run.json")
    assert record["finished"]
    assert done.usage.trained_tokens == record["usage"]["trained_tokens"] == 12 * 256


def test_a_resume_computes_as_the_checkpoint_did(
    settings: Settings, recipe: TextRecipe, monkeypatch: pytest.MonkeyPatch
):
    """A probe found bf16 and small micro-batches; the resume probes nothing and writes the losses of a whole run."""
    found = Execution(
        device="cpu", precision="bf16", compile=False, threads=1, peak_flops=1e9, micro_batch_tokens=64, why="probed"
    )
    monkeypatch.setattr(train_text, "choose_execution", lambda *values, **keywords: found)
    run(settings, replace(recipe, name="whole"))
    until(9, settings, recipe)
    monkeypatch.setattr(train_text, "choose_execution", lambda *values, **keywords: pytest.fail("probed again"))

    events = run(settings, recipe, resume=True)

    how = events[0].execution
    assert (how.precision, how.micro_batch_tokens, how.compile) == ("bf16", 64, False)
    assert how.why == "as the run began"
    assert [e.step for e in events if isinstance(e, Progress)] == [9, 10, 11, 12]
    curves = {read_json(folder / "run.json")["recipe"]["name"]: loss_curve(folder) for folder in list_runs(settings)}
    assert curves["tiny"] == curves["whole"]


def test_a_resume_elsewhere_says_that_last_digits_differ(
    settings: Settings, recipe: TextRecipe, monkeypatch: pytest.MonkeyPatch
):
    until(5, settings, recipe)
    other = replace(MACHINE, threads=2)
    monkeypatch.setattr(story, "know_machine", lambda settings: (other, torch.device("cpu")))

    events = run(settings, recipe, resume=True)

    assert "on cpu with 1 threads: last digits will differ" in events[0].execution.why
    assert isinstance(events[-1], Done)


def test_a_resume_reads_its_checkpoint_for_damage_once(
    settings: Settings, recipe: TextRecipe, monkeypatch: pytest.MonkeyPatch
):
    """The newest one of two is damaged: that is found and told once, and each is hashed once."""
    until(9, settings, recipe)
    (folder,) = list_runs(settings)
    kept = checkpoint_module.checkpoint_folders(folder / "checkpoints")
    (kept[-1] / "model.safetensors").write_bytes(b"damaged")
    looked: list[str] = []
    problem_of = checkpoint_module.problem_of

    def looking(folder: Path) -> str:
        looked.append(folder.name)
        return problem_of(folder)

    monkeypatch.setattr(checkpoint_module, "problem_of", looking)

    events = run(settings, recipe, resume=True)

    assert looked == [kept[-1].name, kept[-2].name]
    (note,) = [e.text for e in events if isinstance(e, Note)]
    assert f"Checkpoint {kept[-1].name} is passed over" in note


def test_a_resume_without_a_new_best_makes_no_new_version(
    settings: Settings, recipe: TextRecipe, monkeypatch: pytest.MonkeyPatch
):
    """Eight more steps, of which none is best: the model stays what it was; then the last one is."""
    recipe = replace(recipe, train=replace(recipe.train, keep_last=9))
    monkeypatch.setattr(train_text, "best_checkpoint", lambda root, scores: root / "step-00000012")

    ends = [run(settings, recipe)[-1], *(run(settings, _longer(recipe, n), resume=True)[-1] for n in (16, 20))]

    assert [(end.version, end.model_step, end.step) for end in ends] == [(1, 12, 12), (1, 12, 16), (1, 12, 20)]
    monkeypatch.setattr(train_text, "best_checkpoint", lambda root, scores: root / "step-00000024")
    assert run(settings, _longer(recipe, 24), resume=True)[-1].version == 2
    with open_platform(settings) as platform:
        assert [m.version for m in list_models(platform)] == [1, 2]


def _longer(recipe: TextRecipe, steps: int) -> TextRecipe:
    return replace(recipe, train=replace(recipe.train, steps=steps, eval_steps=0))


def test_a_run_that_another_trains_is_not_touched(settings: Settings, recipe: TextRecipe):
    """The lock comes before anything of the run is read or renamed."""
    until(5, settings, recipe)
    (folder,) = list_runs(settings)
    before = sorted(folder.rglob("*"))

    with hold_run(folder), pytest.raises(Conflict, match="being trained by another process"):
        run(settings, recipe, resume=True)

    assert sorted(folder.rglob("*")) == before


def test_the_same_text_is_packed_once(settings: Settings, recipe: TextRecipe):
    said: list[str] = []
    run(settings, recipe, report=lambda what, done, total: said.append(what))
    told = len(said)

    run(settings, replace(recipe, name="again"), report=lambda what, done, total: said.append(what))

    assert "training the tokenizer" in said[:told] and "training the tokenizer" not in said[told:]
    assert len(list(settings.shards.glob("shards-*"))) == 1


def test_one_process_or_a_launchers_place_starts_nobody(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail("a process was started"))
    with together(1) as leads:
        assert leads
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with together(2) as leads:
        assert not leads


RANKS = """
import sys
from pathlib import Path
from cerulea.core.settings import Settings
from cerulea.core.values import Checkpoint
from cerulea.flows.here import train_here
from cerulea.train.recipe import read_recipe

recipe = read_recipe(Path(sys.argv[1]), changes=sys.argv[3].split())
settings = Settings(home=Path(sys.argv[2]), threads=1, device="cpu")
kinds = [type(event).__name__ for event in train_here(settings, recipe, resume="resume" in sys.argv)]
print(kinds.count("Progress"), kinds.count("Checkpoint"), kinds[-1])
"""


def test_two_processes_train_what_one_does(settings: Settings, tiny_recipe: Path, tmp_path: Path):
    """Launched as torchrun would, then resumed by two; judge: one process. Only the leader saves and ends with Done."""
    keys = "train.micro_batch_tokens=64 train.precision=fp32"  # in bf16 another order of sums shows sooner
    home = tmp_path / "two"
    parts = [_ranks(tiny_recipe, home, f"{keys} train.steps={steps}", *more) for steps, *more in ((8,), (12, "resume"))]

    run(settings, read_recipe(tiny_recipe, changes=[*keys.split(), "train.steps=8"]))
    run(settings, read_recipe(tiny_recipe, changes=[*keys.split(), "train.steps=12"]), resume=True)

    assert [[line.split()[0] for line in part] for part in parts] == [["8", "8"], ["4", "4"]]
    assert all(leader.endswith("Done") and other.split()[1] == "0" for leader, other in parts)
    (one,), (two,) = list_runs(settings), list_runs(Settings(home=home))
    assert [step for step, _ in loss_curve(two)] == list(range(1, 13))
    assert [loss for _, loss in loss_curve(two)] == pytest.approx([loss for _, loss in loss_curve(one)], rel=1e-4)
    assert checkpoint_module.checkpoint_folders(two / "checkpoints")[-1].name == "step-00000012"


def _ranks(recipe: Path, home: Path, changes: str, *more: str) -> list[str]:
    """What each of two processes printed last."""
    words = [sys.executable, "-c", RANKS, str(recipe), str(home), changes, *more]
    meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    started = [
        subprocess.Popen(
            words,
            env={**os.environ, **meeting, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    ended = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [0, 0], ended
    return [out.splitlines()[-1] for out, _ in ended]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_what_a_run_saves_is_told_in_order(settings: Settings, recipe: TextRecipe):
    saved = [e.step for e in run(settings, recipe) if isinstance(e, Checkpoint)]

    assert saved == sorted(saved) and saved[-1] == 12
