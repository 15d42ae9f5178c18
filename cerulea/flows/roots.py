"""Which files a recipe may name: what an operator opened to jobs, and what is there at all.

In:      a recipe; the roots (`CERULEA_DATA_ROOTS`); who asks.
Out:     nothing, or a refusal that names the roots, or the nearest name.
Kept:    a caller who is no admin gets nothing read that lies outside the roots, whatever links, `..` and globs lead
         there: asked at submit, and again by the worker at the start, file by file, for links may change between.
         Such a caller does not learn what is there outside of them.
Not here: what is read of a file (`text.files`), scopes and roles (`people`).
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import socket
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cerulea.core.errors import CeruleaError, CorpusInvalid, NotFound, PathRefused, TokenizerInvalid
from cerulea.core.settings import Settings
from cerulea.flows.agent import is_here
from cerulea.jobs.protocol import Assignment
from cerulea.people import Caller
from cerulea.store.database import Tx
from cerulea.text.corpus import BUILT_IN, open_corpus
from cerulea.train.recipe import Recipe, TextRecipe, recipe_from

MAGIC = "*?["
LISTED = 10_000  # names of a folder among which the nearest is looked for
REMEMBERED_MS = 7 * 86_400_000  # how long a worker that has gone may come back with files of its own


def check_paths(settings: Settings, caller: Caller, recipe: Recipe, now: int, tx: Tx) -> None:
    """Refuse at submit what the caller may not name, and what no worker can find.

    Raises:
        PathRefused: outside the roots, from a caller who is bound to them.
        CorpusInvalid, TokenizerInvalid: nothing of that name is on this machine, and all workers are on it.
    """
    bound = None if caller.reaches_all else resolved(settings.roots)
    if bound is not None:
        check_named(recipe, bound)
    if _all_work_here(caller, now, tx):
        for key, entry in paths_of(recipe):
            if not _is_there(entry):
                raise _missing(key, entry, bound)


def check_at_start(assignment: Assignment, settings: Settings) -> None:
    """Refuse, on the worker, what lies outside this machine's roots by now.

    Raises:
        PathRefused: for the job of a caller who is bound to them.
    """
    if not assignment.bound:
        return
    recipe = recipe_from({**assignment.recipe, "name": assignment.name})
    roots = resolved(settings.roots)
    check_named(recipe, roots)
    field = recipe.data.field if isinstance(recipe, TextRecipe) else ""
    for key, entry in paths_of(recipe):
        for file in _files_of(key, entry, field):
            if not _within(file, roots):
                raise _refused(key, entry, roots)


def paths_of(recipe: Any, at: str = "") -> Iterator[tuple[str, str]]:
    """(key, path) of every path in a recipe, but for the names of built-in corpora."""
    for spec in dataclasses.fields(recipe):
        value, key = getattr(recipe, spec.name), f"{at}{spec.name}"
        if dataclasses.is_dataclass(value):
            yield from paths_of(value, f"{key}.")
        elif "path" in spec.metadata:
            for entry in [value] if isinstance(value, str) else value:
                # A file of that name in the worker's folder would be read instead: then it is a path.
                if entry and (entry not in BUILT_IN or Path(entry).exists()):
                    yield key, entry


def check_named(recipe: Recipe, roots: Sequence[Path]) -> None:
    """Refuse a recipe that names a path outside the roots (resolved ones), be it there or not.

    Raises:
        PathRefused: names the roots.
    """
    for key, entry in paths_of(recipe):
        fixed, rest = _split_glob(_expanded(entry))
        if ".." in rest or not _within(fixed, roots) or not _within(fixed.joinpath(*rest), roots):
            raise _refused(key, entry, roots)


def resolved(roots: Iterable[Path]) -> tuple[Path, ...]:
    """Roots without links; one that cannot be followed is none."""
    return tuple(path for root in roots if (path := _resolved(root)) is not None)


def _expanded(entry: str) -> Path:
    try:
        return Path(entry).expanduser().absolute()
    except RuntimeError:  # a home of nobody
        return Path(entry).absolute()


def _resolved(path: Path) -> Path | None:
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):  # links in a circle, a name that is too long
        return None


def _within(path: Path, roots: Sequence[Path]) -> bool:
    found = _resolved(path)
    return found is not None and any(found.is_relative_to(root) for root in roots)


def _split_glob(path: Path) -> tuple[Path, tuple[str, ...]]:
    """The part of a path before its first wildcard, and the rest."""
    first = next((i for i, part in enumerate(path.parts) if any(c in part for c in MAGIC)), len(path.parts))
    return Path(*path.parts[:first]), path.parts[first:]


def _files_of(key: str, entry: str, field: str) -> Iterable[Path]:
    """All files that reading an entry would open; what is wrong with it otherwise is the run's to say."""
    if key.startswith(("tokenizer.", "model.")):
        folder = _expanded(entry)
        return folder.iterdir() if folder.is_dir() else [folder]
    try:
        return open_corpus(entry, field).files
    except CorpusInvalid:
        return []


def _is_there(entry: str) -> bool:
    path = _expanded(entry)
    try:
        return path.exists() or (any(c in entry for c in MAGIC) and _split_glob(path)[0].exists())
    except (OSError, ValueError):
        return False


def _all_work_here(caller: Caller, now: int, tx: Tx) -> bool:
    """Whether what is not on this machine is nowhere, as far as anybody can know.

    So it is where every worker runs here; and, while there is none, for whoever sits at this machine himself. A worker
    elsewhere, or one that was there in the last days, may have files that we cannot see: then the job is queued.
    """
    here = 0
    for row in tx.all("SELECT name, status, seen_at FROM worker WHERE kinds <> ''"):
        if is_here(row.name):
            here += row.status != "gone"
        elif row.status != "gone" or (
            row.name.rpartition(":")[0] != socket.gethostname() and row.seen_at > now - REMEMBERED_MS
        ):
            return False
    return bool(here) or not caller.key


def _refused(key: str, entry: str, roots: Sequence[Path]) -> PathRefused:
    shown = ", ".join(map(str, roots)) or "none"
    return PathRefused(
        f"{key} names {entry[:200]!r}, which lies outside the folders that jobs may read.",
        why=f"They are: {shown}. An admin may name any path.",
        fix="Put it into one of them, or ask the operator to add its folder to CERULEA_DATA_ROOTS.",
    )


def _missing(key: str, entry: str, bound: Sequence[Path] | None) -> CeruleaError:
    near = _nearest(_expanded(entry), bound)
    if key.startswith("model."):
        return NotFound(
            f"{key} names {entry[:200]!r}, and there is no such folder.",
            why=f"The nearest name there is {str(near)!r}." if near else "",
            fix="Name the folder of an agent.",
        )
    kind = TokenizerInvalid if key.startswith("tokenizer.") else CorpusInvalid
    return kind(
        f"{key} names {entry[:200]!r}, and there is no such file or folder.",
        why=f"The nearest name there is {str(near)!r}." if near else "Every worker of this platform runs here.",
        fix="Correct the path, or use a built-in corpus: " + ", ".join(BUILT_IN) + ".",
    )


def _nearest(path: Path, bound: Sequence[Path] | None) -> Path | None:
    """What somebody probably meant: the deepest folder that is there, and the name in it that is most alike."""
    try:
        folder = next(parent for parent in path.parents if parent.is_dir())
        if bound is not None and not _within(folder, bound):
            return None
        names = [child.name for child in itertools.islice(folder.iterdir(), LISTED)]
    except (OSError, ValueError):
        return None
    wanted = path.relative_to(folder).parts
    near = difflib.get_close_matches(wanted[0][:200], names, n=1, cutoff=0.5)
    return folder.joinpath(near[0], *wanted[1:]) if near else None
