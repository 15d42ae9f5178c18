"""Files that appear whole, JSON that every program reads, names and cores."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import pytest

from cerulea.core import files
from cerulea.core.cores import usable_cores
from cerulea.core.files import json_line, read_json, sha256_file, write_bytes, write_json
from cerulea.core.names import is_name


def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path: Path):
    path = tmp_path / "new" / "file"

    write_bytes(path, b"one")
    write_bytes(path, b"two")

    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The disk refuses at the last moment, after every byte was handed over."""
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def refuse(handle: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(files.os, "fsync", refuse)

    with pytest.raises(OSError, match="No space"):
        write_bytes(path, b"new, and longer")
    assert path.read_bytes() == b"old"


def test_json_comes_back_as_it_was_written(tmp_path: Path):
    value = {"name": "Brücke", "sizes": [1, 2.5, None], "deep": {"a": True}}

    write_json(tmp_path / "value.json", value)

    assert read_json(tmp_path / "value.json") == value
    assert "Brücke" in (tmp_path / "value.json").read_text(encoding="utf-8")


def test_a_json_line_is_one_line_and_holds_no_nan():
    """What is no number becomes null, however deep; a line break inside a text is escaped."""
    line = json_line({"loss": math.nan, "scores": [1.0, (math.inf, 2)], "text": "a\nb"})

    assert "\n" not in line
    assert json.loads(line) == {"loss": None, "scores": [1.0, [None, 2]], "text": "a\nb"}


def test_a_digest_is_that_of_all_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A file longer than one piece; judge: hashlib over the whole."""
    monkeypatch.setattr(files, "CHUNK_BYTES", 7)
    (tmp_path / "file").write_bytes(bytes(range(100)))

    assert sha256_file(tmp_path / "file") == hashlib.sha256(bytes(range(100))).hexdigest()


@pytest.mark.parametrize(
    ("text", "right"),
    [
        *(("brook", True), ("a", True), ("7b-v1.2_x", True)),
        *(("", False), ("-rf", False), (".", False), ("../up", False), ("a b", False), ("a/b", False), ("a@1", False)),
    ],
)
def test_a_name_is_safe_as_a_folders(text: str, right: bool):
    assert is_name(text) is right


def test_there_is_a_core_to_use():
    assert usable_cores() >= 1
