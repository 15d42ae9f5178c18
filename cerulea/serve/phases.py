"""A decoder's step as a list of phases over plain arrays: what `kernels` computes and `fused` fills.

In:      sizes of a shape; how many tokens are read, and how many logits are wanted.
Out:     the arrays' names and meanings; the phases of a step, one after the other.
Kept:    the parts of a phase share nothing, so that threads may take them in any order.
Letters: M tokens, D width, H heads, G key-value heads, K head size, S positions of a row.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

PANEL = 32  # output channels of a tile
LANES = 16  # channels that one instruction computes
TILE = 8  # tokens that a panel is multiplied with at once
BLOCK = 512  # int8 products that are summed as integers: 512 * 127 * 32767 < 2^31
HEAD_PANELS = 8  # that a thread takes at a time, where there are many

# Columns of Model.places, a row for each layer: offsets in weights, tables or floats; -1 is absent.
QKV, OUT, UP, DOWN, QKV_BIAS, OUT_BIAS, UP_BIAS, DOWN_BIAS = range(8)
QKV_SCALE, OUT_SCALE, UP_SCALE, DOWN_SCALE, NORM_1, SHIFT_1, NORM_2, SHIFT_2 = range(8, 16)
Q_NORM, K_NORM, GATE, VALUE, MIX = range(16, 21)
FIELDS = 21
# Of the row after the last layer:
HEAD, HEAD_BIAS, HEAD_SCALE, EMBEDDING, POSITIONS = QKV, QKV_BIAS, QKV_SCALE, VALUE, GATE

EMBED, NORM_A, MATRIX_QKV, ROTATE, ATTEND, PACK_A, MATRIX_OUT = range(7)
NORM_B, MATRIX_UP, PACK_B, MATRIX_DOWN, FINAL, PACK_HEAD, MATRIX_HEAD = range(7, 14)

GELU, SWIGLU, RELU2 = range(3)


class Sizes(NamedTuple):
    """What the shape says, as numbers."""

    layers: int
    width: int
    heads: int
    groups: int
    size: int
    hidden: int
    vocab: int
    capacity: int  # positions of a row
    row_stride: int  # numbers from one row to the next
    layer_norm: int  # 1: layer norm, 0: RMS norm
    qk_norm: int
    activation: int
    embedding_norm: int
    rope: int
    window: int
    gate: int  # channels that a value gate looks at
    eps: float
    softcap: float


class Model(NamedTuple):
    """What stays the same."""

    weights: np.ndarray  # float32, uint16 (bf16) or int8: packed matrices
    tables: np.ndarray  # float32 or uint16 (bf16): embeddings, row by row
    floats: np.ndarray  # float32: biases, scales, norms
    places: np.ndarray  # int64 (layers + 1, FIELDS)
    cos: np.ndarray  # float32 (context, K / 2)
    sin: np.ndarray
    kv: np.ndarray  # float32 or uint16 (bf16): [rows][layers][2][G][S][K]


class Batch(NamedTuple):
    """What is computed in one step, and memory for it."""

    token: np.ndarray  # int64 (M,)
    place: np.ndarray  # int64 (M,), position of each
    row: np.ndarray  # int64 (M,)
    wanted: np.ndarray  # int64 (W,), tokens whose logits are asked for
    x: np.ndarray  # float32 (M, D), the stream; columns of all are padded to panels
    first: np.ndarray  # float32 (M, D), the embedding
    normed: np.ndarray  # float32 (M, D)
    qkv: np.ndarray  # float32 (M, (H + 2G) K)
    seen: np.ndarray  # float32 (M, H K), what attention saw
    inner: np.ndarray  # float32 (M, hidden)
    logits: np.ndarray  # float32 (W, vocab)
    packed: np.ndarray  # int32: activations as `tiles` wants them
    scale: np.ndarray  # float32 (M,), of packed int16 activations
    partial: np.ndarray  # float32 (threads, 2 * TILE * PANEL)
    scores: np.ndarray  # float32 (threads, S)
    turns: np.ndarray  # int64 (P * STRIDE,), zero: who takes which part (`turns`)


def phases_of(sizes: Sizes, tokens: int, wanted: int) -> np.ndarray:
    """The phases of a step, int64 (P, 4): operation, layer, parts, and how many of them a thread takes at a time."""
    parts = -(-tokens // TILE)
    qkv = -(-(sizes.heads + 2 * sizes.groups) * sizes.size // PANEL)
    width = -(-sizes.width // PANEL)
    up = -(-sizes.hidden // (PANEL // 2 if sizes.activation == SWIGLU else PANEL))
    rows = [(EMBED, 0, tokens, 1)]
    for layer in range(sizes.layers):
        rows += [
            (NORM_A, layer, parts, 1),
            (MATRIX_QKV, layer, qkv, 1),
            (ROTATE, layer, tokens, 1),
            (ATTEND, layer, tokens * sizes.groups, 1),
            (PACK_A, layer, parts, 1),
            (MATRIX_OUT, layer, width, 1),
            (NORM_B, layer, parts, 1),
            (MATRIX_UP, layer, up, 1),
            (PACK_B, layer, parts, 1),
            (MATRIX_DOWN, layer, width, 1),
        ]
    rows.append((FINAL, sizes.layers, parts, 1))
    if wanted:
        rows.append((PACK_HEAD, sizes.layers, -(-wanted // TILE), 1))
        head = -(-sizes.vocab // PANEL)
        rows.append((MATRIX_HEAD, sizes.layers, head, max(1, min(HEAD_PANELS, head // 64))))
    return np.array(rows, np.int64)
