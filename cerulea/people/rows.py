"""What is kept of people, and how it is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cerulea.core.clock import iso
from cerulea.core.errors import Conflict, Invalid, NotFound
from cerulea.store.database import Tx

TEAMS = "SELECT name, fund, weight, slots, borrows, created_at FROM team"
KEYS = (
    "SELECT k.prefix, k.name, k.person, k.team, k.scopes, k.expires_at, k.revoked_at, k.used_at, k.created_at, k.hash,"
    " m.role, l.requests_per_minute, l.tokens_per_minute"
    " FROM api_key k LEFT JOIN membership m ON m.person = k.person AND m.team = k.team"
    " LEFT JOIN key_limit l ON l.api_key = k.prefix"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Team:
    """A team, the fund it draws on and its share of the machines."""

    name: str
    fund: str
    weight: int  # share against other teams
    slots: int  # places that are its own; 0: none set aside
    borrows: bool  # whether it may use what others leave idle
    created_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A person's role in a team."""

    person: str
    team: str
    role: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """A person, or a program that acts as one."""

    name: str
    created_at: int
    roles: dict[str, str]  # team → role


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """What is kept of a key: nothing that opens anything."""

    prefix: str
    name: str
    person: str
    team: str
    role: str  # of the person in the team now; nothing where that one has left
    scopes: tuple[str, ...]  # what it is narrowed to; none: all of the role
    expires_at: int | None
    revoked_at: int | None
    used_at: int | None
    created_at: int
    requests_per_minute: int | None  # None: no limit
    tokens_per_minute: int | None


def check_share(weight: int, slots: int) -> None:
    """Refuse a share of the machines that cannot be."""
    if not 1 <= weight <= 1_000_000 or not 0 <= slots <= 1_000_000:
        raise Invalid(
            f"A team cannot have weight {weight} and {slots} slots.",
            why="A weight is 1 to 1,000,000; slots are 0 to 1,000,000.",
            fix="Change the number.",
        )


def find_team(tx: Tx, name: str) -> Team:
    """One team. Raises NotFound."""
    row = tx.one(f"{TEAMS} WHERE name = :name", name=name)
    if row is None:
        raise NotFound(f"There is no team {name[:120]!r}.", fix="See them: cerulea team list")
    return read_team(row)


def read_team(row: Any) -> Team:
    """A team from its row."""
    return Team(**{**row._mapping, "borrows": bool(row.borrows)})


def require_person(tx: Tx, name: str) -> None:
    """Refuse a person that does not exist."""
    if tx.one("SELECT name FROM person WHERE name = :name", name=name) is None:
        raise NotFound(f"There is no person {name[:120]!r}.", fix="See them: cerulea person list")


def find_role(tx: Tx, person: str, team: str) -> str:
    """A person's role in a team. Raises NotFound."""
    role = tx.value("SELECT role FROM membership WHERE person = :person AND team = :team", person=person, team=team)
    if role is None:
        raise NotFound(
            f"{person[:120]!r} has no role in team {team[:120]!r}.", fix="See who has one: cerulea person list"
        )
    return str(role)


def require_admin(tx: Tx) -> None:
    """Refuse to leave the platform without anybody who could mend it."""
    # The statement takes every admin's row, so that two who leave at once do not both see the other.
    if tx.run("UPDATE membership SET role = 'admin' WHERE role = 'admin'") == 0:
        raise Conflict(
            "This is the last admin.", why="Somebody must be able to change roles.", fix="Name another first."
        )


def find_key(tx: Tx, prefix: str) -> Any:
    """The row of a key with its person's role now, or None."""
    return tx.one(f"{KEYS} WHERE k.prefix = :prefix", prefix=prefix)


def read_api_key(row: Any) -> ApiKey:
    """What may be shown of a key."""
    kept = {name: value for name, value in row._mapping.items() if name != "hash"}
    return ApiKey(**{**kept, "scopes": tuple(row.scopes.split()), "role": row.role or ""})


def moment(ms: int) -> str:
    """A moment as text, however far in the future someone put it."""
    try:
        return iso(ms)
    except (OverflowError, ValueError, OSError):
        return f"{ms} ms"
