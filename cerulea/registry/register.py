"""The register itself: versions that only grow, aliases that remember, lineage."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from cerulea.core.clock import Clock
from cerulea.core.errors import Conflict, Invalid
from cerulea.core.files import json_line
from cerulea.registry.rows import (
    exact_label,
    first,
    last_move,
    lock,
    no_alias,
    one_version,
    require_model,
    resolve,
    seen,
    select,
)
from cerulea.registry.version import (
    DIGEST,
    AliasMove,
    Lineage,
    Listed,
    Manifest,
    Teams,
    Version,
    check_name,
    checked_manifest,
)
from cerulea.store.database import Database, Tx


class Registry:
    """The register of models in one database."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self.database, self.clock = database, clock

    def register(
        self,
        name: str,
        *,
        manifest: Manifest,
        digest: str,
        card: Mapping[str, Any],
        team: str,
        actor: str,
        job: str | None = None,
        run: str | None = None,
        parent: str | None = None,
        corpus: str = "",
        number: int | None = None,
        tx: Tx | None = None,
    ) -> Version:
        """Make files the next version of `name`.

        What equals the newest version in digest and run is that version: who lost the answer asks again.

        Args:
            manifest: the files, which must lie in the blobs already.
            digest: `manifest_digest(manifest)`, or what else tells equal files from others.
            parent: label of the version it was made from.
            number: this version number rather than the next one; for models that had numbers before.

        Raises:
            Invalid: a name of the model or of a file that is none.
            NotFound: there is no such parent.
            Conflict: the name belongs to another team, or `number` is not above the newest.
        """
        check_name(name)
        files = checked_manifest(manifest)
        if not DIGEST.fullmatch(digest):
            raise Invalid(f"{digest[:80]!r} is no sha256.")

        def work(tx: Tx) -> Version:
            now = self.clock.now()
            # The row of the model is the lock under which its versions are counted.
            tx.run(
                "INSERT INTO model (name, team, created_at, updated_at) VALUES (:name, :team, :at, :at)"
                " ON CONFLICT (name) DO UPDATE SET updated_at = :at",
                name=name,
                team=team,
                at=now,
            )
            owner = tx.value("SELECT team FROM model WHERE name = :name", name=name)
            if owner != team:
                raise Conflict(
                    f"The name {name!r} is taken.", why="It belongs to another team.", fix="Choose another name."
                )
            newest = first(tx, "WHERE v.model = :model ORDER BY v.version DESC LIMIT 1", model=name)
            if newest and (newest.digest, newest.run) == (digest, run) and number in (None, newest.version):
                return newest
            after = newest.version if newest else 0
            if number is not None and number <= after:
                raise Conflict(f"{name}@{number} cannot be added: the newest version is {after}.")
            if parent is not None:
                parent_label = exact_label(tx, parent)
            tx.run(
                "INSERT INTO model_version (model, version, digest, manifest, card, job, run, parent, corpus, actor,"
                " created_at) VALUES (:model, :version, :digest, :manifest, :card, :job, :run, :parent, :corpus,"
                " :actor, :at)",
                model=name,
                version=number or after + 1,
                digest=digest,
                manifest=json.dumps(files, sort_keys=True),
                card=json_line(dict(card)),
                job=job,
                run=run,
                parent=None if parent is None else parent_label,
                corpus=corpus,
                actor=actor,
                at=now,
            )
            made = first(tx, "WHERE v.model = :model AND v.version = :version", model=name, version=number or after + 1)
            assert made is not None
            return made

        return self.database.within(tx, work)

    def resolve(self, label: str, *, teams: Teams = None) -> Version:
        """The version that `brook` (the newest that is not retired), `brook@3` or `brook:prod` names.

        Raises:
            NotFound: nothing of that name, with the nearest one; or a retired version, with the newest that is not.
        """
        with self.database.read() as tx:
            return resolve(tx, label, teams)

    def alias(
        self,
        model: str,
        alias: str,
        version: int | None,
        actor: str,
        *,
        teams: Teams = None,
        tx: Tx | None = None,
    ) -> AliasMove:
        """Let `alias` name `version` of `model` from now on, or nothing where it is None.

        Raises:
            Invalid: no name for an alias.
            NotFound: no such model, version or alias; or the version is retired.
        """
        check_name(alias, "an alias")

        def work(tx: Tx) -> AliasMove:
            lock(tx, model, teams, self.clock.now())
            before = tx.value(
                "SELECT version FROM alias WHERE model = :model AND alias = :alias", model=model, alias=alias
            )
            if version is None and before is None:
                raise no_alias(tx, model, alias)
            if version is not None:
                resolve(tx, f"{model}@{version}", teams)
            last = last_move(tx, model, alias, None)
            # Never before the move before it, so that a clock set back leaves the history in order.
            at = max(self.clock.now(), last.at if last else 0)
            move = AliasMove(model=model, alias=alias, before=before, after=version, actor=actor, at=at)
            if before == version:
                return move
            if version is None:
                tx.run("DELETE FROM alias WHERE model = :model AND alias = :alias", model=model, alias=alias)
            else:
                tx.run(
                    "INSERT INTO alias (model, alias, version) VALUES (:model, :alias, :version)"
                    " ON CONFLICT (model, alias) DO UPDATE SET version = :version",
                    model=model,
                    alias=alias,
                    version=version,
                )
            tx.run(
                "INSERT INTO alias_event (model, alias, before, after, actor, at)"
                " VALUES (:model, :alias, :before, :after, :actor, :at)",
                model=model,
                alias=alias,
                before=before,
                after=version,
                actor=actor,
                at=at,
            )
            return move

        return self.database.within(tx, work)

    def alias_history(self, model: str, alias: str | None = None, *, teams: Teams = None) -> list[AliasMove]:
        """Every move of an alias of a model, or of all its aliases, oldest first."""
        with self.database.read() as tx:
            require_model(tx, model, teams)
            rows = tx.all(
                "SELECT model, alias, before, after, actor, at FROM alias_event WHERE model = :model"
                " AND (:alias = '' OR alias = :alias) ORDER BY seq",
                model=model,
                alias=alias or "",
            )
        return [AliasMove(**row._mapping) for row in rows]

    def alias_at(self, model: str, alias: str, at: int, *, teams: Teams = None) -> Version | None:
        """The version that an alias named at a moment, retired since or not; None where it named none."""
        with self.database.read() as tx:
            require_model(tx, model, teams)
            move = last_move(tx, model, alias, at)
            if move is None or move.after is None:
                return None
            return first(tx, "WHERE v.model = :model AND v.version = :version", model=model, version=move.after)

    def retire(self, model: str, version: int, actor: str, *, teams: Teams = None, tx: Tx | None = None) -> Version:
        """Let a version be found no more, by name or number; its files and its history stay.

        Raises:
            NotFound: no such version.
            Conflict: an alias names it.
        """

        def work(tx: Tx) -> Version:
            now = self.clock.now()
            lock(tx, model, teams, now)
            one_version(tx, model, version)
            named = tx.all(
                "SELECT alias FROM alias WHERE model = :model AND version = :version ORDER BY alias",
                model=model,
                version=version,
            )
            if named:
                raise Conflict(
                    f"{model}@{version} is {', '.join(row.alias for row in named)} and cannot be retired.",
                    why="An alias names a version that can be used.",
                    fix=f"Give the alias another version first: cerulea alias {model}@N {named[0].alias}",
                )
            tx.run(
                "UPDATE model_version SET retired_at = :at, retired_by = :actor WHERE model = :model"
                " AND version = :version AND retired_at IS NULL",
                model=model,
                version=version,
                actor=actor,
                at=now,
            )
            return one_version(tx, model, version)

        return self.database.within(tx, work)

    def unretire(self, model: str, version: int, *, teams: Teams = None, tx: Tx | None = None) -> Version:
        """Let a retired version be found again.

        Raises:
            NotFound: no such version.
        """

        def work(tx: Tx) -> Version:
            lock(tx, model, teams, self.clock.now())
            tx.run(
                "UPDATE model_version SET retired_at = NULL, retired_by = NULL"
                " WHERE model = :model AND version = :version",
                model=model,
                version=version,
            )
            return one_version(tx, model, version)

        return self.database.within(tx, work)

    def models(self, *, teams: Teams = None) -> list[Listed]:
        """All models, by name."""
        with self.database.read() as tx:
            models = tx.all(
                "SELECT m.name, m.team, m.updated_at, count(*) AS versions,"
                " max(v.version) AS last,"
                " coalesce(max(CASE WHEN v.retired_at IS NULL THEN v.version END), 0) AS newest"
                " FROM model m JOIN model_version v ON v.model = m.name"
                " GROUP BY m.name, m.team, m.updated_at ORDER BY m.name"
            )
            aliases: dict[str, dict[str, int]] = {}
            for row in tx.all("SELECT model, alias, version FROM alias ORDER BY alias"):
                aliases.setdefault(row.model, {})[row.alias] = row.version
        return [
            Listed(
                model=row.name,
                team=row.team,
                newest=row.newest,
                last=row.last,
                versions=row.versions,
                aliases=aliases.get(row.name, {}),
                updated_at=row.updated_at,
            )
            for row in models
            if seen(row.team, teams)
        ]

    def aliases(self, model: str, *, teams: Teams = None) -> dict[str, int]:
        """The aliases of a model and the versions that they name now.

        Raises:
            NotFound: no such model.
        """
        with self.database.read() as tx:
            require_model(tx, model, teams)
            rows = tx.all("SELECT alias, version FROM alias WHERE model = :model ORDER BY alias", model=model)
        return {row.alias: row.version for row in rows}

    def versions(self, model: str | None = None, *, teams: Teams = None, retired: bool = True) -> list[Version]:
        """Every version of a model, or of all models, by name and number.

        Raises:
            NotFound: no such model.
        """
        with self.database.read() as tx:
            if model is not None:
                require_model(tx, model, teams)
            found = select(tx, "WHERE :model = '' OR v.model = :model ORDER BY v.model, v.version", model=model or "")
        return [v for v in found if seen(v.team, teams) and (retired or v.retired_at is None)]

    def version(self, model: str, version: int, *, teams: Teams = None) -> Version:
        """One version, retired or not.

        Raises:
            NotFound: no such version.
        """
        with self.database.read() as tx:
            require_model(tx, model, teams)
            return one_version(tx, model, version)

    def lineage(self, version: Version, *, teams: Teams = None) -> Lineage:
        """Corpus, run and job of a version, what it was made from and what was made from it."""
        with self.database.read() as tx:
            parents: list[Version] = []
            parent = version.parent
            while parent is not None:
                name, _, number = parent.partition("@")
                parents.append(one_version(tx, name, int(number)))
                parent = parents[-1].parent
            children = select(
                tx, "WHERE v.parent = :label ORDER BY v.created_at, v.model, v.version", label=version.label
            )
        return Lineage(
            version=version,
            corpus=version.corpus,
            run=version.run,
            job=version.job,
            parents=[v for v in parents if seen(v.team, teams)],
            children=[v for v in children if seen(v.team, teams)],
        )
