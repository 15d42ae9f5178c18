"""A whole run in this process: resume, ranks, stop rules, planted faults."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest
import torch

from cerulea.core.errors import CheckpointNotWritten, RecipeInvalid, ResumeMismatch
from cerulea.core.values import Checkpoint, Evaluation, Progress
from cerulea.nn.decoder import Decoder
from cerulea.nn.precision import Execution
from cerulea.text.corpus import Split, open_corpus
from cerulea.text.shards import Shards, pack
from cerulea.text.tokenizer import Tokenizer, train_bpe
from cerulea.train import checkpoint as checkpoint_module
from cerulea.train.recipe import TextRecipe, read_recipe
from cerulea.train.record import read_metrics
from cerulea.train.text import train_text

from ..conftest import prose

EXECUTION = Execution(
    device="cpu", precision="fp32", compile=False, threads=1, peak_flops=1e11, micro_batch_tokens=256, why="a test"
)


@pytest.fixture
def tokenizer() -> Tokenizer:
    return train_bpe(iter([prose(i, 500) for i in range(20)]), 300)


@pytest.fixture
def shards(corpus_folder: Path, tmp_path: Path, tokenizer: Tokenizer) -> Shards:
    return pack([open_corpus(str(corpus_folder))], Split(fraction=0.2), [], tokenizer, tmp_path / "packed", context=32)


def change(recipe: TextRecipe, **train: Any) -> TextRecipe:
    return replace(recipe, train=replace(recipe.train, **train))


def run(recipe: Path | TextRecipe, shards: Shards, tokenizer: Tokenizer, folder: Path, **keywords: Any) -> Iterator:
    plan = read_recipe(recipe) if isinstance(recipe, Path) else recipe
    return train_text(plan, shards, tokenizer, folder, EXECUTION, **keywords)


def losses(folder: Path) -> list[tuple[int, float]]:
    return [(m["step"], m["loss"]) for m in read_metrics(folder / "metrics.jsonl") if m["event"] == "progress"]


def weights(folder: Path) -> bytes:
    newest = checkpoint_module.checkpoint_folders(folder / "checkpoints")[-1]
    return (newest / "model.safetensors").read_bytes() + (newest / "optim.safetensors").read_bytes()


def test_a_run_yields_steps_scores_and_checkpoints_in_order(
    tiny_recipe: Path, shards: Shards, tokenizer: Tokenizer, tmp_path: Path
):
    events = list(run(tiny_recipe, shards, tokenizer, tmp_path / "run"))

    assert [e.step for e in events if isinstance(e, Progress)] == list(range(1, 13))
    assert [e.step for e in events if isinstance(e, Evaluation)] == [6, 12]
    saved = [e for e in events if isinstance(e, Checkpoint)]
    assert [c.step for c in saved] == [4, 6, 8, 12], "every four steps, and at each new best"
    assert saved[-1].card.bits_per_byte == next(e for e in events[::-1] if isinstance(e, Evaluation)).bits_per_byte
    first, last = losses(tmp_path / "run")[0][1], losses(tmp_path / "run")[-1][1]
    assert first == pytest.approx(math.log(300), abs=0.01)
    assert last < first - 0.5


def test_the_first_losses_of_a_seed_are_golden(tiny_recipe: Path, shards: Shards, tokenizer: Tokenizer, tmp_path: Path):
    """A change of these numbers is a change of what recipes mean: say so in the changelog."""
    list(run(tiny_recipe, shards, tokenizer, tmp_path / "run"))

    found = [loss for _, loss in losses(tmp_path / "run")]
    assert found == pytest.approx(GOLDEN, rel=2e-3)


GOLDEN = [
    *(5.70378, 5.68231, 5.62908, 5.56268, 5.43316, 5.24072),
    *(4.98274, 4.74389, 4.37737, 4.18270, 3.85306, 3.77103),
]


@pytest.mark.parametrize("preset", ["gpt2", "compat", "modern"])
def test_a_run_cut_off_anywhere_and_resumed_is_the_same_bit_for_bit(
    preset: str, tiny_recipe: Path, shards: Shards, tokenizer: Tokenizer, tmp_path: Path
):
    """Stopped by ceasing to ask after 2, 5 and 9 steps, with dropout."""
    plan = change(read_recipe(tiny_recipe, changes=[f"model.preset={preset}"]), dropout=0.2)
    list(run(plan, shards, tokenizer, tmp_path / "whole"))
    folder = tmp_path / "cut"
    for stop in (2, 5, 9):
        part = run(plan, shards, tokenizer, folder, resume=stop != 2)
        for event in part:
            if isinstance(event, Progress) and event.step == stop:
                break
        part.close()

    list(run(plan, shards, tokenizer, folder, resume=True))

    assert losses(folder) == losses(tmp_path / "whole")
    assert weights(folder) == weights(tmp_path / "whole")


def test_a_reason_to_stop_ends_the_run_with_a_checkpoint(
    tiny_recipe: Path, shards: Shards, tokenizer: Tokenizer, tmp_path: Path
):
    asked = iter(["", "", "SIGTERM"])

    events = list(run(tiny_recipe, shards, tokenizer, tmp_path / "run", should_stop=lambda: next(asked)))

    assert isinstance(events[-1], Checkpoint)
    assert events[-1].step == 3


@pytest.mark.parametrize(
    ("keys", "reason", "steps"),
    [
        ({"steps": 0, "tokens": 1000}, "tokens", 4),
        ({"steps": 0, "epochs": 0.05}, "epochs", None),
        ({"target_bits_per_byte": 100.0, "eval_steps": 3}, "target", 3),
        ({"patience": 2, "eval_steps": 1, "learning_rate": 1e-12, "head_rate": 1e-12, "steps": 10}, "patience", 3),
    ],
)
def test_stop_rules(
    keys: dict, reason: str, steps: int | None, tiny_recipe: Path, shards: Shards, tokenizer: Tokenizer, tmp_path: Path
):
    plan = change(read_recipe(tiny_recipe), **keys)
    if reason == "patience":
        plan = change(plan, embedding_rate=1e-12, vector_rate=1e-12)

    events = list(run(plan, shards, tokenizer, tmp_path / "run"))

    state = checkpoint_module.load_resume(events[-1].folder)[1]["run"]
    assert state["stop_reason"] == reason
    if steps is not None:
        assert state["step"] == steps


def test_minutes_end_a_run_in_time(tiny_recipe: Path, shards: Shards, tokenizer: Tokenizer, tmp_path: Path):
    plan = change(read_recipe(tiny_recipe), steps=0, minutes=0.1)

    events = list(run(plan, shards, tokenizer, tmp_path / "run"))

    last = [e for e in events if isinstance(e, Progress)][-1]
    assert last.fraction > 0.9
    assert last.learning_rate < 0.5


def test_what_comes_before_the_first_step_takes_nothing_of_the_minutes(
    tiny_recipe: Path, shards: Shards, tokenizer: Tokenizer, tmp_path: Path
):
    """The command began longer ago than the hour that the run may take; a resume counts on from its steps."""
    plan = change(read_recipe(tiny_recipe), steps=0, minutes=60.0)
    late = monotonic() - 4000.0
    part = run(plan, shards, tokenizer, tmp_path / "run", began=late, should_stop=lambda: "SIGTERM")

    events = list(part)

    (first,) = (e for e in events if isinstance(e, Progress))
    assert first.elapsed_s > 4000 and first.fraction < 1 and first.learning_rate > 0
    state = checkpoint_module.load_resume(events[-1].folder)[1]["run"]
    assert 0 < state["stepping_s"] < state["elapsed_s"] - 3999
    again = run(plan, shards, tokenizer, tmp_path / "run", resume=True, began=late)
    second = next(e for e in again if isinstance(e, Progress))
    again.close()
    assert second.step == 2 and first.fraction < second.fraction < 1


def test_a_planted_nan_is_skipped_and_logged(
    tiny_recipe: Path, shards: Shards, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The fifth loss is not a number: weights stay, the step is counted, the log says why."""
    loss, calls = Decoder.loss, []

    def planted(self: Decoder, token_BT: torch.Tensor, target_BT: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return loss(self, token_BT, target_BT) * (math.nan if len(calls) == 5 else 1.0)

    monkeypatch.setattr(Decoder, "loss", planted)

    events = [e for e in run(tiny_recipe, shards, tokenizer, tmp_path / "run") if isinstance(e, Progress)]

    assert [e.step for e in events if e.skipped] == [5]
    assert "not finite" in events[4].skipped
    assert all(math.isfinite(e.loss) for e in events if not e.skipped)
    logged = [m for m in read_metrics(tmp_path / "run" / "metrics.jsonl") if m.get("skipped")]
    assert len(logged) == 1


def test_a_full_disk_stops_the_run_and_the_last_checkpoint_stays(
    tiny_recipe: Path, shards: Shards, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write = checkpoint_module.write_file

    def full(path: Path, content: bytes) -> None:
        if path.parent.name.startswith("step-00000008"):
            raise OSError(28, "No space left on device")
        write(path, content)

    monkeypatch.setattr(checkpoint_module, "write_file", full)

    with pytest.raises(CheckpointNotWritten, match=r"step 8 .* No space left on device"):
        list(run(tiny_recipe, shards, tokenizer, tmp_path / "run"))

    monkeypatch.undo()
    events = list(run(tiny_recipe, shards, tokenizer, tmp_path / "run", resume=True))
    assert next(e for e in events if isinstance(e, Progress)).step == 7, "from the best one, of step 6"


def test_a_checkpoint_of_another_corpus_or_tokenizer_is_refused(
    tiny_recipe: Path, shards: Shards, tokenizer: Tokenizer, corpus_folder: Path, tmp_path: Path
):
    """It says what differs."""
    list(run(tiny_recipe, shards, tokenizer, tmp_path / "run"))
    (corpus_folder / "00.txt").write_text(prose(99, 400))
    corpora = [open_corpus(str(corpus_folder))]
    other = pack(corpora, Split(fraction=0.2), [], tokenizer, tmp_path / "packed2", context=32)
    with pytest.raises(ResumeMismatch, match="another corpus"):
        list(run(tiny_recipe, other, tokenizer, tmp_path / "run", resume=True))

    retrained = train_bpe(iter([prose(i, 500) for i in range(50, 60)]), 300)
    another = pack(corpora, Split(fraction=0.2), [], retrained, tmp_path / "packed3", context=32)
    with pytest.raises(ResumeMismatch, match="tokenizer"):
        list(run(tiny_recipe, another, retrained, tmp_path / "run", resume=True))


def test_keys_that_change_the_numbers_are_refused_and_stop_rules_may_change(
    tiny_recipe: Path, shards: Shards, tokenizer: Tokenizer, tmp_path: Path
):
    plan = read_recipe(tiny_recipe)
    asked = iter(["", "SIGTERM"])
    list(run(plan, shards, tokenizer, tmp_path / "run", should_stop=lambda: next(asked)))

    with pytest.raises(ResumeMismatch, match=r"train\.learning_rate \(0\.0, now 0\.5\)"):
        list(run(change(plan, learning_rate=0.5), shards, tokenizer, tmp_path / "run", resume=True))
    events = list(run(change(plan, steps=14), shards, tokenizer, tmp_path / "run", resume=True))
    assert events[-1].step == 14


def test_one_epoch_of_ranks_reads_what_one_process_reads(shards: Shards):
    """The rows of a step, dealt to two ranks, are the rows of one."""
    read = shards.reader(32, 1)

    assert np.array_equal(read(8, 8), np.concatenate([read(8, 4), read(12, 4)]))


def test_a_run_that_was_killed_after_its_last_checkpoint_has_nothing_left_to_do(
    tiny_recipe: Path, shards: Shards, tokenizer: Tokenizer, tmp_path: Path
):
    list(run(tiny_recipe, shards, tokenizer, tmp_path / "run"))
    before = losses(tmp_path / "run")

    events = list(run(tiny_recipe, shards, tokenizer, tmp_path / "run", resume=True))

    assert [type(e) for e in events] == [Checkpoint] and events[0].step == 12
    assert losses(tmp_path / "run") == before


def test_after_a_damaged_checkpoint_the_good_ones_are_kept(
    tiny_recipe: Path, shards: Shards, tokenizer: Tokenizer, tmp_path: Path
):
    """Step 12 is damaged: the run goes on from 8, and what it saves is there afterwards."""
    plan = change(read_recipe(tiny_recipe), keep_last=1, keep_best=0)
    list(run(change(plan, keep_last=3), shards, tokenizer, tmp_path / "run"))
    (tmp_path / "run" / "checkpoints" / "step-00000012" / "state.json").write_text("{}")
    said: list[str] = []

    saved = []
    for event in run(plan, shards, tokenizer, tmp_path / "run", resume=True, say=said.append):
        if isinstance(event, Checkpoint):
            assert event.folder.is_dir(), event.step
            saved.append(event.step)

    assert saved == [12]
    assert "step-00000012 is passed over" in said[0]
    assert checkpoint_module.problem_of(tmp_path / "run" / "checkpoints" / "step-00000012") == ""


def test_an_error_of_the_writing_thread_is_the_runs_error(
    tiny_recipe: Path, shards: Shards, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Whatever it is: never an older checkpoint in the name of a new one."""
    fill, calls = checkpoint_module.Snapshot.fill, []

    def broken(snapshot: Any, folder: Path) -> None:
        calls.append(1)
        if len(calls) > 1:
            raise MemoryError("no more")
        fill(snapshot, folder)

    monkeypatch.setattr(checkpoint_module.Snapshot, "fill", broken)

    with pytest.raises(MemoryError):
        list(run(tiny_recipe, shards, tokenizer, tmp_path / "run"))


def test_a_sample_prompt_longer_than_the_context_is_refused_at_the_start(
    tiny_recipe: Path, shards: Shards, tokenizer: Tokenizer, tmp_path: Path
):
    plan = change(read_recipe(tiny_recipe), sample_prompt="the sea " * 40)

    with pytest.raises(RecipeInvalid, match=r"train\.sample_prompt has"):
        next(run(plan, shards, tokenizer, tmp_path / "run"))
