"""`cerulea usage`: what requests to models used and paid."""

from __future__ import annotations

from typing import Annotated

import typer
from typer import Argument, Option

from cerulea.cli.options import Home, Json
from cerulea.cli.reach import Url, client_of, day, show, tell


def usage(
    context: typer.Context,
    request: Annotated[str | None, Argument(metavar="[REQUEST]", help="One request's id; sums by default.")] = None,
    by: Annotated[str, Option(help="day, team, key or model.")] = "day",
    since: Annotated[str | None, Option(help="First day (2026-11-23, UTC); 30 days ago by default.")] = None,
    until: Annotated[str | None, Option(help="Last day; today by default.")] = None,
    team: Annotated[str | None, Option(help="Of this team only.")] = None,
    api_key: Annotated[str | None, Option(help="Asked for with this key only: its prefix.")] = None,
    model: Annotated[str | None, Option(help="Of this model only.")] = None,
    home: Home = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """What requests to models used and paid: by day, team, key or model, or one request."""
    with client_of(context, home, url) as client:
        if request is not None:
            one = client.usage.request(request)
            version = "" if one.version is None else f"@{one.version}"
            tell(
                one,
                as_json,
                f"{one.request_id}: {one.model}{version}, {one.endpoint}, ended {day(one.ended_at)} ({one.finish})\n"
                f"    {one.prompt_tokens:,} prompt tokens ({one.cached_tokens:,} cached), "
                f"{one.completion_tokens:,} written\n"
                f"    charged {one.charged} to team {one.team} from fund {one.fund}"
                + (f"; the house paid {one.absorbed}" if float(one.absorbed) else ""),
            )
            return
        found = client.usage.report(by=by, since=since, until=until, team=team, key=api_key, model=model)
    show(
        found,
        as_json,
        {
            by: lambda u: (f"ck_{u.name}" if u.name else "none") if by == "key" else u.name,
            "requests": lambda u: f"{u.requests:,}",
            "prompt": lambda u: f"{u.prompt_tokens:,}",
            "cached": lambda u: f"{u.cached_tokens:,}",
            "written": lambda u: f"{u.completion_tokens:,}",
            "charged": lambda u: u.charged,
        },
        "No requests to models in that time.",
    )
