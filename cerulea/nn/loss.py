"""Cross-entropy over a large vocabulary without ever holding all logits.

In:      h_ND (N positions, final hidden states), the head's weight_VD, target_N (IGNORE = not scored).
Out:     the summed loss in nats, with gradients computed piece by piece during the forward pass.
Kept:    memory for logits is bounded by PIECE_ELEMENTS whatever N and V are.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = -1  # target of a position that is not scored
# Logits of one piece: small enough for a CPU's cache, large enough to fill a GPU.
PIECE_ELEMENTS = {"cpu": 1 << 20, "cuda": 1 << 27}


def logits_of(h_ND: Tensor, weight_VD: Tensor, softcap: float) -> Tensor:
    """Float32 logits_NV; the product is taken in the dtype of `h_ND`."""
    logits_NV = F.linear(h_ND, weight_VD).float()
    return softcap * torch.tanh(logits_NV / softcap) if softcap else logits_NV


def nats(h_ND: Tensor, weight_VD: Tensor, target_N: Tensor, softcap: float) -> Tensor:
    """Loss of every position, float32 (N,), 0 where the target is IGNORE; no gradients, bounded memory."""
    rows = _piece_rows(h_ND, weight_VD)
    pieces = [
        F.cross_entropy(logits_of(h, weight_VD, softcap), target, ignore_index=IGNORE, reduction="none")
        for h, target in zip(h_ND.split(rows), target_N.split(rows), strict=True)
    ]
    return torch.cat(pieces)


def summed_nats(h_ND: Tensor, weight_VD: Tensor, target_N: Tensor, softcap: float) -> Tensor:
    """Summed loss, a float32 scalar that can be differentiated to `h_ND` and `weight_VD`."""
    return _SummedNats.apply(h_ND, weight_VD, target_N, softcap)  # type: ignore[no-untyped-call, no-any-return]


def _piece_rows(h_ND: Tensor, weight_VD: Tensor) -> int:
    elements = PIECE_ELEMENTS.get(h_ND.device.type, 1 << 24)
    return max(64, elements // weight_VD.shape[0])


class _SummedNats(torch.autograd.Function):
    """Gradients are ready at the end of the forward pass: d loss / d logits = softmax - one-hot."""

    @staticmethod
    def forward(ctx: Any, h_ND: Tensor, weight_VD: Tensor, target_N: Tensor, softcap: float) -> Tensor:
        weight = weight_VD.to(h_ND.dtype)
        total = torch.zeros((), dtype=torch.float32, device=h_ND.device)
        h_grad = torch.empty_like(h_ND)
        weight_grad = torch.zeros_like(weight_VD, dtype=torch.float32)
        rows = _piece_rows(h_ND, weight)
        for start in range(0, h_ND.shape[0], rows):
            h, target = h_ND[start : start + rows], target_N[start : start + rows]
            scored_N1 = (target != IGNORE).unsqueeze(1)
            index_N1 = target.clamp_min(0).unsqueeze(1)
            logits = F.linear(h, weight).float()
            if softcap:
                tanh = logits.div_(softcap).tanh_()
                logits = tanh * softcap
            peak_N1 = logits.amax(dim=1, keepdim=True)
            logits -= peak_N1
            picked_N1 = logits.gather(1, index_N1)
            probability = logits.exp_()
            mass_N1 = probability.sum(dim=1, keepdim=True)
            total += ((mass_N1.log() - picked_N1) * scored_N1).sum()
            probability *= scored_N1 / mass_N1
            probability.scatter_add_(1, index_N1, -scored_N1.float())
            if softcap:
                probability *= tanh.square_().neg_().add_(1.0)
            gradient = probability.to(h.dtype)
            torch.mm(gradient, weight, out=h_grad[start : start + rows])
            if h.dtype == torch.float32:
                weight_grad.addmm_(gradient.T, h)
            else:
                weight_grad += gradient.T @ h
        ctx.save_for_backward(h_grad, weight_grad)
        return total

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, Tensor, None, None]:
        h_grad, weight_grad = ctx.saved_tensors
        scale = outputs[0]
        return h_grad * scale.to(h_grad.dtype), weight_grad * scale, None, None
