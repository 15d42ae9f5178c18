"""How much memory a model takes while it is served; known before anything of it is read.

In:      a shape, the format of its weights, how many sequences of what length.
Out:     bytes: of weights and scratch, which are taken at once, and of keys and values, which are taken as they fill.
Kept:    an upper limit of what `runner` keeps; while packing, the checkpoint's float32 weights come on top.
Not here: torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cerulea.nn.shape import DecoderShape

WEIGHT_BYTES = {"fp32": 4, "bf16": 2, "int8": 1}
STATE_BYTES = {"fp32": 4, "bf16": 2, "int8": 2}  # of keys, values and embedding tables
RUNTIME_BYTES = 400 << 20  # Python, torch and Numba themselves
STEP_TOKENS = 512  # of one step at most, as a scheduler plans them; all their logits may be asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Bytes of one served model."""

    weights: int
    kv: int  # with every row full
    scratch: int
    packing: int  # more than the rest, while it is loaded

    @property
    def running(self) -> int:
        """All that it needs once it is loaded, every row full."""
        return self.weights + self.kv + self.scratch + RUNTIME_BYTES

    @property
    def peak(self) -> int:
        """The most that it ever needs; rows are empty while it is loaded."""
        return max(self.running, self.weights + self.packing + RUNTIME_BYTES)


def footprint(
    shape: DecoderShape, *, weights: Literal["fp32", "bf16", "int8"], rows: int, max_len: int = 0
) -> Footprint:
    """What a decoder of the shape takes, in bytes.

    Args:
        rows: sequences at a time.
        max_len: tokens of one; 0 means the context.
    """
    length = min(max_len or shape.context, shape.context)
    kv_width = shape.kv_heads * shape.head_size
    tables = shape.vocab * (shape.width + kv_width * len(shape.value_layers))
    tables += 0 if shape.rope_base else shape.context * shape.width
    channels = shape.layers * (shape.heads * shape.head_size + 2 * kv_width + 2 * shape.width + 2 * shape.hidden)
    vectors = 4 * (2 * (channels + shape.vocab) + 8 * shape.layers * shape.width)  # biases, scales and norms
    matrices = int(shape.matrix_parameters() * WEIGHT_BYTES[weights] * 1.02)  # whole panels
    wide = 4 * shape.width + 3 * shape.heads * shape.head_size + 2 * kv_width + 2 * shape.hidden
    return Footprint(
        weights=matrices + tables * STATE_BYTES[weights] + vectors,
        kv=rows * (2 * shape.layers * kv_width * length * STATE_BYTES[weights] + 4096),
        scratch=4 * (STEP_TOKENS * (wide + shape.vocab) + 2 * rows * shape.vocab),
        packing=2 * 4 * shape.parameters(),
    )
