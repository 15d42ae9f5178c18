"""Packing: whole, flat in memory, the same on any number of ranks, free when nothing changed."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cerulea.core.errors import CorpusInvalid, HeldOutTooShort
from cerulea.text import shards as shards_module
from cerulea.text.corpus import Split, open_corpus
from cerulea.text.shards import Shards, pack
from cerulea.text.tokenizer import bytes_tokenizer, train_bpe

from ..conftest import prose

BYTES = bytes_tokenizer()


def packed(source: Path, folder: Path, **keywords: object) -> Shards:
    return pack([open_corpus(str(source))], Split(fraction=0.2), [], BYTES, folder, **keywords)


def test_every_document_stands_between_two_ends_of_text(corpus_folder: Path, tmp_path: Path):
    shards = packed(corpus_folder, tmp_path / "packed")

    texts = {p.read_text() for p in corpus_folder.iterdir()}
    found = set()
    for tokens in (shards.train[0], shards.valid):
        assert tokens[0] == tokens[-1] == BYTES.end_of_text
        pieces = np.split(tokens, np.flatnonzero(tokens == BYTES.end_of_text))
        found |= {BYTES.decode(piece[1:]) for piece in pieces if len(piece) > 1}
    assert found == texts
    assert shards.valid_bytes == int(BYTES.bytes_of[shards.valid].sum())


def test_packing_again_reads_nothing(corpus_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = packed(corpus_folder, tmp_path / "packed")

    def forbidden(*_: object) -> None:
        raise AssertionError("a document was read")

    monkeypatch.setattr(shards_module, "_write", forbidden)
    assert packed(corpus_folder, tmp_path / "packed").corpus == first.corpus


def test_a_changed_file_is_packed_again(corpus_folder: Path, tmp_path: Path):
    before = packed(corpus_folder, tmp_path / "packed").corpus
    (corpus_folder / "00.txt").write_text("something else entirely, and longer than before")

    assert packed(corpus_folder, tmp_path / "packed").corpus != before


def test_a_packed_file_that_was_cut_short_is_packed_again(corpus_folder: Path, tmp_path: Path):
    before = packed(corpus_folder, tmp_path / "packed")
    tokens = before.train[0].copy()
    os.truncate(tmp_path / "packed" / "train-0.bin", 10)

    assert np.array_equal(packed(corpus_folder, tmp_path / "packed").train[0], tokens)


def test_a_pool_packs_the_same_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Many processes or one: the same bytes on disk."""
    source = tmp_path / "lines.jsonl"
    source.write_text("".join(json.dumps({"text": prose(i, 50)}) + "\n" for i in range(400)))
    tokenizer = train_bpe(iter([prose(i, 500) for i in range(20)]), 320)
    corpora = [open_corpus(str(source))]
    monkeypatch.setattr(shards_module, "BATCH_BYTES", 10_000)
    alone = pack(corpora, Split(fraction=0.1), [], tokenizer, tmp_path / "alone")
    monkeypatch.setattr(shards_module, "POOL_FROM_BYTES", 0)

    pooled = pack(corpora, Split(fraction=0.1), [], tokenizer, tmp_path / "pooled")

    assert np.array_equal(alone.train[0], pooled.train[0])
    assert np.array_equal(alone.valid, pooled.valid)
    assert alone.corpus == pooled.corpus


def test_a_step_is_the_same_rows_on_any_number_of_ranks(corpus_folder: Path, tmp_path: Path):
    shards = packed(corpus_folder, tmp_path / "packed")
    alone = shards.batches(8, 16, seed=3)

    for ranks in (2, 4):
        parts = [shards.batches(8, 16, seed=3, rank=r, ranks=ranks) for r in range(ranks)]
        alone = shards.batches(8, 16, seed=3)
        for _ in range(20):
            assert np.array_equal(next(alone), np.concatenate([next(part) for part in parts]))


def test_resuming_is_the_first_step(corpus_folder: Path, tmp_path: Path):
    shards = packed(corpus_folder, tmp_path / "packed")
    run = shards.batches(8, 16, seed=3)
    for _ in range(7):
        next(run)

    assert np.array_equal(next(run), next(shards.batches(8, 16, seed=3, first_step=7)))


def test_a_held_out_part_shorter_than_a_context_is_refused(corpus_folder: Path, tmp_path: Path):
    with pytest.raises(HeldOutTooShort, match="less than one context of 1,000,000"):
        packed(corpus_folder, tmp_path / "packed", context=1_000_000)


def test_an_empty_held_out_part_is_refused(tmp_path: Path):
    source = tmp_path / "two"
    source.mkdir()
    for i in range(2):
        (source / f"{i}.txt").write_text(prose(i, 40))

    with pytest.raises(HeldOutTooShort, match="None of 2 documents"):
        pack([open_corpus(str(source))], Split(fraction=0.0), [], BYTES, tmp_path / "packed")


def test_among_few_documents_the_end_of_each_is_held_out(tmp_path: Path):
    """Ten files and a share of 2 %: the hash alone would most often pick none."""
    source = tmp_path / "ten"
    source.mkdir()
    for i in range(10):
        (source / f"{i}.txt").write_text(prose(i, 400))
    (source / "empty.txt").write_text("")

    shards = pack([open_corpus(str(source))], Split(fraction=0.02), [], BYTES, tmp_path / "packed")

    total = sum(p.stat().st_size for p in source.iterdir())
    assert shards.meta["cut_documents"] in (0, 10)
    if shards.meta["cut_documents"]:
        assert shards.valid_bytes == pytest.approx(0.02 * total, rel=0.1)


def test_an_empty_corpus_is_refused(tmp_path: Path):
    (tmp_path / "empty.jsonl").write_text("\n")

    with pytest.raises(CorpusInvalid, match="has no documents"):
        pack([open_corpus(str(tmp_path / "empty.jsonl"))], Split(fraction=0.1), [], BYTES, tmp_path / "packed")


def test_a_failed_packing_leaves_nothing(tmp_path: Path):
    source = tmp_path / "bad.jsonl"
    source.write_text('{"text": "fine"}\n{"text": "fine too"}\n{"other": 1}\n')

    with pytest.raises(CorpusInvalid):
        pack([open_corpus(str(source))], Split(fraction=0.1), [], BYTES, tmp_path / "out" / "packed")

    assert list((tmp_path / "out").iterdir()) == []


MEASURE = """
import resource, sys
from pathlib import Path
from cerulea.text.corpus import Split, open_corpus
from cerulea.text.shards import pack
from cerulea.text.tokenizer import load_tokenizer
source, tokenizer, folder = map(Path, sys.argv[1:])
pack([open_corpus(str(source))], Split(tail=0.01), [], load_tokenizer(tokenizer), folder)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_stays_flat_for_one_large_file(tmp_path: Path):
    """A document of 64 MB takes hardly more memory than one of 8 MB."""
    tokenizer = train_bpe(iter([prose(i, 500) for i in range(20)]), 320)
    tokenizer.save(tmp_path / "tokenizer")
    draw = random.Random(1)
    block = "".join(prose(draw.randrange(10**6), 200) for _ in range(900))
    peaks = []
    for megabytes in (8, 64):
        path = tmp_path / f"{megabytes}.txt"
        with path.open("w") as file:
            while file.tell() < megabytes << 20:
                file.write(block)
        words = [sys.executable, "-c", MEASURE, str(path), str(tmp_path / "tokenizer"), str(tmp_path / f"p{megabytes}")]
        peaks.append(int(subprocess.run(words, check=True, capture_output=True, text=True).stdout) / 1024)

    assert peaks[1] < peaks[0] + 24, f"{peaks} MB"
