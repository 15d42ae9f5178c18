"""`cerulea train`: a job that runs here and now, in this process, through the same fund, queue and registry.

In:      a recipe.
Out:     what the run yields, and Done: the model, why it stopped, what it cost.
Kept:    the job is pinned: no other worker takes it, whatever becomes of this process.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

from cerulea.core.errors import Conflict
from cerulea.core.money import cost, show
from cerulea.core.settings import Settings
from cerulea.core.values import PlayProgress, Progress, Usage
from cerulea.flows.link import Link
from cerulea.flows.model_folders import check_plays, find_model
from cerulea.flows.perform import perform
from cerulea.flows.platform import HOME, Platform, open_platform
from cerulea.flows.runs import hold_run, unfinished_run
from cerulea.flows.story import Event, Spent, Trained
from cerulea.flows.train import new_run_name, train
from cerulea.flows.work import Desk
from cerulea.games.catalog import find_maker
from cerulea.jobs.job import HELD, Job, NewJob, Status
from cerulea.jobs.protocol import Ending
from cerulea.store.database import Tx
from cerulea.train.recipe import Recipe, TextRecipe

SPENT_S = 1.0  # between looks at what a run has cost
SCORES = (
    "bits_per_byte",
    "loss",
    "rating",
    "low",
    "high",
    "win_shares",
    "timeouts",
    "episode_return",
    "game",
    "game_version",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The end of a run: its model, why it stopped, what it took and cost."""

    run: str
    job: str
    model: str
    version: int
    stop_reason: str
    step: int
    model_step: int  # of the checkpoint that became the model
    train_s: float
    score: dict[str, Any]  # how good it is: bits_per_byte and loss of a text, rating with low and high of an agent
    usage: Usage
    cost: str  # decimal, in the fund's currency
    fund: str


def train_here(
    settings: Settings,
    recipe: Recipe,
    *,
    fund: str | None = None,
    resume: bool = False,
    processes: int = 1,
    began: float | None = None,
    report: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Iterator[Event | Done]:
    """Train a recipe to a model.

    Args:
        fund: whose money pays; the team's own by default.
        resume: go on with the newest unfinished run of this name.
        began: `time.monotonic()` of the command's start.
        report: told (what, done, total) during tokenizing and packing.
    """
    if os.environ.get("RANK", "0") != "0":
        # Another process of the team leads: it has the job, this one has its part of the sums.
        yield from train(settings, recipe, resume=resume, began=began, report=report)
        return
    if not isinstance(recipe, TextRecipe):
        find_maker(recipe.game.name)  # before there is a job: a name that is wrong leaves nothing behind
    with open_platform(settings) as platform:
        desk, recipe = Desk(platform), with_folder(platform, recipe)
        begin = _resumed(platform, desk, recipe, processes) if resume else _submitted(platform, recipe, fund, processes)
        worker = f"here-{os.getpid()}-{secrets.token_hex(3)}"
        # No kinds: the scheduler has nothing for it.
        desk.enlist(worker, name="cerulea train", slots=processes, device="cpu", kinds=())
        try:
            job = desk.start_here(begin, worker, processes)
            link = Link(desk, desk.assignment(job))
            link.start()
            told = 0.0
            for event in perform(link, settings, began=began, report=report):
                if not isinstance(event, (Ending, Trained)):
                    yield event
                if isinstance(event, (Progress, PlayProgress)) and monotonic() - told > SPENT_S:
                    told = monotonic()
                    yield Spent(f"{show(cost(link.report.usage.as_json(), link.order.rates))} so far")
        finally:
            platform.workers.mark(worker, "gone")
        yield _done(platform.queue.get(job.id))


def with_folder(platform: Platform, recipe: Recipe) -> Recipe:
    """The recipe with the folder of the agent that it begins with, where it names a model.

    Raises:
        NotFound: neither a folder nor a model; names the nearest.
        ModelKindWrong: no agent.
    """
    if isinstance(recipe, TextRecipe) or not recipe.model.init or Path(recipe.model.init).expanduser().is_dir():
        return recipe
    model = find_model(platform, recipe.model.init)
    check_plays(model)
    return replace(recipe, model=replace(recipe.model, init=str(model.folder.absolute())))


def _submitted(
    platform: Platform, recipe: Recipe, fund: str | None, processes: int, *, run: str | None = None
) -> Callable[[Tx], Job]:
    new = NewJob(
        kind=recipe.kind,
        name=recipe.name,
        recipe=recipe.as_json(),
        recipe_digest=recipe.digest(),
        team=HOME,
        fund=fund or HOME,
        person="owner",
        slots=processes,
        max_retries=0,
        run=run or new_run_name(recipe.name),
        pinned=1,
    )
    if fund is not None:
        platform.ledger.open_purse(fund, HOME)
    return lambda tx: platform.queue.put(new, tx=tx)


def _resumed(platform: Platform, desk: Desk, recipe: Recipe, processes: int) -> Callable[[Tx], Job]:
    """The job of the newest unfinished run of this name, to wait again when it is asked for.

    Raises:
        NotFound: there is no such run.
        Conflict: it is finished, or another process trains it now.
    """
    folder: Path = unfinished_run(platform.settings, recipe)
    with hold_run(folder):  # nobody trains it: whoever did is gone
        job = platform.queue.of_run(folder.name)
    if job is None:
        return _submitted(platform, recipe, None, processes, run=folder.name)
    if job.status in HELD:
        if not job.pinned:
            raise Conflict(
                f"Run {folder.name} is job {job.id} of the queue, and a worker has it.",
                fix=f"Watch it: cerulea watch {job.id}, or stop it: cerulea cancel {job.id}",
            )
        job = desk.lose(job, "The process that trained it is gone.")
    news: dict[str, Any] = {
        "recipe": recipe.as_json(),
        "recipe_digest": recipe.digest(),
        "pinned": 1,
        "slots": processes,
    }
    if job.status == Status.QUEUED:
        return lambda tx: platform.queue.revise(job.id, actor="owner", tx=tx, **news)
    return lambda tx: platform.queue.requeue(job.id, reason="resume", actor="owner", tx=tx, **news)


def _done(job: Job) -> Done:
    result = job.result
    return Done(
        run=job.run,
        job=job.id,
        model=str(result.get("model", "")),
        version=int(result.get("version", 0)),
        stop_reason=str(result.get("stop_reason", job.reason)),
        step=int(result.get("step", job.step)),
        model_step=int(result.get("model_step", 0)),
        train_s=float(result.get("train_s", 0.0)),
        score={key: result[key] for key in SCORES if key in result},
        usage=job.usage,
        cost=show(job.charged),
        fund=job.fund,
    )
