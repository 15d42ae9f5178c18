"""`cerulea fund`: money, as people ask of it. Each command is one call of the client and one sentence or table."""

from __future__ import annotations

import csv
import sys
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from cerulea.cli.options import Home, Json
from cerulea.cli.reach import AMOUNTS, Key, Url, client_of, day, group, show, tell
from cerulea.core.errors import BooksDiffer

if TYPE_CHECKING:
    from cerulea.client.money_answers import Statement

app = group("Money: funds, grants, draws, statements.")
FundName = Annotated[str, Argument(metavar="FUND", help="The fund, as `cerulea fund list` shows it.")]
SomeFund = Annotated[str | None, Argument(metavar="[FUND]", help="One fund; all of them by default.")]
TeamName = Annotated[str, Argument(metavar="TEAM", help="The team, as `cerulea team list` shows it.")]
Amount = Annotated[str, Argument(metavar="AMOUNT", help="In the fund's currency, such as 25 or 25.50.")]
Request = Annotated[str, Argument(metavar="REQUEST", help="The draw, as `cerulea fund requests` shows it.")]


@app.command("list")
def list_(context: typer.Context, home: Home = None, url: Url = None, as_json: Json = False) -> None:
    """List the funds."""
    with client_of(context, home, url) as client:
        show(
            client.funds.list(),
            as_json,
            {
                "fund": lambda f: f.name,
                "to draw": lambda f: "uncapped" if f.uncapped else f.available,
                "approval": lambda f: "wanted" if f.approval else "",
                "since": lambda f: day(f.created_at),
            },
            "No funds. Make one: cerulea fund create NAME",
        )


@app.command()
def create(
    context: typer.Context,
    name: Annotated[str, Argument(metavar="NAME", help="Its name.")],
    approval: Annotated[bool, Option("--approval", help="A draw waits for somebody who may write funds.")] = False,
    uncapped: Annotated[bool, Option("--uncapped", help="Metered alone: teams spend without drawing.")] = False,
    key: Key = None,
    home: Home = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Make a fund."""
    with client_of(context, home, url) as client:
        made = client.funds.create(name, approval=approval, uncapped=uncapped, key=key)
    tell(made, as_json, f"{made.name}: made, empty\nnext: cerulea fund grant {made.name} AMOUNT")


@app.command(context_settings=AMOUNTS)
def grant(
    context: typer.Context,
    name: Annotated[str, Argument(metavar="NAME", help="The fund.")],
    amount: Amount,
    until: Annotated[str | None, Option(help="Day (2027-03-31) after which what nobody drew goes back.")] = None,
    sponsor: Annotated[str, Option(help="Who gives it.")] = "sponsor",
    key: Key = None,
    home: Home = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Bring money into a fund."""
    with client_of(context, home, url) as client:
        moved = client.funds.grant(name, amount, until=until, sponsor=sponsor, key=key)
    ends = f", until {until}" if until else ""
    tell(
        moved, as_json, f"{name}: {moved.amount} granted by {sponsor}{ends}\nnext: cerulea fund draw {name} TEAM AMOUNT"
    )


@app.command(context_settings=AMOUNTS)
def draw(
    context: typer.Context,
    fund: FundName,
    team: TeamName,
    amount: Amount,
    key: Key = None,
    home: Home = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Move money from a fund to a team, or ask for it where somebody has to approve."""
    with client_of(context, home, url) as client:
        drawn = client.funds.draw(fund, team, amount, key=key)
    if drawn.status == "asked":
        tell(drawn, as_json, f"{fund}: asked for {drawn.amount} as {drawn.request}; somebody has to approve it")
    else:
        tell(drawn, as_json, f"{fund}: team {team} drew {drawn.amount}\nsee: cerulea fund statement {fund}")


@app.command("return", context_settings=AMOUNTS)
def give_back(
    context: typer.Context,
    fund: FundName,
    team: TeamName,
    amount: Amount,
    key: Key = None,
    home: Home = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Move what a team does not need back to the fund."""
    with client_of(context, home, url) as client:
        moved = client.funds.give_back(fund, team, amount, key=key)
    tell(moved, as_json, f"{fund}: team {team} gave back {moved.amount}")


@app.command()
def requests(
    context: typer.Context, fund: SomeFund = None, home: Home = None, url: Url = None, as_json: Json = False
) -> None:
    """List draws that were asked for, those that wait first."""
    with client_of(context, home, url) as client:
        show(
            client.funds.requests(fund),
            as_json,
            {
                "request": lambda r: r.request,
                "fund": lambda r: r.fund,
                "team": lambda r: r.team,
                "amount": lambda r: r.amount,
                "status": lambda r: r.status,
                "asked by": lambda r: r.asked_by,
                "decided by": lambda r: r.decided_by or "",
                "at": lambda r: day(r.at),
            },
            "Nobody asked for anything.",
        )


@app.command()
def approve(
    context: typer.Context,
    request: Request,
    key: Key = None,
    home: Home = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Say yes to a draw: the money moves."""
    with client_of(context, home, url) as client:
        drawn = client.funds.approve(request, key=key)
    tell(drawn, as_json, f"{drawn.fund}: team {drawn.team} drew {drawn.amount}")


@app.command()
def deny(
    context: typer.Context,
    request: Request,
    key: Key = None,
    home: Home = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Say no to a draw."""
    with client_of(context, home, url) as client:
        found = client.funds.deny(request, key=key)
    tell(found, as_json, f"{found.fund}: {found.amount} for team {found.team} denied")


@app.command(context_settings=AMOUNTS)
def cap(
    context: typer.Context,
    scope: Annotated[str | None, Argument(metavar="[SCOPE]", help="team, key or job; nothing lists the caps.")] = None,
    subject: Annotated[str | None, Argument(metavar="[SUBJECT]", help="The team, key prefix or job.")] = None,
    amount: Annotated[str | None, Argument(metavar="[AMOUNT]", help="The most, or `none` to lift the cap.")] = None,
    per: Annotated[str, Option(help="month, day or total.")] = "month",
    key: Key = None,
    home: Home = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Limit what a team, key or job may spend in a period, or list the limits."""
    with client_of(context, home, url) as client:
        if scope is None or subject is None or amount is None:
            show(
                client.funds.caps(),
                as_json,
                {
                    "scope": lambda c: c.scope,
                    "subject": lambda c: c.subject,
                    "period": lambda c: c.period,
                    "amount": lambda c: c.amount,
                },
                "No caps. Set one: cerulea fund cap team NAME AMOUNT",
            )
            return
        found = client.funds.set_cap(scope, subject, per, None if amount == "none" else amount, key=key)
    said = "no cap any more" if found.amount is None else f"at most {found.amount}"
    tell(
        found,
        as_json,
        f"{scope} {subject}: {said} per {per}" if per != "total" else f"{scope} {subject}: {said} in all",
    )


@app.command()
def statement(
    context: typer.Context,
    fund: SomeFund = None,
    as_csv: Annotated[bool, Option("--csv", help="Comma-separated values: each fund and each of its teams.")] = False,
    home: Home = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """What became of a fund's money."""
    with client_of(context, home, url) as client:
        names = [fund] if fund is not None else [each.name for each in client.funds.list()]
        found = [client.funds.statement(name) for name in names]
    if as_csv:
        _put_csv(found)
        return
    if not as_json:
        for one in found:
            _print_statement(one)
        return
    show(found, True, {}, "")


@app.command()
def forecast(
    context: typer.Context, fund: SomeFund = None, home: Home = None, url: Url = None, as_json: Json = False
) -> None:
    """When the money ends if it goes on like this."""
    with client_of(context, home, url) as client:
        names = [fund] if fund is not None else [each.name for each in client.funds.list()]
        found = [client.funds.forecast(name) for name in names]
        uncapped = {each.name for each in client.funds.list() if each.uncapped}
    if as_json:
        show(found, True, {}, "")
        return
    for one in found:
        left = "uncapped" if one.fund in uncapped else f"{one.left} left"
        ends = "no end in sight" if one.ends_at is None else f"ends {day(one.ends_at)[:10]}"
        if one.ends_at is not None:
            ends += f" (between {day(one.earliest)[:10]} and {day(one.latest)[:10] or 'never'})"
        print(
            f"{one.fund}: {left}, {ends}; per day {one.burn_24h} in the last 24 h, {one.burn_7d} over 7 days, "
            f"{one.burn_committed} held by what runs"
        )


@app.command()
def audit(context: typer.Context, home: Home = None, url: Url = None, as_json: Json = False) -> None:
    """Add the books up from nothing, and name what does not fit."""
    with client_of(context, home, url) as client:
        found = client.funds.audit()
    good = f"The books balance: {found.transfers:,} transfers, {found.sealed:,} of them sealed."
    tell(found, as_json, good if found.balanced else "\n".join(found.problems))
    if not found.balanced:
        raise BooksDiffer(
            f"The books do not balance: {len(found.problems)} problems in {found.transfers:,} transfers.",
            why="Rows of the books were changed or lost.",
            fix="Stop the platform, keep the database as it is, and restore a copy from before.",
        )


@app.command()
def prices(context: typer.Context, home: Home = None, url: Url = None, as_json: Json = False) -> None:
    """What everything costs, with every earlier price."""
    with client_of(context, home, url) as client:
        show(
            client.funds.prices(),
            as_json,
            {
                "what": lambda p: p.sku,
                "price": lambda p: p.price,
                "per": lambda p: f"{p.per:,}",
                "from": lambda p: day(p.valid_from)[:10],
                "source": lambda p: p.source,
            },
            "No prices.",
        )


def _print_statement(one: Statement) -> None:
    if one.uncapped:
        print(f"{one.fund}: uncapped; held {one.held}, settled {_settled(one.settled, one.inference)}")
    else:
        went = f", went back {one.lapsed}" if float(one.lapsed) else ""
        print(f"{one.fund}: granted {one.granted}{went}, drawn {one.drawn}, to draw {one.available}")
        print(f"    of what was drawn: held {one.held}, settled {_settled(one.settled, one.inference)}")
    for part in one.teams:
        print(
            f"    team {part.team}: drawn {part.drawn}, held {part.held}, "
            f"settled {_settled(part.settled, part.inference)}"
            f"{'' if one.uncapped else f', available {part.available}'}"
        )


def _settled(settled: str, inference: str) -> str:
    """What was settled, and how much of it for requests to models where there were any."""
    return f"{settled} ({inference} of it for requests to models)" if float(inference) else settled


def _put_csv(found: list[Statement]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(("fund", "team", "granted", "lapsed", "drawn", "held", "settled", "available", "inference"))
    for one in found:
        whole = (one.granted, one.lapsed, one.drawn, one.held, one.settled, one.available, one.inference)
        writer.writerow((one.fund, "", *whole))
        for part in one.teams:
            parts = (part.drawn, part.held, part.settled, part.available, part.inference)
            writer.writerow((one.fund, part.team, "", "", *parts))
