"""Read documents from files: plain text, Markdown, Python, JSON lines, Parquet, each also compressed.

In:      one file path and the name of the text field (for JSON lines and Parquet).
Out:     Documents in file order. A document's text comes in pieces, so that a file larger than memory is fine.
Kept:    bytes that are not UTF-8 are refused with the file and the byte; nothing is replaced or guessed.
Not here: which files make a corpus, duplicates, the held-out split (`corpus`).
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import io
import json
import lzma
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import zstandard

from cerulea.core.errors import CorpusInvalid

PLAIN = (".txt", ".md", ".py", ".rst")
SUFFIXES = (*PLAIN, ".jsonl", ".parquet")
COMPRESSIONS = (".gz", ".xz", ".zst")
READ_BYTES = 1 << 20
PIECE_CHARS = 1 << 20  # longest piece of a document; shorter documents are never cut
LONGEST_PIECE = 4  # times PIECE_CHARS, where there is no good place to cut


@dataclass(frozen=True, slots=True)
class Document:
    """One text: where it stands, how long it is, a digest of its bytes, and a way to read it again."""

    source: str  # file, or file:line
    digest: bytes  # sha256 of the UTF-8 bytes
    bytes: int
    pieces: Callable[[], Iterator[str]]  # joined they are the text; each call reads from the start

    def text(self) -> str:
        """The whole text in memory."""
        return "".join(self.pieces())


def kind_of(path: Path) -> str | None:
    """`.txt`, `.jsonl` and so on, below a compression suffix; None for a file that is not read."""
    name = path.name.lower()
    for suffix in COMPRESSIONS:
        name = name.removesuffix(suffix)
    suffix = Path(name).suffix
    return suffix if suffix in SUFFIXES else None


def documents(path: Path, field: str) -> Iterator[Document]:
    """All documents of one file.

    Raises:
        CorpusInvalid: bytes that are not UTF-8, a broken archive, a line that is no JSON object or
            lacks `field`, a Parquet file without that column.
    """
    kind = kind_of(path)
    try:
        if kind == ".jsonl":
            yield from _json_lines(path, field)
        elif kind == ".parquet":
            yield from _parquet_rows(path, field)
        else:
            yield _plain(path)
    except (OSError, EOFError, lzma.LZMAError, zstandard.ZstdError) as error:
        raise CorpusInvalid(
            f"{path} cannot be read: {error}.", fix="Check the file, for example by unpacking it by hand."
        ) from error


def open_bytes(path: Path) -> IO[bytes]:
    """The file's bytes, unpacked by its suffix."""
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return io.BufferedReader(gzip.open(path, "rb"), READ_BYTES)
    if suffix == ".xz":
        return lzma.open(path, "rb")
    if suffix == ".zst":
        return io.BufferedReader(_ZstdFrames(path), READ_BYTES)
    return path.open("rb")


class _ZstdFrames(io.RawIOBase):
    """The frames of a .zst file one after the other; a file that ends inside a frame is an error, not an end."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._held = b""
        self._begun = False  # whether the frame has bytes and no end yet

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._held:
            chunk = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame, self._begun = zstandard.ZstdDecompressor().decompressobj(), False
            chunk = chunk or self._file.read(READ_BYTES)
            if not chunk:
                if self._begun:
                    raise EOFError("the archive ends in the middle")
                return 0
            self._begun = True
            self._held = self._frame.decompress(chunk)
        count = min(len(buffer), len(self._held))
        buffer[:count] = self._held[:count]
        self._held = self._held[count:]
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def _plain(path: Path) -> Document:
    digest, count = hashlib.sha256(), 0
    for piece in _decoded(path):
        encoded = piece.encode()
        digest.update(encoded)
        count += len(encoded)
    return Document(str(path), digest.digest(), count, lambda: _rejoined(_decoded(path)))


def _decoded(path: Path) -> Iterator[str]:
    """Text of a file in pieces of about READ_BYTES, decoded strictly."""
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    read = 0  # bytes before the ones being decoded
    with open_bytes(path) as file:
        while True:
            chunk = file.read(READ_BYTES)
            pending = len(decoder.getstate()[0])
            try:
                text = decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                raise _not_utf8(str(path), read - pending + error.start, error.object[error.start]) from error
            read += len(chunk)
            if text:
                yield text
            if not chunk:
                return


def _rejoined(parts: Iterator[str]) -> Iterator[str]:
    """Pieces of at most about PIECE_CHARS, cut only before a space between two words.

    There every tokenizer that splits words with a leading space sees the same words as in the whole text.
    """
    held = ""
    for part in parts:
        held += part
        while len(held) > PIECE_CHARS:
            cut = _word_start(held) or (_any_start(held) if len(held) > LONGEST_PIECE * PIECE_CHARS else 0)
            if cut == 0:
                break
            yield held[:cut]
            held = held[cut:]
    if held:
        yield held


def _word_start(text: str) -> int:
    """The last place, within a piece's length, of a single space with a letter on both sides; 0 where there is none."""
    end = PIECE_CHARS
    while (cut := text.rfind(" ", 1, end)) > 0:
        if cut + 1 < len(text) and text[cut - 1].isalpha() and text[cut + 1].isalpha():
            return cut
        end = cut
    return 0


def _any_start(text: str) -> int:
    """For text without blanks between letters (Chinese, one long line of data): after a newline, else anywhere.

    A tokenizer may then see one word a megabyte otherwise than in the whole text; memory stays bounded.
    """
    return text.rfind("\n", 1, PIECE_CHARS) + 1 or PIECE_CHARS


def _json_lines(path: Path, field: str) -> Iterator[Document]:
    with open_bytes(path) as file:
        read = 0
        for number, line in enumerate(file, start=1):
            source = f"{path}:{number}"
            if line.strip():
                try:
                    value = json.loads(line)
                except UnicodeDecodeError as error:
                    raise _not_utf8(source, read + error.start, line[error.start]) from error
                except (ValueError, RecursionError) as error:
                    raise CorpusInvalid(
                        f"{source} is not JSON: {error}.",
                        why="Every line of a .jsonl file is one JSON object.",
                        fix="Correct or remove that line.",
                    ) from error
                yield _from_text(source, _field_of(value, field, source))
            read += len(line)


def _field_of(value: Any, field: str, source: str) -> str:
    text = value.get(field) if isinstance(value, dict) else None
    if isinstance(text, str):
        return text
    known = ", ".join(sorted(k for k, v in value.items() if isinstance(v, str))) if isinstance(value, dict) else ""
    raise CorpusInvalid(
        f"{source} has no text field {field!r}.",
        why=f"Its text fields are: {known}." if known else "It is no JSON object with a text field.",
        fix="Name the field: --set data.field=NAME, or correct that line.",
    )


def _parquet_rows(path: Path, field: str) -> Iterator[Document]:
    try:
        from pyarrow import ArrowInvalid, parquet
    except ImportError as error:
        raise CorpusInvalid(f"{path} is Parquet, and pyarrow is not installed.", fix="pip install pyarrow") from error
    try:
        # Compressed once more (.parquet.gz): Parquet needs to seek, so such a file is unpacked in memory.
        packed = path.suffix.lower() in COMPRESSIONS
        file = parquet.ParquetFile(io.BytesIO(open_bytes(path).read()) if packed else path)
    except ArrowInvalid as error:
        raise CorpusInvalid(f"{path} is no Parquet file: {error}.", fix="Check the file.") from error
    if field not in file.schema_arrow.names:
        raise CorpusInvalid(
            f"{path} has no column {field!r}.",
            why=f"Its columns are: {', '.join(file.schema_arrow.names)}.",
            fix="Name the column: --set data.field=NAME",
        )
    number = 0
    for batch in file.iter_batches(batch_size=256, columns=[field]):
        column = batch.column(0)
        if str(column.type) in ("string", "large_string"):
            column = column.cast("large_binary")  # to find the row and byte of what is not UTF-8
        for text in column.to_pylist():
            number += 1
            source = f"{path}:{number}"
            if isinstance(text, bytes):
                try:
                    text = text.decode()
                except UnicodeDecodeError as error:
                    raise _not_utf8(source, error.start, text[error.start]) from error
            if not isinstance(text, str):
                raise CorpusInvalid(f"{source} has no text in column {field!r}.", fix="Remove that row.")
            yield _from_text(source, text)


def _from_text(source: str, text: str) -> Document:
    try:
        encoded = text.encode()
    except UnicodeEncodeError as error:
        raise CorpusInvalid(
            f"{source} holds half of a surrogate pair at character {error.start}.",
            why="Such text has no UTF-8 form.",
            fix="Correct or remove that line.",
        ) from error
    return Document(source, hashlib.sha256(encoded).digest(), len(encoded), lambda: _rejoined(iter((text,))))


def _not_utf8(source: str, byte: int, value: int) -> CorpusInvalid:
    return CorpusInvalid(
        f"{source} is not UTF-8: byte {byte:,} is 0x{value:02x}.",
        why="Text is read as UTF-8 and never guessed.",
        fix="Convert it first, for example: iconv -f latin1 -t utf-8 FILE > FILE.utf8",
    )
