"""A decoder packed for the compiled step (`kernels`), and the memory that its steps work in.

In:      a Decoder, a format, a SlotKV; then tokens with their positions and rows.
Out:     logits_NV or final hidden states_ND, float32.
Kept:    embeddings, norms, attention and the stream are computed in float32 whatever the format; only matrices, what
         they are multiplied with, and keys and values are narrower (bf16 for bf16, int16 for int8 with bf16 keys).
Not here: kernels; this module needs Numba, an optional part (`runner` asks before it imports it).
"""

from __future__ import annotations

import numpy as np
import torch
from numba import config, set_num_threads
from torch import Tensor

from cerulea.core.cores import usable_threads
from cerulea.nn.decoder import Block, Decoder, Norm
from cerulea.nn.shape import GATE_CHANNELS, DecoderShape
from cerulea.serve import phases
from cerulea.serve.kernels import compiled_step
from cerulea.serve.kv import SlotKV
from cerulea.serve.linear import Format, quantised
from cerulea.serve.phases import FIELDS, LANES, PANEL, TILE, Batch, Model, Sizes
from cerulea.serve.turns import STRIDE

ACTIVATIONS = {"gelu_tanh": phases.GELU, "swiglu": phases.SWIGLU, "relu2": phases.RELU2}
STORED: dict[Format, type[np.generic]] = {"fp32": np.float32, "bf16": np.uint16, "int8": np.int8}


def panels(weight_NK: np.ndarray, step: int) -> np.ndarray:
    """A matrix as `tiles` reads it, flat; channels padded to a panel and inputs to a step with zeros."""
    N, K = weight_NK.shape
    padded = np.zeros((-(-N // PANEL) * PANEL, -(-K // step) * step), weight_NK.dtype)
    padded[:N, :K] = weight_NK
    split = padded.reshape(-1, 2, LANES, padded.shape[1] // step, step)
    return np.ascontiguousarray(split.transpose(0, 3, 1, 2, 4)).reshape(-1)


def gate_and_up(matrix: Tensor, hidden: int) -> Tensor:
    """Rows of a SwiGLU matrix (or bias) so that 16 gates and their 16 inputs make one panel; padded with zeros."""
    padded = matrix.new_zeros(2, -(-hidden // LANES) * LANES, *matrix.shape[1:])
    padded[:, :hidden] = matrix.view(2, hidden, *matrix.shape[1:])
    return padded.view(2, -1, LANES, *matrix.shape[1:]).transpose(0, 1).flatten(0, 2)


class _Arena:
    """Arrays laid one after the other, each at a multiple of 64 bytes."""

    def __init__(self, dtype: type[np.generic]) -> None:
        self.parts: list[np.ndarray] = []
        self.dtype, self.length = np.dtype(dtype), 0

    def add(self, values: np.ndarray) -> int:
        at, each = self.length, 64 // self.dtype.itemsize
        self.parts.append(values)
        self.length += -(-values.size // each) * each
        return at

    def whole(self) -> np.ndarray:
        """One array of all, at an address that is a multiple of 64; parts are let go while they are copied."""
        each = 64 // self.dtype.itemsize
        memory = np.zeros(self.length + each, self.dtype)
        skip = -(memory.ctypes.data // self.dtype.itemsize) % each
        flat, at = memory[skip : skip + self.length], 0
        self.parts.reverse()
        while self.parts:
            values = self.parts.pop()
            flat[at : at + values.size] = values
            at += -(-values.size // each) * each
        return flat


class _Packing:
    def __init__(self, form: Format) -> None:
        self.form = form
        self.weights = _Arena(STORED[form])
        self.tables = _Arena(np.float32 if form == "fp32" else np.uint16)
        self.floats = _Arena(np.float32)

    def matrix(self, weight_NK: Tensor, bias_N: Tensor | None) -> tuple[int, int, int]:
        """Where the matrix, its bias and its scales lie."""
        channels = -(-weight_NK.shape[0] // PANEL) * PANEL
        scale_N = torch.ones(0)
        if self.form == "fp32":
            at = self.weights.add(panels(weight_NK.float().numpy(), 1))
        elif self.form == "bf16":
            at = self.weights.add(panels(_bf16(weight_NK), 2))
        else:
            q, scale_N = quantised(weight_NK)
            at = self.weights.add(panels(q.numpy(), 2))
        bias = torch.zeros(0) if bias_N is None else bias_N
        return at, self.vector(bias, channels), self.vector(scale_N, channels)

    def vector(self, values_N: Tensor, length: int = 0) -> int:
        """Where the values lie, with zeros behind them up to the length."""
        padded = np.zeros(max(length, values_N.numel()), np.float32)
        padded[: values_N.numel()] = values_N.float().flatten().numpy()
        return self.floats.add(padded)

    def table(self, values: Tensor) -> int:
        """Where the embedding lies."""
        return self.tables.add(values.float().numpy().reshape(-1) if self.form == "fp32" else _bf16(values).reshape(-1))

    def norm(self, norm: Norm, width: int) -> tuple[int, int]:
        """Where weight and shift lie."""
        weight, bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
        return (
            self.vector(torch.ones(width) if weight is None else weight),
            self.vector(torch.zeros(width) if bias is None else bias),
        )


def _bf16(values: Tensor) -> np.ndarray:
    bits: np.ndarray = values.to(torch.bfloat16).contiguous().view(torch.int16).numpy().view(np.uint16)
    return bits


def _pack_block(packing: _Packing, shape: DecoderShape, decoder: Decoder, i: int) -> list[int]:
    block = decoder.blocks[i]
    assert isinstance(block, Block)
    attention, mlp = block.attention, block.mlp
    row = [-1] * FIELDS
    up: Tensor = mlp.up.weight
    up_bias: Tensor | None = mlp.up.bias
    if shape.activation == "swiglu":
        up = gate_and_up(up, shape.hidden)
        up_bias = None if up_bias is None else gate_and_up(up_bias, shape.hidden)
    matrices = (
        (attention.qkv.weight, attention.qkv.bias),
        (attention.out.weight, attention.out.bias),
        (up, up_bias),
        (mlp.down.weight, mlp.down.bias),
    )
    for n, (weight, bias) in enumerate(matrices):
        row[phases.QKV + n], row[phases.QKV_BIAS + n], row[phases.QKV_SCALE + n] = packing.matrix(weight, bias)
    row[phases.NORM_1], row[phases.SHIFT_1] = packing.norm(block.attention_norm, shape.width)
    row[phases.NORM_2], row[phases.SHIFT_2] = packing.norm(block.mlp_norm, shape.width)
    if shape.qk_norm != "none":
        ones = torch.ones(shape.head_size)
        row[phases.Q_NORM] = packing.vector(getattr(attention, "q_norm", ones))
        row[phases.K_NORM] = packing.vector(getattr(attention, "k_norm", ones))
    if i in shape.value_layers:
        row[phases.GATE] = packing.vector(attention.value_gate.weight)
        table = decoder.value_embeddings[str(i)]
        row[phases.VALUE] = packing.table(table.weight)  # type: ignore[arg-type]
    if shape.residual_scalars:
        row[phases.MIX] = packing.vector(torch.stack((decoder.stream_scale[i], decoder.embedding_scale[i])))
    return row


class FusedDecoder:
    """The whole decoder, ready to be stepped on the CPU."""

    def __init__(self, decoder: Decoder, form: Format, kv: SlotKV, threads: int = 0) -> None:
        self.shape, self.kv, self.threads = decoder.shape, kv, threads or usable_threads()
        shape = decoder.shape
        with torch.no_grad():
            packing = _Packing(form)
            places = [_pack_block(packing, shape, decoder, i) for i in range(shape.layers)]
            last = [-1] * FIELDS
            last[phases.HEAD], last[phases.HEAD_BIAS], last[phases.HEAD_SCALE] = packing.matrix(
                decoder.head_weight, None
            )
            last[phases.NORM_1], last[phases.SHIFT_1] = packing.norm(decoder.final_norm, shape.width)
            last[phases.EMBEDDING] = packing.table(decoder.embedding.weight)
            cos = sin = np.zeros((1, 1), np.float32)
            if shape.rope_base:
                cos, sin = (table.float().contiguous().numpy() for table in (decoder.rope_cos, decoder.rope_sin))
            else:
                last[phases.POSITIONS] = packing.table(decoder.positions.weight)
        bits = kv.flat if form == "fp32" else kv.flat.view(torch.int16)
        stored = bits.numpy() if form == "fp32" else bits.numpy().view(np.uint16)
        self.model = Model(
            weights=packing.weights.whole(),
            tables=packing.tables.whole(),
            floats=packing.floats.whole(),
            places=np.array([*places, last], np.int64),
            cos=cos,
            sin=sin,
            kv=stored,
        )
        self.sizes = Sizes(
            layers=shape.layers,
            width=shape.width,
            heads=shape.heads,
            groups=shape.kv_heads,
            size=shape.head_size,
            hidden=shape.hidden,
            vocab=shape.vocab,
            capacity=kv.max_len,
            row_stride=kv.row_stride,
            layer_norm=int(shape.norm == "layer"),
            qk_norm=int(shape.qk_norm != "none"),
            activation=ACTIVATIONS[shape.activation],
            embedding_norm=int(shape.embedding_norm),
            rope=int(shape.rope_base > 0),
            window=shape.window,
            gate=min(GATE_CHANNELS, shape.width),
            eps=float(shape.norm_eps),
            softcap=float(shape.softcap),
        )
        self._step = compiled_step()
        self._scratch: dict[str, np.ndarray] = {}

    def step(self, token_N: np.ndarray, place_N: np.ndarray, row_N: np.ndarray, wanted_N: np.ndarray) -> Batch:
        """Read tokens; the Batch's `normed` are their final states, its `logits` those of the wanted ones.

        Scratch memory is used again by the next step; logits are not.
        """
        shape, M = self.shape, token_N.size
        query = shape.heads * shape.head_size
        steps = max(shape.width, shape.hidden, query)
        sizes = {
            "x": shape.width,
            "first": shape.width,
            "normed": shape.width,
            "qkv": query + 2 * shape.kv_heads * shape.head_size,
            "seen": query,
            "inner": shape.hidden,
        }
        memory = {name: self._rows(name, M, _padded(columns)) for name, columns in sizes.items()}
        threads = min(self.threads, int(config.NUMBA_NUM_THREADS))
        set_num_threads(threads)  # Numba keeps it for each thread that calls
        plan = phases.phases_of(self.sizes, M, wanted_N.size)
        batch = Batch(
            token=token_N,
            place=place_N,
            row=row_N,
            wanted=wanted_N,
            logits=np.empty((wanted_N.size, _padded(shape.vocab)), np.float32),
            packed=self._rows("packed", -(-M // TILE), TILE * (steps + 1), np.int32).reshape(-1),
            scale=self._rows("scale", M + TILE, 1).reshape(-1),
            partial=self._rows("partial", threads, 2 * TILE * PANEL),
            scores=self._rows("scores", threads, self.kv.max_len),
            turns=np.zeros(len(plan) * STRIDE, np.int64),
            **memory,
        )
        self._step(plan, self.model, self.sizes, batch)
        return batch

    def _rows(self, name: str, rows: int, columns: int, dtype: type[np.generic] = np.float32) -> np.ndarray:
        held = self._scratch.get(name)
        if held is None or held.shape[0] < rows:
            held = self._scratch[name] = np.zeros((rows, columns), dtype)
        return held[:rows]


def _padded(columns: int) -> int:
    return -(-columns // PANEL) * PANEL
