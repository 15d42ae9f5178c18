"""What each role may do: a table of scopes. What is not in it is denied."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cerulea.core.errors import Invalid, RoleLacks

SCOPES = {
    "jobs:read": "see jobs, their logs and metrics",
    "jobs:write": "submit, cancel and resume jobs",
    "fund:read": "see funds, statements and forecasts",
    "fund:write": "create funds, grant, draw, set caps",
    "models:read": "see and use models",
    "models:write": "import, alias and retire models",
    "matches:read": "see games, matches and replays, and watch",
    "matches:write": "begin matches, and play in them",
    "people:read": "see teams, persons and keys",
    "people:write": "make teams and persons, issue and revoke keys",
    "audit:read": "see the log of what was done and audit the books",
    "work": "claim jobs and report on them, as a worker does",
}

_READ = {"jobs:read", "fund:read", "models:read", "matches:read"}
ROLES: dict[str, frozenset[str]] = {
    "viewer": frozenset(_READ),
    "developer": frozenset({*_READ, "jobs:write", "models:write", "matches:write"}),
    "operator": frozenset({*_READ, "jobs:write", "models:write", "matches:write", "people:read", "audit:read"}),
    "finance": frozenset({"fund:read", "fund:write", "people:read", "audit:read"}),
    "admin": frozenset(SCOPES) - {"work"},
    "service": frozenset({"work", "models:read"}),
}
# Roles that see all teams; the others see their own, and what belongs to another does not exist for them.
EVERYWHERE = frozenset({"operator", "finance", "admin", "service"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks, and what that one may do."""

    person: str
    team: str
    role: str
    key: str = ""  # prefix of the API key; nothing for whoever sits at the machine itself
    scopes: frozenset[str]

    def may(self, scope: str) -> bool:
        """Whether the caller may do what `scope` names."""
        assert scope in SCOPES, scope
        return scope in self.scopes

    def need(self, scope: str) -> None:
        """Refuse a caller who may not.

        Raises:
            RoleLacks: with the roles that would do.
        """
        if self.may(scope):
            return
        if scope in ROLES[self.role]:
            raise RoleLacks(
                f"The key ck_{self.key} does not include {scope}.",
                why="It was issued for less than its person may do.",
                fix="Ask for a key with that scope: cerulea key create",
            )
        roles = ", ".join(name for name, scopes in ROLES.items() if scope in scopes)
        raise RoleLacks(
            f"{self.person} is {self.role} in team {self.team}, which does not include {scope}.",
            why=f"To {SCOPES[scope]} takes one of the roles {roles}.",
            fix="Ask an admin for another role or key.",
        )

    @property
    def teams(self) -> tuple[str, ...] | None:
        """Whose things exist for the caller; None means everybody's."""
        return None if self.role in EVERYWHERE else (self.team,)

    @property
    def reaches_all(self) -> bool:
        """Whether the caller is an admin who may do all of it: at the machine itself, or with a key not narrowed."""
        return reaches_all(self.role, self.scopes)

    @property
    def actor(self) -> str:
        """How the caller is written into logs: `ada`, or `ada/1f3k9q2z` with a key."""
        return f"{self.person}/{self.key}" if self.key else self.person


def reaches_all(role: str, scopes: Iterable[str]) -> bool:
    """Whether a role with these scopes of it is all of an admin's."""
    return role == "admin" and frozenset(scopes) >= ROLES["admin"]


def check_role(role: str) -> None:
    """Refuse a role that does not exist."""
    if role not in ROLES:
        raise Invalid(f"There is no role {role[:40]!r}.", fix=f"Use one of {', '.join(ROLES)}.")


def checked_scopes(scopes: Iterable[str], role: str) -> tuple[str, ...]:
    """Scopes to narrow a key to, sorted; none means all of the role.

    Raises:
        Invalid: a scope that does not exist or that the role has not.
    """
    asked = sorted(set(scopes))
    for scope in asked:
        if scope not in SCOPES:
            raise Invalid(f"There is no scope {scope[:40]!r}.", fix=f"Use some of {', '.join(SCOPES)}.")
        if scope not in ROLES[role]:
            raise Invalid(
                f"The role {role} does not include {scope}.",
                why="A key narrows a role and never widens it.",
                fix=f"Use some of {', '.join(sorted(ROLES[role]))}.",
            )
    return tuple(asked)
