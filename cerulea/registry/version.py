"""What a model's version is: values, names, manifests."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from cerulea.core.errors import Invalid
from cerulea.core.names import NAME_RULE, is_name

Manifest = Mapping[str, Mapping[str, Any]]  # file name → {"sha256": hex digest, "bytes": length}
Teams = Collection[str] | None  # whose models are seen; None: everybody's

DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One version of a model, as it was registered."""

    model: str
    version: int
    team: str
    digest: str  # of the manifest: equal digests are equal files
    manifest: dict[str, dict[str, Any]]
    card: dict[str, Any]
    job: str | None
    run: str | None
    parent: str | None  # label of the version it was made from
    corpus: str  # digest of the documents it learned from
    actor: str
    created_at: int  # milliseconds
    retired_at: int | None
    retired_by: str | None

    @property
    def label(self) -> str:
        """`brook@3`."""
        return f"{self.model}@{self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A model in a list."""

    model: str
    team: str
    newest: int  # version that is not retired, or 0
    last: int  # version, retired or not
    versions: int  # how many
    aliases: dict[str, int]
    updated_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasMove:
    """One move of an alias; None is no version."""

    model: str
    alias: str
    before: int | None
    after: int | None
    actor: str
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """Where a version came from and what came from it."""

    version: Version
    corpus: str
    run: str | None
    job: str | None
    parents: list[Version]  # the nearest first
    children: list[Version]  # made from it directly, oldest first


def check_name(name: str, what: str = "a model") -> None:
    """Refuse a name that is not made of at most 100 letters, digits, '-', '_' and '.'."""
    if not is_name(name):
        raise Invalid(
            f"{str(name)[:120]!r} cannot name {what}.",
            why="A name has at most 100 characters, so that it is safe in paths, labels and addresses.",
            fix=NAME_RULE,
        )


def checked_manifest(manifest: Manifest) -> dict[str, dict[str, Any]]:
    """A manifest as plain values, each name a single segment of a path and each digest a digest.

    Raises:
        Invalid: it is empty, or an entry is not so.
    """
    files: dict[str, dict[str, Any]] = {}
    for name, entry in manifest.items():
        check_name(name, "a file of a model")
        digest, length = entry.get("sha256"), entry.get("bytes")
        if not isinstance(digest, str) or not DIGEST.fullmatch(digest) or type(length) is not int or length < 0:
            raise Invalid(f"The entry of {name} in the manifest lacks its sha256 or its bytes.")
        files[name] = {"sha256": digest, "bytes": length}
    if not files:
        raise Invalid("The manifest names no file.", why="A model is made of files.")
    return files


def manifest_digest(manifest: Manifest) -> str:
    """The sha256 of a manifest: equal files under equal names have equal digests."""
    files = sorted((name, entry["sha256"], entry["bytes"]) for name, entry in manifest.items())
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()
