"""Models by name: versions that never change, aliases that remember, and where each one came from.

In:      file names with their digests (the files themselves lie in `store.blobs`), a card, who and why.
Out:     Version values.
Kept:    the versions of a name are 1, 2, 3 ... however many register at once; a version's files, card and origin
         never change; an alias names a version that is not retired; every move of an alias is a row of its own.
Teams:   each reading takes `teams`: what belongs to another team does not exist. None sees everything.
Not here: the files (`store.blobs`), folders of models (`flows.models`), who may do it (`people`).
"""

from __future__ import annotations

from cerulea.registry.register import Registry
from cerulea.registry.rows import read_exact
from cerulea.registry.version import (
    AliasMove,
    Lineage,
    Listed,
    Manifest,
    Teams,
    Version,
    check_name,
    checked_manifest,
    manifest_digest,
)

__all__ = [
    "AliasMove",
    "Lineage",
    "Listed",
    "Manifest",
    "Registry",
    "Teams",
    "Version",
    "check_name",
    "checked_manifest",
    "manifest_digest",
    "read_exact",
]
