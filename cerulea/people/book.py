"""The book of people: teams, roles, keys and the log, in one database."""

from __future__ import annotations

import re
import threading
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from cerulea.core.clock import Clock
from cerulea.core.errors import Conflict, Invalid, KeyEnded, KeyUnknown, NotFound
from cerulea.core.names import NAME_RULE, is_name
from cerulea.people.audit import AuditEvent, read_events, write_event
from cerulea.people.keys import new_key, read_key
from cerulea.people.known import Known
from cerulea.people.roles import ROLES, Caller, check_role, checked_scopes, reaches_all
from cerulea.people.rows import (
    KEYS,
    TEAMS,
    ApiKey,
    Member,
    Person,
    Team,
    check_share,
    find_key,
    find_role,
    find_team,
    moment,
    read_api_key,
    read_team,
    require_admin,
    require_person,
)
from cerulea.store.database import Database, Tx

HOME, OWNER = "home", "owner"
USED_EVERY_MS = 60_000  # a key's last use is written down at most so often
_PERSON = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}")
_EVER = 2**62


class People:
    """The people of one database."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self.database, self.clock = database, clock
        self._used: dict[str, int] = {}  # prefix → last use that is not written down yet
        self._noted = clock.elapsed()
        self._lock = threading.Lock()
        self.known = Known(clock)

    # Teams and persons

    def ensure_owner(self) -> None:
        """Give a platform that has no person yet the team `home`, with the fund `home`, and the admin `owner`."""

        def work(tx: Tx) -> None:
            if tx.value("SELECT count(*) FROM person") > 0:
                return
            at = self.clock.now()
            tx.run(
                "INSERT INTO team (name, fund, created_at) VALUES (:team, :team, :at) ON CONFLICT DO NOTHING",
                team=HOME,
                at=at,
            )
            tx.run(
                "INSERT INTO person (name, created_at) VALUES (:name, :at) ON CONFLICT DO NOTHING", name=OWNER, at=at
            )
            tx.run(
                "INSERT INTO membership (person, team, role) VALUES (:person, :team, 'admin') ON CONFLICT DO NOTHING",
                person=OWNER,
                team=HOME,
            )

        self.database.write(work)

    def create_team(
        self,
        name: str,
        *,
        fund: str,
        actor: str,
        weight: int = 1,
        slots: int = 0,
        borrows: bool = True,
        tx: Tx | None = None,
    ) -> Team:
        """A new team that draws on `fund`.

        Raises:
            Invalid: a name that is none, a weight below 1, slots below 0.
            Conflict: there is one of that name.
        """
        if not is_name(name):
            raise Invalid(f"{name!r} cannot name a team.", fix=NAME_RULE)
        check_share(weight, slots)

        def work(tx: Tx) -> Team:
            made = tx.run(
                "INSERT INTO team (name, fund, weight, slots, borrows, created_at)"
                " VALUES (:name, :fund, :weight, :slots, :borrows, :at) ON CONFLICT DO NOTHING",
                name=name,
                fund=fund,
                weight=weight,
                slots=slots,
                borrows=int(borrows),
                at=self.clock.now(),
            )
            if not made:
                raise Conflict(f"There is a team {name!r} already.", fix="See them: cerulea team list")
            self.record(actor, "team.create", name, name, {"fund": fund}, tx=tx)
            return find_team(tx, name)

        return self.database.within(tx, work)

    def change_team(
        self,
        name: str,
        *,
        actor: str,
        weight: int | None = None,
        slots: int | None = None,
        borrows: bool | None = None,
        tx: Tx | None = None,
    ) -> Team:
        """Give a team another share of the machines; what is None stays.

        Raises:
            NotFound: no such team.
            Invalid: as `create_team`.
        """
        check_share(1 if weight is None else weight, slots or 0)
        asked = {"weight": weight, "slots": slots, "borrows": None if borrows is None else int(borrows)}
        changes = {key: value for key, value in asked.items() if value is not None}

        def work(tx: Tx) -> Team:
            find_team(tx, name)
            if changes:
                columns = ", ".join(f"{key} = :{key}" for key in changes)
                tx.run(f"UPDATE team SET {columns} WHERE name = :name", name=name, **changes)
                self.record(actor, "team.change", name, name, changes, tx=tx)
            return find_team(tx, name)

        return self.database.within(tx, work)

    def team(self, name: str) -> Team:
        """One team. Raises NotFound."""
        with self.database.read() as tx:
            return find_team(tx, name)

    def teams(self, *, teams: Collection[str] | None = None) -> list[Team]:
        """All teams, or those of `teams`, by name."""
        with self.database.read() as tx:
            return [read_team(row) for row in tx.all(f"{TEAMS} ORDER BY name") if teams is None or row.name in teams]

    def create_person(self, name: str, *, team: str, role: str, actor: str, tx: Tx | None = None) -> Person:
        """A new person with a role in a team.

        Raises:
            Invalid: a name that is none, a role that does not exist.
            NotFound: no such team.
            Conflict: there is a person of that name.
        """
        if not isinstance(name, str) or not _PERSON.fullmatch(name):
            raise Invalid(f"{str(name)[:120]!r} cannot name a person.", fix="Use a short name or an e-mail address.")
        check_role(role)

        def work(tx: Tx) -> Person:
            find_team(tx, team)
            at = self.clock.now()
            if not tx.run(
                "INSERT INTO person (name, created_at) VALUES (:name, :at) ON CONFLICT DO NOTHING", name=name, at=at
            ):
                raise Conflict(f"There is a person {name!r} already.", fix="See them: cerulea person list")
            self.join(name, team=team, role=role, actor=actor, tx=tx)
            return Person(name=name, created_at=at, roles={team: role})

        return self.database.within(tx, work)

    def persons(self, *, teams: Collection[str] | None = None) -> list[Person]:
        """All persons, or those with a role in one of `teams` (and only these roles), by name."""
        with self.database.read() as tx:
            roles: dict[str, dict[str, str]] = {}
            for row in tx.all("SELECT person, team, role FROM membership ORDER BY team"):
                if teams is None or row.team in teams:
                    roles.setdefault(row.person, {})[row.team] = row.role
            rows = tx.all("SELECT name, created_at FROM person ORDER BY name")
        return [
            Person(name=row.name, created_at=row.created_at, roles=roles.get(row.name, {}))
            for row in rows
            if teams is None or row.name in roles
        ]

    def join(self, person: str, *, team: str, role: str, actor: str, tx: Tx | None = None) -> Member:
        """Give a person a role in a team, instead of the one before.

        Raises:
            Invalid: no such role.
            NotFound: no such person or team.
            Conflict: the platform would be without an admin.
        """
        check_role(role)

        def work(tx: Tx) -> Member:
            find_team(tx, team)
            require_person(tx, person)
            tx.run(
                "INSERT INTO membership (person, team, role) VALUES (:person, :team, :role)"
                " ON CONFLICT (person, team) DO UPDATE SET role = :role",
                person=person,
                team=team,
                role=role,
            )
            require_admin(tx)
            self.record(actor, "person.join", person, team, {"role": role}, tx=tx)
            return Member(person=person, team=team, role=role)

        made = self.database.within(tx, work)
        self.known.forget()
        return made

    def leave(self, person: str, *, team: str, actor: str, tx: Tx | None = None) -> None:
        """Take a person's role in a team; the keys for it open nothing from then on.

        Raises:
            NotFound: the person has no role there.
            Conflict: the platform would be without an admin.
        """

        def work(tx: Tx) -> None:
            if not tx.run("DELETE FROM membership WHERE person = :person AND team = :team", person=person, team=team):
                raise NotFound(f"{person[:120]!r} has no role in team {team[:120]!r}.", fix="See: cerulea person list")
            require_admin(tx)
            self.record(actor, "person.leave", person, team, tx=tx)

        self.database.within(tx, work)
        self.known.forget()

    def caller(self, person: str = OWNER, team: str = HOME) -> Caller:
        """Whoever sits at the machine itself, who needs no key.

        Raises:
            NotFound: that person has no role in that team.
        """
        with self.database.read() as tx:
            role = find_role(tx, person, team)
        return Caller(person=person, team=team, role=role, scopes=ROLES[role])

    # Keys

    def create_key(
        self,
        person: str,
        *,
        team: str,
        name: str,
        actor: str,
        scopes: Iterable[str] = (),
        expires_at: int | None = None,
        tx: Tx | None = None,
    ) -> tuple[str, ApiKey]:
        """A new key for a person's role in a team, and its text, which is shown once and kept nowhere.

        Args:
            name: what it is for, in a person's words.
            scopes: what to narrow it to; none means all that the role may do.
            expires_at: milliseconds; None is never.

        Raises:
            NotFound: the person has no role in the team.
            Invalid: a scope that the role has not, an end in the past, a name that is empty or too long.
        """
        now = self.clock.now()
        if expires_at is not None and expires_at <= now:
            raise Invalid(f"The key would end at {moment(expires_at)}, in the past.", fix="Name a later moment.")
        if not name.strip() or len(name) > 200 or not name.isprintable():
            raise Invalid("A key's name says what it is for.", fix="Use one to 200 printable characters.")
        key, asked = new_key(), tuple(scopes)

        def work(tx: Tx) -> ApiKey:
            narrowed = checked_scopes(asked, find_role(tx, person, team))
            tx.run(
                "INSERT INTO api_key (prefix, hash, name, person, team, scopes, expires_at, created_at)"
                " VALUES (:prefix, :hash, :name, :person, :team, :scopes, :expires_at, :at)",
                prefix=key.prefix,
                hash=key.hash,
                name=name,
                person=person,
                team=team,
                scopes=" ".join(narrowed),
                expires_at=expires_at,
                at=now,
            )
            detail = {"name": name, "person": person, "scopes": list(narrowed), "expires_at": expires_at}
            self.record(actor, "key.create", key.prefix, team, detail, tx=tx)
            return read_api_key(find_key(tx, key.prefix))

        return key.text, self.database.within(tx, work)

    def revoke(self, prefix: str, *, actor: str, teams: Collection[str] | None = None, tx: Tx | None = None) -> ApiKey:
        """End a key at once; one that has ended already stays as it is.

        Raises:
            NotFound: no such key, or it belongs to none of `teams`.
        """
        short = prefix.removeprefix("ck_")[:8]

        def work(tx: Tx) -> ApiKey:
            row = find_key(tx, short)
            if row is None or (teams is not None and row.team not in teams):
                raise NotFound(f"There is no key {prefix[:11]!r}.", fix="See them: cerulea key list")
            if tx.run(
                "UPDATE api_key SET revoked_at = :at WHERE prefix = :prefix AND revoked_at IS NULL",
                prefix=short,
                at=self.clock.now(),
            ):
                self.record(actor, "key.revoke", short, row.team, {"name": row.name, "person": row.person}, tx=tx)
            return read_api_key(find_key(tx, short))

        made = self.database.within(tx, work)
        self.known.forget()
        return made

    def api_keys(self, *, teams: Collection[str] | None = None, person: str = "") -> list[ApiKey]:
        """All keys that were ever issued, the newest first."""
        self.note_uses()
        with self.database.read() as tx:
            rows = tx.all(f"{KEYS} ORDER BY k.created_at DESC, k.prefix")
        return [
            read_api_key(row)
            for row in rows
            if (teams is None or row.team in teams) and (not person or row.person == person)
        ]

    def authenticate(self, bearer: str, now: int | None = None) -> Caller:
        """Who sends this key: one read of one row.

        Args:
            bearer: the Authorization header's value, or the key alone.

        Raises:
            KeyUnknown: none, mistyped, or never issued.
            KeyEnded: revoked, expired, or its person has left the team.
        """
        key, now, looked = read_key(bearer), self.clock.now() if now is None else now, self.clock.elapsed()
        with self.database.read() as tx:
            row = find_key(tx, key.prefix)
        if row is None or not key.is_of(row.hash):
            raise KeyUnknown("Nobody issued this API key.", fix="Make one: cerulea key create")
        why = ""
        if row.revoked_at is not None:
            why = f"It was revoked at {moment(row.revoked_at)}."
        elif row.expires_at is not None and row.expires_at <= now:
            why = f"It expired at {moment(row.expires_at)}."
        elif row.role is None:
            why = f"{row.person} has no role in team {row.team} any more."
        if why:
            raise KeyEnded(f"The API key ck_{key.prefix} has ended.", why=why, fix="Make a new one: cerulea key create")
        self._note_use(key.prefix, now)
        scopes = ROLES[row.role]
        if row.scopes:
            scopes &= frozenset(row.scopes.split())
        caller = Caller(person=row.person, team=row.team, role=row.role, key=key.prefix, scopes=scopes)
        return self.known.note(row.hash, caller, row.expires_at, looked)

    def key_reaches_all(self, prefix: str) -> bool:
        """Whether a key is a whole admin's by now; a key that has ended is judged by its person's role."""
        with self.database.read() as tx:
            row = find_key(tx, prefix)
        return row is not None and reaches_all(row.role or "", row.scopes.split() or ROLES.get(row.role or "", ()))

    def note_uses(self) -> None:
        """Write down when keys were last used; at the end of a program too."""
        with self._lock:
            used, self._used = self._used, {}
            self._noted = self.clock.elapsed()
        if used:
            rows = [{"prefix": prefix, "at": at} for prefix, at in sorted(used.items())]
            sql = "UPDATE api_key SET used_at = :at WHERE prefix = :prefix AND (used_at IS NULL OR used_at < :at)"
            self.database.write(lambda tx: tx.many(sql, rows))

    def _note_use(self, prefix: str, now: int) -> None:
        with self._lock:
            self._used[prefix] = now
            due = self.clock.elapsed() - self._noted >= USED_EVERY_MS
        if due:
            self.note_uses()

    # The log

    def record(
        self,
        actor: str,
        action: str,
        subject: str,
        team: str,
        detail: Mapping[str, Any] | None = None,
        *,
        tx: Tx | None = None,
    ) -> None:
        """Add to the log, in the transaction of what was done where there is one.

        Args:
            action: a noun and a verb: `job.cancel`.
            team: whose it is; nothing for what is everybody's.
        """

        def work(tx: Tx) -> None:
            at = self.clock.now()
            write_event(tx, at=at, actor=actor, action=action, subject=subject, team=team, detail=detail)

        self.database.within(tx, work)

    def events(
        self,
        *,
        team: str = "",
        actor: str = "",
        action: str = "",
        subject: str = "",
        since: int = 0,
        until: int = _EVER,
        before: int = _EVER,
        limit: int = 100,
    ) -> list[AuditEvent]:
        """The log, the newest first, where each filter that is named fits.

        Args:
            action: the whole of it, or its noun: `key` finds `key.create` and `key.revoke`.
            since, until: milliseconds, the second excluded.
            before: only rows below this `seq`, for the next page.
        """
        with self.database.read() as tx:
            return read_events(
                tx,
                team=team,
                actor=actor,
                action=action,
                subject=subject,
                since=since,
                until=until,
                before=before,
                limit=limit,
            )
