"""How a recipe becomes a checkpoint: what is read, training, the best checkpoint; one story for every kind of recipe.

Read `train` from top to bottom. It yields what happens, one value after the other; whoever asks decides what to
show (`cli.view`) and may cease to ask.
Not here: what differs between kinds (`flows.train_text`, `flows.train_play`); money, leases and names of models
(`flows.perform` and `flows.work`).
"""

from __future__ import annotations

import contextlib
import secrets
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, strftime
from types import FrameType
from typing import Any

import torch

from cerulea.core.errors import Failed
from cerulea.core.files import sha256_file
from cerulea.core.settings import Settings
from cerulea.core.values import Checkpoint
from cerulea.flows.machine import know_machine
from cerulea.flows.runs import begin_record, hold_run
from cerulea.flows.story import Event, Note, Started, Story, Trained
from cerulea.train.checkpoint import MANIFEST, newest_checkpoint
from cerulea.train.parallel import join_team, leave_team
from cerulea.train.recipe import Recipe, TextRecipe
from cerulea.train.record import now, update_record


def story_of(settings: Settings, recipe: Recipe) -> Story:
    """The story of a recipe's kind."""
    if isinstance(recipe, TextRecipe):
        from cerulea.flows.train_text import TextStory

        return TextStory(settings, recipe)
    from cerulea.flows.train_play import PlayStory

    return PlayStory(settings, recipe)


def train(
    settings: Settings,
    recipe: Recipe,
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
        report: told (what, done, total) while things are made ready.
    """
    began = monotonic() if began is None else began
    machine, device = know_machine(settings)
    team = join_team(device)
    story = story_of(settings, recipe)
    notes: list[str] = []
    with contextlib.ExitStack() as held:
        held.callback(leave_team)
        # Only the leader reads the corpus; the others then find it packed.
        if not team.leads:
            team.meet()
        story.prepare(report)
        if team.leads:
            team.meet()
        resume = team.leaders(resume)
        folder = team.leaders(folder or settings.runs / new_run_name(recipe.name))
        assert folder is not None
        if team.leads:
            # Before the newest checkpoint is looked for: another process must not add one after that.
            held.enter_context(hold_run(folder))
        verified = newest_checkpoint(folder / "checkpoints", notes.append) if resume and team.leads else None
        # The kind chooses before the others learn of it: only the leader knows what it goes on from.
        execution = story.begin(machine, device, team, verified)
        verified = team.leaders(verified)
        for warning in story.warnings():
            yield Note(warning)
        facts = {**story.facts, "processes": team.ranks}
        yield Started(folder.name, folder, recipe, execution, story.parameters, facts, verified)
        with _stop_signals() as asked:
            if team.leads:
                begin_record(folder, recipe, story.record, execution, resume)
            run = story.steps(
                folder,
                resume=resume,
                verified=verified,
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
                        fix=f"Use less at once, or a smaller model: {story.smaller()}",
                    ) from error
                raise
            finally:
                run.close()  # type: ignore[attr-defined]
        if team.leads:
            assert last is not None, "a run ends with a checkpoint"
            yield _trained(story, folder, last)


def lost_another(error: RuntimeError) -> bool:
    """Whether torch.distributed tells that a peer is gone; it has no error class of its own for that on gloo."""
    return any(sign in str(error) for sign in ("peer", "onnection", "worker hanging", "NCCL"))


def _trained(story: Story, folder: Path, last: Checkpoint) -> Trained:
    """What came out, written into the record."""
    outcome = story.outcome(folder, last)
    step = int(outcome.best.name[5:])
    digest = sha256_file(outcome.best / MANIFEST)
    extra = {**outcome.card.get("extra", {}), "run": folder.name, "step": step, "digest": digest}
    finished = outcome.stop_reason in story.end_reasons
    update_record(
        folder,
        stop_reason=outcome.stop_reason,
        finished=finished,
        stopped=now(),
        usage=outcome.usage.as_json(),
        train_s=round(outcome.train_s, 3),
    )
    return Trained(
        run=folder.name,
        best=outcome.best,
        digest=digest,
        card={**outcome.card, "extra": extra},
        stop_reason=outcome.stop_reason,
        finished=finished,
        step=outcome.step,
        model_step=step,
        train_s=outcome.train_s,
        usage=outcome.usage,
        score=outcome.score,
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
