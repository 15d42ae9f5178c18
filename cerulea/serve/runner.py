"""Computes the chunks of a step with a decoder, on one device.

In:      a Decoder, which is taken over: its matrices are packed into the wanted format.
Out:     logits or hidden states, float32, of the tokens that were asked for; the KV store is filled on the way.
Kept:    a format (fp32, bf16, int8) decides the numbers, a kernel only the speed.
Not here: which chunks run (`scheduler`), which token follows (`sample`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cerulea.nn.decoder import Decoder
from cerulea.serve.kv import KVStore, PagedKV, SlotKV, Step
from cerulea.serve.linear import Format, pack
from cerulea.serve.plan import Chunk


class DecoderRunner:
    """`plan.Runner` for a Decoder.

    Args:
        decoder: on any device; it cannot be used elsewhere afterwards.
        rows: sequences at a time.
        max_len: tokens of one sequence; 0, or more than the context, means the context.
        weights: format of the matrices; activations are float32 with fp32 and bfloat16 otherwise.
        device: where to compute.
    """

    def __init__(
        self,
        decoder: Decoder,
        *,
        rows: int,
        max_len: int = 0,
        weights: Format = "fp32",
        device: torch.device | None = None,
    ) -> None:
        self.shape, self.device = decoder.shape, device or torch.device("cpu")
        self.rows, self.vocab = rows, self.shape.vocab
        self.context = min(max_len or self.shape.context, self.shape.context)
        self.weights = weights
        dtype = torch.float32 if weights == "fp32" else torch.bfloat16
        self.kv: KVStore
        if self.device.type == "cpu":
            self.kv = SlotKV(self.shape, rows, self.context, dtype)
        else:
            self.kv = PagedKV(self.shape, rows, self.context, dtype, device=self.device)
        decoder.to(self.device).eval().requires_grad_(False)
        decoder.compute_dtype = dtype
        self.decoder, self.head = decoder, pack(decoder, weights)

    @torch.inference_mode()
    def run(self, chunks: Sequence[Chunk], *, deterministic: bool = False) -> Tensor:
        """Logits_NV of the wanted tokens, float32, in order."""
        if deterministic:
            return torch.cat([self._logits([one]) for one in _single(chunks)] or [self._none()])
        return self._logits(chunks)

    @torch.inference_mode()
    def hidden(self, chunks: Sequence[Chunk]) -> Tensor:
        """Final hidden states_ND of all tokens, float32, in order."""
        return self._hidden(chunks).float()

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Let row `target` begin with the first tokens of row `source`."""
        self.kv.copy(source, target, tokens)

    def release(self, row: int) -> None:
        """Give the row's memory back."""
        self.kv.release(row)

    def _none(self) -> Tensor:
        return torch.empty(0, self.vocab)

    def _hidden(self, chunks: Sequence[Chunk]) -> Tensor:
        tokens = [token for chunk in chunks for token in chunk.tokens]
        token_BT = torch.tensor([tokens], dtype=torch.int64, device=self.device)
        return self.decoder.hidden(token_BT, Step(self.kv, chunks, self.device))[0]

    def _logits(self, chunks: Sequence[Chunk]) -> Tensor:
        h_ND = self._hidden(chunks)
        wanted, end = [], 0
        for chunk in chunks:
            end += len(chunk.tokens)
            wanted += range(end - chunk.wanted, end)
        logits_NV = self.head(h_ND if len(wanted) == end else h_ND[wanted]).float()
        softcap = self.shape.softcap
        return softcap * torch.tanh(logits_NV / softcap) if softcap else logits_NV


def _single(chunks: Sequence[Chunk]) -> list[Chunk]:
    """Every token as a chunk of its own: then no token's arithmetic can depend on what is read beside it."""
    return [
        Chunk(chunk.row, chunk.start + t, (token,), int(t >= len(chunk.tokens) - chunk.wanted))
        for chunk in chunks
        for t, token in enumerate(chunk.tokens)
    ]
