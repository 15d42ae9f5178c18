"""The two keys that `cerulea up` makes: the first one for the admin, and one for its own worker."""

from __future__ import annotations

import contextlib

from cerulea.core.errors import CeruleaError
from cerulea.flows.agent import is_dead, name_here
from cerulea.flows.platform import HOME, Platform

OWNER, WORKER = "owner", "worker"
FIRST = "admin, made at the first start"
OWN = "a worker of its own: "  # and which


def admin_key_once(platform: Platform) -> str | None:
    """A key for the owner where there has never been one: its text, which nobody can read again."""
    if any(key.person == OWNER for key in platform.people.api_keys()):
        return None
    return platform.people.create_key(OWNER, team=HOME, name=FIRST, actor=OWNER)[0]


def worker_key(platform: Platform) -> str:
    """A new key of role service for our own worker; those of workers here that have ended end with them."""
    if not any(person.name == WORKER for person in platform.people.persons()):
        with contextlib.suppress(CeruleaError):  # another process was first
            platform.people.create_person(WORKER, team=HOME, role="service", actor=OWNER)
    for key in platform.people.api_keys(person=WORKER):
        if key.name.startswith(OWN) and key.revoked_at is None and is_dead(key.name.removeprefix(OWN)):
            platform.people.revoke(key.prefix, actor=OWNER)
    return platform.people.create_key(WORKER, team=HOME, name=OWN + name_here(), actor=OWNER)[0]
