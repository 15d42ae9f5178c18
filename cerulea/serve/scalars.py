"""Functions of single numbers, for kernels that Numba compiles; LLVM makes vectors of the loops around them.

In:      float32 numbers, or an array and where in it.
Out:     float32 numbers, or the array changed.
Not here: operations that are written as vectors (`tiles`).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from cerulea.serve.tiles import as_float, as_word, bits_of, fma

# Nothing here lets LLVM round differently: it chooses between vectors and single numbers by where arrays happen to lie,
# and both must give the same bits. Sums, whose order matters, are written out in `tiles`. Python's check for a divisor
# of zero would keep LLVM from using vectors at all.
FAST = {"fastmath": {"nnan", "ninf", "nsz"}, "error_model": "numpy"}


@njit(**FAST, inline="always")
def exp(x):
    """Return e^x, float32, relative error below 2e-7: 2^n times a polynomial (Cephes, expf)."""
    x = min(max(x, np.float32(-87.0)), np.float32(88.0))
    # Truncating what is above zero is the floor; a call of floor would keep LLVM from using vectors.
    whole = np.int32(fma(x, np.float32(1.4426950408889634), np.float32(128.5))) - np.int32(128)
    n = np.float32(whole)
    r = fma(n, np.float32(2.12194440e-4), fma(n, np.float32(-0.693359375), x))
    y = fma(np.float32(1.9875691500e-4), r, np.float32(1.3981999507e-3))
    y = fma(y, r, np.float32(8.3334519073e-3))
    y = fma(y, r, np.float32(4.1665795894e-2))
    y = fma(y, r, np.float32(1.6666665459e-1))
    y = fma(y, r, np.float32(5.0000001201e-1))
    y = fma(y, r * r, r + np.float32(1.0))
    return y * as_float((whole + np.int32(127)) << np.int32(23))


@njit(inline="always")
def bf16(x):
    """The upper 16 bits of a float32, rounded to the nearest, ties to even."""
    word = as_word(x)
    return (word + np.int32(0x7FFF) + ((word >> np.int32(16)) & np.int32(1))) >> np.int32(16)


@njit(**FAST, inline="always")
def int16(x, times):
    """The number times `times`, rounded."""
    return np.int32(x * times + np.float32(32768.5)) - np.int32(32768)


@njit(inline="always")
def keep(array, i, x):
    """Store a number as the array's format wants it."""
    if bits_of(array) == 32:
        array[i] = x
    else:
        array[i] = bf16(x)


@njit(inline="always")
def kept(array, i):
    """Element i of the array, float32 or bf16."""
    if bits_of(array) == 32:
        return np.float32(array[i])
    return as_float(np.int32(array[i]) << np.int32(16))


@njit(**FAST, inline="always")
def silu(x):
    """The number times its sigmoid."""
    return x / (np.float32(1.0) + exp(-x))


@njit(**FAST, inline="always")
def tanh(x):
    """Hyperbolic tangent."""
    return np.float32(1.0) - np.float32(2.0) / (np.float32(1.0) + exp(x + x))
