"""Where the keys and values of many sequences lie, each sequence in a row, at whatever length it has.

In:      chunks (`plan`) before a step; then, layer by layer, the keys and values of their tokens.
Out:     a Memory that `nn.decoder` reads flat tokens with: one batch row that holds the chunks one after the other.
Kept:    SlotKV: a row is one contiguous block of address space. The system gives it memory page by page as it is
         first written and takes it back on release, so that nothing is gathered and short sequences cost little.
         PagedKV: pages with counted owners. A copy shares them, and whoever writes to a shared page gets its own.
Not here: the compiled kernels that read SlotKV in place (`fused`), which row belongs to whom (`scheduler`).
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor

from cerulea.nn.attention import attend
from cerulea.nn.shape import DecoderShape
from cerulea.serve.plan import Chunk

PAGE_TOKENS = 256  # of PagedKV; what the paged attention kernel of GPUs asks for


class KVStore(Protocol):
    """Rows of keys and values."""

    rows: int
    max_len: int

    def prepare(self, chunks: Sequence[Chunk]) -> None:
        """Make room for the chunks' tokens."""
        ...

    def write(self, layer: int, row: int, start: int, k_GTK: Tensor, v_GTK: Tensor) -> None:
        """Keep keys and values of the tokens at `start` and after it."""
        ...

    def read(self, layer: int, row: int, end: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the first `end` tokens, (G, S, K) each."""
        ...

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Let row `target` begin with the first tokens of row `source`."""
        ...

    def release(self, row: int) -> None:
        """Forget the row."""
        ...

    def nbytes(self) -> int:
        """Bytes of memory that the rows may take."""
        ...


class Step:
    """The memory of one step: the chunks' tokens, flat, as one row of a batch."""

    def __init__(self, store: KVStore, chunks: Sequence[Chunk], device: torch.device) -> None:
        store.prepare(chunks)
        self.store, self.chunks = store, chunks
        self.lengths = [len(chunk.tokens) for chunk in chunks]
        places = [chunk.start + t for chunk in chunks for t in range(len(chunk.tokens))]
        self.place_N = torch.tensor(places, dtype=torch.int64, device=device)

    def reach(self, tokens: int) -> int:
        return max(chunk.start + len(chunk.tokens) for chunk in self.chunks)

    def places(self, tokens: int) -> Tensor:
        return self.place_N

    def attend(self, layer: int, q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, window: int) -> Tensor:
        seen = []
        for chunk, begin, end in zip(self.chunks, *_edges(self.lengths), strict=True):
            self.store.write(layer, chunk.row, chunk.start, k_BGTK[0, :, begin:end], v_BGTK[0, :, begin:end])
            k, v = self.store.read(layer, chunk.row, chunk.start + end - begin)
            q = q_BHTK[:, :, begin:end]
            seen.append(attend(q, k.to(q.dtype)[None], v.to(q.dtype)[None], chunk.start, window))
        return torch.cat(seen, dim=2)

    def advance(self, tokens: int) -> None:
        pass


def _edges(lengths: Sequence[int]) -> tuple[list[int], list[int]]:
    """Where each of the parts begins and ends."""
    ends = list(accumulate(lengths))
    return [0, *ends[:-1]], ends


class SlotKV:
    """One contiguous row a sequence: [rows][layers][keys, values][G, max_len, K], fp32 or bf16, on the CPU."""

    def __init__(self, shape: DecoderShape, rows: int, max_len: int, dtype: torch.dtype) -> None:
        assert rows > 0 and max_len > 0
        self.rows, self.max_len, self.dtype = rows, max_len, dtype
        inner = (shape.layers, 2, shape.kv_heads, max_len, shape.head_size)
        numbers = torch.Size(inner).numel()
        self._row_bytes = -(-numbers * dtype.itemsize // mmap.PAGESIZE) * mmap.PAGESIZE
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
        self._memory = mmap.mmap(-1, rows * self._row_bytes, flags=flags)
        flat = torch.frombuffer(self._memory, dtype=dtype)
        self.row_stride = self._row_bytes // dtype.itemsize  # numbers from one row to the next
        self.flat = flat
        strides = [self.row_stride]
        strides += [torch.Size(inner[i + 1 :]).numel() for i in range(len(inner))]
        self.data = flat.as_strided((rows, *inner), strides)

    def prepare(self, chunks: Sequence[Chunk]) -> None:
        for chunk in chunks:
            assert chunk.start + len(chunk.tokens) <= self.max_len

    def write(self, layer: int, row: int, start: int, k_GTK: Tensor, v_GTK: Tensor) -> None:
        end = start + k_GTK.shape[1]
        self.data[row, layer, 0, :, start:end] = k_GTK
        self.data[row, layer, 1, :, start:end] = v_GTK

    def read(self, layer: int, row: int, end: int) -> tuple[Tensor, Tensor]:
        return self.data[row, layer, 0, :, :end], self.data[row, layer, 1, :, :end]

    def copy(self, source: int, target: int, tokens: int) -> None:
        if source != target:
            self.data[target, :, :, :, :tokens] = self.data[source, :, :, :, :tokens]

    def release(self, row: int) -> None:
        if hasattr(mmap, "MADV_DONTNEED"):
            self._memory.madvise(mmap.MADV_DONTNEED, row * self._row_bytes, self._row_bytes)

    def nbytes(self) -> int:
        return self.rows * self._row_bytes


class PagedKV:
    """Pages of tokens, [layers][pages, page, G, K], and for each row the table of its pages.

    Args:
        pages: in all; by default enough for every row at its full length, so that no step can run out.
    """

    def __init__(
        self,
        shape: DecoderShape,
        rows: int,
        max_len: int,
        dtype: torch.dtype,
        *,
        device: torch.device | None = None,
        page: int = PAGE_TOKENS,
        pages: int = 0,
    ) -> None:
        self.rows, self.max_len, self.page = rows, max_len, page
        self.row_pages = -(-max_len // page)
        count = pages or rows * self.row_pages
        self.spare = count  # a page more, for what nobody reads
        size = (shape.layers, count + 1, page, shape.kv_heads, shape.head_size)
        self.k = torch.zeros(size, dtype=dtype, device=device)
        self.v = torch.zeros(size, dtype=dtype, device=device)
        self.tables: list[list[int]] = [[] for _ in range(rows)]
        self.owners = [0] * count
        self.free = list(range(count - 1, -1, -1))

    def prepare(self, chunks: Sequence[Chunk]) -> None:
        for chunk in chunks:
            end = chunk.start + len(chunk.tokens)
            assert end <= self.max_len
            table = self.tables[chunk.row]
            for i in range(chunk.start // self.page, -(-end // self.page)):
                if i == len(table):
                    table.append(self._take())
                elif self.owners[table[i]] > 1:
                    mine, shared = self._take(), table[i]
                    self.k[:, mine], self.v[:, mine] = self.k[:, shared], self.v[:, shared]
                    self.owners[shared] -= 1
                    table[i] = mine

    def write(self, layer: int, row: int, start: int, k_GTK: Tensor, v_GTK: Tensor) -> None:
        page, index = self.places(row, start, start + k_GTK.shape[1])
        self.k[layer, page, index] = k_GTK.transpose(0, 1).to(self.k.dtype)
        self.v[layer, page, index] = v_GTK.transpose(0, 1).to(self.v.dtype)

    def read(self, layer: int, row: int, end: int) -> tuple[Tensor, Tensor]:
        table = self.tables[row][: -(-end // self.page)]
        k, v = (pages[layer, table].flatten(0, 1)[:end].transpose(0, 1) for pages in (self.k, self.v))
        return k, v

    def places(self, row: int, start: int, end: int) -> tuple[Tensor, Tensor]:
        """Page and index in it of each position."""
        table = self.tables[row]
        places = [(table[i // self.page], i % self.page) for i in range(start, end)]
        page, index = torch.tensor(places, dtype=torch.int64, device=self.k.device).unbind(1)
        return page, index

    def copy(self, source: int, target: int, tokens: int) -> None:
        if source == target:
            return
        self.release(target)
        self.tables[target] = self.tables[source][: -(-tokens // self.page)]
        for page in self.tables[target]:
            self.owners[page] += 1

    def release(self, row: int) -> None:
        for page in self.tables[row]:
            self.owners[page] -= 1
            if self.owners[page] == 0:
                self.free.append(page)
        self.tables[row] = []

    def nbytes(self) -> int:
        return 2 * self.k.numel() * self.k.element_size()

    def _take(self) -> int:
        assert self.free, "fewer pages than the rows need"
        page = self.free.pop()
        self.owners[page] = 1
        return page
