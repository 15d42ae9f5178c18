"""Decoding on a GPU: one recorded graph for each number of rows, because launching kernels costs more than they do.

In:      a Decoder with packed matrices and its PagedKV; steps in which every sequence reads one token.
Out:     logits_NV, float32.
Kept:    a graph is recorded when its row count is first needed. Rows that it has too many write to a page of their own,
         which no sequence reads.
Not here: prompts and everything on a CPU (`runner`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cerulea.nn.decoder import Decoder
from cerulea.serve.kv import PagedKV
from cerulea.serve.linear import PackedLinear
from cerulea.serve.plan import Chunk


class DecodeMemory:
    """A Memory whose rows each read one token, with all that changes between steps in tensors of fixed size."""

    def __init__(self, kv: PagedKV, rows: int) -> None:
        device = kv.k.device
        self.kv = kv
        self.place_N = torch.zeros(rows, dtype=torch.int64, device=device)
        self.used_N = torch.ones(rows, dtype=torch.int32, device=device)
        self.table_NP = torch.full((rows, kv.row_pages), kv.spare, dtype=torch.int32, device=device)
        self.edge_N = torch.arange(rows + 1, dtype=torch.int32, device=device)

    def fill(self, chunks: Sequence[Chunk]) -> None:
        """Describe the chunks; rows beyond them read one token of the spare page."""
        kv, spare = self.kv, self.place_N.numel() - len(chunks)
        kv.prepare(chunks)
        tables = [(kv.tables[chunk.row] + [kv.spare] * kv.row_pages)[: kv.row_pages] for chunk in chunks]
        places = [chunk.start for chunk in chunks] + [0] * spare
        self.table_NP.copy_(torch.tensor(tables + [[kv.spare] * kv.row_pages] * spare, dtype=torch.int32))
        self.place_N.copy_(torch.tensor(places))
        self.used_N.copy_(torch.tensor(places, dtype=torch.int32) + 1)

    def reach(self, tokens: int) -> int:
        return self.kv.max_len  # the scheduler keeps sequences within it

    def places(self, tokens: int) -> Tensor:
        return self.place_N

    def attend(self, layer: int, q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, window: int) -> Tensor:
        kv = self.kv
        page = self.table_NP.gather(1, (self.place_N // kv.page)[:, None])[:, 0].long()
        index = self.place_N % kv.page
        kv.k[layer, page, index] = k_BGTK[0].transpose(0, 1).to(kv.k.dtype)
        kv.v[layer, page, index] = v_BGTK[0].transpose(0, 1).to(kv.v.dtype)
        q_NHK = q_BHTK[0].transpose(0, 1).contiguous()
        if q_BHTK.is_cuda and kv.k.dtype == q_BHTK.dtype != torch.float32:
            from torch.nn.attention.varlen import varlen_attn

            y_NHK = varlen_attn(
                q_NHK,
                kv.k[layer],
                kv.v[layer],
                self.edge_N,
                None,
                1,
                kv.max_len,
                window_size=(window - 1 if window else -1, 0),
                enable_gqa=q_NHK.shape[1] != kv.k.shape[3],
                seqused_k=self.used_N,
                block_table=self.table_NP,
            )
            assert isinstance(y_NHK, Tensor)
        else:
            y_NHK = self._gathered(layer, q_NHK, window)
        return y_NHK.transpose(0, 1)[None]

    def advance(self, tokens: int) -> None:
        pass

    def _gathered(self, layer: int, q_NHK: Tensor, window: int) -> Tensor:
        """The same with every row's pages copied side by side."""
        tables = self.table_NP.long()
        k, v = (pages[layer, tables].flatten(1, 2).transpose(1, 2).to(q_NHK.dtype) for pages in (self.kv.k, self.kv.v))
        key = torch.arange(k.shape[2], device=k.device)[None]
        visible_NS = key <= self.place_N[:, None]
        if window:
            visible_NS &= key > self.place_N[:, None] - window
        each = q_NHK.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(each, dim=1), v.repeat_interleave(each, dim=1)
        seen = F.scaled_dot_product_attention(q_NHK[:, :, None], k, v, attn_mask=visible_NS[:, None, None])
        return seen[:, :, 0]


class DecodeGraphs:
    """One recorded graph for each power of two of rows."""

    def __init__(self, decoder: Decoder, head: PackedLinear, kv: PagedKV, *, record: bool = True) -> None:
        self.decoder, self.head, self.kv, self.record = decoder, head, kv, record
        self.ready: dict[int, tuple[DecodeMemory, Tensor, Tensor, torch.cuda.CUDAGraph | None]] = {}

    def run(self, chunks: Sequence[Chunk]) -> Tensor:
        """Logits of every chunk's one token."""
        rows = 1 << (len(chunks) - 1).bit_length()
        if rows not in self.ready:
            self.ready[rows] = self._prepare(rows)
        memory, token_BT, logits_NV, graph = self.ready[rows]
        memory.fill(chunks)
        token_BT.zero_()
        token_BT[0, : len(chunks)] = torch.tensor([chunk.tokens[0] for chunk in chunks])
        if graph is None:
            return self._compute(memory, token_BT)[: len(chunks)]
        graph.replay()
        return logits_NV[: len(chunks)].clone()

    def _prepare(self, rows: int) -> tuple[DecodeMemory, Tensor, Tensor, torch.cuda.CUDAGraph | None]:
        memory = DecodeMemory(self.kv, rows)
        token_BT = torch.zeros(1, rows, dtype=torch.int64, device=self.kv.k.device)
        if not self.record:
            return memory, token_BT, torch.empty(0), None
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):  # libraries allocate their workspaces before a graph is recorded
                self._compute(memory, token_BT)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits_NV = self._compute(memory, token_BT)
        return memory, token_BT, logits_NV, graph

    def _compute(self, memory: DecodeMemory, token_BT: Tensor) -> Tensor:
        logits_NV = self.head(self.decoder.hidden(token_BT, memory)[0]).float()
        softcap = self.decoder.shape.softcap
        return softcap * torch.tanh(logits_NV / softcap) if softcap else logits_NV
