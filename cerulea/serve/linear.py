"""Matrices in the formats of serving: fp32, bf16, and int8 with one scale for each output channel.

In:      a Decoder; its matrices are replaced by packed ones.
Out:     the head as a packed matrix; which kernel of torch multiplies how many rows, from a table timed here.
Kept:    the format decides the numbers: an int8 matrix is the same integers and scales in every kernel.
Not here: the compiled kernels (`tiles`, `fused`).
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cerulea.nn.attention import Linear
from cerulea.nn.decoder import Decoder

Format = Literal["fp32", "bf16", "int8"]
ROWS = (1, 4, 16, 64)  # row counts that are timed; a count between two uses the next one's kernel
Kernel = Literal["plain", "prepacked", "int8"]
Table = dict[int, Kernel]
REPEATS = 5


def quantised(weight_NK: Tensor) -> tuple[Tensor, Tensor]:
    """Integers in -127..127 and the float32 scale of each output channel: weight = integer * scale."""
    scale_N = weight_NK.float().abs().amax(dim=1).div(127).clamp_min(1e-30)
    return (weight_NK.float() / scale_N[:, None]).round().to(torch.int8), scale_N


class PackedLinear(nn.Module):
    """A linear map that is only ever read."""

    def __init__(self, weight_NK: Tensor, bias_N: Tensor | None, form: Format, table: Table) -> None:
        super().__init__()
        # torch's int8 kernel reads beyond the end of a matrix of other sizes.
        whole = all(size % 32 == 0 for size in weight_NK.shape)
        table = {rows: kernel if whole or kernel != "int8" else "plain" for rows, kernel in table.items()}
        self.form, self.table = form, table
        self.dtype = torch.float32 if form == "fp32" else torch.bfloat16
        self.bias = None if bias_N is None else bias_N.to(self.dtype)
        self.scale: Tensor | None = None
        weight = weight_NK
        kernels = set(table.values())
        if form == "int8":
            q, scale = quantised(weight_NK)
            self.scale = scale.to(weight.device)
            weight = q
            if "int8" in kernels:
                self.q, self.q_scale = q, scale.to(torch.bfloat16)
        # int8 values are exact in bf16, so that both kernels multiply with the same numbers.
        weight = weight.to(self.dtype).contiguous()
        if "prepacked" in kernels:
            self.packed = torch.ops.mkldnn._reorder_linear_weight(weight, 16)
        if "plain" in kernels:
            self.plain = weight

    def forward(self, x: Tensor) -> Tensor:
        rows = x.numel() // x.shape[-1]
        kernel = self.table[next((r for r in ROWS if rows <= r), ROWS[-1])]
        if kernel == "int8":
            y: Tensor = torch.ops.aten._weight_int8pack_mm(x.reshape(rows, -1), self.q, self.q_scale).view(
                *x.shape[:-1], -1
            )
            return y if self.bias is None else y + self.bias
        bias = self.bias if self.scale is None else None
        if kernel == "prepacked":
            y = torch.ops.mkldnn._linear_pointwise(x, self.packed, bias, "none", [], "")
        else:
            y = F.linear(x, self.plain, bias)
        if self.scale is not None:
            y = (y.float() * self.scale).to(x.dtype)
            y = y if self.bias is None else y + self.bias
        return y


def timed_table(form: Format, weight_NK: Tensor) -> Table:
    """The fastest kernel of torch for each of ROWS, tried with one matrix; on a GPU always plain."""
    kernels: list[Kernel] = ["plain"]
    if weight_NK.device.type == "cpu":
        if torch.backends.mkldnn.is_available():
            kernels.append("prepacked")
        if form == "int8":
            kernels.append("int8")
    if len(kernels) == 1:
        return dict.fromkeys(ROWS, "plain")
    trials = {kernel: PackedLinear(weight_NK, None, form, dict.fromkeys(ROWS, kernel)) for kernel in kernels}
    table: Table = {}
    for rows in ROWS:
        x = torch.randn(rows, weight_NK.shape[1]).to(trials["plain"].dtype)
        seconds = {kernel: _seconds(lambda trial=trial, x=x: trial(x)) for kernel, trial in trials.items()}  # type: ignore[misc]
        table[rows] = min(kernels, key=lambda kernel: seconds[kernel])
    return table


def pack(decoder: Decoder, form: Format) -> PackedLinear:
    """Replace every matrix of the decoder by a packed one, and return the head."""
    with torch.inference_mode():
        up = decoder.blocks[0].mlp.up.weight  # type: ignore[union-attr]
        table = timed_table(form, up)  # type: ignore[arg-type]
        head = PackedLinear(decoder.head_weight, None, form, table)
        for module in list(decoder.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, Linear):
                    setattr(module, name, PackedLinear(child.weight, child.bias, form, table))
        if not decoder.shape.tied:
            setattr(decoder, "head", head)  # noqa: B010 - a packed matrix stands where a Linear stood
    return head


def _seconds(work: Callable[[], Tensor]) -> float:
    work()
    times = []
    for _ in range(REPEATS):
        began = perf_counter()
        work()
        times.append(perf_counter() - began)
    return median(times)
