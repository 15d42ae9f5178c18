"""Reading documents: every format, every compression, every way they can be wrong."""

from __future__ import annotations

import gzip
import json
import lzma
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from cerulea.core.errors import CorpusInvalid
from cerulea.text import files
from cerulea.text.files import documents, kind_of

TEXT = "Wasser läuft.\nЧайка 🐦 летит.\n"


def texts(path: Path, field: str = "text") -> list[str]:
    return [document.text() for document in documents(path, field)]


PACKERS = {"": lambda b: b, ".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstandard.ZstdCompressor().compress}


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize("suffix", [".txt", ".md", ".py"])
def test_a_plain_file_is_one_document(tmp_path: Path, suffix: str, packing: str):
    path = tmp_path / f"a{suffix}{packing}"
    path.write_bytes(PACKERS[packing](TEXT.encode()))

    (document,) = documents(path, "text")

    assert document.text() == TEXT
    assert document.bytes == len(TEXT.encode())


@pytest.mark.parametrize("packing", PACKERS)
def test_each_line_of_json_lines_is_a_document(tmp_path: Path, packing: str):
    path = tmp_path / f"a.jsonl{packing}"
    path.write_bytes(PACKERS[packing](b'{"body": "one", "n": 1}\n\n{"body": "zwei \\u00e4"}\n'))

    assert texts(path, "body") == ["one", "zwei ä"]


@pytest.mark.parametrize("packing", PACKERS)
def test_each_row_of_parquet_is_a_document(tmp_path: Path, packing: str):
    plain = tmp_path / "plain.parquet"
    pq.write_table(pa.table({"text": ["one", "zwei ä"], "n": [1, 2]}), plain)
    path = tmp_path / f"a.parquet{packing}"
    path.write_bytes(PACKERS[packing](plain.read_bytes()))

    assert texts(path) == ["one", "zwei ä"]


def test_an_unknown_suffix_is_not_text():
    assert kind_of(Path("a.bin")) is None
    assert kind_of(Path("a.txt.gz")) == ".txt"


@pytest.mark.parametrize("before", [0, 5, 3 << 20])
def test_bytes_that_are_not_utf8_are_named_with_file_and_place(tmp_path: Path, before: int):
    """Also where the bad byte lies beyond the first piece that is read."""
    path = tmp_path / "bad.txt"
    path.write_bytes(b"x" * before + b"\xe4\xff rest")

    with pytest.raises(CorpusInvalid, match=rf"bad\.txt is not UTF-8: byte {before:,} is 0xe4"):
        texts(path)


def test_a_character_cut_off_at_the_end_is_refused(tmp_path: Path):
    path = tmp_path / "cut.txt"
    path.write_bytes("gut ä".encode()[:-1])

    with pytest.raises(CorpusInvalid, match="byte 4 is 0xc3"):
        texts(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"other": "x"}', r"a\.jsonl:2 has no text field 'text'\. Its text fields are: other"),
        ('{"text": 5}', r"a\.jsonl:2 has no text field"),
        ("[1]", r"a\.jsonl:2 has no text field"),
        ("{broken", r"a\.jsonl:2 is not JSON"),
        ('{"text": "\\ud800"}', r"a\.jsonl:2 holds half of a surrogate pair"),
    ],
)
def test_a_line_that_is_wrong_is_named(tmp_path: Path, line: str, message: str):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "fine"}) + "\n" + line + "\n")

    with pytest.raises(CorpusInvalid, match=message):
        texts(path)


def test_a_json_line_that_is_not_utf8_is_named(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "ok"}\n{"text": "\xff"}\n')

    with pytest.raises(CorpusInvalid, match=r"a\.jsonl:2 is not UTF-8"):
        texts(path)


def test_a_parquet_file_without_the_column_names_those_it_has(tmp_path: Path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"body": ["x"]}), path)

    with pytest.raises(CorpusInvalid, match="Its columns are: body"):
        texts(path)


@pytest.mark.parametrize("name", ["a.txt.gz", "a.txt.xz", "a.txt.zst", "a.parquet"])
def test_a_broken_archive_is_refused(tmp_path: Path, name: str):
    path = tmp_path / name
    path.write_bytes(b"this is no archive at all")

    with pytest.raises(CorpusInvalid):
        texts(path)


def test_a_long_document_comes_in_pieces_cut_between_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Joined they are the text; no cut lies inside a word or beside other white space."""
    monkeypatch.setattr(files, "PIECE_CHARS", 1000)
    text = "one two\n\nthree  four. five six " * 400
    path = tmp_path / "long.txt"
    path.write_text(text)

    pieces = list(next(documents(path, "text")).pieces())

    assert "".join(pieces) == text
    assert len(pieces) > 5
    assert max(map(len, pieces)) <= 1000
    for piece in pieces[1:]:
        assert piece[0] == " " and piece[1].isalpha()


def test_a_long_text_without_any_word_boundary_is_cut_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """So that memory stays flat for Chinese, or one long line of data."""
    monkeypatch.setattr(files, "PIECE_CHARS", 1000)
    path = tmp_path / "long.txt"
    path.write_text(("字" * 700 + "。\n") * 20)

    pieces = list(next(documents(path, "text")).pieces())

    assert "".join(pieces) == path.read_text()
    assert max(map(len, pieces)) <= 5000


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_an_archive_that_was_cut_short_is_refused(tmp_path: Path, suffix: str, share: float):
    """Never read as a shorter text."""
    packed = PACKERS[suffix]("".join(f"line {i * 7919 % 100003}\n" for i in range(50_000)).encode())
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(packed[: int(len(packed) * share)])

    with pytest.raises(CorpusInvalid, match="cannot be read"):
        texts(path)


def test_several_zstandard_frames_are_one_text(tmp_path: Path):
    path = tmp_path / "a.txt.zst"
    path.write_bytes(PACKERS[".zst"](b"one ") + PACKERS[".zst"](b"two"))

    assert texts(path) == ["one two"]


def test_a_parquet_text_that_is_not_utf8_is_named(tmp_path: Path):
    path = tmp_path / "a.parquet"
    column = pa.Array.from_buffers(pa.string(), 1, pa.array([b"ab\xff"]).buffers())
    pq.write_table(pa.table({"text": column}), path)

    with pytest.raises(CorpusInvalid, match=r"a\.parquet:1 is not UTF-8: byte 2 is 0xff"):
        texts(path)
