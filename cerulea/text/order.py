"""Which tokens a step reads: a pure function of (seed, sample number), with no state to save.

In:      the token counts of the corpora, their weights, a seed.
Out:     for any sample number: a corpus and the offset of one row of context + 1 tokens.
Kept:    the same on any number of processes; each corpus is read once per epoch before it is read again;
         sample 10⁹ is found as fast as sample 0.
Method:  corpora take turns in a fixed pattern made by the deficit rule; rows of an epoch are shuffled by a
         Feistel network with cycle walking (Black and Rogaway 2002); each epoch begins its rows at another phase.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cerulea.core.errors import CorpusInvalid
from cerulea.core.seeds import mixed

PATTERN = 4096  # samples after which the order of corpora repeats
ROUNDS = 6


def _splitmix(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed_x: np.ndarray = x ^ (x >> np.uint64(31))
    return mixed_x


def permute(index: np.ndarray, count: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Where each index in [0, count) goes in the shuffle that `key` names.

    Args:
        index, count, key: uint64 arrays of one shape; index < count.

    Returns:
        uint64 array: for fixed count and key a permutation of [0, count).
    """
    bits = np.maximum(2, np.ceil(np.log2(np.maximum(count, 2).astype(np.float64))).astype(np.uint64))
    half = (bits + np.uint64(1)) // np.uint64(2)
    mask = (np.uint64(1) << half) - np.uint64(1)
    out = _feistel(index, key, half, mask)
    # The network permutes a power of four that is larger than count: walk on until inside.
    while (outside := out >= count).any():
        out = np.where(outside, _feistel(out, key, half, mask), out)
    return out


def _feistel(x: np.ndarray, key: np.ndarray, half: np.ndarray, mask: np.ndarray) -> np.ndarray:
    left, right = x >> half, x & mask
    for i in range(ROUNDS):
        left, right = right, left ^ (_splitmix(right ^ key ^ np.uint64(i << 56)) & mask)
    joined: np.ndarray = (left << half) | right
    return joined


@dataclass(frozen=True, slots=True)
class Order:
    """The order of one run's samples.

    Attributes:
        tokens: token count of each corpus.
        context: tokens of a row (it is read with one more, the last target).
        pattern: corpus of each of PATTERN consecutive samples.
        rank: how many samples of the same corpus come before it in the pattern.
        share: samples of each corpus in one pattern.
        rows: rows of each corpus in one epoch.
    """

    tokens: tuple[int, ...]
    context: int
    seed: int
    pattern: np.ndarray
    rank: np.ndarray
    share: np.ndarray
    rows: np.ndarray

    def locate(self, sample: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Corpus and first token, both int64, of each sample number."""
        sample = np.asarray(sample, np.int64)
        turn, place = np.divmod(sample, PATTERN)
        corpus = self.pattern[place]
        nth = turn * self.share[corpus] + self.rank[place]
        epoch, row = np.divmod(nth, self.rows[corpus])
        pairs = {(int(c), int(e)) for c, e in zip(corpus, epoch, strict=True)}
        keys = {pair: mixed(self.seed, *pair) for pair in pairs}
        key = np.array([keys[int(c), int(e)] for c, e in zip(corpus, epoch, strict=True)], np.uint64)
        count = self.rows[corpus].astype(np.uint64)
        shuffled = permute(row.astype(np.uint64), count, key).astype(np.int64)
        phase = (_splitmix(key) % np.uint64(self.context)).astype(np.int64)
        whole = np.array([n < 2 * self.context for n in self.tokens])[corpus]
        return corpus, np.where(whole, 0, phase) + shuffled * self.context

    def epochs(self, samples: int) -> float:
        """How often the first `samples` samples read the most-read corpus."""
        return float(max(samples / PATTERN * self.share / self.rows))


def make_order(tokens: tuple[int, ...], weights: tuple[float, ...], context: int, seed: int) -> Order:
    """Lay out the order of corpora of the given token counts.

    Raises:
        CorpusInvalid: a corpus is shorter than one row.
    """
    for i, count in enumerate(tokens):
        if count < context + 1:
            raise CorpusInvalid(
                f"Corpus {i + 1} has {count:,} training tokens, less than one context of {context:,}.",
                why="A row is one context and the token after it.",
                fix="Give more text, or lower model.context.",
            )
    share_of = np.array(weights, np.float64) / sum(weights)
    # The smallest corpus still gets one sample of each pattern: otherwise it would never be read.
    share_of = np.maximum(share_of, 1.01 / PATTERN)
    share_of /= share_of.sum()
    pattern, owed = np.zeros(PATTERN, np.int64), np.zeros(len(tokens))
    for i in range(PATTERN):
        owed += share_of
        pattern[i] = int(owed.argmax())
        owed[pattern[i]] -= 1
    rank = np.zeros(PATTERN, np.int64)
    for c in range(len(tokens)):
        mine = pattern == c
        rank[mine] = np.arange(mine.sum())
    # One context is left over, so that any phase fits.
    rows = np.array([max(1, (n - context) // context) for n in tokens], np.int64)
    return Order(tokens, context, seed, pattern, rank, np.bincount(pattern, minlength=len(tokens)), rows)
