"""The wire format of people (teams, persons, keys) and of models."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from cerulea.api.schema import FAR, WHOLE, Days, In, Moment, Name, Out, Slots, Text, Weight, moment
from cerulea.core.clock import iso
from cerulea.people import ApiKey, Person, Team
from cerulea.registry import AliasMove, Lineage, Listed, Version

PerMinute = Annotated[int, Field(ge=1, le=FAR), WHOLE]
Role = Literal["viewer", "developer", "operator", "finance", "admin", "service"]


class Me(Out):
    """Who you are here."""

    person: str
    team: str
    role: str
    key: str = Field(description="Your key's prefix; empty on the machine itself.")
    scopes: list[str]
    everywhere: bool = Field(description="All teams exist for you; otherwise your own.")


class NewTeam(In):
    """A team to make."""

    name: Name
    fund: Name = Field("home", description="What pays for its jobs by default.")
    weight: Weight = Field(1, description="Twice the weight is due twice the slots.")
    slots: Slots = Field(0, description="Its own, which it gets back from whoever borrows them.")
    borrows: bool = Field(True, description="May use what others leave.")


class TeamChange(In):
    """What is to be different; what is null stays."""

    weight: Weight | None = None
    slots: Slots | None = None
    borrows: bool | None = None


class TeamOut(Out):
    """A team."""

    name: str
    fund: str
    weight: int
    slots: int
    borrows: bool
    created_at: Moment


class TeamList(Out):
    """Teams, by name."""

    items: list[TeamOut]


class NewMember(In):
    """A person's role in a team, instead of the one before."""

    person: Name
    role: Role


class MemberOut(Out):
    """A person's role in a team; empty where it was taken."""

    person: str
    team: str
    role: str


class NewPerson(In):
    """A person to add."""

    name: Name
    team: Name
    role: Role = "developer"


class PersonOut(Out):
    """A person, or a program that acts as one."""

    name: str
    roles: dict[str, str] = Field(description="By team.")
    created_at: Moment


class PersonList(Out):
    """Persons, by name."""

    items: list[PersonOut]


class NewKey(In):
    """A key to make."""

    person: Name
    team: Name
    name: Text = Field("key", min_length=1, description="What it is for.", examples=["laptop"])
    scopes: list[Text] = Field([], max_length=20, description="What to narrow it to; none: all that the role may do.")
    days: Days | None = Field(None, description="How long it opens anything; null: for ever.")


class KeyOut(Out):
    """What is kept of a key."""

    prefix: str
    name: str
    person: str
    team: str
    role: str = Field(description="The person's in that team now; empty: the key opens nothing.")
    scopes: list[str]
    expires_at: Moment | None
    revoked_at: Moment | None
    used_at: Moment | None
    created_at: Moment
    requests_per_minute: int | None = Field(description="To models; null: no limit.")
    tokens_per_minute: int | None


class KeyLimits(In):
    """What a key may use in a minute of the calendar, instead of its limits before."""

    requests_per_minute: PerMinute | None = Field(None, description="To models; null: no limit.", examples=[60])
    tokens_per_minute: PerMinute | None = Field(
        None, description="Prompts and what is leased to be written; null: no limit.", examples=[100_000]
    )


class MadeKey(KeyOut):
    """A key, with its text this one time."""

    key: str | None = Field(description="Shown once; null where the same was asked for again.")


class KeyList(Out):
    """Keys, the newest first."""

    items: list[KeyOut]


class ModelOut(Out):
    """A model."""

    model: str
    team: str
    newest: int = Field(description="Version; 0 where every version is retired.")
    versions: int
    aliases: dict[str, int]
    updated_at: Moment


class ModelList(Out):
    """Models, by name."""

    items: list[ModelOut]


class VersionOut(Out):
    """A version of a model."""

    label: str = Field(examples=["brook@3"])
    model: str
    version: int
    team: str
    digest: str
    files: dict[str, dict[str, Any]]
    card: dict[str, Any]
    job: str | None
    run: str | None
    parent: str | None
    corpus: str
    actor: str
    created_at: Moment
    retired_at: Moment | None


class ListedVersion(VersionOut):
    """A version with the aliases that name it."""

    aliases: list[str]


class VersionList(Out):
    """Versions of all models, by name and version."""

    items: list[ListedVersion]


class MoveOut(Out):
    """A move of an alias."""

    model: str
    alias: str
    before: int | None
    after: int | None
    actor: str
    at: Moment


class ModelDetail(VersionOut):
    """A version with its aliases, their history, and where it came from."""

    aliases: list[str]
    history: list[MoveOut] = Field(description="Every move of every alias of the model, oldest first.")
    parents: list[str] = Field(description="What it was made from, the nearest first.")
    children: list[str] = Field(description="What was made from it.")
    versions: list[int]
    config: dict[str, Any] = Field(description="What its config.json says of its shape.")
    run_record: dict[str, Any] | None = Field(description="How its run went, where that lies beside the platform.")


class NewAlias(In):
    """An alias for the version that the path names."""

    alias: Name


class Retiring(In):
    """Let a version be found no more, or again."""

    undo: bool = False


def team_out(team: Team) -> TeamOut:
    """A team on the wire."""
    return TeamOut(
        name=team.name,
        fund=team.fund,
        weight=team.weight,
        slots=team.slots,
        borrows=team.borrows,
        created_at=iso(team.created_at),
    )


def person_out(person: Person) -> PersonOut:
    """A person on the wire."""
    return PersonOut(name=person.name, roles=person.roles, created_at=iso(person.created_at))


def key_values(key: ApiKey) -> dict[str, Any]:
    """What is kept of a key, on the wire."""
    return {
        "prefix": key.prefix,
        "name": key.name,
        "person": key.person,
        "team": key.team,
        "role": key.role,
        "scopes": list(key.scopes),
        "expires_at": moment(key.expires_at),
        "revoked_at": moment(key.revoked_at),
        "used_at": moment(key.used_at),
        "created_at": iso(key.created_at),
        "requests_per_minute": key.requests_per_minute,
        "tokens_per_minute": key.tokens_per_minute,
    }


def model_out(found: Listed) -> ModelOut:
    """A model on the wire."""
    return ModelOut(
        model=found.model,
        team=found.team,
        newest=found.newest,
        versions=found.versions,
        aliases=found.aliases,
        updated_at=iso(found.updated_at),
    )


def version_values(found: Version) -> dict[str, Any]:
    """A version on the wire."""
    return {
        "label": found.label,
        "model": found.model,
        "version": found.version,
        "team": found.team,
        "digest": found.digest,
        "files": found.manifest,
        "card": found.card,
        "job": found.job,
        "run": found.run,
        "parent": found.parent,
        "corpus": found.corpus,
        "actor": found.actor,
        "created_at": iso(found.created_at),
        "retired_at": moment(found.retired_at),
    }


def move_out(move: AliasMove) -> MoveOut:
    """A move of an alias on the wire."""
    return MoveOut(
        model=move.model, alias=move.alias, before=move.before, after=move.after, actor=move.actor, at=iso(move.at)
    )


def listed_out(found: Version, aliases: dict[str, int]) -> ListedVersion:
    """A version in a list on the wire."""
    own = [alias for alias, version in aliases.items() if version == found.version]
    return ListedVersion(**version_values(found), aliases=own)


def detail_out(
    lineage: Lineage,
    aliases: dict[str, int],
    moves: list[AliasMove],
    versions: list[int],
    config: dict[str, Any],
    record: dict[str, Any] | None,
) -> ModelDetail:
    """A version with its surroundings on the wire."""
    found = lineage.version
    return ModelDetail(
        **version_values(found),
        aliases=[alias for alias, version in aliases.items() if version == found.version],
        history=[move_out(move) for move in moves],
        parents=[one.label for one in lineage.parents],
        children=[one.label for one in lineage.children],
        versions=versions,
        config=config,
        run_record=record,
    )
