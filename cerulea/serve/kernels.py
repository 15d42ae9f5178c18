"""A decoder's step as one compiled call: what Numba compiles.

In:      a Model (packed weights and tables), its Sizes, and a Batch: M tokens of any sequences, and scratch memory.
Out:     keys and values kept in their rows; logits, or final hidden states.
Kept:    each phase of a layer is a loop over independent parts (a panel of 32 channels, a tile of 8 tokens, a head of a
         token), and each part is computed in one fixed order: neither threads nor neighbours nor the cutting of a
         prompt can change a bit of a token's numbers.
Not here: the arrays (`phases`), packing (`fused`), vector instructions (`tiles`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from numba import get_thread_id, njit, prange

from cerulea.serve.phases import (
    ATTEND,
    BLOCK,
    DOWN,
    DOWN_BIAS,
    DOWN_SCALE,
    EMBEDDING,
    FINAL,
    GATE,
    GELU,
    HEAD,
    HEAD_BIAS,
    HEAD_SCALE,
    K_NORM,
    MATRIX_DOWN,
    MATRIX_HEAD,
    MATRIX_OUT,
    MATRIX_QKV,
    MATRIX_UP,
    MIX,
    NORM_1,
    NORM_2,
    NORM_A,
    NORM_B,
    OUT,
    OUT_BIAS,
    OUT_SCALE,
    PACK_A,
    PACK_B,
    PACK_HEAD,
    PANEL,
    POSITIONS,
    Q_NORM,
    QKV,
    QKV_BIAS,
    QKV_SCALE,
    ROTATE,
    SHIFT_1,
    SHIFT_2,
    SWIGLU,
    TILE,
    UP,
    UP_BIAS,
    UP_SCALE,
    VALUE,
    Batch,
    Model,
    Sizes,
)
from cerulea.serve.scalars import FAST, bf16, exp, int16, keep, kept, silu, tanh
from cerulea.serve.tiles import as_word, bits_of, blend, dots, tile, total
from cerulea.serve.turns import await_all, finished, take


@njit
def _width_of(left):
    """Rows of the tile that holds what is left: 1, 2, 4 or 8."""
    if left > 4:
        return 8
    if left > 2:
        return 4
    return left


@njit(**FAST)
def _norm(source, target, floats, weight, shift, layer_norm, eps):
    width = target.shape[0]
    mean = np.float32(0.0)
    if layer_norm:
        mean = total(source, width, np.float32(0.0), 1) / np.float32(width)
    squares = total(source, width, mean, 2)
    inverse = np.float32(1.0) / np.sqrt(squares / np.float32(width) + np.float32(eps))
    for i in range(width):
        target[i] = (source[i] - mean) * inverse * floats[weight + i] + floats[shift + i]


@njit(**FAST)
def _pack(weights, source, chosen, packed, scale, part, width):
    """Write rows 8 part .. of the source (or of those chosen) as words for `tile`; missing rows are zero."""
    count = chosen.shape[0] if chosen.shape[0] else source.shape[0]
    R = _width_of(count - part * TILE)
    steps = width if bits_of(weights) == 32 else (width + 1) // 2
    begin = part * TILE * steps
    for r in range(R):
        m = part * TILE + r
        if m >= count:
            for i in range(steps):
                packed[begin + i * R + r] = 0
            continue
        x = source[chosen[m] if chosen.shape[0] else m]
        if bits_of(weights) == 32:
            for i in range(steps):
                packed[begin + i * R + r] = as_word(x[i])
        elif bits_of(weights) == 16:
            for i in range(width // 2):
                low, high = bf16(x[2 * i]) & np.int32(0xFFFF), bf16(x[2 * i + 1])
                packed[begin + i * R + r] = low | (high << np.int32(16))
            if width % 2:
                packed[begin + (steps - 1) * R + r] = bf16(x[width - 1]) & np.int32(0xFFFF)
        else:
            most = np.float32(1e-30)
            for i in range(width):
                most = max(most, abs(x[i]))
            scale[m] = most / np.float32(32767.0)
            times = np.float32(32767.0) / most
            for i in range(width // 2):
                low, high = int16(x[2 * i], times) & np.int32(0xFFFF), int16(x[2 * i + 1], times)
                packed[begin + i * R + r] = low | (high << np.int32(16))
            if width % 2:
                packed[begin + (steps - 1) * R + r] = int16(x[width - 1], times) & np.int32(0xFFFF)


@njit
def _tile(weights, at, packed, begin, y, y_at, steps, R):
    if R == 8:
        tile(weights, at, packed, begin, y, y_at, steps, 8)
    elif R == 4:
        tile(weights, at, packed, begin, y, y_at, steps, 4)
    elif R == 2:
        tile(weights, at, packed, begin, y, y_at, steps, 2)
    else:
        tile(weights, at, packed, begin, y, y_at, steps, 1)


@njit(**FAST)
def _product(weights, at, width, panel, packed, scale, floats, bias, scales, part, R, y):
    """Fill y (R, 32) with rows 8 part .. times one panel, scaled, with bias."""
    steps = width if bits_of(weights) == 32 else (width + 1) // 2
    begin = part * TILE * steps
    panel_at = at + panel * steps * PANEL * (1 if bits_of(weights) == 32 else 2)
    if bits_of(weights) == 8:
        half = BLOCK // 2
        _tile(weights, panel_at, packed, begin, y, 0, min(half, steps), R)
        for step in range(half, steps, half):
            piece = TILE * PANEL
            _tile(weights, panel_at + step * 64, packed, begin + step * R, y, piece, min(half, steps - step), R)
            for i in range(R * PANEL):
                y[i] += y[piece + i]
        for r in range(R):
            by = scale[part * TILE + r]
            for c in range(PANEL):
                n = panel * PANEL + c
                y[r * PANEL + c] = y[r * PANEL + c] * by * floats[scales + n] + floats[bias + n]
    else:
        _tile(weights, panel_at, packed, begin, y, 0, steps, R)
        for r in range(R):
            for c in range(PANEL):
                y[r * PANEL + c] += floats[bias + panel * PANEL + c]


@njit(**FAST)
def _matrix(op, places, panel, model, sizes, batch):
    """One panel of a matrix times all tokens, and what follows it."""
    y = batch.partial[get_thread_id()]
    M = batch.wanted.shape[0] if op == MATRIX_HEAD else batch.token.shape[0]
    if op == MATRIX_QKV:
        at, bias, scales, width = places[QKV], places[QKV_BIAS], places[QKV_SCALE], sizes.width
    elif op == MATRIX_OUT:
        at, bias, scales, width = places[OUT], places[OUT_BIAS], places[OUT_SCALE], sizes.heads * sizes.size
    elif op == MATRIX_UP:
        at, bias, scales, width = places[UP], places[UP_BIAS], places[UP_SCALE], sizes.width
    elif op == MATRIX_DOWN:
        at, bias, scales, width = places[DOWN], places[DOWN_BIAS], places[DOWN_SCALE], sizes.hidden
    else:
        at, bias, scales, width = places[HEAD], places[HEAD_BIAS], places[HEAD_SCALE], sizes.width
    n = panel * PANEL
    for part in range((M + TILE - 1) // TILE):
        R = _width_of(M - part * TILE)
        _product(model.weights, at, width, panel, batch.packed, batch.scale, model.floats, bias, scales, part, R, y)
        for r in range(min(R, M - part * TILE)):
            m, z = part * TILE + r, y[r * PANEL : (r + 1) * PANEL]
            if op == MATRIX_QKV:
                target = batch.qkv[m, n : n + PANEL]
                for c in range(PANEL):
                    target[c] = z[c]
            elif op in (MATRIX_OUT, MATRIX_DOWN):
                target = batch.x[m, n : n + PANEL]
                for c in range(PANEL):
                    target[c] += z[c]
            elif op == MATRIX_HEAD:
                target = batch.logits[m, n : n + PANEL]
                if sizes.softcap > 0:
                    cap = np.float32(sizes.softcap)
                    for c in range(PANEL):
                        target[c] = cap * tanh(z[c] / cap)
                else:
                    for c in range(PANEL):
                        target[c] = z[c]
            elif sizes.activation == SWIGLU:
                target = batch.inner[m, n // 2 : n // 2 + 16]
                for c in range(16):
                    target[c] = silu(z[c]) * z[16 + c]
            elif sizes.activation == GELU:
                target = batch.inner[m, n : n + PANEL]
                for c in range(PANEL):
                    u = z[c] * (np.float32(1.0) + np.float32(0.044715) * z[c] * z[c])
                    target[c] = np.float32(0.5) * z[c] * (np.float32(1.0) + tanh(np.float32(0.7978845608028654) * u))
            else:
                target = batch.inner[m, n : n + PANEL]
                for c in range(PANEL):
                    high = max(z[c], np.float32(0.0))
                    target[c] = high * high


@njit(**FAST)
def _head_norm(x, floats, weight, eps):
    squares = total(x, x.shape[0], np.float32(0.0), 2)
    inverse = np.float32(1.0) / np.sqrt(squares / np.float32(x.shape[0]) + np.float32(eps))
    for i in range(x.shape[0]):
        x[i] = x[i] * inverse * floats[weight + i]


@njit(**FAST)
def _turn(x, cos, sin):
    half = x.shape[0] // 2
    for i in range(half):
        first, second = x[i], x[half + i]
        x[i] = first * cos[i] - second * sin[i]
        x[half + i] = second * cos[i] + first * sin[i]


@njit(**FAST)
def _rotate(layer, places, m, model, sizes, batch):
    """Norm and turn a token's queries and keys, and keep its keys and values."""
    heads, groups, size = sizes.heads, sizes.groups, sizes.size
    x, place = batch.qkv[m], batch.place[m]
    for h in range(heads + groups):
        part = x[h * size : (h + 1) * size]
        if sizes.qk_norm:
            _head_norm(part, model.floats, places[Q_NORM] if h < heads else places[K_NORM], sizes.eps)
        if sizes.rope:
            _turn(part, model.cos[place], model.sin[place])
    by = np.float32(1.0 / np.sqrt(size))
    for i in range(heads * size):
        x[i] *= by
    to = batch.row[m] * sizes.row_stride + layer * 2 * groups * sizes.capacity * size + place * size
    for g in range(groups):
        if places[VALUE] >= 0:
            gate = np.float32(0.0)
            for i in range(sizes.gate):
                gate += batch.normed[m, i] * model.floats[places[GATE] + g * sizes.gate + i]
            gate = np.float32(2.0) / (np.float32(1.0) + exp(-gate))
            table = places[VALUE] + (batch.token[m] * groups + g) * size
            for i in range(size):
                x[(heads + groups + g) * size + i] += gate * kept(model.tables, table + i)
        key, value = x[(heads + g) * size : (heads + g + 1) * size], x[(heads + groups + g) * size :]
        k_to = to + g * sizes.capacity * size
        v_to = k_to + groups * sizes.capacity * size
        for i in range(size):
            keep(model.kv, k_to + i, key[i])
        for i in range(size):
            keep(model.kv, v_to + i, value[i])


@njit(**FAST)
def _attend(layer, unit, model, sizes, batch):
    """All queries of one token that share a key-value head."""
    M = batch.token.shape[0]
    g, m = unit // M, unit % M
    size, each = sizes.size, sizes.heads // sizes.groups
    end = batch.place[m] + 1
    begin = max(0, end - sizes.window) if sizes.window else 0
    count = end - begin
    k_at = batch.row[m] * sizes.row_stride + (layer * 2 * sizes.groups + g) * sizes.capacity * size + begin * size
    v_at = k_at + sizes.groups * sizes.capacity * size
    scores = batch.scores[get_thread_id()]
    for h in range(g * each, (g + 1) * each):
        q, y = batch.qkv[m], batch.seen[m]
        if size % 16 == 0:
            fours = count // 4 * 4
            for j in range(0, fours, 4):
                dots(q, h * size, model.kv, k_at + j * size, size, scores, j, 4)
            for j in range(fours, count):
                dots(q, h * size, model.kv, k_at + j * size, size, scores, j, 1)
        else:
            for j in range(count):
                value = np.float32(0.0)
                for i in range(size):
                    value += q[h * size + i] * kept(model.kv, k_at + j * size + i)
                scores[j] = value
        most = scores[0]
        for j in range(count):
            most = max(most, scores[j])
        for j in range(count):
            scores[j] = exp(scores[j] - most)
        inverse = np.float32(1.0) / total(scores, count, np.float32(0.0), 1)
        wide = size // 64 * 64 if size % 16 == 0 else 0
        for c in range(0, wide, 64):
            blend(scores, 0, count, model.kv, v_at + c, size, y, h * size + c, 4)
        if size % 16 == 0:
            for c in range(wide, size, 16):
                blend(scores, 0, count, model.kv, v_at + c, size, y, h * size + c, 1)
        else:
            for i in range(size):
                value = np.float32(0.0)
                for j in range(count):
                    value += scores[j] * kept(model.kv, v_at + j * size + i)
                y[h * size + i] = value
        for i in range(size):
            y[h * size + i] *= inverse


@njit(**FAST)
def _embed(m, model, sizes, batch):
    width, places = sizes.width, model.places[sizes.layers]
    x, at = batch.x[m], places[EMBEDDING] + batch.token[m] * width
    for i in range(width):
        x[i] = kept(model.tables, at + i)
    if not sizes.rope:
        at = places[POSITIONS] + batch.place[m] * width
        for i in range(width):
            x[i] += kept(model.tables, at + i)
    if sizes.embedding_norm:
        squares = total(x, width, np.float32(0.0), 2)
        inverse = np.float32(1.0) / np.sqrt(squares / np.float32(width) + np.float32(sizes.eps))
        for i in range(width):
            x[i] *= inverse
    for i in range(width):
        batch.first[m, i] = x[i]


@njit(**FAST)
def _norm_rows(op, places, part, model, sizes, batch):
    M = batch.token.shape[0]
    width = sizes.width
    for m in range(part * TILE, min(M, (part + 1) * TILE)):
        x = batch.x[m]
        if op == NORM_A and places[MIX] >= 0:
            stream, first = model.floats[places[MIX]], model.floats[places[MIX] + 1]
            for i in range(width):
                x[i] = stream * x[i] + first * batch.first[m, i]
        weight = places[NORM_2] if op == NORM_B else places[NORM_1]
        shift = places[SHIFT_2] if op == NORM_B else places[SHIFT_1]
        _norm(x, batch.normed[m, :width], model.floats, weight, shift, sizes.layer_norm, sizes.eps)


@njit
def _work(op, layer, i, model, sizes, batch):
    """Part i of a phase."""
    places = model.places[layer]
    none = batch.wanted[:0]
    if op in (MATRIX_QKV, MATRIX_OUT, MATRIX_UP, MATRIX_DOWN, MATRIX_HEAD):
        _matrix(op, places, i, model, sizes, batch)
    elif op == ATTEND:
        _attend(layer, i, model, sizes, batch)
    elif op == ROTATE:
        _rotate(layer, places, i, model, sizes, batch)
    elif op in (NORM_A, NORM_B):
        _norm_rows(op, places, i, model, sizes, batch)
        _pack(model.weights, batch.normed, none, batch.packed, batch.scale, i, sizes.width)
    elif op == FINAL:
        _norm_rows(op, places, i, model, sizes, batch)
    elif op == PACK_A:
        _pack(model.weights, batch.seen, none, batch.packed, batch.scale, i, sizes.heads * sizes.size)
    elif op == PACK_B:
        _pack(model.weights, batch.inner, none, batch.packed, batch.scale, i, sizes.hidden)
    elif op == PACK_HEAD:
        _pack(model.weights, batch.normed, batch.wanted, batch.packed, batch.scale, i, sizes.width)
    else:
        _embed(i, model, sizes, batch)


@njit
def _share(phases, model, sizes, batch):
    """Take parts of one phase after the other until all are done, beside whoever else does."""
    # Operations are read from an array, as Numba would compile everything again for each constant.
    for n in range(phases.shape[0]):
        op, layer, count, each = phases[n, 0], phases[n, 1], phases[n, 2], phases[n, 3]
        first = take(batch.turns, n, each)
        while first < count:
            last = min(count, first + each)
            for i in range(first, last):
                _work(op, layer, np.int64(i), model, sizes, batch)
            finished(batch.turns, n, last - first)
            first = take(batch.turns, n, each)
        await_all(batch.turns, n, count)


@njit(parallel=True)
def _together(phases, model, sizes, batch):
    for _ in prange(batch.partial.shape[0]):  # as many as there are threads
        _share(phases, model, sizes, batch)


@cache
def compiled_step() -> Callable[[np.ndarray, Model, Sizes, Batch], None]:
    """`step(phases, model, sizes, batch)`: reads the batch's tokens, phase after phase.

    It is compiled for a format when it is first called and kept on disk: beside this file, or in the user's cache
    folder where that cannot be written, or where NUMBA_CACHE_DIR says.
    """
    # Numba asks for the time of this file alone; the digest makes it compile again when the others changed.
    sources = digest_of_sources("kernels", "scalars", "tiles", "turns", "phases")

    @njit(nogil=True, cache=True)
    def step(phases, model, sizes, batch):
        assert sources
        _together(phases, model, sizes, batch)

    return step  # type: ignore[no-any-return]


def digest_of_sources(*names: str) -> int:
    """A number that changes with the text of these modules, which are compiled together."""
    here = Path(__file__).parent
    text = b"".join((here / f"{name}.py").read_bytes() for name in names)
    return int.from_bytes(hashlib.sha256(text).digest()[:7], "big")
