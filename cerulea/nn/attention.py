"""Causal self-attention: rotary positions, grouped heads, the key-value cache.

In:      x_BTD, the normalised residual stream.
Out:     y_BTD, and the new keys and values kept by the memory where one is given.
Kept:    reading with a memory equals the full forward pass; without a memory and a window the fast causal
         kernel of torch is used, with no mask in memory.
Not here: memories for many sequences at different positions (`serve.kv`).
Letters: B rows, T tokens, S keys, D width, H query heads, G key-value heads, K head size.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cerulea.nn.passes import norm_and_rotate
from cerulea.nn.shape import GATE_CHANNELS, DecoderShape, RopeScaling


class Linear(nn.Linear):
    """A linear map whose float32 master weights are cast to the dtype of the activations."""

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


class Memory(Protocol):
    """Keys and values of tokens that were read before, and where the tokens that are read now stand."""

    def reach(self, tokens: int) -> int:
        """Tokens of the longest sequence once `tokens` more are read."""
        ...

    def places(self, tokens: int) -> slice | Tensor:
        """Positions of the T tokens, the same for every row of the batch."""
        ...

    def attend(self, layer: int, q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, window: int) -> Tensor:
        """Keep the new keys and values of a layer, and return y_BHTK, what the queries see of old and new ones."""
        ...

    def advance(self, tokens: int) -> None:
        """All layers have read the tokens."""
        ...


class KVCache:
    """The memory of one batch of sequences that all have the same length.

    Owns k and v as float tensors of (layers, B, G, capacity, K); `length` tokens of them are filled.
    """

    def __init__(self, shape: DecoderShape, rows: int, capacity: int, like: Tensor) -> None:
        size = (shape.layers, rows, shape.kv_heads, capacity, shape.head_size)
        self.k = torch.empty(size, dtype=like.dtype, device=like.device)
        self.v = torch.empty(size, dtype=like.dtype, device=like.device)
        self.capacity = capacity
        self.length = 0

    def reach(self, tokens: int) -> int:
        return self.length + tokens

    def places(self, tokens: int) -> slice:
        return slice(self.length, self.length + tokens)

    def attend(self, layer: int, q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, window: int) -> Tensor:
        end = self.length + k_BGTK.shape[2]
        self.k[layer, :, :, self.length : end] = k_BGTK
        self.v[layer, :, :, self.length : end] = v_BGTK
        return attend(q_BHTK, self.k[layer, :, :, :end], self.v[layer, :, :, :end], self.length, window)

    def advance(self, tokens: int) -> None:
        self.length += tokens


def attend(q_BHTK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor, past: int, window: int) -> Tensor:
    """Causal attention, y_BHTK; the queries stand at `past` and after it, the S = past + T keys at 0 and after it."""
    heads, T, S = q_BHTK.shape[1], q_BHTK.shape[2], k_BGSK.shape[2]
    if k_BGSK.shape[1] != heads:
        # torch's CPU kernel has no grouped heads; expanding keeps the fast causal path everywhere.
        k_BGSK = k_BGSK.repeat_interleave(heads // k_BGSK.shape[1], dim=1)
        v_BGSK = v_BGSK.repeat_interleave(heads // v_BGSK.shape[1], dim=1)
    windowed = 0 < window < S
    if past == 0 and not windowed:
        return F.scaled_dot_product_attention(q_BHTK, k_BGSK, v_BGSK, is_causal=True)
    if T == 1 and not windowed:
        return F.scaled_dot_product_attention(q_BHTK, k_BGSK, v_BGSK)
    query = torch.arange(past, past + T, device=q_BHTK.device)[:, None]
    key = torch.arange(S, device=q_BHTK.device)[None, :]
    visible_TS = key <= query
    if windowed:
        visible_TS &= key > query - window
    return F.scaled_dot_product_attention(q_BHTK, k_BGSK, v_BGSK, attn_mask=visible_TS)


def rope_tables(shape: DecoderShape) -> tuple[Tensor, Tensor]:
    """Cosines and sines of every position, float32, (context, K / 2). RoFormer, equation 15."""
    half = torch.arange(0, shape.head_size, 2, dtype=torch.float32) / shape.head_size
    frequency = 1.0 / (shape.rope_base**half)
    if shape.rope_scaling is not None:
        frequency = _stretch(frequency, shape.rope_scaling)
    angle = torch.outer(torch.arange(shape.context, dtype=torch.float32), frequency)
    return angle.cos(), angle.sin()


def _stretch(frequency: Tensor, scaling: RopeScaling) -> Tensor:
    """Llama 3.1: slow frequencies are divided by the factor, fast ones kept, those between blended."""
    turns = scaling.original_context * frequency / (2 * math.pi)
    blend = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    blend = blend.clamp(0.0, 1.0)
    return frequency * (blend + (1 - blend) / scaling.factor)


def rotate(x_BHTK: Tensor, cos_TK: Tensor, sin_TK: Tensor) -> Tensor:
    """Turn each pair (channel i, channel i + K/2) by its position's angle, as Hugging Face lays them out."""
    first, second = x_BHTK.chunk(2, dim=-1)
    cos_TK, sin_TK = cos_TK.to(x_BHTK.dtype), sin_TK.to(x_BHTK.dtype)
    return torch.cat((first * cos_TK - second * sin_TK, second * cos_TK + first * sin_TK), dim=-1)


class Attention(nn.Module):
    """Multi-head attention with one fused projection for queries, keys and values."""

    def __init__(self, shape: DecoderShape, layer: int) -> None:
        super().__init__()
        self.shape, self.layer = shape, layer
        query, kv = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
        self.qkv = Linear(shape.width, query + 2 * kv, bias=shape.qkv_bias)
        self.out = Linear(query, shape.width, bias=shape.out_bias)
        if shape.qk_norm == "rms":
            self.q_norm = nn.Parameter(torch.ones(shape.head_size))
            self.k_norm = nn.Parameter(torch.ones(shape.head_size))
        if layer in shape.value_layers:
            self.value_gate = Linear(min(GATE_CHANNELS, shape.width), shape.kv_heads, bias=False)

    def forward(
        self, x_BTD: Tensor, rope: tuple[Tensor, Tensor] | None, value_BTGK: Tensor | None, memory: Memory | None
    ) -> Tensor:
        """Attend; `value_BTGK` is this layer's value embedding where it has one."""
        shape = self.shape
        B, T, _ = x_BTD.shape
        heads, groups, size = shape.heads, shape.kv_heads, shape.head_size
        qkv = self.qkv(x_BTD).view(B, T, heads + 2 * groups, size)
        joint = shape.qk_norm == "plain_rms" and rope is not None
        if joint and rope is not None:
            qk, v = qkv.split((heads + groups, groups), dim=2)
            q, k = norm_and_rotate(qk, *rope, shape.norm_eps).split((heads, groups), dim=2)
        else:
            q, k, v = qkv.split((heads, groups, groups), dim=2)
        if value_BTGK is not None:
            gate_BTG = 2 * torch.sigmoid(self.value_gate(x_BTD[..., :GATE_CHANNELS]))
            v = v + gate_BTG.unsqueeze(-1) * value_BTGK
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if not joint and shape.qk_norm != "none":
            weighted = shape.qk_norm == "rms"
            q = F.rms_norm(q, (size,), self.q_norm.to(q.dtype) if weighted else None, shape.norm_eps)
            k = F.rms_norm(k, (size,), self.k_norm.to(k.dtype) if weighted else None, shape.norm_eps)
        if not joint and rope is not None:
            q, k = rotate(q, *rope), rotate(k, *rope)
        window = shape.window
        y = attend(q, k, v, 0, window) if memory is None else memory.attend(self.layer, q, k, v, window)
        return self.out(y.transpose(1, 2).reshape(B, T, heads * size))  # type: ignore[no-any-return]
