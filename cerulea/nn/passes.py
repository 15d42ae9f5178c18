"""Pointwise operations of the modern preset with few passes over memory.

In eager mode on a CPU such operations are bound by memory: torch's own RMS norm, square and rotation read
and write their tensors about three times as often as needed, a quarter of a small model's step. Here each
has a gradient written by hand. While compiling, torch's own operations are used: the compiler fuses those.
Not here: norms with weights (`decoder`), where torch's own are used.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def relu_squared(x: Tensor) -> Tensor:
    """max(x, 0)², any shape."""
    if torch.compiler.is_compiling():
        return F.relu(x).square()
    return _ReluSquared.apply(x)  # type: ignore[no-untyped-call, no-any-return]


def plain_rms_norm(x: Tensor, eps: float) -> Tensor:
    """X / sqrt(mean(x²) + eps) over the last axis, without a weight."""
    if torch.compiler.is_compiling():
        return F.rms_norm(x, (x.shape[-1],), None, eps)
    return _PlainRmsNorm.apply(x, eps)  # type: ignore[no-untyped-call, no-any-return]


def norm_and_rotate(x_BTNK: Tensor, cos_TK: Tensor, sin_TK: Tensor, eps: float) -> Tensor:
    """Plain RMS norm of every head, then its rotation: queries and keys in one go.

    Args:
        x_BTNK: N heads of size K, queries and keys one after the other.
        cos_TK, sin_TK: (T, K / 2), any float dtype.
    """
    cos, sin = cos_TK.to(x_BTNK.dtype)[:, None], sin_TK.to(x_BTNK.dtype)[:, None]
    if torch.compiler.is_compiling():
        first, second = F.rms_norm(x_BTNK, (x_BTNK.shape[-1],), None, eps).chunk(2, dim=-1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return _NormAndRotate.apply(x_BTNK, cos, sin, eps)  # type: ignore[no-untyped-call, no-any-return]


class _ReluSquared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        kept = x.clamp_min(0)
        ctx.save_for_backward(kept)
        return kept * kept

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> Tensor:
        (kept,) = ctx.saved_tensors
        return torch.mul(outputs[0], kept).mul_(2)


def _inverse_rms(x: Tensor, eps: float) -> Tensor:
    """1 / sqrt(mean(x²) + eps), float32, last axis kept as 1."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=dtype)
    inverse: Tensor = (norm * norm).div_(x.shape[-1]).add_(eps).rsqrt_()
    return inverse


def _norm_backward(gradient: Tensor, y: Tensor, inverse: Tensor) -> Tensor:
    """d/dx of y = x * inverse(x): inverse * (g - y * mean(g * y))."""
    mean = (gradient * y).mean(dim=-1, keepdim=True, dtype=inverse.dtype).to(y.dtype)
    return torch.addcmul(gradient, y, mean, value=-1).mul_(inverse.to(y.dtype))


class _PlainRmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        inverse = _inverse_rms(x, eps)
        y = x * inverse.to(x.dtype)
        ctx.save_for_backward(y, inverse)
        return y

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, None]:
        y, inverse = ctx.saved_tensors
        return _norm_backward(outputs[0], y, inverse), None


def _turned(x: Tensor, cos: Tensor, sin: Tensor, direction: int) -> Tensor:
    """Channels (i, i + K/2) turned by the angle, or back by it where `direction` is -1."""
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    torch.mul(first, cos, out=out[..., :half]).addcmul_(second, sin, value=-direction)
    torch.mul(second, cos, out=out[..., half:]).addcmul_(first, sin, value=direction)
    return out


class _NormAndRotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, eps: float) -> Tensor:
        inverse = _inverse_rms(x, eps)
        y = x * inverse.to(x.dtype)
        ctx.save_for_backward(y, inverse, cos, sin)
        return _turned(y, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, None, None, None]:
        y, inverse, cos, sin = ctx.saved_tensors
        return _norm_backward(_turned(outputs[0], cos, sin, -1), y, inverse), None, None, None
