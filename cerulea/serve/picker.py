"""The engine's picker: the batched sampler and the grammars, for sequences.

In:      logits of sequences that want a token.
Out:     a token each, or why there is none: one row that cannot be picked fails alone.
Kept:    what a row's picks depend on follows its sequence; nothing is counted twice when a step is tried again.
Not here: the arithmetic (`sampler`), which texts a grammar allows (`grammar`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cerulea.core.errors import EngineFailed, GrammarInvalid
from cerulea.serve import sampler
from cerulea.serve.request import TokenLogprob
from cerulea.serve.sequence import Sequence

if TYPE_CHECKING:
    from torch import Tensor

    from cerulea.serve.grammar import Grammars
    from cerulea.text.tokenizer import Tokenizer


class SamplerPicker:
    """Picks with `sampler`, under grammars of one tokenizer; ids beyond it, up to `vocab`, are the model's padding."""

    def __init__(self, tokenizer: Tokenizer, vocab: int) -> None:
        self._tokenizer, self._vocab = tokenizer, vocab
        self._grammars: Grammars | None = None

    def begin(self, sequence: Sequence) -> None:
        """Make the sequence's grammar.

        Raises:
            GrammarInvalid: nothing can meet it.
        """
        if self._grammars is None:  # few models are ever asked for one
            from cerulea.serve.grammar import Grammars

            self._grammars = Grammars(self._tokenizer, vocab=self._vocab)
        sequence.grammar = self._grammars.start(sequence.request.sampling.grammar)

    def pick(self, logits_BV: Tensor, sequences: list[Sequence]) -> list[TokenLogprob | Exception]:
        """The next token of each sequence, or why there is none."""
        rows: dict[int, sampler.Row] = {}
        failed: dict[int, Exception] = {}
        for b, sequence in enumerate(sequences):
            try:
                rows[b] = _row(sequence)
            except GrammarInvalid as error:
                failed[b] = error
        picked: list[TokenLogprob] = []
        while rows:
            some_BV = logits_BV if len(rows) == len(sequences) else logits_BV[list(rows)]
            try:
                picked = sampler.pick(some_BV, list(rows.values()))
                break
            except sampler.NothingToPick as error:
                for b in [list(rows)[place] for place in error.rows]:
                    failed[b] = _nothing(sequences[b])
                    del rows[b]
        found = dict(zip(rows, picked, strict=True))
        return [failed[b] if b in failed else found[b] for b in range(len(sequences))]

    def prompt_logprobs(self, logits_TV: Tensor, targets: list[int], top: int) -> list[TokenLogprob]:
        """Log probabilities of tokens that are known."""
        return sampler.prompt_logprobs(logits_TV, targets, top)


def _row(sequence: Sequence) -> sampler.Row:
    """The sampler's account of a sequence, up to its last token."""
    row = sequence.picker_state
    if row is None:
        row = sequence.picker_state = sampler.Row(sequence.request.sampling, sequence.request.prompt)
    for token in sequence.tokens[len(sequence.request.prompt) + row.position :]:
        row.wrote(token)
    row.allowed = None if sequence.grammar is None else sequence.grammar.mask()
    return row  # type: ignore[no-any-return]


def _nothing(sequence: Sequence) -> EngineFailed:
    grammar = " that its grammar allows" if sequence.grammar is not None else ""
    return EngineFailed(
        f"Request {sequence.id} has no token{grammar} that could follow.",
        why="The model's scores are not finite, or everything is forbidden by its settings.",
        fix="Loosen logit_bias or the grammar; if it goes on, look at the model's weights.",
    )
