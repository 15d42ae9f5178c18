"""What one step of an engine computes: chunks of sequences, each in its row of the KV store.

In:      nothing; these values go from `scheduler` and `engine`, who plan and commit, to `runner`, who computes.
Kept:    a row holds one sequence; positions 0 .. start-1 of a chunk's row are filled before it runs.
Not here: how it is computed (`runner`), where keys and values lie (`kv`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some tokens of one sequence, to be read in one step; a running sequence reads the one it wrote last."""

    row: int
    start: int  # position of the first token
    tokens: Sequence[int]
    wanted: int = 1  # logits of the last so many tokens: none in the middle of a prompt, all for prompt logprobs


class Runner(Protocol):
    """Computes chunks on one device. One thread calls it."""

    rows: int  # sequences that it can hold at a time, running and cached
    context: int  # tokens of one sequence
    vocab: int

    def run(self, chunks: Sequence[Chunk], *, deterministic: bool = False) -> Tensor:
        """Read the chunks, keep their keys and values, and return logits_NV of the wanted tokens, float32, in order.

        Args:
            deterministic: every row of the answer is, bit for bit, what it is without the other chunks, and does not
                depend on how a sequence was cut into chunks.
        """
        ...

    def hidden(self, chunks: Sequence[Chunk]) -> Tensor:
        """The same, returning the final hidden states_ND of all tokens, float32, in order."""
        ...

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Let the first `tokens` keys and values of row `target` be those of row `source`."""
        ...

    def release(self, row: int) -> None:
        """The row holds nothing worth keeping; its memory may go back."""
        ...
