"""Teams, persons, keys, models, workers and the log of a platform, as a program handles them."""

from __future__ import annotations

from collections.abc import Sequence

from cerulea.client.answers import (
    Key,
    ListedVersion,
    Logged,
    MadeKey,
    Member,
    Model,
    Move,
    Person,
    Team,
    Version,
    VersionDetail,
    Worker,
    read,
)
from cerulea.client.wire import Requests, path_part


class TeamCalls:
    """`client.teams`."""

    def __init__(self, line: Requests) -> None:
        self._line = line

    def list(self) -> Sequence[Team]:
        """Teams, by name."""
        return [read(Team, one) for one in self._line.get("/api/teams")["items"]]

    def create(
        self,
        name: str,
        *,
        fund: str = "home",
        weight: int = 1,
        slots: int = 0,
        borrows: bool = True,
        key: str | None = None,
    ) -> Team:
        """Make a team that draws on `fund`. Raises Conflict, NotFound."""
        body = {"name": name, "fund": fund, "weight": weight, "slots": slots, "borrows": borrows}
        return read(Team, self._line.write("POST", "/api/teams", body, key=key))

    def change(
        self,
        name: str,
        *,
        weight: int | None = None,
        slots: int | None = None,
        borrows: bool | None = None,
        key: str | None = None,
    ) -> Team:
        """Give a team another share of the machines; None stays."""
        body = {"weight": weight, "slots": slots, "borrows": borrows}
        return read(Team, self._line.write("PATCH", f"/api/teams/{path_part(name)}", body, key=key))

    def add(self, team: str, person: str, role: str, *, key: str | None = None) -> Member:
        """Give a person a role in a team."""
        body = {"person": person, "role": role}
        return read(Member, self._line.write("POST", f"/api/teams/{path_part(team)}/members", body, key=key))

    def remove(self, team: str, person: str, *, key: str | None = None) -> Member:
        """Take a person's role in a team."""
        path = f"/api/teams/{path_part(team)}/members/{path_part(person)}"
        return read(Member, self._line.write("DELETE", path, key=key))


class PersonCalls:
    """`client.persons`."""

    def __init__(self, line: Requests) -> None:
        self._line = line

    def list(self) -> Sequence[Person]:
        """Persons, by name."""
        return [read(Person, one) for one in self._line.get("/api/persons")["items"]]

    def create(self, name: str, *, team: str, role: str = "developer", key: str | None = None) -> Person:
        """Add a person with a role in a team. Raises Conflict, NotFound."""
        return read(
            Person, self._line.write("POST", "/api/persons", {"name": name, "team": team, "role": role}, key=key)
        )


class KeyCalls:
    """`client.keys`."""

    def __init__(self, line: Requests) -> None:
        self._line = line

    def list(self, *, person: str | None = None) -> Sequence[Key]:
        """Keys, the newest first."""
        return [read(Key, one) for one in self._line.get("/api/keys", person=person)["items"]]

    def create(
        self,
        person: str,
        *,
        team: str,
        name: str = "key",
        scopes: Sequence[str] = (),
        days: int | None = None,
        key: str | None = None,
    ) -> MadeKey:
        """Make a key; `.key` is its text, which nobody can read again."""
        body = {"person": person, "team": team, "name": name, "scopes": list(scopes), "days": days}
        return read(MadeKey, self._line.write("POST", "/api/keys", body, key=key))

    def limit(
        self,
        prefix: str,
        *,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        key: str | None = None,
    ) -> Key:
        """Limit what a key may use in a minute, instead of its limits before; None is no limit. Raises NotFound."""
        body = {"requests_per_minute": requests_per_minute, "tokens_per_minute": tokens_per_minute}
        return read(Key, self._line.write("POST", f"/api/keys/{path_part(prefix)}/limits", body, key=key))

    def revoke(self, prefix: str, *, key: str | None = None) -> Key:
        """End a key at once. Raises NotFound."""
        return read(Key, self._line.write("DELETE", f"/api/keys/{path_part(prefix)}", key=key))


class ModelCalls:
    """`client.models`."""

    def __init__(self, line: Requests) -> None:
        self._line = line

    def list(self) -> Sequence[Model]:
        """Models, by name."""
        return [read(Model, one) for one in self._line.get("/api/models")["items"]]

    def versions(self, *, retired: bool = False) -> Sequence[ListedVersion]:
        """Versions of all models, by name and version; retired ones too where that is asked for."""
        found = self._line.get("/api/versions", retired=retired)
        return [read(ListedVersion, one) for one in found["items"]]

    def get(self, label: str) -> VersionDetail:
        """The version that `brook`, `brook@3` or `brook:prod` names. Raises NotFound."""
        return read(VersionDetail, self._line.get(f"/api/models/{path_part(label)}"))

    def alias(self, label: str, alias: str, *, key: str | None = None) -> Move:
        """Let an alias name that version."""
        return read(
            Move, self._line.write("POST", f"/api/models/{path_part(label)}/aliases", {"alias": alias}, key=key)
        )

    def remove_alias(self, model: str, alias: str, *, key: str | None = None) -> Move:
        """Let an alias name nothing."""
        return read(
            Move, self._line.write("DELETE", f"/api/models/{path_part(model)}/aliases/{path_part(alias)}", key=key)
        )

    def retire(self, label: str, *, undo: bool = False, key: str | None = None) -> Version:
        """Let a version be found no more, or again."""
        return read(
            Version, self._line.write("POST", f"/api/models/{path_part(label)}/retire", {"undo": undo}, key=key)
        )


class WorkerCalls:
    """`client.workers`."""

    def __init__(self, line: Requests) -> None:
        self._line = line

    def list(self) -> Sequence[Worker]:
        """Workers that are there."""
        return [read(Worker, one) for one in self._line.get("/api/workers")["items"]]


class AuditCalls:
    """`client.audit`: the log of what was done."""

    def __init__(self, line: Requests) -> None:
        self._line = line

    def list(
        self,
        *,
        team: str | None = None,
        actor: str | None = None,
        action: str | None = None,
        subject: str | None = None,
        limit: int = 100,
        before: int | None = None,
    ) -> Sequence[Logged]:
        """What was done, the newest first."""
        found = self._line.get(
            "/api/audit", team=team, actor=actor, action=action, subject=subject, limit=limit, before=before
        )
        return [read(Logged, one) for one in found["items"]]
