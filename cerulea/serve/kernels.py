"""A decoder's step as one compiled call: what Numba compiles.

In:      a Model (packed weights and tables), its Sizes, and a Batch: M tokens of any sequences, and scratch memory.
Out:     keys and values kept in their rows; logits, or final hidden states.
Kept:    each phase of a layer is a loop over independent parts (a panel of 32 channels, a tile of 8 tokens, a head of a
         token) that share nothing, and each part is computed in one fixed order: neither threads nor neighbours nor
         the cutting of a prompt can change a bit of a token's numbers.
Letters: M tokens, D width, G key-value heads, K head size, S positions of a row. Not here: packing (`fused`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import get_thread_id, njit, prange

from cerulea.serve.tiles import PANEL, as_float, as_word, bits_of, blend, dots, tile

TILE = 8  # tokens that a panel is multiplied with at once
BLOCK = 512  # int8 products that are summed as integers: 512 * 127 * 32767 < 2^31
SERIAL_BELOW = 4  # so few tokens are normed faster by one thread than a second one wakes up

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


@njit(fastmath=True, inline="always")
def _exp(x):
    """e^x, float32, relative error below 2e-7: 2^n times a polynomial (Cephes, expf)."""
    x = min(max(x, np.float32(-87.0)), np.float32(88.0))
    n = np.floor(x * np.float32(1.4426950408889634) + np.float32(0.5))
    r = x - n * np.float32(0.693359375) + n * np.float32(2.12194440e-4)
    y = np.float32(1.9875691500e-4)
    y = y * r + np.float32(1.3981999507e-3)
    y = y * r + np.float32(8.3334519073e-3)
    y = y * r + np.float32(4.1665795894e-2)
    y = y * r + np.float32(1.6666665459e-1)
    y = y * r + np.float32(5.0000001201e-1)
    y = y * r * r + r + np.float32(1.0)
    return y * as_float((np.int32(n) + np.int32(127)) << np.int32(23))


@njit(inline="always")
def _bf16(x):
    """The upper 16 bits of a float32, rounded to the nearest, ties to even."""
    word = as_word(x)
    return (word + np.int32(0x7FFF) + ((word >> np.int32(16)) & np.int32(1))) >> np.int32(16)


@njit(inline="always")
def _keep(array, i, x):
    if bits_of(array) == 32:
        array[i] = x
    else:
        array[i] = _bf16(x)


@njit(inline="always")
def _kept(array, i):
    if bits_of(array) == 32:
        return np.float32(array[i])
    return as_float(np.int32(array[i]) << np.int32(16))


@njit
def _width_of(left):
    """Rows of the tile that holds what is left: 1, 2, 4 or 8."""
    if left > 4:
        return 8
    if left > 2:
        return 4
    return left


@njit(fastmath=True)
def _norm(source, target, floats, weight, shift, layer_norm, eps):
    width = target.shape[0]
    mean = np.float32(0.0)
    if layer_norm:
        for i in range(width):
            mean += source[i]
        mean /= np.float32(width)
    squares = np.float32(0.0)
    for i in range(width):
        squares += (source[i] - mean) * (source[i] - mean)
    inverse = np.float32(1.0) / np.sqrt(squares / np.float32(width) + np.float32(eps))
    for i in range(width):
        target[i] = (source[i] - mean) * inverse * floats[weight + i] + floats[shift + i]


@njit(fastmath=True)
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
                low, high = _bf16(x[2 * i]) & np.int32(0xFFFF), _bf16(x[2 * i + 1])
                packed[begin + i * R + r] = low | (high << np.int32(16))
            if width % 2:
                packed[begin + (steps - 1) * R + r] = _bf16(x[width - 1]) & np.int32(0xFFFF)
        else:
            most = np.float32(1e-30)
            for i in range(width):
                most = max(most, abs(x[i]))
            scale[m] = most / np.float32(32767.0)
            times = np.float32(32767.0) / most
            for i in range(width // 2):
                low = np.int32(np.floor(x[2 * i] * times + np.float32(0.5))) & np.int32(0xFFFF)
                high = np.int32(np.floor(x[2 * i + 1] * times + np.float32(0.5)))
                packed[begin + i * R + r] = low | (high << np.int32(16))
            if width % 2:
                last = np.int32(np.floor(x[width - 1] * times + np.float32(0.5)))
                packed[begin + (steps - 1) * R + r] = last & np.int32(0xFFFF)


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


@njit(fastmath=True)
def _product(weights, at, width, panel, packed, scale, floats, bias, scales, part, R, y):
    """Y (R, 32) = rows 8 part .. times one panel, scaled, with bias."""
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


@njit(fastmath=True, inline="always")
def _silu(x):
    return x / (np.float32(1.0) + _exp(-x))


@njit(fastmath=True, inline="always")
def _tanh(x):
    return np.float32(1.0) - np.float32(2.0) / (np.float32(1.0) + _exp(x + x))


@njit(fastmath=True)
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
            elif op == MATRIX_OUT or op == MATRIX_DOWN:
                target = batch.x[m, n : n + PANEL]
                for c in range(PANEL):
                    target[c] += z[c]
            elif op == MATRIX_HEAD:
                target = batch.logits[m, n : n + PANEL]
                if sizes.softcap > 0:
                    cap = np.float32(sizes.softcap)
                    for c in range(PANEL):
                        target[c] = cap * _tanh(z[c] / cap)
                else:
                    for c in range(PANEL):
                        target[c] = z[c]
            elif sizes.activation == SWIGLU:
                target = batch.inner[m, n // 2 : n // 2 + 16]
                for c in range(16):
                    target[c] = _silu(z[c]) * z[16 + c]
            elif sizes.activation == GELU:
                target = batch.inner[m, n : n + PANEL]
                for c in range(PANEL):
                    u = z[c] * (np.float32(1.0) + np.float32(0.044715) * z[c] * z[c])
                    target[c] = np.float32(0.5) * z[c] * (np.float32(1.0) + _tanh(np.float32(0.7978845608028654) * u))
            else:
                target = batch.inner[m, n : n + PANEL]
                for c in range(PANEL):
                    kept = max(z[c], np.float32(0.0))
                    target[c] = kept * kept


@njit(fastmath=True)
def _head_norm(x, floats, weight, eps):
    squares = np.float32(0.0)
    for i in range(x.shape[0]):
        squares += x[i] * x[i]
    inverse = np.float32(1.0) / np.sqrt(squares / np.float32(x.shape[0]) + np.float32(eps))
    for i in range(x.shape[0]):
        x[i] = x[i] * inverse * floats[weight + i]


@njit(fastmath=True)
def _turn(x, cos, sin):
    half = x.shape[0] // 2
    for i in range(half):
        first, second = x[i], x[half + i]
        x[i] = first * cos[i] - second * sin[i]
        x[half + i] = second * cos[i] + first * sin[i]


@njit(fastmath=True)
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
            gate = np.float32(2.0) / (np.float32(1.0) + _exp(-gate))
            table = places[VALUE] + (batch.token[m] * groups + g) * size
            for i in range(size):
                x[(heads + groups + g) * size + i] += gate * _kept(model.tables, table + i)
        key, value = x[(heads + g) * size : (heads + g + 1) * size], x[(heads + groups + g) * size :]
        k_to = to + g * sizes.capacity * size
        v_to = k_to + groups * sizes.capacity * size
        for i in range(size):
            _keep(model.kv, k_to + i, key[i])
        for i in range(size):
            _keep(model.kv, v_to + i, value[i])


@njit(fastmath=True)
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
                total = np.float32(0.0)
                for i in range(size):
                    total += q[h * size + i] * _kept(model.kv, k_at + j * size + i)
                scores[j] = total
        most = scores[0]
        for j in range(count):
            most = max(most, scores[j])
        mass = np.float32(0.0)
        for j in range(count):
            share = _exp(scores[j] - most)
            scores[j] = share
            mass += share
        inverse = np.float32(1.0) / mass
        wide = size // 64 * 64 if size % 16 == 0 else 0
        for c in range(0, wide, 64):
            blend(scores, 0, count, model.kv, v_at + c, size, y, h * size + c, 4)
        if size % 16 == 0:
            for c in range(wide, size, 16):
                blend(scores, 0, count, model.kv, v_at + c, size, y, h * size + c, 1)
        else:
            for i in range(size):
                total = np.float32(0.0)
                for j in range(count):
                    total += scores[j] * _kept(model.kv, v_at + j * size + i)
                y[h * size + i] = total
        for i in range(size):
            y[h * size + i] *= inverse


@njit(fastmath=True)
def _embed(m, model, sizes, batch):
    width, places = sizes.width, model.places[sizes.layers]
    x, at = batch.x[m], places[EMBEDDING] + batch.token[m] * width
    for i in range(width):
        x[i] = _kept(model.tables, at + i)
    if not sizes.rope:
        at = places[POSITIONS] + batch.place[m] * width
        for i in range(width):
            x[i] += _kept(model.tables, at + i)
    if sizes.embedding_norm:
        squares = np.float32(0.0)
        for i in range(width):
            squares += x[i] * x[i]
        inverse = np.float32(1.0) / np.sqrt(squares / np.float32(width) + np.float32(sizes.eps))
        for i in range(width):
            x[i] *= inverse
    for i in range(width):
        batch.first[m, i] = x[i]


@njit(fastmath=True)
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
    if op == MATRIX_QKV or op == MATRIX_OUT or op == MATRIX_UP or op == MATRIX_DOWN or op == MATRIX_HEAD:
        _matrix(op, places, i, model, sizes, batch)
    elif op == ATTEND:
        _attend(layer, i, model, sizes, batch)
    elif op == ROTATE:
        _rotate(layer, places, i, model, sizes, batch)
    elif op == NORM_A or op == NORM_B:
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


@njit(parallel=True)
def _phase(op, layer, count, model, sizes, batch):
    for i in prange(count):
        _work(op, layer, np.int64(i), model, sizes, batch)


@njit(nogil=True, cache=True)
def step(phases, model, sizes, batch):
    """Read the batch's tokens; logits of those wanted, and final hidden states in `normed`.

    Args:
        phases: int64 (phases, 4): operation, layer, parts, and 1 where one thread does it all.
    """
    # Operations are read from an array, as Numba would compile everything again for each constant.
    for n in range(phases.shape[0]):
        op, layer, count = phases[n, 0], phases[n, 1], phases[n, 2]
        if phases[n, 3]:
            for i in range(count):
                _work(op, layer, i, model, sizes, batch)
        else:
            _phase(op, layer, count, model, sizes, batch)


def phases_of(sizes: Sizes, tokens: int, wanted: int) -> np.ndarray:
    """The phases of a step."""
    parts, alone = -(-tokens // TILE), int(tokens < SERIAL_BELOW)
    qkv = -(-(sizes.heads + 2 * sizes.groups) * sizes.size // PANEL)
    width = -(-sizes.width // PANEL)
    up = -(-sizes.hidden // (PANEL // 2 if sizes.activation == SWIGLU else PANEL))
    rows = [(EMBED, 0, tokens, alone)]
    for layer in range(sizes.layers):
        rows += [
            (NORM_A, layer, parts, alone),
            (MATRIX_QKV, layer, qkv, 0),
            (ROTATE, layer, tokens, alone),
            (ATTEND, layer, tokens * sizes.groups, 0),
            (PACK_A, layer, parts, alone),
            (MATRIX_OUT, layer, width, 0),
            (NORM_B, layer, parts, alone),
            (MATRIX_UP, layer, up, 0),
            (PACK_B, layer, parts, alone),
            (MATRIX_DOWN, layer, width, 0),
        ]
    rows.append((FINAL, sizes.layers, parts, alone))
    if wanted:
        rows.append((PACK_HEAD, sizes.layers, -(-wanted // TILE), alone))
        rows.append((MATRIX_HEAD, sizes.layers, -(-sizes.vocab // PANEL), 0))
    return np.array(rows, np.int64)
