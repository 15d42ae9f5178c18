"""One draw for each row of logits, of the whole vocabulary or what min-p leaves of it: what Numba compiles.

In:      logits, temperatures, keys; the largest logit of each row.
Out:     a token for each row, by the rule of `sampler`: a block by its mass, then a token in it.
Kept:    the same noise as `sampler` has without Numba, so that both pick alike but where two sums are nearly equal.
Not here: other filters, what a key is made of (`sampler`).
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numba import njit

from cerulea.serve.kernels import digest_of_sources
from cerulea.serve.scalars import FAST, exp
from cerulea.serve.tiles import total


@njit(inline="always")
def _gumbel(key, number):
    """Gumbel noise of (key, number), by splitmix64 (Steele, Lea, Flood 2014)."""
    x = key + number * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = x ^ (x >> np.uint64(31))
    return -math.log(-math.log((np.float64(x >> np.uint64(12)) + 0.5) * 2.0**-52))


@njit(**FAST)
def _masses(row, most, heat, least, block, out):
    """Sums of exp over each block, of values that are not below the least one."""
    values = np.empty(block, np.float32)
    for n in range(out.shape[0]):
        part = row[n * block : (n + 1) * block]
        for i in range(part.shape[0]):
            value = (part[i] - most) / heat
            values[i] = exp(value) if value >= least else np.float32(0.0)
        out[n] = total(values, part.shape[0], np.float32(0.0), 1)


@njit(error_model="numpy")
def _draw(logits, stride, vocab, most_G, heat_G, least_G, key_G, block, token_G):
    """Draw a token for each row; any where the largest logit is not finite.

    Args:
        logits: float32, flat; rows begin `stride` numbers apart.
        least_G: float32; values (logit - most) / heat below it are not drawn, -inf for none.
        key_G: uint64. block: tokens whose mass is summed first. token_G: int64, filled.
    """
    mass = np.empty(-(-vocab // block), np.float64)
    for g in range(token_G.shape[0]):
        token_G[g] = 0
        if not np.isfinite(most_G[g]):
            continue
        row = logits[g * stride : g * stride + vocab]
        _masses(row, most_G[g], heat_G[g], least_G[g], block, mass)
        best, at = -np.inf, 0
        for n in range(mass.shape[0]):
            if mass[n] > 0:
                value = math.log(mass[n]) + _gumbel(key_G[g], np.uint64(n) - np.uint64(1 << 40))
                if value > best:
                    best, at = value, n
        best = -np.inf
        for token in range(at * block, min(vocab, (at + 1) * block)):
            scaled = (row[token] - most_G[g]) / heat_G[g]
            if scaled >= least_G[g]:
                value = np.float64(scaled) + _gumbel(key_G[g], np.uint64(token))
                if value > best:
                    best, token_G[g] = value, token


@cache
def compiled_draw():
    """`_draw`, kept on disk until a source of it changes."""
    sources = digest_of_sources("draw", "scalars", "tiles")

    @njit(nogil=True, cache=True)
    def draw(logits, stride, vocab, most_G, heat_G, least_G, key_G, block, token_G):
        assert sources
        _draw(logits, stride, vocab, most_G, heat_G, least_G, key_G, block, token_G)

    return draw
