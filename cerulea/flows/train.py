"""How a recipe becomes a checkpoint: corpus → tokenizer → shards → training → the best checkpoint.

Read `train` from top to bottom. It yields what happens, one value after the other; whoever asks decides what to
show (`cli.view`) and may cease to ask.
Not here: money, leases and names of models (`flows.perform` and `flows.work`).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, strftime
from types import FrameType
from typing import Any

import torch

from cerulea.core.errors import Failed
from cerulea.core.files import read_json, sha256_file
from cerulea.core.settings import Settings
from cerulea.core.values import Checkpoint, Evaluation, Progress, Usage
from cerulea.flows.machine import know_execution, know_machine
from cerulea.flows.runs import begin_record, hold_run
from cerulea.nn.decoder import Decoder
from cerulea.nn.precision import Execution, Machine, choose_execution, fitting_tokens
from cerulea.text.corpus import Corpus, Split, open_corpus
from cerulea.text.shards import Shards, pack, training_texts
from cerulea.text.tokenizer import Tokenizer, bytes_tokenizer, gpt2_tokenizer, load_tokenizer, train_bpe
from cerulea.train.checkpoint import MANIFEST, best_checkpoint, newest_checkpoint, problem_of
from cerulea.train.parallel import Team, join_team, leave_team
from cerulea.train.recipe import TextRecipe
from cerulea.train.record import now, update_record
from cerulea.train.text import train_text

# Any other reason is a signal's: such a run is not finished and can be resumed.
END_REASONS = ("steps", "tokens", "epochs", "minutes", "target", "patience")


@dataclass(frozen=True, slots=True)
class Started:
    """A run is about to take its first step."""

    run: str
    folder: Path
    recipe: TextRecipe
    execution: Execution
    parameters: int
    train_tokens: int
    valid_bytes: int
    resumed: Checkpoint | None  # where it goes on from


@dataclass(frozen=True, slots=True)
class Note:
    """One sentence that a person should read."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A run has stopped: which checkpoint is best, and what it took."""

    run: str
    best: Path  # the checkpoint's folder
    digest: str  # of that checkpoint
    card: dict[str, Any]
    stop_reason: str
    finished: bool  # it reached its end; otherwise it was asked to stop and can go on
    step: int
    model_step: int  # of the best checkpoint
    train_s: float
    usage: Usage


Event = Started | Note | Progress | Evaluation | Checkpoint | Trained


def train(
    settings: Settings,
    recipe: TextRecipe,
    *,
    folder: Path | None = None,
    resume: bool = False,
    should_stop: Callable[[], str] = lambda: "",
    began: float | None = None,
    report: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Iterator[Event]:
    """Train a recipe to a checkpoint; the last event is Trained, on the process that leads.

    Args:
        folder: of the run; a new one by default. Processes that do not lead take the leader's.
        resume: go on from the newest checkpoint in that folder that verifies.
        should_stop: asked after each step; a reason ends the run with a checkpoint. So does SIGTERM or Ctrl-C.
        began: `time.monotonic()` of the command's start.
        report: told (what, done, total) during tokenizing and packing.
    """
    began = monotonic() if began is None else began
    machine, device = know_machine(settings)
    team = join_team(device)
    notes: list[str] = []
    with contextlib.ExitStack() as held:
        held.callback(leave_team)
        # Only the leader reads the corpus; the others then find it packed.
        if not team.leads:
            team.meet()
        tokenizer, shards = prepare(settings, recipe, report)
        if team.leads:
            team.meet()
        resume = _leaders(team, resume)
        folder = _leaders(team, folder or settings.runs / new_run_name(recipe.name))
        assert folder is not None
        if team.leads:
            # Before the newest checkpoint is looked for: another process must not add one after that.
            held.enter_context(hold_run(folder))
        verified = newest_checkpoint(folder / "checkpoints", notes.append) if resume and team.leads else None
        execution = _execution(settings, recipe, tokenizer, shards, machine, device, team, verified)
        verified = _leaders(team, verified)
        for warning in contradictions(recipe, shards):
            yield Note(warning)
        yield Started(
            folder.name,
            folder,
            recipe,
            execution,
            recipe.shape(tokenizer.vocab).parameters(),
            sum(len(t) for t in shards.train),
            shards.valid_bytes,
            verified,
        )
        with _stop_signals() as asked:
            if team.leads:
                begin_record(folder, recipe, shards, execution, resume)
            run = train_text(
                recipe,
                shards,
                tokenizer,
                folder,
                execution,
                resume=resume,
                verified=verified,
                team=team,
                should_stop=lambda: asked() or should_stop(),
                began=began,
                say=notes.append,
            )
            last: Checkpoint | None = None
            try:
                for event in run:
                    while notes:
                        yield Note(notes.pop(0))
                    last = event if isinstance(event, Checkpoint) else last
                    yield event
            except BaseException as error:
                if team.leads and not isinstance(error, GeneratorExit):
                    update_record(folder, stop_reason=f"error: {str(error) or type(error).__name__}", stopped=now())
                if team.ranks > 1 and isinstance(error, RuntimeError) and lost_another(error):
                    raise Failed(
                        "Another process of the run has ended, so that this one cannot go on.",
                        why="What it said is above; the last checkpoint is whole.",
                        fix="Run the same command with --resume.",
                    ) from error
                if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
                    raise Failed(
                        f"The memory is full: {error or 'no more can be had'}.",
                        fix="Use less at once, or a smaller model: "
                        f"--set train.micro_batch_tokens={execution.micro_batch_tokens // 2}",
                    ) from error
                raise
            finally:
                run.close()  # type: ignore[attr-defined]
        if team.leads:
            assert last is not None, "a run ends with a checkpoint"
            yield _trained(folder, last)


def prepare(
    settings: Settings, recipe: TextRecipe, report: Callable[[str, int, int], None] = lambda what, done, total: None
) -> tuple[Tokenizer, Shards]:
    """The recipe's tokenizer and packed shards, from CERULEA_HOME where nothing changed since."""
    corpora = [open_corpus(entry, recipe.data.field) for entry in recipe.data.train]
    held_out = [open_corpus(entry, recipe.data.field) for entry in recipe.data.valid]
    split = Split(
        fraction=0.0 if held_out or recipe.data.valid_tail else recipe.data.valid_fraction,
        tail=recipe.data.valid_tail,
    )
    tokenizer = _tokenizer(settings, recipe, corpora, split, held_out, report)
    place = _digest("shards", tokenizer.digest, split, corpora, held_out)
    shards = pack(
        corpora,
        split,
        held_out,
        tokenizer,
        settings.shards / place,
        weights=tuple(recipe.data.weights),
        context=recipe.model.context,
        report=lambda done, total: report("packing", done, total),
    )
    return tokenizer, shards


def _tokenizer(
    settings: Settings,
    recipe: TextRecipe,
    corpora: list[Corpus],
    split: Split,
    held_out: list[Corpus],
    report: Callable[[str, int, int], None],
) -> Tokenizer:
    keys = recipe.tokenizer
    if keys.kind == "bytes":
        return bytes_tokenizer()
    if keys.kind == "gpt2":
        return gpt2_tokenizer(Path(keys.folder).expanduser())
    if keys.kind == "hf":
        return load_tokenizer(Path(keys.folder).expanduser())
    stamps = [c.stamp() for c in (*corpora, *held_out)]
    folder = settings.shards / _digest("tokenizer", keys.vocab, stamps, split, recipe.data.field)
    if (folder / "tokenizer.json").exists():
        return load_tokenizer(folder)
    report("training the tokenizer", 0, 0)
    tokenizer = train_bpe(training_texts(corpora, split, held_out), keys.vocab)
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    tokenizer.save(temporary)
    with contextlib.suppress(OSError):  # another process was first with the same tokenizer
        temporary.rename(folder)
    return tokenizer


def _digest(*parts: object) -> str:
    return f"{parts[0]}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}"


def lost_another(error: RuntimeError) -> bool:
    """Whether torch.distributed tells that a peer is gone; it has no error class of its own for that on gloo."""
    return any(sign in str(error) for sign in ("peer", "onnection", "worker hanging", "NCCL"))


def contradictions(recipe: TextRecipe, shards: Shards) -> list[str]:
    """What a person might not have meant, as sentences."""
    found = []
    if (cut := shards.meta["cut_documents"]) and not recipe.data.valid_tail:
        share = f"{recipe.data.valid_fraction:.1%}"
        found.append(f"{cut} documents are too few to choose from: the last {share} of each is held out.")
    return found


def _execution(
    settings: Settings,
    recipe: TextRecipe,
    tokenizer: Tokenizer,
    shards: Shards,
    machine: Machine,
    device: torch.device,
    team: Team,
    checkpoint: Checkpoint | None,
) -> Execution:
    """How to compute: as the checkpoint did, or as a probe finds best; the leader's choice holds for all."""
    keys, context = recipe.train, recipe.model.context
    shape = recipe.shape(tokenizer.vocab)
    micro = keys.micro_batch_tokens or fitting_tokens(shape, device, machine.memory_bytes, keys.batch_tokens)
    chosen: list[Execution] = []
    if checkpoint is not None:
        then = read_json(checkpoint.folder / "state.json")["execution"]
        why = "as the run began"
        if (then["device"], then["threads"]) != (machine.device, machine.threads):
            why += f", but on {then['device']} with {then['threads']} threads: last digits will differ"
        peak = machine.peak_flops(then["precision"])
        kept = {"device": machine.device, "threads": machine.threads, "peak_flops": peak, "why": why}
        chosen.append(Execution(**{**then, **kept}))
    elif team.leads:
        limits = (
            keys.tokens,
            keys.steps * keys.batch_tokens,
            keys.epochs * sum(len(tokens) for tokens in shards.train),
        )
        expected_tokens = min((limit for limit in limits if limit), default=0)

        def choose() -> Execution:
            return choose_execution(
                machine,
                device,
                lambda: Decoder(shape).to(device).train(),
                context,
                micro,
                precision=keys.precision,
                compile_=keys.compile,
                expected_tokens=expected_tokens,
                expected_s=60 * keys.minutes,
            )

        what = (machine.device, machine.threads, shape, context, micro, keys.precision, keys.compile)
        chosen.append(know_execution(settings, (*what, expected_tokens, keys.minutes), choose))
    shared: Execution = _leaders(team, chosen[0] if chosen else None)
    return shared


def _trained(folder: Path, last: Checkpoint) -> Trained:
    """What came out: the best checkpoint, with its score on its card."""
    root = folder / "checkpoints"
    state = read_json(last.folder / "state.json")["run"]
    best = best_checkpoint(root, state["scores"])
    if best is None or problem_of(best):
        best = last.folder
    step = int(best.name[5:])
    card = read_json(best / "card.json")
    if card.get("bits_per_byte") is None:
        card["bits_per_byte"] = state["scores"].get(str(step))
    digest = sha256_file(best / MANIFEST)
    card["extra"] = {**card.get("extra", {}), "run": folder.name, "step": step, "digest": digest}
    reason = state["stop_reason"]
    usage = Usage(trained_tokens=state["tokens"], device_ms=int(1000 * state["elapsed_s"]))
    finished = reason in END_REASONS
    update_record(
        folder,
        stop_reason=reason,
        finished=finished,
        stopped=now(),
        usage=usage.as_json(),
        train_s=round(state["elapsed_s"], 3),
    )
    return Trained(
        run=folder.name,
        best=best,
        digest=digest,
        card=card,
        stop_reason=reason,
        finished=finished,
        step=state["step"],
        model_step=step,
        train_s=state["elapsed_s"],
        usage=usage,
    )


@contextlib.contextmanager
def _stop_signals() -> Iterator[Callable[[], str]]:
    """SIGTERM and Ctrl-C become a reason to stop after the step; a second Ctrl-C stops at once."""
    reasons: list[str] = []

    def note(number: int, frame: FrameType | None) -> None:
        if reasons and number == signal.SIGINT:
            raise KeyboardInterrupt
        reasons.append(signal.Signals(number).name)

    before: dict[int, Any] = {}
    # Handlers can be set in the main thread alone; elsewhere the caller stops by ceasing to ask.
    with contextlib.suppress(ValueError):
        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.signal(number, note)
    try:
        yield lambda: reasons[0] if reasons else ""
    finally:
        for caught, handler in before.items():
            signal.signal(caught, handler)


def new_run_name(name: str) -> str:
    """`brook-20261123-071500-3fa9`: sorts by time, and no two are the same."""
    return f"{name}-{strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def _leaders(team: Team, value: Any) -> Any:
    """What the leader has; every other process waits for it."""
    box = [value]
    if team.ranks > 1:
        torch.distributed.broadcast_object_list(box)
    return box[0]
