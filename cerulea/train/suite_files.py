"""Benchmark files as questions, lines and text.

In:      a file in its benchmark's own format, also packed (.gz, .xz, .zst).
Out:     questions (context, endings, index of the right one), numbered lines, or the test part of a byte stream.
Kept:    a malformed line is refused with its file and number; nothing is guessed or replaced.
Not here: what is scored (`suites`), undoing tokenisation (`detokenize`). docs/evaluation.md shows each format.
"""

from __future__ import annotations

import codecs
import json
import lzma
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import zstandard

from cerulea.core.errors import SuiteInvalid
from cerulea.text.files import open_bytes
from cerulea.train import detokenize

Question = tuple[str, list[str], int]  # context, endings, index of the right one

UNREADABLE = (OSError, EOFError, lzma.LZMAError, zstandard.ZstdError)
CBT_LINES = 20  # before the line with the gap
ENWIK_BYTES, ENWIK_TEST_BYTES = 100_000_000, 5_000_000  # enwik8 and text8: whole, and the customary test part
_HELLASWAG_MARK = re.compile(r"\[(?:header|title|step|substeps)\]")


def hellaswag_questions(path: Path) -> Iterator[Question]:
    """`activity_label: ctx`, and each ending after a space; ctx may be apart in ctx_a and ctx_b."""
    for number, row in _objects(path):
        given, label, activity = row.get("endings"), row.get("label"), row.get("activity_label")
        scene = row.get("ctx") if "ctx" in row else _joined(row.get("ctx_a"), row.get("ctx_b"))
        endings = [plain(e) if isinstance(e, str) else "" for e in given] if isinstance(given, list) else []
        if len(endings) < 2 or not all(endings):
            _malformed(path, number, "has no list of two endings or more, each with some text")
        if isinstance(label, str) and label.isdecimal():
            label = int(label)
        if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < len(endings):
            _malformed(path, number, f"has the label {label!r}, which is none of its {len(endings)} endings")
        if not isinstance(activity, str) or not isinstance(scene, str):
            _malformed(path, number, "has no activity_label and ctx (or ctx_a and ctx_b)")
        yield f"{plain(activity)}: {plain(scene)}", [" " + ending for ending in endings], label


def _joined(a: Any, b: Any) -> str | None:
    return f"{a} {b}" if isinstance(a, str) and isinstance(b, str) else None


def plain(text: str) -> str:
    """Without WikiHow's marks and double blanks."""
    return " ".join(_HELLASWAG_MARK.sub(" ", text).split())


def lambada_questions(path: Path) -> Iterator[Question]:
    """All of `text` but its last word, and that word."""
    for number, row in _objects(path):
        text = row.get("text")
        before, blank, word = text.strip().rpartition(" ") if isinstance(text, str) else ("", "", "")
        if not blank:
            _malformed(path, number, "has no text of two words or more")
        yield before, [" " + word], 0


def cbt_questions(path: Path) -> Iterator[Question]:
    """Blocks of 20 numbered lines and a 21st with a gap: `21 question <tab> answer <tab><tab> word|word|...`."""
    scene: list[str] = []
    at = 0
    for at, line in lines(path):
        if not line.strip() and not scene:
            continue
        number, _, sentence = line.partition(" ")
        if number != str(len(scene) + 1):
            _malformed(path, at, f"should be line {len(scene) + 1} of a question and begin with that number")
        if len(scene) < CBT_LINES:
            scene.append(detokenize.cbt(sentence.strip()))
            continue
        question, *fields = sentence.split("\t")
        before, gap, after = detokenize.cbt(question.strip()).partition("XXXXX")
        candidates = [word for word in fields[-1].split("|") if word.strip()] if len(fields) > 1 else []
        if not gap:
            _malformed(path, at, "has no XXXXX, which marks the gap")
        if not candidates or fields[0] not in candidates:
            _malformed(path, at, "does not give an answer and, after it, candidates with that answer among them")
        context = " ".join(scene) + " " + before
        yield context, [word + after for word in candidates], candidates.index(fields[0])
        scene = []
    if scene:
        _malformed(path, at, f"is the last one, in the middle of a question ({len(scene)} of 21 lines)")


def test_part(path: Path, limit: int | None) -> str:
    """The last 5,000,000 bytes of a file of 100,000,000, or all of any other; of that the first `limit` bytes."""
    try:
        with open_bytes(path) as file:
            data = file.read()
    except UNREADABLE as error:
        raise _unreadable(path, error) from error
    if len(data) == ENWIK_BYTES:
        data = data[-ENWIK_TEST_BYTES:]
    # A cut can fall inside a character: its bytes at either end are left out, and not counted.
    start = next((i for i, byte in enumerate(data[:4]) if byte & 0xC0 != 0x80), 0)
    data = data[start:] if limit is None else data[start : start + limit]
    try:
        text = codecs.getincrementaldecoder("utf-8")("strict").decode(data)
    except UnicodeDecodeError as error:
        raise SuiteInvalid(f"{path} is not UTF-8: {error.reason} at byte {error.start:,} of its test part.") from error
    if not text:
        raise SuiteInvalid(f"{path} is empty.", fix="Check the file.")
    return text


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in lines(path):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                _malformed(path, number, f"is not JSON ({error.msg} at column {error.colno})")
            if not isinstance(row, dict):
                _malformed(path, number, "is no JSON object")
            if "\\u" in line and not _is_text(row):
                _malformed(path, number, "holds half of a surrogate pair, which has no UTF-8 form")
            yield number, row


def _is_text(row: dict[str, Any]) -> bool:
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines without their ends, unpacked by the file's suffix."""
    number = 0
    try:
        with open_bytes(path) as file:
            for number, raw in enumerate(file, start=1):
                yield number, raw.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        _malformed(path, number, f"is not UTF-8 (byte 0x{error.object[error.start]:02x})")
    except UNREADABLE as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> SuiteInvalid:
    return SuiteInvalid(f"{path} cannot be read: {error}.", fix="Check the file, for example by unpacking it by hand.")


def _malformed(path: Path, number: int, what: str) -> NoReturn:
    raise SuiteInvalid(
        f"{path}:{number} {what}.", why="docs/evaluation.md gives each format.", fix="Correct that line."
    )
