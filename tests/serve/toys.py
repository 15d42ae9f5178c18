"""A model that is easy to predict: the next token is a hash of all tokens before it.

In:      chunks, as the engine plans them.
Kept:    what a row must hold is checked at every chunk, so that a wrong row, a missed token or a bad copy is noticed.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch

from cerulea.serve.plan import Chunk
from cerulea.serve.request import TokenLogprob
from cerulea.serve.sequence import Sequence as Running

VOCAB = 50
END = 0


def next_token(tokens: Sequence[int]) -> int:
    """What the toy model writes after these; never END by itself before twelve tokens."""
    token = zlib.crc32(bytes(tokens)) % VOCAB
    return token if token != END or len(tokens) > 12 else 1


def continuation(prompt: Sequence[int], most: int, *, stop: int | None = None) -> list[int]:
    """What the toy model writes, token by token."""
    tokens = list(prompt)
    for _ in range(most):
        tokens.append(next_token(tokens))
        if tokens[-1] == stop:
            return tokens[len(prompt) : -1]
    return tokens[len(prompt) :]


class ToyRunner:
    """Rows that remember their tokens."""

    vocab = VOCAB

    def __init__(self, rows: int = 4, context: int = 64) -> None:
        self.rows, self.context = rows, context
        self.held: list[list[int]] = [[] for _ in range(rows)]
        self.read = 0  # tokens computed
        self.steps: list[list[Chunk]] = []
        self.broken: Exception | None = None

    def run(self, chunks: Sequence[Chunk], *, deterministic: bool = False) -> torch.Tensor:
        if self.broken is not None:
            raise self.broken
        self.steps.append(list(chunks))
        out = []
        for chunk in chunks:
            held = self.held[chunk.row]
            assert chunk.start <= len(held), "a chunk begins where its row is filled"
            del held[chunk.start :]
            for i, token in enumerate(chunk.tokens):
                held.append(token)
                self.read += 1
                if i >= len(chunk.tokens) - chunk.wanted:
                    logits = torch.zeros(VOCAB)
                    logits[next_token(held)] = 10.0
                    out.append(logits)
            assert len(held) <= self.context
        return torch.stack(out) if out else torch.empty(0, VOCAB)

    def hidden(self, chunks: Sequence[Chunk]) -> torch.Tensor:
        return torch.cat([torch.tensor([[float(token), 1.0] for token in chunk.tokens]) for chunk in chunks])

    def copy(self, source: int, target: int, tokens: int) -> None:
        assert tokens <= len(self.held[source])
        self.held[target] = self.held[source][:tokens]

    def release(self, row: int) -> None:
        self.held[row] = []


class Likeliest:
    """Picks the likeliest token."""

    def begin(self, sequence: Running) -> None:
        raise NotImplementedError

    def pick(self, logits_BV: torch.Tensor, sequences: list[Running]) -> list[TokenLogprob | Exception]:
        assert len(logits_BV) == len(sequences)
        return [TokenLogprob(int(row.argmax()), float(row.log_softmax(0).max())) for row in logits_BV]

    def prompt_logprobs(self, logits_TV: torch.Tensor, targets: list[int], top: int) -> list[TokenLogprob]:
        rows = logits_TV.log_softmax(-1)
        return [TokenLogprob(token, float(row[token])) for row, token in zip(rows, targets, strict=True)]
