"""A corpus: which documents, in which order, which of them are held out.

In:      a recipe's [data] entries: files, folders, globs, or the built-in `stdlib`.
Out:     Documents in a stable order, exact duplicates dropped, each marked `train` or `valid`.
Kept:    the order depends on names and contents alone; a document is in train or in valid, never in both.
Not here: reading file formats (`files`), tokens (`shards`).
"""

from __future__ import annotations

import glob
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cerulea.core.errors import CorpusInvalid
from cerulea.text.files import PIECE_CHARS, SUFFIXES, Document, documents, kind_of

BUILT_IN = {"stdlib": "source and documentation of the running Python, without its tests"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Entries that are read together and, with other corpora, mixed by weight."""

    name: str  # as it was typed
    files: tuple[Path, ...]
    field: str = "text"

    def documents(self) -> Iterator[Document]:
        """All documents in file order, duplicates included."""
        for path in self.files:
            yield from documents(path, self.field)

    def stamp(self) -> list[tuple[str, int, int]]:
        """Path, size and time of every file: unchanged means that packing again is not needed."""
        return [(str(path), (stat := path.stat()).st_size, stat.st_mtime_ns) for path in self.files]


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """How documents are held out: a share by hash, or the last part of each of few."""

    fraction: float = 0.0  # a document is held out when its digest falls into this share
    tail: float = 0.0  # the last share of the only document

    def holds_out(self, document: Document) -> bool:
        """Whether this document is held out by its digest."""
        return int.from_bytes(document.digest[:8], "big") < self.fraction * 2**64


def open_corpus(entry: str, field: str = "text") -> Corpus:
    """Find the files of one entry.

    Raises:
        CorpusInvalid: nothing is there, or nothing in it has a known suffix.
    """
    if entry in BUILT_IN and not Path(entry).exists():
        return Corpus(name=entry, files=_stdlib_files(), field=field)
    path = Path(entry).expanduser()
    if path.is_dir():
        found = [p for p in path.rglob("*") if p.is_file() and kind_of(p) and not _hidden(p, path)]
    elif path.is_file():
        if kind_of(path) is None:
            raise CorpusInvalid(
                f"{entry} has a suffix that is not read.",
                why=f"Known are {' '.join(SUFFIXES)}, each also with .gz, .xz or .zst.",
                fix="Rename it, for example to .txt when it is plain text.",
            )
        found = [path]
    else:
        matches = glob.glob(str(path), recursive=True)  # noqa: PTH207 (Path.glob takes no absolute pattern)
        found = [p for p in map(Path, matches) if p.is_file() and kind_of(p)]
    if not found:
        raise CorpusInvalid(
            f"The corpus {entry!r} is missing or has no text files.",
            why=f"An entry is a file, a folder, a glob or one of: {', '.join(BUILT_IN)}.",
            fix=f"Check the path. Suffixes that are read: {' '.join(SUFFIXES)} (also .gz .xz .zst).",
        )
    return Corpus(name=entry, files=tuple(sorted(found, key=lambda p: p.as_posix())), field=field)


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _stdlib_files() -> tuple[Path, ...]:
    root = Path(sysconfig.get_path("stdlib"))
    skipped = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "ensurepip"}
    found = (p for p in root.rglob("*") if p.suffix in (".py", ".txt", ".rst", ".md") and p.is_file())
    return tuple(sorted(p for p in found if not skipped.intersection(p.relative_to(root).parts)))


class Duplicates:
    """Remembers digests of documents, eight bytes of each (about 90 bytes of memory a document)."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def is_new(self, document: Document) -> bool:
        """True the first time that this content is seen."""
        key = document.digest[:8]
        if key in self._seen:
            return False
        self._seen.add(key)
        return True


def tail_of(document: Document, share: float) -> tuple[Iterator[str], Iterator[str]]:
    """Cut a document into its first part and its last `share`, by bytes, at a character's start.

    Both iterators yield pieces; together they are the document.
    """
    cut = int(document.bytes * (1 - share))
    return _bytes_between(document, 0, cut), _bytes_between(document, cut, document.bytes)


def _bytes_between(document: Document, start: int, stop: int) -> Iterator[str]:
    """Text whose first byte lies in [start, stop): a character belongs where it begins."""
    at = 0
    held = ""
    for piece in document.pieces():
        encoded = piece.encode()
        low, high = max(0, start - at), min(len(encoded), stop - at)
        at += len(encoded)
        if low >= high:
            continue
        while low < len(encoded) and encoded[low] & 0xC0 == 0x80:
            low += 1
        while high < len(encoded) and encoded[high] & 0xC0 == 0x80:
            high += 1
        held += encoded[low:high].decode()
        if len(held) >= PIECE_CHARS:
            yield held
            held = ""
    if held:
        yield held
