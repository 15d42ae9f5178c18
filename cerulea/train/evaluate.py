"""Score text under a decoder: packed tokens, whole files, and the endings of a question.

In:      a Decoder and token ids, or a tokenizer and text.
Out:     Score (nats, tokens, bytes), or Endings (log-probabilities of each ending of a question).
Kept:    every token after the first is scored exactly once; arithmetic is float32 and sums are float64; the
         decoder leaves in the mode it came in; memory is bounded by `rows` windows of one context.
Not here: how a window is scored (`windows`), which files a benchmark has (`suites`), when to evaluate (`text`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from cerulea.core.errors import CorpusInvalid, Invalid, NotFound
from cerulea.nn.decoder import Decoder
from cerulea.nn.loss import IGNORE
from cerulea.text.files import documents
from cerulea.text.tokenizer import Tokenizer
from cerulea.train.windows import SORTED_BATCHES, Scored, Window, sliding_windows, window_nats

ROWS = 16  # windows computed at once


@dataclass(frozen=True, slots=True)
class Score:
    """Summed negative log-likelihood of some text, and how much text it was."""

    nats: float
    tokens: int  # scored tokens, special tokens not counted
    bytes: int  # UTF-8 bytes of the scored text

    def __add__(self, other: Score) -> Score:
        return Score(self.nats + other.nats, self.tokens + other.tokens, self.bytes + other.bytes)

    @property
    def loss(self) -> float:
        """Nats per token; NaN where nothing was scored."""
        return self.nats / self.tokens if self.tokens else math.nan

    @property
    def perplexity(self) -> float:
        """The exponential of the loss, per token of this model's tokenizer."""
        return exp(self.loss)

    @property
    def bits_per_byte(self) -> float:
        """Bits per UTF-8 byte, comparable between tokenizers; NaN where nothing was scored."""
        return self.nats / math.log(2) / self.bytes if self.bytes else math.nan


@dataclass(frozen=True, slots=True)
class Endings:
    """One value for each ending of a question, given the same context; log-probabilities in nats, float64."""

    log_prob: np.ndarray  # summed over the ending's tokens
    last_log_prob: np.ndarray  # of the ending's last token alone
    tokens: np.ndarray
    bytes: np.ndarray  # UTF-8 bytes of the ending without blanks around it
    greedy: np.ndarray  # bool: every token of the ending is the most probable one
    last_greedy: np.ndarray  # bool: its last token is

    @property
    def per_token(self) -> np.ndarray:
        """Log-probability per token."""
        ratio: np.ndarray = self.log_prob / self.tokens
        return ratio

    @property
    def per_byte(self) -> np.ndarray:
        """Log-probability per byte: lm-eval's acc_norm, which counts characters."""
        ratio: np.ndarray = self.log_prob / self.bytes
        return ratio


def exp(x: float) -> float:
    """The exponential of x, infinity where a float cannot hold it."""
    return math.inf if x > 709.0 else math.exp(x)


def score_ids(
    decoder: Decoder,
    ids: np.ndarray,
    bytes_of: np.ndarray,
    *,
    context: int | None = None,
    stride: int | None = None,
    rows: int = ROWS,
) -> Score:
    """Score every token after the first once, in windows that overlap by `context - stride` tokens.

    Args:
        ids: (N,) token ids, any integer dtype, memory-mapped or not; the first (end-of-text) only conditions.
        bytes_of: bytes behind each id. Ids of 0 bytes are special tokens: they condition, and are not scored.
        context: tokens a window reads; by default all that the decoder takes.
        stride: tokens that a window scores, all but the first window; by default `context`. A smaller one
            gives every token at least `context - stride` tokens before it and costs context / stride times more.

    Raises:
        Invalid: a context beyond the decoder's, or a stride outside 1..context.
    """
    context, stride = _checked(decoder, context, stride)

    def windows() -> Iterator[Window]:
        for token_T, target_T in sliding_windows(ids, context, stride):
            target_T[bytes_of[target_T] == 0] = IGNORE
            yield token_T, target_T

    return _sum(window_nats(decoder, windows(), rows), bytes_of)


def held_out(
    decoder: Decoder,
    valid_ids: np.ndarray,
    bytes_of: np.ndarray,
    valid_bytes: int,
    *,
    rows: int = ROWS,
    context: int | None = None,
) -> Score:
    """Score a packed held-out set in contiguous windows, as training reads it.

    Args:
        valid_ids: `Shards.valid`: documents between end-of-text tokens.
        valid_bytes: `Shards.valid_bytes`, which stands in for the sum over `bytes_of`.
    """
    return replace(score_ids(decoder, valid_ids, bytes_of, context=context, rows=rows), bytes=valid_bytes)


def score_texts(
    decoder: Decoder,
    tokenizer: Tokenizer,
    texts: Iterable[Iterable[str]],
    *,
    stride: int | None = None,
    rows: int = ROWS,
) -> Score:
    """Score each text on its own, with end-of-text before it; every token of it counts.

    Args:
        texts: each as pieces that are encoded one by one, cut where no tokenizer joins (`files.Document.pieces`).
        stride: as in `score_ids`, with the decoder's whole context.
    """
    context, stride = _checked(decoder, None, stride)
    size = 0

    def windows() -> Iterator[Window]:
        nonlocal size
        for pieces in texts:
            encoded = [np.array([tokenizer.begin_of_text], tokenizer.dtype)]
            for piece in pieces:
                size += len(piece.encode())
                encoded.append(tokenizer.encode(piece))
            yield from sliding_windows(np.concatenate(encoded), context, stride)

    score = _sum(window_nats(decoder, windows(), rows))
    return replace(score, bytes=size)


def score_file(
    decoder: Decoder,
    tokenizer: Tokenizer,
    path: Path,
    *,
    field: str = "text",
    stride: int | None = None,
    rows: int = ROWS,
) -> Score:
    """Score every document of a file on its own, with end-of-text before it.

    A document's text is read in pieces; its token ids are held, 2 or 4 bytes each.

    Raises:
        NotFound: no such file.
        CorpusInvalid: a file that `text.files` refuses, or one with no text.
    """
    if not path.is_file():
        raise NotFound(f"There is no file {path}.", fix="Check the path.")
    texts = (document.pieces() for document in documents(path, field))
    score = score_texts(decoder, tokenizer, texts, stride=stride, rows=rows)
    if not score.tokens:
        raise CorpusInvalid(f"{path} has no text to score.", fix="Give a file that is not empty.")
    return score


def choose(decoder: Decoder, tokenizer: Tokenizer, context: str, endings: Sequence[str]) -> Endings:
    """Log-probabilities of the endings of one question; see `score_endings`."""
    return next(score_endings(decoder, tokenizer, [(context, endings)]))


def score_endings(
    decoder: Decoder,
    tokenizer: Tokenizer,
    questions: Iterable[tuple[str, Sequence[str]]],
    *,
    rows: int = ROWS,
) -> Iterator[Endings]:
    """Log-probabilities of the endings of each question, in order.

    Context and ending are encoded as one text with end-of-text before it. All endings are scored from the
    first token in which any of them can differ from the context: they are compared from the same place of the
    text, whatever a tokenizer merges across it. Text that does not fit is cut at its left; an ending longer
    than the decoder's context is scored in overlapping windows.

    Args:
        questions: pairs of a context and its endings; an ending that begins a new word begins with a space.

    Raises:
        Invalid: an ending without text.
    """
    questions = iter(questions)
    # As many at a time as windows are sorted together: in most questions an ending is one window.
    while group := list(islice(questions, SORTED_BATCHES * rows)):
        encoded = [(ids, first) for question in group for ids, first in _encoded(tokenizer, *question)]
        windows_of = [list(_ending_windows(ids, first, decoder.shape.context)) for ids, first in encoded]
        scored = window_nats(decoder, (w for windows in windows_of for w in windows), rows, greedy=True)
        joined = ([next(scored) for _ in windows] for windows in windows_of)
        for _, endings in group:
            yield _endings([next(joined) for _ in endings], endings)


def _endings(scored: list[list[Scored]], endings: Sequence[str]) -> Endings:
    nats = [np.concatenate([nats_N for _, nats_N, _ in windows]).astype(np.float64) for windows in scored]
    hits = [np.concatenate([hit_N for _, _, hit_N in windows]) for windows in scored]
    return Endings(
        log_prob=np.array([-n.sum() for n in nats]),
        last_log_prob=np.array([-n[-1] for n in nats]),
        tokens=np.array([n.size for n in nats]),
        bytes=np.array([len(ending.strip().encode()) for ending in endings]),
        greedy=np.array([h.all() for h in hits]),
        last_greedy=np.array([h[-1] for h in hits]),
    )


def _encoded(tokenizer: Tokenizer, context: str, endings: Sequence[str]) -> Iterator[tuple[np.ndarray, int]]:
    """For each ending: ids_N of end-of-text, context and ending, and the index of its first scored token."""
    for i, ending in enumerate(endings, start=1):
        if not ending.strip():
            raise Invalid(f"Ending {i} of {len(endings)} has no text.", fix="Give every ending some text.")
    # A blank belongs to the word after it: left at the context's end it would be a token of its own.
    stripped = context.rstrip(" ")
    before = tokenizer.encode(stripped)
    wholes = [tokenizer.encode(context + ending) for ending in endings]
    first = min((_shared(before, whole) for whole in wholes), default=0)
    for whole in wholes:
        yield np.concatenate([[tokenizer.begin_of_text], whole]).astype(np.int64), first + 1


def _shared(a: np.ndarray, b: np.ndarray) -> int:
    """Leading ids that are equal; fewer than all of `b`, so that something is left to score."""
    size = min(a.size, b.size - 1)
    different = np.flatnonzero(a[:size] != b[:size])
    return int(different[0]) if different.size else size


def _ending_windows(ids: np.ndarray, first: int, context: int) -> Iterator[Window]:
    if ids.size - first <= context:
        # One window holds the ending, and as much before it as fits.
        cut = max(0, ids.size - (context + 1))
        yield from sliding_windows(ids[cut:], context, context, first - cut)
    else:
        cut = max(0, first - 1 - context // 2)
        yield from sliding_windows(ids[cut:], context, max(1, context - context // 2), first - cut)


def _sum(scored: Iterable[Scored], bytes_of: np.ndarray | None = None) -> Score:
    nats, tokens, size = 0.0, 0, 0
    for target_N, nats_N, _ in scored:
        nats += float(nats_N.sum(dtype=np.float64))
        tokens += target_N.size
        size += 0 if bytes_of is None else int(bytes_of[target_N].sum(dtype=np.int64))
    return Score(nats, tokens, size)


def _checked(decoder: Decoder, context: int | None, stride: int | None) -> tuple[int, int]:
    most = decoder.shape.context
    context = most if context is None else context
    if not 1 <= context <= most:
        raise Invalid(
            f"A context of {context:,} tokens cannot be scored: this model takes 1 to {most:,}.",
            fix=f"Use {most:,} or less.",
        )
    stride = context if stride is None else stride
    if not 1 <= stride <= context:
        raise Invalid(
            f"A stride of {stride:,} tokens is outside 1 to {context:,}.",
            why="The stride is how many new tokens each window of one context scores.",
            fix=f"Use --stride {max(1, context // 2)}, or leave it out for windows side by side.",
        )
    return context, stride
