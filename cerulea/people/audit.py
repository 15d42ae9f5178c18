"""The log of what was done, by whom and to what: rows that the database itself refuses to change."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cerulea.core.files import json_line
from cerulea.store.database import Tx


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """One thing that was done."""

    seq: int
    at: int
    actor: str
    action: str  # `key.create`, `model.retire`: a noun and a verb
    subject: str
    team: str  # whose; nothing for what is everybody's
    detail: dict[str, Any]


def write_event(
    tx: Tx, *, at: int, actor: str, action: str, subject: str, team: str, detail: Mapping[str, Any] | None
) -> None:
    """Add one row."""
    tx.run(
        "INSERT INTO audit_event (at, actor, action, subject, team, detail)"
        " VALUES (:at, :actor, :action, :subject, :team, :detail)",
        at=at,
        actor=actor,
        action=action,
        subject=subject,
        team=team,
        detail=json_line(dict(detail or {})),
    )


def read_events(
    tx: Tx,
    *,
    team: str,
    actor: str,
    action: str,
    subject: str,
    since: int,
    until: int,
    before: int,
    limit: int,
) -> list[AuditEvent]:
    """Rows that fit, the newest first; see `People.events`."""
    where, values = [], dict[str, Any](since=since, until=until, before=before, limit=limit)
    for name, value in (("team", team), ("actor", actor), ("subject", subject)):
        if value:
            where.append(f"{name} = :{name}")
            values[name] = value
    if action:
        where.append("(action = :action OR action LIKE :noun)")
        values |= {"action": action, "noun": f"{action}.%"}
    rows = tx.all(
        "SELECT seq, at, actor, action, subject, team, detail FROM audit_event WHERE seq < :before"
        f" AND at >= :since AND at < :until {''.join(f' AND {clause}' for clause in where)}"
        " ORDER BY seq DESC LIMIT :limit",
        **values,
    )
    return [AuditEvent(**{**row._mapping, "detail": json.loads(row.detail)}) for row in rows]
