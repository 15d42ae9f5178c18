"""The texts of a request when they are whole: the pieces of a stream, joined; the best of several.

In:      a Completion that runs.
Out:     its Texts, by index.
Kept:    the text of a plain answer is the joined text of a stream, since both are the same pieces.
Not here: how pieces come about (`flows.complete`).
"""

from __future__ import annotations

from cerulea.flows.ask import Text, Told, joined
from cerulea.flows.complete import Completion


async def collect(completion: Completion) -> list[Text]:
    """All texts, by index: the pieces of a stream, joined.

    Raises:
        CeruleaError: what the request failed of.
    """
    pieces = [piece async for batch in completion.pieces() for piece in batch]
    if completion.error is not None:
        raise completion.error
    return joined(len(completion.sequences), pieces)


def best(completion: Completion, texts: list[Text], n: int) -> list[Text]:
    """The n texts of each prompt whose tokens were likeliest on average, the likeliest first."""
    best_of = completion.ask.best_of
    if n == best_of:
        return texts
    chosen = []
    for first in range(0, len(texts), best_of):
        length = len(completion.sequences[first].prompt.ids) if completion.ask.sampling.prompt_logprobs >= 0 else 0
        group = sorted(texts[first : first + best_of], key=lambda text: -_mean_logprob(text.told[length:]))
        chosen += group[:n]
    return chosen


def _mean_logprob(told: list[Told]) -> float:
    return sum(entry.logprob or 0.0 for entry in told) / len(told) if told else 0.0
