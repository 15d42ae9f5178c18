"""Packed tokens on disk, memory-mapped: what training reads.

In:      corpora, a split, a tokenizer.
Out:     a folder with train-N.bin (one per corpus), valid.bin and meta.json; batches of token ids from it.
Kept:    memory stays flat however large the corpora are; a folder exists only when it is whole; packing again
         with nothing changed reads nothing; every document stands between two end-of-text tokens.
Not here: which rows a step reads (`order`), file formats (`files`).
"""

from __future__ import annotations

import hashlib
import itertools
import multiprocessing
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from cerulea.core.cores import usable_cores
from cerulea.core.errors import CorpusInvalid, HeldOutTooShort
from cerulea.core.files import read_json, write_json
from cerulea.text.corpus import Corpus, Duplicates, Split, tail_of
from cerulea.text.files import Document, kind_of
from cerulea.text.order import make_order
from cerulea.text.tokenizer import Tokenizer

LAYOUT = 1  # of the folder; another number packs again
BATCH_BYTES = 4 << 20  # text handed to the tokenizer at once
FEW_DOCUMENTS = 200  # below that the split is looked at before it is used
POOL_FROM_BYTES = 24 << 20  # smaller corpora are packed before a second process has started
TRAIN_SAMPLE_BYTES = 24 << 20  # text that a new BPE is trained on

Report = Callable[[int, int], None]  # bytes of text done, bytes in all (of compressed files an estimate)


@dataclass(frozen=True, slots=True)
class Shards:
    """Packed corpora, opened for reading.

    Attributes:
        train: one array of token ids per corpus, memory-mapped.
        valid: token ids of the held-out documents; begins and ends with end-of-text.
        valid_bytes: UTF-8 bytes of the held-out documents.
        corpus: digest of all documents, their order and their split.
        tokenizer: digest of the tokenizer.
    """

    folder: Path
    train: tuple[np.ndarray, ...]
    valid: np.ndarray
    valid_bytes: int
    weights: tuple[float, ...]
    corpus: str
    tokenizer: str
    meta: dict[str, Any]

    def batches(
        self, rows: int, context_tokens: int, seed: int, first_step: int = 0, rank: int = 0, ranks: int = 1
    ) -> Iterator[np.ndarray]:
        """Batches of (rows / ranks, context_tokens + 1) int64 ids, without end.

        Step n gives the same `rows` rows on any number of ranks, each rank its own part in order; resuming is
        `first_step=n`.
        """
        read = self.reader(context_tokens, seed)
        part = rows // ranks
        for step in itertools.count(first_step):
            yield read(step * rows + rank * part, part)

    def reader(self, context_tokens: int, seed: int) -> Callable[[int, int], np.ndarray]:
        """A function (first sample, count) -> (count, context_tokens + 1) int64 ids."""
        order = make_order(tuple(len(t) for t in self.train), self.weights, context_tokens, seed)
        span = np.arange(context_tokens + 1)

        def read(first: int, count: int) -> np.ndarray:
            corpora, starts = order.locate(np.arange(first, first + count))
            out = np.empty((count, context_tokens + 1), np.int64)
            for i, (corpus, start) in enumerate(zip(corpora.tolist(), starts.tolist(), strict=True)):
                out[i] = self.train[corpus][start + span]
            return out

        return read


def open_shards(folder: Path, weights: tuple[float, ...]) -> Shards:
    """Map a packed folder."""
    meta = read_json(folder / "meta.json")
    dtype = np.dtype(meta["dtype"])
    train = tuple(np.memmap(folder / f"train-{i}.bin", dtype, "r") for i in range(len(meta["train_tokens"])))
    return Shards(
        folder=folder,
        train=train,
        valid=np.memmap(folder / "valid.bin", dtype, "r"),
        valid_bytes=meta["valid_bytes"],
        weights=weights or tuple(float(len(tokens)) for tokens in train),
        corpus=meta["corpus"],
        tokenizer=meta["tokenizer"],
        meta=meta,
    )


def pack(
    corpora: list[Corpus],
    split: Split,
    held_out: list[Corpus],
    tokenizer: Tokenizer,
    folder: Path,
    *,
    weights: tuple[float, ...] = (),
    context: int = 1,
    report: Report | None = None,
) -> Shards:
    """Tokenize corpora into `folder`, or open it where nothing has changed since.

    Args:
        held_out: corpora that are held out whole (the recipe's `valid` files).
        context: tokens of a row; the held-out part must hold at least one.

    Raises:
        CorpusInvalid: no documents, or documents that cannot be read.
        HeldOutTooShort: fewer held-out tokens than one context.
    """
    stamp = _stamp(corpora, split, held_out, tokenizer)
    if not _is_packed(folder, stamp):
        temporary = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            _write(corpora, split, held_out, tokenizer, temporary, stamp, report)
            if not _is_packed(folder, stamp):  # another process may have been first
                shutil.rmtree(folder, ignore_errors=True)
                temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    shards = open_shards(folder, weights)
    if len(shards.valid) < context + 1:
        raise HeldOutTooShort(
            f"The held-out part has {len(shards.valid):,} tokens, less than one context of {context:,}.",
            why=f"{shards.meta['valid_documents']} of {shards.meta['documents']} documents fell into it.",
            fix="Raise data.valid_fraction, name files with data.valid, or hold out the end of one file with "
            "--set data.valid_tail=0.1",
        )
    return shards


def training_texts(corpora: list[Corpus], split: Split, held_out: list[Corpus]) -> Iterator[str]:
    """A fair sample of the training documents, about TRAIN_SAMPLE_BYTES, to train a tokenizer on."""
    share = min(1.0, TRAIN_SAMPLE_BYTES / max(_text_bytes(corpora), 1))
    for kind, _, document, pieces in _assigned(corpora, split, held_out):
        if kind == "train" and int.from_bytes(document.digest[8:16], "big") < share * 2**64:
            yield from pieces


def _text_bytes(corpora: list[Corpus]) -> int:
    """About how much text the files hold: compressed ones are taken for four times their size."""
    files = (path for corpus in corpora for path in corpus.files)
    return sum(path.stat().st_size * (4 if kind_of(path) != path.suffix.lower() else 1) for path in files)


def _stamp(corpora: list[Corpus], split: Split, held_out: list[Corpus], tokenizer: Tokenizer) -> str:
    parts = [
        LAYOUT,
        tokenizer.digest,
        split.fraction,
        split.tail,
        [[c.field, c.stamp()] for c in corpora],
        [[c.field, c.stamp()] for c in held_out],
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _is_packed(folder: Path, stamp: str) -> bool:
    if not (folder / "meta.json").exists():
        return False
    meta = read_json(folder / "meta.json")
    size = np.dtype(meta["dtype"]).itemsize
    counts = {f"train-{i}.bin": n for i, n in enumerate(meta["train_tokens"])} | {"valid.bin": meta["valid_tokens"]}
    whole = all((folder / n).exists() and (folder / n).stat().st_size == size * c for n, c in counts.items())
    return whole and meta["stamp"] == stamp


def _assigned(
    corpora: list[Corpus], split: Split, held_out: list[Corpus]
) -> Iterator[tuple[str, int, Document, Iterator[str]]]:
    """Every new document with its place: ('train' or 'valid', corpus number, document, its pieces).

    Held-out files come first, so that a copy of one among the training files is dropped as a duplicate. Among
    few documents the hash may pick none, or all: then the last share of each document is held out instead.
    """
    new = Duplicates().is_new
    for corpus in held_out:
        for document in filter(new, corpus.documents()):
            yield "valid", 0, document, document.pieces()
    numbered = ((i, document) for i, corpus in enumerate(corpora) for document in corpus.documents() if document.bytes)
    first = [(i, document) for i, document in itertools.islice(numbered, FEW_DOCUMENTS) if new(document)]
    if not first:
        raise CorpusInvalid(
            f"The corpus {', '.join(c.name for c in corpora)!r} has no documents.", fix="Check the files it names."
        )
    if split.tail and len(first) > 1:
        raise CorpusInvalid(
            "data.valid_tail needs a corpus of one document.",
            why="It holds out the last part of one file.",
            fix="Use data.valid_fraction, or name held-out files with data.valid.",
        )
    rest = ((i, document) for i, document in numbered if new(document))
    tail = split.tail
    if not held_out and not tail and len(first) < FEW_DOCUMENTS:
        picked = sum(split.holds_out(document) for _, document in first)
        tail = split.fraction if picked in (0, len(first)) else 0.0
    for i, document in itertools.chain(first, rest):
        if tail:
            train, valid = tail_of(document, tail)
            yield "train", i, document, train
            yield "valid", i, document, valid
        elif not held_out and split.holds_out(document):
            yield "valid", i, document, document.pieces()
        else:
            yield "train", i, document, document.pieces()


def _write(
    corpora: list[Corpus],
    split: Split,
    held_out: list[Corpus],
    tokenizer: Tokenizer,
    folder: Path,
    stamp: str,
    report: Report | None,
) -> None:
    """Tokenize everything into `folder`, meta.json last."""
    total = _text_bytes([*held_out, *corpora])
    end = np.array([tokenizer.end_of_text], tokenizer.dtype).tobytes()
    names = ["valid", *(f"train-{i}" for i in range(len(corpora)))]
    files: dict[str, IO[bytes]] = {name: (folder / f"{name}.bin").open("wb") for name in names}
    digest = hashlib.sha256()
    documents, characters = {"train": 0, "valid": 0}, {"train": 0, "valid": 0}
    both = 0  # documents that stand in both parts, their ends held out

    def texts() -> Iterator[tuple[str, str | None]]:
        """(file, piece of text), with (file, None) where a document begins."""
        nonlocal both
        last = b""
        for kind, corpus, document, pieces in _assigned(corpora, split, held_out):
            digest.update(f"{kind} {corpus} ".encode() + document.digest)
            documents[kind] += 1
            both += kind == "valid" and last == document.digest
            last = document.digest
            name = "valid" if kind == "valid" else f"train-{corpus}"
            yield name, None
            for piece in pieces:
                characters[kind] += len(piece.encode())
                yield name, piece

    try:
        with _Encoder(tokenizer, pooled=total > POOL_FROM_BYTES) as encoder:
            for name, packed in encoder.encode(texts()):
                files[name].write(end if packed is None else packed)
                if report is not None:
                    report(characters["train"] + characters["valid"], total)
        for file in files.values():
            if file.tell():
                file.write(end)
    finally:
        for file in files.values():
            file.close()
    tokens = {name: (folder / f"{name}.bin").stat().st_size // tokenizer.dtype.itemsize for name in names}
    for i, corpus in enumerate(corpora):
        if tokens[f"train-{i}"] == 0:
            raise CorpusInvalid(
                f"The corpus {corpus.name!r} has no text to train on.",
                why="Its files are empty, held out, or copies of files before it.",
                fix="Check the files it names, or leave it out.",
            )
    if tokens["valid"] == 0:
        raise HeldOutTooShort(
            f"None of {documents['train']} documents fell into the held-out part.",
            why=f"data.valid_fraction is {split.fraction}.",
            fix="Raise it, or name held-out files: --set data.valid='[\"FILE\"]'",
        )
    meta = {
        "layout": LAYOUT,
        "stamp": stamp,
        "corpus": digest.hexdigest(),
        "tokenizer": tokenizer.digest,
        "dtype": tokenizer.dtype.name,
        "documents": documents["train"] + documents["valid"],
        "valid_documents": documents["valid"],
        "cut_documents": both,
        "train_tokens": [tokens[f"train-{i}"] for i in range(len(corpora))],
        "valid_tokens": tokens["valid"],
        "train_bytes": characters["train"],
        "valid_bytes": characters["valid"],
        "entries": [c.name for c in corpora],
    }
    tokenizer.save(folder)
    write_json(folder / "meta.json", meta)


class _Encoder:
    """Tokenizes pieces in order, in other processes where there is much to do."""

    def __init__(self, tokenizer: Tokenizer, *, pooled: bool) -> None:
        self.tokenizer = tokenizer
        self.pool: ProcessPoolExecutor | None = None
        workers = usable_cores()
        if pooled and workers > 1:
            # Spawned, not forked: a fork would copy locked mutexes of torch's and the tokenizer's threads.
            context = multiprocessing.get_context("spawn")
            self.ahead = 2 * workers
            args = (tokenizer.library.to_str(), tokenizer.kind, tokenizer.end_of_text_token)
            self.pool = ProcessPoolExecutor(workers, context, _start_worker, args)

    def __enter__(self) -> _Encoder:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def encode(self, texts: Iterator[tuple[str, str | None]]) -> Iterator[tuple[str, bytes | None]]:
        """Each (name, piece) as (name, packed ids), in the order they came; None stays None."""
        waiting: deque[tuple[list[tuple[str, bool]], Future[list[bytes]] | list[bytes]]] = deque()
        for marks, pieces in _grouped(texts):
            if self.pool is None:
                waiting.append((marks, self.tokenizer.encode_packed(pieces)))
            else:
                waiting.append((marks, self.pool.submit(_work, pieces)))
            while waiting and (self.pool is None or len(waiting) > self.ahead):
                yield from _unpacked(*waiting.popleft())
        while waiting:
            yield from _unpacked(*waiting.popleft())


def _grouped(texts: Iterator[tuple[str, str | None]]) -> Iterator[tuple[list[tuple[str, bool]], list[str]]]:
    marks: list[tuple[str, bool]] = []
    pieces: list[str] = []
    size = 0
    for name, piece in texts:
        marks.append((name, piece is not None))
        if piece is not None:
            pieces.append(piece)
            size += len(piece)
        if size >= BATCH_BYTES or len(marks) >= 65536:
            yield marks, pieces
            marks, pieces, size = [], [], 0
    if marks:
        yield marks, pieces


def _unpacked(
    marks: list[tuple[str, bool]], packed: Future[list[bytes]] | list[bytes]
) -> Iterator[tuple[str, bytes | None]]:
    results = iter(packed.result() if isinstance(packed, Future) else packed)
    for name, is_text in marks:
        yield name, next(results) if is_text else None


_worker: list[Tokenizer] = []  # the tokenizer of a pool process, set once when it starts


def _start_worker(library: str, kind: str, end_of_text: str) -> None:
    from tokenizers import Tokenizer as Library

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _worker.append(Tokenizer(Library.from_str(library), kind, end_of_text=end_of_text))


def _work(pieces: list[str]) -> list[bytes]:
    return _worker[0].encode_packed(pieces)
