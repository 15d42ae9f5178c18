"""Computes the chunks of a step with a decoder, on one device.

In:      a Decoder, which is taken over: its matrices are packed into the wanted format.
Out:     logits or hidden states, float32, of the tokens that were asked for; the KV store is filled on the way.
Kept:    a format (fp32, bf16, int8) decides the numbers, a kernel only the speed. On a CPU with Numba the whole step is
         one compiled call (`fused`), in which no token's numbers depend on another's chunk; elsewhere `nn.decoder` is
         run with packed matrices (`linear`), and whoever asks for such independence pays for a step of each token.
Not here: which chunks run (`scheduler`), which token follows (`sample`), where keys and values lie (`kv`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from cerulea.nn.decoder import Decoder
from cerulea.nn.shape import DecoderShape
from cerulea.serve.graphs import DecodeGraphs
from cerulea.serve.kv import KVStore, PagedKV, SlotKV, Step
from cerulea.serve.linear import Format, PackedLinear, pack
from cerulea.serve.plan import Chunk

if TYPE_CHECKING:
    from cerulea.serve.fused import FusedDecoder

Kernels = Literal["auto", "compiled", "torch"]
PROBE_ROWS = (1, 16)
PROBE_STEPS = 7
PROBE_CONTEXT = 64  # tokens of the probe's rows


class DecoderRunner:
    """`plan.Runner` for a Decoder.

    Args:
        decoder: on any device; it cannot be used elsewhere afterwards.
        rows: sequences at a time.
        max_len: tokens of one sequence; 0, or more than the context, means the context.
        weights: format of the matrices. Keys and values are float32 with fp32 and bfloat16 otherwise.
        device: where to compute.
        kernels: on a CPU, `compiled` (needs Numba), `torch`, or what a short trial finds faster.
        paged: keep keys and values in pages on a CPU too.
        threads: of the compiled step; 0 means all usable ones.
    """

    def __init__(
        self,
        decoder: Decoder,
        *,
        rows: int,
        max_len: int = 0,
        weights: Format = "fp32",
        device: torch.device | None = None,
        kernels: Kernels = "auto",
        paged: bool = False,
        threads: int = 0,
    ) -> None:
        self.shape, self.device = decoder.shape, device or torch.device("cpu")
        self.rows, self.vocab = rows, self.shape.vocab
        self.context = min(max_len or self.shape.context, self.shape.context)
        self.weights = weights
        dtype = torch.float32 if weights == "fp32" else torch.bfloat16
        on_cpu = self.device.type == "cpu"
        if kernels == "auto":
            kernels = faster_kernels(self.shape, weights) if on_cpu and not paged else "torch"
        assert kernels == "torch" or (on_cpu and not paged), "compiled kernels read contiguous rows on a CPU"
        self.kernels = kernels
        decoder.eval().requires_grad_(False)
        self.kv: KVStore
        self.fused: FusedDecoder | None = None
        self.graphs: DecodeGraphs | None = None
        if kernels == "compiled":
            from cerulea.serve.fused import FusedDecoder

            slots = SlotKV(self.shape, rows, self.context, dtype)
            self.kv, self.fused = slots, FusedDecoder(decoder.cpu(), weights, slots, threads)
            return
        if on_cpu and not paged:
            self.kv = SlotKV(self.shape, rows, self.context, dtype)
        else:
            self.kv = PagedKV(self.shape, rows, self.context, dtype, device=self.device)
        decoder.to(self.device).compute_dtype = dtype
        self.decoder: Decoder = decoder
        self.head: PackedLinear = pack(decoder, weights)
        if isinstance(self.kv, PagedKV) and self.device.type == "cuda":
            self.graphs = DecodeGraphs(decoder, self.head, self.kv)

    @torch.inference_mode()
    def run(self, chunks: Sequence[Chunk], *, deterministic: bool = False) -> Tensor:
        """Logits_NV of the wanted tokens, float32, in order."""
        if self.fused is not None:
            batch = self.fused.step(*_flat(chunks), _wanted(chunks))
            return torch.from_numpy(batch.logits)[:, : self.vocab]
        if deterministic:
            logits = [self._logits([one]) for one in _single(chunks)]
            return torch.cat(logits) if logits else torch.empty(0, self.vocab)
        return self._logits(chunks)

    @torch.inference_mode()
    def hidden(self, chunks: Sequence[Chunk]) -> Tensor:
        """Final hidden states_ND of all tokens, float32, in order."""
        if self.fused is not None:
            batch = self.fused.step(*_flat(chunks), np.zeros(0, np.int64))
            return torch.from_numpy(batch.normed[:, : self.shape.width].copy())
        return self._hidden(chunks).float()

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Let row `target` begin with the first tokens of row `source`."""
        self.kv.copy(source, target, tokens)

    def release(self, row: int) -> None:
        """Give the row's memory back."""
        self.kv.release(row)

    def _hidden(self, chunks: Sequence[Chunk]) -> Tensor:
        tokens = [token for chunk in chunks for token in chunk.tokens]
        token_BT = torch.tensor([tokens], dtype=torch.int64, device=self.device)
        return self.decoder.hidden(token_BT, Step(self.kv, chunks, self.device))[0]

    def _logits(self, chunks: Sequence[Chunk]) -> Tensor:
        if self.graphs is not None and all(len(chunk.tokens) == chunk.wanted == 1 for chunk in chunks):
            return self.graphs.run(chunks)
        h_ND = self._hidden(chunks)
        wanted = _wanted(chunks)
        logits_NV = self.head(h_ND if wanted.size == len(h_ND) else h_ND[torch.from_numpy(wanted)]).float()
        softcap = self.shape.softcap
        return softcap * torch.tanh(logits_NV / softcap) if softcap else logits_NV


def faster_kernels(shape: DecoderShape, weights: Format) -> Kernels:
    """What runs one layer of the shape faster, tried at PROBE_ROWS; `torch` where Numba is not installed."""
    if find_spec("numba") is None:
        return "torch"
    layer = replace(shape, layers=1, vocab=256, context=2 * PROBE_CONTEXT, value_embeddings=False)
    seconds: dict[Kernels, list[float]] = {"compiled": [], "torch": []}
    for kernels, each in seconds.items():
        runner = DecoderRunner(Decoder(layer), rows=max(PROBE_ROWS), weights=weights, kernels=kernels)
        for rows in PROBE_ROWS:
            chunks = [Chunk(row, PROBE_CONTEXT, (row,)) for row in range(rows)]
            each.append(_seconds(lambda runner=runner, chunks=chunks: runner.run(chunks)))  # type: ignore[misc]
    # The busiest rows matter most; few rows decide how fast one text is written.
    ratio = np.prod([a / b for a, b in zip(seconds["compiled"], seconds["torch"], strict=True)])
    return "compiled" if ratio <= 1 else "torch"


def _seconds(work: Callable[[], object]) -> float:
    work()
    times = []
    for _ in range(PROBE_STEPS):
        began = perf_counter()
        work()
        times.append(perf_counter() - began)
    return median(times)


def _flat(chunks: Sequence[Chunk]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Token, position and row of each token."""
    lengths = [len(chunk.tokens) for chunk in chunks]
    token_N = np.array([token for chunk in chunks for token in chunk.tokens], np.int64)
    place_N = np.concatenate([np.arange(chunk.start, chunk.start + len(chunk.tokens)) for chunk in chunks])
    return token_N, place_N, np.repeat(np.array([chunk.row for chunk in chunks], np.int64), lengths)


def _wanted(chunks: Sequence[Chunk]) -> np.ndarray:
    """Which of the tokens, one chunk after the other, are asked for."""
    wanted: list[int] = []
    end = 0
    for chunk in chunks:
        end += len(chunk.tokens)
        wanted += range(end - chunk.wanted, end)
    return np.array(wanted, np.int64)


def _single(chunks: Sequence[Chunk]) -> list[Chunk]:
    """Every token as a chunk of its own: then no token's arithmetic can depend on what is read beside it."""
    return [
        Chunk(chunk.row, chunk.start + t, (token,), int(t >= len(chunk.tokens) - chunk.wanted))
        for chunk in chunks
        for t, token in enumerate(chunk.tokens)
    ]
