"""How versions are read and found in the database."""

from __future__ import annotations

import difflib
import json
import re
from typing import Any

from cerulea.core.errors import NotFound
from cerulea.registry.version import AliasMove, Teams, Version
from cerulea.store.database import Tx

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
_LABEL = re.compile(rf"({_NAME})(?:@([1-9][0-9]{{0,17}})|:({_NAME}))?")
_COLUMNS = (
    "v.model, v.version, v.digest, v.manifest, v.card, v.job, v.run, v.parent, v.corpus, v.actor, v.created_at,"
    " v.retired_at, v.retired_by, m.team FROM model_version v JOIN model m ON m.name = v.model"
)
_USABLE = "WHERE v.model = :model AND v.retired_at IS NULL"


def resolve(tx: Tx, label: str, teams: Teams) -> Version:
    """The version that a label names; see `Registry.resolve`."""
    parts = _LABEL.fullmatch(label)
    if parts is None:
        raise _unknown(tx, label, teams)
    model, number, alias = parts.groups()
    require_model(tx, model, teams, label)
    if number:
        found = one_version(tx, model, int(number))
    elif alias:
        version = tx.value(
            "SELECT version FROM alias WHERE model = :model AND alias = :alias", model=model, alias=alias
        )
        if version is None:
            raise no_alias(tx, model, alias)
        found = one_version(tx, model, version)
    else:
        newest = first(tx, f"{_USABLE} ORDER BY v.version DESC LIMIT 1", model=model)
        if newest is None:
            raise NotFound(
                f"Every version of {model} is retired.", fix=f"Bring one back: cerulea retire {model}@N --undo"
            )
        found = newest
    if found.retired_at is not None:
        newest = first(tx, f"{_USABLE} ORDER BY v.version DESC LIMIT 1", model=model)
        raise NotFound(
            f"{found.label} is retired.",
            why=f"The newest version that is not is {newest.label}." if newest else "So is every other version of it.",
            fix=f"Use {newest.label}." if newest else f"Bring it back: cerulea retire {found.label} --undo",
        )
    return found


def select(tx: Tx, where: str, **values: Any) -> list[Version]:
    """The versions that a WHERE clause over v (version) and m (model) chooses."""
    return [_read(row) for row in tx.all(f"SELECT {_COLUMNS} {where}", **values)]


def first(tx: Tx, where: str, **values: Any) -> Version | None:
    """The first of them, or None."""
    row = tx.one(f"SELECT {_COLUMNS} {where}", **values)
    return None if row is None else _read(row)


def _read(row: Any) -> Version:
    return Version(**{**row._mapping, "manifest": json.loads(row.manifest), "card": json.loads(row.card)})


def one_version(tx: Tx, model: str, version: int) -> Version:
    """A version of a model that is known to exist, retired or not.

    Raises:
        NotFound: it has no such version.
    """
    found = first(tx, "WHERE v.model = :model AND v.version = :version", model=model, version=version)
    if found is not None:
        return found
    known = tx.all("SELECT version FROM model_version WHERE model = :model ORDER BY version DESC LIMIT 8", model=model)
    numbers = ", ".join(str(row.version) for row in reversed(known))
    raise NotFound(f"{model!r} has no version {version}.", fix=f"Its newest versions are {numbers}.")


def exact_label(tx: Tx, label: str) -> str:
    """The label of one version that exists, as it is written. Raises NotFound."""
    return one_version(tx, *read_exact(label)).label


def read_exact(label: str) -> tuple[str, int]:
    """Name and number of `brook@3`.

    Raises:
        NotFound: the label leaves open which version it means, or is none.
    """
    parts = _LABEL.fullmatch(label)
    if parts is None or parts.group(2) is None:
        raise NotFound(f"{label[:120]!r} names no version.", fix="Write one version, like brook@3.")
    return parts.group(1), int(parts.group(2))


def last_move(tx: Tx, model: str, alias: str, at: int | None) -> AliasMove | None:
    """The last move of an alias, or the last one up to a moment."""
    row = tx.one(
        "SELECT model, alias, before, after, actor, at FROM alias_event WHERE model = :model AND alias = :alias"
        " AND at <= :at ORDER BY seq DESC LIMIT 1",
        model=model,
        alias=alias,
        at=2**62 if at is None else at,
    )
    return None if row is None else AliasMove(**row._mapping)


def lock(tx: Tx, model: str, teams: Teams, now: int) -> None:
    """Let nobody else change a model, its versions or its aliases until the transaction ends."""
    require_model(tx, model, teams)
    tx.run("UPDATE model SET updated_at = :at WHERE name = :model", model=model, at=now)


def require_model(tx: Tx, model: str, teams: Teams, label: str = "") -> None:
    """Refuse a model that does not exist for these teams.

    Args:
        label: what was asked for, where it is more than the model's name.
    """
    team = tx.value("SELECT team FROM model WHERE name = :model", model=model)
    if team is None or not seen(team, teams):
        raise _unknown(tx, label or model, teams)


def seen(team: str, teams: Teams) -> bool:
    """Whether what belongs to `team` exists for `teams`."""
    return teams is None or team in teams


def _unknown(tx: Tx, label: str, teams: Teams) -> NotFound:
    known = [row.name for row in tx.all("SELECT name, team FROM model") if seen(row.team, teams)]
    near = difflib.get_close_matches(re.split("[@:]", label)[0][:100], known, n=1, cutoff=0.4)
    return NotFound(
        f"There is no model {label[:120]!r}.",
        why=f"The nearest name is {near[0]!r}." if near else "",
        fix="See what there is: cerulea models",
    )


def no_alias(tx: Tx, model: str, alias: str) -> NotFound:
    """What to say of an alias that a model has not."""
    known = [row.alias for row in tx.all("SELECT alias FROM alias WHERE model = :model ORDER BY alias", model=model)]
    near = difflib.get_close_matches(alias, known, n=1, cutoff=0.4)
    return NotFound(
        f"{model!r} has no alias {alias!r}.",
        why=f"The nearest is {near[0]!r}." if near else "",
        fix=f"Its aliases are {', '.join(known)}." if known else f"Give it one: cerulea alias {model}@N {alias}",
    )
