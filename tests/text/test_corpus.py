"""Which documents, in which order, and which of them are held out."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerulea.core.errors import CorpusInvalid
from cerulea.text.corpus import Split, open_corpus, tail_of
from cerulea.text.files import _from_text
from cerulea.text.shards import _assigned, training_texts


def test_a_folder_is_read_in_the_order_of_its_paths(tmp_path: Path):
    for name in ("b.txt", "a/z.md", "a/b.py", "c.bin", ".hidden/x.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)

    corpus = open_corpus(str(tmp_path))

    assert [d.text() for d in corpus.documents()] == ["a/b.py", "a/z.md", "b.txt"]


def test_a_glob_finds_files_of_known_kinds(tmp_path: Path):
    for name in ("b.txt", "a.txt", "c.bin"):
        (tmp_path / name).write_text(name)

    assert [p.name for p in open_corpus(str(tmp_path / "*")).files] == ["a.txt", "b.txt"]


def test_the_standard_library_is_a_corpus_without_its_tests():
    names = [p.as_posix() for p in open_corpus("stdlib").files]

    assert any(n.endswith("/argparse.py") for n in names)
    assert any(n.endswith("/pydoc_data/topics.py") for n in names)
    assert not any("/test/" in n or "/tests/" in n or "site-packages" in n for n in names)


@pytest.mark.parametrize("entry", ["no-such-file.txt", "no-such-folder", "*.nothing"])
def test_a_missing_corpus_is_named(entry: str):
    with pytest.raises(CorpusInvalid, match="missing or has no text files"):
        open_corpus(entry)


def test_a_file_of_unknown_kind_is_refused(tmp_path: Path):
    (tmp_path / "a.bin").write_text("x")

    with pytest.raises(CorpusInvalid, match="suffix that is not read"):
        open_corpus(str(tmp_path / "a.bin"))


def assigned(folder: Path, split: Split, held_out: list[str] | None = None) -> list[tuple[str, str]]:
    corpora = [open_corpus(str(folder))]
    kept = [open_corpus(entry) for entry in held_out or []]
    return [(kind, "".join(pieces)) for kind, _, _, pieces in _assigned(corpora, split, kept)]


def test_exact_duplicates_are_dropped(tmp_path: Path):
    for name, text in (("a.txt", "same"), ("b.txt", "other"), ("c.txt", "same")):
        (tmp_path / name).write_text(text)

    assert [text for _, text in assigned(tmp_path, Split())] == ["same", "other"]


def test_the_held_out_share_depends_on_contents_alone(tmp_path: Path):
    """Renaming files moves no document between the parts."""
    for i in range(200):
        (tmp_path / f"{i:03d}.txt").write_text(f"text {i}")
    before = {text for kind, text in assigned(tmp_path, Split(fraction=0.2)) if kind == "valid"}

    for i in range(200):
        (tmp_path / f"{i:03d}.txt").rename(tmp_path / f"z{199 - i:03d}.md")
    after = {text for kind, text in assigned(tmp_path, Split(fraction=0.2)) if kind == "valid"}

    assert before == after
    assert 20 <= len(before) <= 60


def test_named_files_are_held_out_and_their_copies_are_not_trained_on(tmp_path: Path):
    train, valid = tmp_path / "train", tmp_path / "valid"
    for folder in (train, valid):
        folder.mkdir()
    (train / "a.txt").write_text("train text")
    (train / "b.txt").write_text("held out")
    (valid / "v.txt").write_text("held out")

    assert assigned(train, Split(fraction=0.5), [str(valid)]) == [("valid", "held out"), ("train", "train text")]


def test_the_tail_of_one_file_is_held_out_by_bytes(tmp_path: Path):
    (tmp_path / "a.txt").write_text("0123456789" * 10)

    assert assigned(tmp_path, Split(tail=0.1)) == [("train", "0123456789" * 9), ("valid", "0123456789")]


def test_a_single_document_holds_out_its_end(tmp_path: Path):
    (tmp_path / "a.txt").write_text("0123456789" * 10)

    assert assigned(tmp_path, Split(fraction=0.1)) == [("train", "0123456789" * 9), ("valid", "0123456789")]


def test_a_tail_of_several_documents_is_refused(tmp_path: Path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(name)

    with pytest.raises(CorpusInvalid, match="corpus of one document"):
        assigned(tmp_path, Split(tail=0.1))


@given(text=st.text(min_size=1), share=st.floats(0.01, 0.99))
def test_the_two_parts_of_a_document_are_the_document(text: str, share: float):
    """However many bytes a character has, it lies in exactly one part."""
    try:
        document = _from_text("x", text)
    except CorpusInvalid:
        return

    first, last = tail_of(document, share)

    assert "".join(first) + "".join(last) == text


def test_a_tokenizer_is_trained_on_training_documents_alone(tmp_path: Path):
    for i in range(50):
        (tmp_path / f"{i}.txt").write_text(f"text {i}")
    split = Split(fraction=0.3)

    seen = set(training_texts([open_corpus(str(tmp_path))], split, []))

    assert seen == {text for kind, text in assigned(tmp_path, split) if kind == "train"}
