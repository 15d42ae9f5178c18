"""Jobs as people deal with them: estimate, submit, look, cancel, resume, rerun.

In:      an open platform, a caller, a recipe as plain values.
Out:     Jobs; an Estimate of what one will take and cost.
Kept:    what is queued can be run: its recipe is checked here, without torch, before it is written. A job of another
         team does not exist for a caller who sees only his own. Each deed is in the log, in its own transaction.
Not here: money while it runs (`flows.work`), who runs next (`flows.conduct`), the wire (`api`).
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
from dataclasses import dataclass
from typing import Any

from cerulea.core.errors import Conflict, Invalid, JobKindUnknown, RecipeInvalid
from cerulea.core.money import Nanos, cost, show
from cerulea.flows.agent import KINDS
from cerulea.flows.estimate import Estimate, estimate_of
from cerulea.flows.fund import find_fund, find_team
from cerulea.flows.platform import Platform
from cerulea.flows.roots import check_paths
from cerulea.flows.work import Desk
from cerulea.games.catalog import refuse_imports
from cerulea.jobs.job import Job, NewJob
from cerulea.people import Caller
from cerulea.store.database import Tx
from cerulea.train.play_recipe import PlayRecipe
from cerulea.train.recipe import Recipe, recipe_from

LONGEST_RECIPE = 65_536  # characters of JSON
DEEPEST = 6  # tables in tables
LARGEST = 1 << 48  # of any number in a recipe
MOST_LAYERS = 4_096
PRIORITIES = range(-1000, 1001)
MOST_PROCESSES = 1_024


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A job as a person asks for it; what is None is chosen here."""

    recipe: dict[str, Any]
    name: str | None = None  # of the model, instead of the recipe's
    team: str | None = None  # the caller's own
    fund: str | None = None  # the team's own
    priority: int = 0
    processes: int = 1
    device: str | None = None  # cpu or cuda; what the workers have
    max_cost: Nanos | None = None
    on_budget: str = "resume"


def submit(platform: Platform, caller: Caller, wish: Wish, *, key: str | None = None, tx: Tx | None = None) -> Job:
    """Queue a job; with a key that came before, the job of then.

    Raises:
        RecipeInvalid, JobKindUnknown: nobody could run it.
        NotFound: no such team or fund; names the nearest.
        PathRefused: it names files that the caller may not.
        CorpusInvalid, TokenizerInvalid: it names files that no worker can find.
        KeyReused: the key came before with another job.
    """
    recipe = checked_recipe(wish)

    def work(tx: Tx) -> Job:
        team, fund = _payer(platform, caller, wish.team, wish.fund, tx)
        check_paths(platform.settings, caller, recipe, platform.clock.now(), tx)
        new = NewJob(
            kind=recipe.kind,
            name=recipe.name,
            recipe=recipe.as_json(),
            recipe_digest=recipe.digest(),
            team=team,
            fund=fund,
            person=caller.person,
            api_key=caller.key or None,
            priority=wish.priority,
            slots=wish.processes,
            device=wish.device or _device(tx),
            on_budget=wish.on_budget,
            max_cost=wish.max_cost,
        )
        return _put(platform, caller, new, key, "job.submit", tx)

    return platform.database.within(tx, work)


def rerun(platform: Platform, caller: Caller, job: str, *, key: str | None = None, tx: Tx | None = None) -> Job:
    """Queue the same recipe once more, as a new job of whoever asks.

    Raises:
        NotFound: no such job.
        PathRefused, CorpusInvalid, TokenizerInvalid: its files are not there, or not for whoever asks.
    """

    def work(tx: Tx) -> Job:
        first = platform.queue.get(job, teams=caller.teams, tx=tx)
        check_paths(platform.settings, caller, recipe_from(first.recipe), platform.clock.now(), tx)
        same = {f.name: getattr(first, f.name) for f in dataclasses.fields(NewJob)}
        changed = {
            "person": caller.person,
            "api_key": caller.key or None,
            "rerun_of": first.id,
            "run": None,
            "pinned": 0,
        }
        return _put(platform, caller, NewJob(**{**same, **changed}), key, "job.rerun", tx)

    return platform.database.within(tx, work)


def cancel(platform: Platform, caller: Caller, job: str, *, tx: Tx | None = None) -> Job:
    """Stop a job: one that waits ends at once, one that runs saves first.

    Raises:
        NotFound, EdgeRefused.
    """

    def work(tx: Tx) -> Job:
        found = platform.queue.get(job, teams=caller.teams, tx=tx)
        platform.people.record(caller.actor, "job.cancel", found.id, found.team, tx=tx)
        return Desk(platform).cancel(found.id, actor=caller.actor, detail=f"by {caller.person}", tx=tx)

    return platform.database.within(tx, work)


def resume(platform: Platform, caller: Caller, job: str, *, tx: Tx | None = None) -> Job:
    """Let a job that was paused, cancelled or failed go on from its last checkpoint.

    Raises:
        NotFound, EdgeRefused.
    """

    def work(tx: Tx) -> Job:
        found = platform.queue.get(job, teams=caller.teams, tx=tx)
        if found.pinned:
            raise Invalid(
                f"Job {found.id} runs only where it was started.",
                why="`cerulea train` keeps its job in its own process.",
                fix="Go on there: the same `cerulea train` command with --resume.",
            )
        platform.people.record(caller.actor, "job.resume", found.id, found.team, tx=tx)
        return platform.queue.requeue(found.id, reason="resume", actor=caller.actor, tx=tx)

    return platform.database.within(tx, work)


def estimate(platform: Platform, caller: Caller, wish: Wish) -> Estimate:
    """What a job will take and cost, before anybody queues it.

    Raises:
        as `submit`.
    """
    recipe = checked_recipe(wish)
    with platform.database.read() as tx:
        team, fund = _payer(platform, caller, wish.team, wish.fund, tx)
        check_paths(platform.settings, caller, recipe, platform.clock.now(), tx)
        device = wish.device or _device(tx)
        return estimate_of(platform, recipe, team=team, fund=fund, device=device, processes=wish.processes, tx=tx)


# -- looking -----------------------------------------------------------------------------------------


class Costs:
    """What jobs have cost so far: what was charged, and what was used since."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self._rates: dict[tuple[str, int], Any] = {}  # prices change with a day, so a day's are looked up once

    def of(self, job: Job) -> int:
        """Nano-units."""
        if job.token is None:
            return job.charged
        day = (job.device, job.submitted_at // 86_400_000)
        if day not in self._rates:
            self._rates[day] = self.platform.prices.rates(job.device, job.submitted_at)
        return max(job.charged, cost(job.usage.as_json(), self._rates[day]))


def position(platform: Platform, job: Job) -> int | None:
    """The place of a waiting job in its team's line, from 1; None where it does not wait."""
    if job.status != "QUEUED":
        return None
    with platform.database.read() as tx:
        ahead = tx.value(
            "SELECT count(*) FROM (SELECT 1 FROM job WHERE status = 'QUEUED' AND team = :team "
            "AND (priority > :priority OR (priority = :priority AND seq < :seq)) LIMIT 10000) AS ahead",
            team=job.team,
            priority=job.priority,
            seq=job.seq,
        )
    return int(ahead) + 1


# -- checking ----------------------------------------------------------------------------------------


def checked_recipe(wish: Wish) -> Recipe:
    """The recipe, every key of it checked.

    Raises:
        JobKindUnknown: nobody runs its kind.
        RecipeInvalid: anything else in it that cannot be.
        Invalid: what stands beside the recipe.
    """
    values = {**wish.recipe, **({} if wish.name is None else {"name": wish.name})}
    kind = values.get("kind", "text")
    if kind not in KINDS:
        near = difflib.get_close_matches(str(kind)[:50], KINDS, n=1, cutoff=0.4)
        raise JobKindUnknown(
            f"Nobody here runs jobs of kind {str(kind)[:50]!r}.",
            why=f"The nearest is {near[0]!r}." if near else f"What is run: {', '.join(KINDS)}.",
            fix=f'Set kind = "{KINDS[0]}" in the recipe.',
        )
    _check_plain(values)
    if wish.priority not in PRIORITIES:
        raise Invalid(f"The priority is {wish.priority}.", fix="Use -1000 to 1000; 0 is usual, higher goes first.")
    if not 1 <= wish.processes <= MOST_PROCESSES:
        raise Invalid(f"A job cannot have {wish.processes} processes.", fix=f"Use 1 to {MOST_PROCESSES}.")
    if wish.on_budget not in ("resume", "pause"):
        raise Invalid(f"on_budget is {wish.on_budget!r}.", fix="Use resume (go on when money comes) or pause.")
    recipe = recipe_from(values)
    if isinstance(recipe, PlayRecipe):
        refuse_imports(recipe.game.name)
    return recipe


def _check_plain(values: dict[str, Any]) -> None:
    """Refuse what is no recipe by its size alone, so that looking at it costs nothing."""
    try:
        size = len(json.dumps(values, allow_nan=False))
    except (ValueError, TypeError, RecursionError) as error:
        raise RecipeInvalid(f"The recipe is not plain values: {error}.", fix="Send what a TOML file holds.") from error
    if size > LONGEST_RECIPE:
        raise RecipeInvalid(f"The recipe has {size:,} characters.", fix=f"The most is {LONGEST_RECIPE:,}.")
    _check_value(values, "", 0)
    model = values.get("model")
    layers = model.get("layers", 0) if isinstance(model, dict) else 0
    if isinstance(layers, int) and layers > MOST_LAYERS:
        raise RecipeInvalid(f"model.layers is {layers:,}.", fix=f"Use at most {MOST_LAYERS:,}.")


def _check_value(value: Any, at: str, depth: int) -> None:
    if depth > DEEPEST:
        raise RecipeInvalid(f"{at[:100]} is nested too deeply.", fix="A recipe has tables of keys, no more.")
    match value:
        case dict():
            for name, item in value.items():
                _check_value(name, f"a key of {at or 'the recipe'}", depth)
                _check_value(item, f"{at}.{name}".lstrip("."), depth + 1)
        case list():
            for i, item in enumerate(value):
                _check_value(item, f"{at}[{i}]", depth + 1)
        case str():
            if any(ord(c) < 32 and c not in "\n\t" for c in value) or not _is_unicode(value):
                raise RecipeInvalid(f"{at[:100]!r} has a character that is no text.", fix="Remove it.")
        case bool() | None:
            pass
        case int() | float():
            if not math.isfinite(value) or (abs(value) > LARGEST and not (at == "train.seed" and value < 2**63)):
                raise RecipeInvalid(f"{at[:100]} is too large a number.", fix=f"The most is {LARGEST:,}.")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def _payer(platform: Platform, caller: Caller, team: str | None, fund: str | None, tx: Tx) -> tuple[str, str]:
    """Whose job it is and which fund pays; both exist, and the team draws on the fund.

    Raises:
        NotFound: names the nearest.
    """
    wanted = team or caller.team
    own = find_team(platform, caller, wanted, tx)
    paying = fund or own
    find_fund(platform, caller, paying, tx)
    platform.ledger.available(paying, wanted, tx=tx)
    return wanted, paying


def _put(platform: Platform, caller: Caller, new: NewJob, key: str | None, action: str, tx: Tx) -> Job:
    owner = tx.value("SELECT team FROM model WHERE name = :name", name=new.name)
    if owner is not None and owner != new.team:
        raise Conflict(
            f"The name {new.name!r} belongs to models of another team.",
            why="A job's model is registered under its name, by its own team.",
            fix="Choose another one: --name NAME",
        )
    job = platform.queue.put(new, key=key, tx=tx)
    if job.version == 0 and job.attempt == 0:
        if new.max_cost is not None:
            platform.ledger.set_cap("job", job.id, "total", new.max_cost, actor=caller.actor, tx=tx)
        detail = {"name": job.name, "fund": job.fund, "recipe": job.recipe_digest[:12]}
        if new.max_cost is not None:
            detail["max_cost"] = show(new.max_cost)
        platform.people.record(caller.actor, action, job.id, job.team, detail, tx=tx)
    return job


def _device(tx: Tx) -> str:
    """What the workers have: a GPU where one has."""
    devices = {
        row.device for row in tx.all("SELECT DISTINCT device FROM worker WHERE status = 'alive' AND kinds <> ''")
    }
    return "cuda" if "cuda" in devices else "cpu"
