"""The text of an API key: `ck_<prefix>_<secret>_<checksum>`.

The prefix is shown in lists and finds the row; the secret has 160 random bits, so that one sha256 is all that needs to
be kept of it; the checksum lets a mistyped key, and a key that leaked into a file, be recognised without a database.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import zlib
from dataclasses import dataclass, field

from cerulea.core.errors import KeyUnknown

_LETTERS = "abcdefghijklmnopqrstuvwxyz234567"  # five bits each, none that is taken for another
_KEY = re.compile(r"ck_([a-z2-7]{8})_([a-z2-7]{32})_([0-9a-f]{8})")


@dataclass(frozen=True, slots=True)
class KeyText:
    """A key that is well formed; whether it was ever issued, the database knows."""

    prefix: str
    text: str = field(repr=False)

    @property
    def hash(self) -> str:
        """What is kept of it."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def is_of(self, kept: str) -> bool:
        """Whether this is the key of that hash; takes equally long for every wrong one."""
        return hmac.compare_digest(self.hash, kept)


def new_key() -> KeyText:
    """A key that nobody has yet."""
    prefix, secret = ("".join(secrets.choice(_LETTERS) for _ in range(length)) for length in (8, 32))
    body = f"ck_{prefix}_{secret}"
    return KeyText(prefix, f"{body}_{_checksum(body)}")


def read_key(bearer: str) -> KeyText:
    """The key in an Authorization header's value, with or without `Bearer` in front.

    Raises:
        KeyUnknown: there is none, or it is mistyped; what was given is never repeated.
    """
    scheme, _, rest = bearer.strip().partition(" ")
    text = rest.strip() if scheme.lower() == "bearer" else bearer.strip()
    found = _KEY.fullmatch(text)
    if found is None or _checksum(text.rpartition("_")[0]) != found.group(3):
        raise KeyUnknown(
            "The API key is incomplete or mistyped." if text else "There is no API key.",
            why="A key reads ck_ and three parts, the last of which checks the others." if text else "",
            fix="Send it as `Authorization: Bearer ck_...`, or set CERULEA_KEY.",
        )
    return KeyText(found.group(1), text)


def _checksum(body: str) -> str:
    return f"{zlib.crc32(body.encode()):08x}"
