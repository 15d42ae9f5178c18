"""`cerulea submit`, `ps`, `logs`, `watch`, `cancel`, `resume`, `rerun`: jobs of a platform."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from cerulea.cli.lines import put
from cerulea.cli.options import Home, Json
from cerulea.cli.reach import Key, Url, client_of, show, tell

if TYPE_CHECKING:
    from cerulea.client.answers import Estimate, Job

OPEN = ("QUEUED", "STARTING", "RUNNING", "STOPPING", "PAUSED")
JobId = Annotated[str, Argument(metavar="JOB", help="The job, as `cerulea ps` shows it.")]


def submit(
    context: typer.Context,
    recipe: Annotated[Path, Argument(metavar="RECIPE", help="A TOML recipe; recipes/ holds some.")],
    data: Annotated[
        list[str] | None, Option(help="Files, folders or globs instead of the recipe's data.train.")
    ] = None,
    set_: Annotated[list[str] | None, Option("--set", help="Change one key: --set train.steps=100.")] = None,
    name: Annotated[str | None, Option(help="The model's name instead of the recipe's.")] = None,
    fund: Annotated[str | None, Option(help="The fund that pays; the team's by default.")] = None,
    team: Annotated[str | None, Option(help="Whose job it is; your team by default.")] = None,
    priority: Annotated[int, Option(help="Within the team, -1000 to 1000; higher goes first.")] = 0,
    processes: Annotated[int, Option(help="Slots, all at once or none.")] = 1,
    max_cost: Annotated[str | None, Option(help="The job is charged no more than this.")] = None,
    on_budget: Annotated[str, Option(help="When money comes back: resume by itself, or pause until told.")] = "resume",
    key: Key = None,
    home: Home = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Queue a job on the platform."""
    from cerulea.client.answers import plain
    from cerulea.train.recipe import read_recipe

    changes = [*(set_ or []), *([f'name="{name}"'] if name else [])]
    values = with_full_paths(read_recipe(recipe, changes=changes, data=data).as_json())
    wishes = {"fund": fund, "team": team, "priority": priority, "processes": processes}
    with client_of(context, home, url) as client:
        foreseen = client.jobs.estimate(values, **wishes)
        job = client.jobs.submit(values, **wishes, max_cost=max_cost, on_budget=on_budget, key=key)
    if as_json:
        put({"job": job.id, **plain(job), "estimate": plain(foreseen)})
        return
    print(f"{job.id}: {job.name}, {job.status.lower()} for team {job.team}, paid from fund {job.fund}")
    print(f"estimate  {estimated(foreseen)}")
    print(f"next:     cerulea watch {job.id}")


def ps(
    context: typer.Context,
    every: Annotated[bool, Option("--all", help="Those that ended too.")] = False,
    team: Annotated[str | None, Option(help="Of this team only.")] = None,
    status: Annotated[list[str] | None, Option(help="In this state only, such as RUNNING.")] = None,
    limit: Annotated[int, Option(help="Most jobs.")] = 50,
    home: Home = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List jobs, and why those that wait do."""
    wanted = [one.upper() for one in status] if status else () if every else OPEN
    with client_of(context, home, url) as client:
        found = client.jobs.list(team=team, status=wanted, limit=limit)
    if as_json:
        from cerulea.client.answers import plain

        for job in found.items:
            put({"job": job.id, **plain(job)})
        return
    show(
        found.items,
        False,
        {
            "job": lambda j: j.id,
            "model": lambda j: j.name,
            "team": lambda j: j.team,
            "status": lambda j: j.status,
            "done": lambda j: f"{j.fraction:.0%}",
            "cost": lambda j: j.cost,
        },
        "No jobs." if every else "No open jobs. All of them: cerulea ps --all. A new one: cerulea submit RECIPE",
    )
    for job in found.items:
        if said := job.waits or job.detail:
            print(f"{job.id}  {said}")
    if found.next is not None:
        print(f"more: cerulea ps --limit {2 * limit}")


def logs(
    context: typer.Context,
    job: JobId,
    follow: Annotated[bool, Option("--follow", "-f", help="Go on until the job ends.")] = False,
    tail: Annotated[int | None, Option(help="The last so many lines only.")] = None,
    home: Home = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """What a job printed."""
    from cerulea.client.answers import plain

    with client_of(context, home, url) as client:
        if follow:
            found = client.jobs.get(job)
            if found.waits and not as_json:
                print(f"{found.id} is {found.status}: {found.waits}", file=sys.stderr, flush=True)
            for item in client.jobs.follow(job):
                if item.type == "log":
                    put(item.data) if as_json else print(item.data["text"], flush=True)
            return
        after = 0
        while True:
            lines = client.jobs.logs(job, after=after, tail=tail)
            for line in lines:
                put(plain(line)) if as_json else print(line.text)
            if tail is not None or not lines:
                return
            after = lines[-1].cursor


def watch(context: typer.Context, job: JobId, home: Home = None, url: Url = None, as_json: Json = False) -> None:
    """Look at a job until it ends; the exit code is the job's fate."""
    from cerulea.cli.watch import watch_job

    with client_of(context, home, url) as client:
        code = watch_job(client, job, as_json=as_json)
    if code:
        raise typer.Exit(code)


def cancel(
    context: typer.Context, job: JobId, key: Key = None, home: Home = None, url: Url = None, as_json: Json = False
) -> None:
    """Stop a job; one that runs saves first."""
    with client_of(context, home, url) as client:
        found = client.jobs.cancel(job, key=key)
    said = "cancelled" if found.ended else "saves, then ends"
    tell(found, as_json, f"{found.id}: {said}\nit can go on from its last checkpoint: cerulea resume {found.id}")


def resume(
    context: typer.Context, job: JobId, key: Key = None, home: Home = None, url: Url = None, as_json: Json = False
) -> None:
    """Let a paused, cancelled or failed job go on from its last checkpoint."""
    with client_of(context, home, url) as client:
        found = client.jobs.resume(job, key=key)
    where = f"goes on from step {found.checkpoint_step:,}" if found.checkpoint_step else "begins anew"
    tell(found, as_json, f"{found.id}: waits for its turn, {where}\nnext: cerulea watch {found.id}")


def rerun(
    context: typer.Context, job: JobId, key: Key = None, home: Home = None, url: Url = None, as_json: Json = False
) -> None:
    """Queue the same recipe as a new job."""
    with client_of(context, home, url) as client:
        found = client.jobs.rerun(job, key=key)
    if as_json:
        from cerulea.client.answers import plain

        put({"job": found.id, **plain(found)})
        return
    print(f"{found.id}: {found.name} once more, as {job} was\nnext: cerulea watch {found.id}")


COMMANDS = (submit, ps, logs, watch, cancel, resume, rerun)


def with_full_paths(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe with paths that mean the same in another process's folder."""
    if "data" not in recipe:  # of games: it may name an agent to begin with
        init = recipe["model"]["init"]
        return {**recipe, "model": {**recipe["model"], "init": str(Path(init).expanduser().absolute()) if init else ""}}
    from cerulea.text.corpus import BUILT_IN

    def full(entry: str) -> str:
        return entry if entry in BUILT_IN else str(Path(entry).expanduser().absolute())

    data = {name: [full(entry) for entry in recipe["data"][name]] for name in ("train", "valid")}
    tokenizer = dict(recipe["tokenizer"])
    if tokenizer["folder"]:
        tokenizer["folder"] = full(tokenizer["folder"])
    return {**recipe, "data": {**recipe["data"], **data}, "tokenizer": tokenizer}


def estimated(found: Estimate) -> str:
    """An estimate as a sentence."""
    from cerulea.cli.view import duration

    cost = f"{found.per_hour} an hour"
    if found.low is None or found.high is None or found.low_s is None or found.high_s is None:
        return f"{cost}; how long it takes, nothing here says yet"
    basis = {"minutes": "by its own limit", "history": "as a run like it took", "machine": "by this machine's speed"}
    took = f"{duration(found.low_s)} to {duration(found.high_s)}"
    return f"{found.low} to {found.high} in {took} ({basis[found.basis]}); {cost}"


def fate(job: Job) -> int:
    """The exit code that tells how a job ended."""
    if job.status == "PAUSED":
        return 3
    return 0 if job.status == "SUCCEEDED" else 1
