"""Floating-point operations of a decoder, counted as the field counts them.

A multiply-add is two operations; the backward pass costs twice the forward one; attention is counted
in full, not causal, so that figures compare with published ones. Source: the PaLM paper, appendix B,
in the form used by nanoGPT and nanochat. Not here: torch, seconds (`precision`).
"""

from __future__ import annotations

from cerulea.nn.shape import DecoderShape


def attended_tokens(shape: DecoderShape, context: int) -> int:
    """Keys that a query is multiplied with at a sequence of `context` tokens."""
    return min(context, shape.window) if shape.window else context


def forward_flops_per_token(shape: DecoderShape, context: int) -> int:
    """Operations to read one token within a sequence of `context` tokens."""
    attention = 4 * shape.layers * shape.heads * shape.head_size * attended_tokens(shape, context)
    return 2 * shape.matrix_parameters() + attention


def train_flops_per_token(shape: DecoderShape, context: int) -> int:
    """Operations to train on one token: forward and backward."""
    return 3 * forward_flops_per_token(shape, context)
