"""`cerulea team`, `person`, `key`: who is who. Each command is one call of the client and one sentence or table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from cerulea.cli.options import Home, Json
from cerulea.cli.reach import Url, client_of, day, group, show, tell

if TYPE_CHECKING:
    from cerulea.client import Client

teams = group("Teams: who shares machines and money.")
persons = group("Persons and their roles.")
keys = group("API keys.")
Name = Annotated[str, Argument(metavar="NAME", help="Its name.")]
Role = Annotated[str, Option(help="viewer, developer, operator, finance, admin or service.")]


@teams.command("create")
def create_team(
    context: typer.Context,
    name: Name,
    fund: Annotated[str, Option(help="What pays for its jobs by default.")] = "home",
    weight: Annotated[int, Option(help="Twice the weight is due twice the slots.")] = 1,
    slots: Annotated[int, Option(help="Its own slots, which it gets back from whoever borrows them.")] = 0,
    borrow: Annotated[bool, Option("--borrow/--no-borrow", help="May use what others leave.")] = True,
    home: Home = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Make a team that draws on a fund."""
    with client_of(context, home, url) as client:
        made = client.teams.create(name, fund=fund, weight=weight, slots=slots, borrows=borrow)
    tell(made, as_json, f"{name}: made, paid from fund {fund}\nnext: cerulea fund draw {fund} {name} AMOUNT")


@teams.command("list")
def list_teams(context: typer.Context, home: Home = None, url: Url = None, as_json: Json = False) -> None:
    """List the teams."""
    with client_of(context, home, url) as client:
        show(
            client.teams.list(),
            as_json,
            {
                "team": lambda t: t.name,
                "fund": lambda t: t.fund,
                "weight": lambda t: t.weight,
                "slots": lambda t: t.slots or "shared",
                "borrows": lambda t: "yes" if t.borrows else "no",
                "since": lambda t: day(t.created_at),
            },
            "No teams.",
        )


@teams.command("add")
def add_member(
    context: typer.Context,
    team: Annotated[str, Argument(metavar="TEAM", help="The team.")],
    person: Annotated[str, Argument(metavar="PERSON", help="The person, as `cerulea person list` shows it.")],
    role: Role = "developer",
    home: Home = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Give a person a role in a team."""
    with client_of(context, home, url) as client:
        member = client.teams.add(team, person, role)
    tell(member, as_json, f"{person} is {member.role} in team {team}")


@teams.command("remove")
def remove_member(
    context: typer.Context,
    team: Annotated[str, Argument(metavar="TEAM", help="The team.")],
    person: Annotated[str, Argument(metavar="PERSON", help="The person.")],
    home: Home = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Take a person's role in a team; the keys for it open nothing from then on."""
    with client_of(context, home, url) as client:
        member = client.teams.remove(team, person)
    tell(member, as_json, f"{person} has no role in team {team} any more")


@persons.command("create")
def create_person(
    context: typer.Context,
    name: Name,
    team: Annotated[str, Option(help="The team of the first role.")] = "home",
    role: Role = "developer",
    home: Home = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Add a person with a role in a team."""
    with client_of(context, home, url) as client:
        made = client.persons.create(name, team=team, role=role)
    tell(made, as_json, f"{name}: {role} in team {team}\nnext: cerulea key create --person {name} --team {team}")


@persons.command("list")
def list_persons(context: typer.Context, home: Home = None, url: Url = None, as_json: Json = False) -> None:
    """List the persons with their roles."""
    with client_of(context, home, url) as client:
        show(
            client.persons.list(),
            as_json,
            {
                "person": lambda p: p.name,
                "roles": lambda p: ", ".join(f"{role} in {team}" for team, role in p.roles.items()),
                "since": lambda p: day(p.created_at),
            },
            "No persons.",
        )


@keys.command("create")
def create_key(
    context: typer.Context,
    person: Annotated[str | None, Option(help="Whose; your own by default.")] = None,
    team: Annotated[str | None, Option(help="For the role in this team; yours by default.")] = None,
    role: Annotated[
        str | None, Option(help="For a person of this role, who is called like it and made where missing.")
    ] = None,
    name: Annotated[str, Option(help="What it is for.")] = "key",
    scope: Annotated[list[str] | None, Option(help="Narrow it to this scope.")] = None,
    days: Annotated[int | None, Option(help="How long it opens anything; for ever by default.")] = None,
    home: Home = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Make an API key; it is shown this once."""
    with client_of(context, home, url) as client:
        me = client.me()
        team = team or me.team
        if role is not None and person is None and role != me.role:
            person = _of_role(client, role, team)
        made = client.keys.create(person or me.person, team=team, name=name, scopes=scope or (), days=days)
    ends = f"ends {day(made.expires_at)}" if made.expires_at else "never ends (--days N)"
    said = f"{made.key}\nfor {made.person}, {made.role} in team {team}; it {ends} and cannot be shown again"
    tell(made, as_json, f"{said}\nuse: CERULEA_KEY={made.key} cerulea ps --url URL")


@keys.command("list")
def list_keys(context: typer.Context, home: Home = None, url: Url = None, as_json: Json = False) -> None:
    """List the API keys; nothing of them opens anything."""
    with client_of(context, home, url) as client:
        show(
            client.keys.list(),
            as_json,
            {
                "key": lambda k: f"ck_{k.prefix}",
                "for": lambda k: k.name,
                "person": lambda k: k.person,
                "team": lambda k: k.team,
                "role": lambda k: k.role,
                "scopes": lambda k: " ".join(k.scopes) or "all of the role",
                "used": lambda k: day(k.used_at) or "never",
                "a minute": lambda k: _limits(k.requests_per_minute, k.tokens_per_minute),
                "ends": lambda k: f"revoked {day(k.revoked_at)}" if k.revoked_at else day(k.expires_at),
            },
            "No keys. Make one: cerulea key create",
        )


@keys.command("limit")
def limit_key(
    context: typer.Context,
    prefix: Annotated[str, Argument(metavar="KEY", help="Its prefix, as `cerulea key list` shows it.")],
    requests_per_minute: Annotated[int | None, Option(help="Requests to models; no limit by default.")] = None,
    tokens_per_minute: Annotated[
        int | None, Option(help="Tokens of prompts and of what is leased to be written; no limit by default.")
    ] = None,
    home: Home = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Limit what an API key may use in a minute, instead of its limits before; without options lift them."""
    with client_of(context, home, url) as client:
        found = client.keys.limit(
            prefix[:11], requests_per_minute=requests_per_minute, tokens_per_minute=tokens_per_minute
        )
    said = _limits(found.requests_per_minute, found.tokens_per_minute)
    tell(found, as_json, f"ck_{found.prefix}: {f'at most {said} a minute' if said else 'no limit any more'}")


@keys.command("revoke")
def revoke_key(
    context: typer.Context,
    prefix: Annotated[str, Argument(metavar="KEY", help="Its prefix, as `cerulea key list` shows it.")],
    home: Home = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """End an API key at once."""
    with client_of(context, home, url) as client:
        ended = client.keys.revoke(prefix[:11])
    tell(ended, as_json, f"ck_{ended.prefix} ({ended.name}) opens nothing any more")


def _limits(requests: int | None, tokens: int | None) -> str:
    """`60 requests, 100,000 tokens`, as far as there are limits."""
    parts = ((requests, "requests"), (tokens, "tokens"))
    return ", ".join(f"{number:,} {what}" for number, what in parts if number is not None)


def _of_role(client: Client, role: str, team: str) -> str:
    """The person that is called like the role, made or given the role where that is missing."""
    known = {person.name: person for person in client.persons.list()}
    if role not in known:
        return client.persons.create(role, team=team, role=role).name
    if known[role].roles.get(team) != role:
        client.teams.add(team, role, role)
    return role
