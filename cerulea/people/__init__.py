"""Who is who and who may do what: teams, persons, roles, API keys, and the log of what was done.

In:      names and roles; the key of a request.
Out:     a Caller, whose scopes say what it may do.
Kept:    what no role names is denied; a key never reaches further than its person's role in its team at this moment;
         no key can be read from the database; the log grows and nothing in it changes.
Not here: what a route needs (`api`), caps and funds (`ledger`).
"""

from __future__ import annotations

from cerulea.people.audit import AuditEvent
from cerulea.people.book import People
from cerulea.people.keys import KeyText, new_key, read_key
from cerulea.people.roles import EVERYWHERE, ROLES, SCOPES, Caller
from cerulea.people.rows import ApiKey, Member, Person, Team

__all__ = [
    "EVERYWHERE",
    "ROLES",
    "SCOPES",
    "ApiKey",
    "AuditEvent",
    "Caller",
    "KeyText",
    "Member",
    "People",
    "Person",
    "Team",
    "new_key",
    "read_key",
]
