"""People: who you are, teams, persons and their roles, keys."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Response

from cerulea.api import people_schema as schema
from cerulea.api.asking import Needs, Opened, Writes
from cerulea.api.schema import NAME, Name
from cerulea.core.clock import DAY_MS
from cerulea.flows import fund as story
from cerulea.flows.limits import set_limit
from cerulea.people import Caller, Team
from cerulea.store.database import Tx

router = APIRouter(prefix="/api", tags=["people"])
Known = Annotated[Caller, Depends(Needs())]
Reads = Annotated[Caller, Depends(Needs("people:read"))]
Manages = Annotated[Caller, Depends(Needs("people:write"))]
TeamName = Annotated[str, Path(pattern=NAME, description="A team's name.", examples=["home"])]
PersonName = Annotated[str, Path(pattern=NAME, description="A person's name.", examples=["ada"])]
Prefix = Annotated[str, Path(pattern=r"^(ck_)?[a-z2-7]{8}$", description="A key's prefix.", examples=["abcdefgh"])]


@router.get("/me", response_model=schema.Me)
def show_me(caller: Known) -> schema.Me:
    """Who you are here, and what you may do."""
    return schema.Me(
        person=caller.person,
        team=caller.team,
        role=caller.role,
        key=caller.key,
        scopes=sorted(caller.scopes),
        everywhere=caller.teams is None,
    )


@router.get("/teams", response_model=schema.TeamList)
def list_teams(caller: Reads, platform: Opened) -> schema.TeamList:
    """Teams, by name."""
    return schema.TeamList(items=[schema.team_out(team) for team in platform.people.teams(teams=caller.teams)])


@router.post("/teams", status_code=201, response_model=schema.TeamOut)
def create_team(body: schema.NewTeam, caller: Manages, platform: Opened, write: Writes) -> Response:
    """Make a team, which may draw on its fund from then on."""

    def work(tx: Tx) -> Team:
        story.find_fund(platform, caller, body.fund, tx)
        made = platform.people.create_team(
            body.name,
            fund=body.fund,
            actor=caller.actor,
            weight=body.weight,
            slots=body.slots,
            borrows=body.borrows,
            tx=tx,
        )
        platform.ledger.open_purse(body.fund, body.name, tx=tx)
        return made

    return write(lambda tx, key: schema.team_out(work(tx)), status=201)


@router.patch("/teams/{team}", response_model=schema.TeamOut)
def change_team(team: TeamName, body: schema.TeamChange, caller: Manages, platform: Opened, write: Writes) -> Response:
    """Give a team another share of the machines."""
    return write(
        lambda tx, key: schema.team_out(
            platform.people.change_team(
                team, actor=caller.actor, weight=body.weight, slots=body.slots, borrows=body.borrows, tx=tx
            )
        )
    )


@router.post("/teams/{team}/members", response_model=schema.MemberOut)
def add_member(team: TeamName, body: schema.NewMember, caller: Manages, platform: Opened, write: Writes) -> Response:
    """Give a person a role in a team, instead of the one before."""

    def work(tx: Tx) -> schema.MemberOut:
        member = platform.people.join(body.person, team=team, role=body.role, actor=caller.actor, tx=tx)
        return schema.MemberOut(person=member.person, team=member.team, role=member.role)

    return write(lambda tx, key: work(tx))


@router.delete("/teams/{team}/members/{person}", response_model=schema.MemberOut)
def remove_member(team: TeamName, person: PersonName, caller: Manages, platform: Opened, write: Writes) -> Response:
    """Take a person's role in a team; the keys for it open nothing from then on."""

    def work(tx: Tx) -> schema.MemberOut:
        platform.people.leave(person, team=team, actor=caller.actor, tx=tx)
        return schema.MemberOut(person=person, team=team, role="")

    return write(lambda tx, key: work(tx))


@router.get("/persons", response_model=schema.PersonList)
def list_persons(caller: Reads, platform: Opened) -> schema.PersonList:
    """Persons, by name, with their roles."""
    return schema.PersonList(items=[schema.person_out(one) for one in platform.people.persons(teams=caller.teams)])


@router.post("/persons", status_code=201, response_model=schema.PersonOut)
def create_person(body: schema.NewPerson, caller: Manages, platform: Opened, write: Writes) -> Response:
    """Add a person with a role in a team."""
    return write(
        lambda tx, key: schema.person_out(
            platform.people.create_person(body.name, team=body.team, role=body.role, actor=caller.actor, tx=tx)
        ),
        status=201,
    )


@router.get("/keys", response_model=schema.KeyList)
def list_keys(
    caller: Reads,
    platform: Opened,
    person: Annotated[Name | None, Query(description="Of this person only.")] = None,
) -> schema.KeyList:
    """Keys, the newest first; nothing of them opens anything."""
    found = platform.people.api_keys(teams=caller.teams, person=person or "")
    return schema.KeyList(items=[schema.KeyOut(**schema.key_values(key)) for key in found])


@router.post("/keys", status_code=201, response_model=schema.MadeKey)
def create_key(body: schema.NewKey, caller: Manages, platform: Opened, write: Writes) -> Response:
    """Make a key; its text is shown this once and kept nowhere."""
    expires_at = None if body.days is None else platform.clock.now() + body.days * DAY_MS

    def work(tx: Tx) -> schema.MadeKey:
        text, made = platform.people.create_key(
            body.person,
            team=body.team,
            name=body.name,
            actor=caller.actor,
            scopes=body.scopes,
            expires_at=expires_at,
            tx=tx,
        )
        return schema.MadeKey(**schema.key_values(made), key=text)

    return write(lambda tx, key: work(tx), status=201, kept=lambda made: made.model_copy(update={"key": None}))


@router.post("/keys/{prefix}/limits", response_model=schema.KeyOut)
def limit_key(prefix: Prefix, body: schema.KeyLimits, caller: Manages, platform: Opened, write: Writes) -> Response:
    """Limit what a key may use in a minute."""

    def work(tx: Tx) -> schema.KeyOut:
        found = set_limit(
            platform,
            caller,
            prefix,
            requests_per_minute=body.requests_per_minute,
            tokens_per_minute=body.tokens_per_minute,
            tx=tx,
        )
        return schema.KeyOut(**schema.key_values(found))

    return write(lambda tx, key: work(tx))


@router.delete("/keys/{prefix}", response_model=schema.KeyOut)
def revoke_key(prefix: Prefix, caller: Manages, platform: Opened, write: Writes) -> Response:
    """End a key at once."""
    return write(
        lambda tx, key: schema.KeyOut(
            **schema.key_values(platform.people.revoke(prefix, actor=caller.actor, teams=caller.teams, tx=tx))
        )
    )
