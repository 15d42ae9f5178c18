"""Write text with a decoder: one token after the other, each a pure function of (seed, row, position).

In:      a decoder, prompt ids, sampling settings.
Out:     token ids per row, until end-of-text or the limit.
Kept:    a row's tokens do not depend on how many rows are written beside it; when the context is full the
         last half of it is read again, so that a short context does not end a long text.
Not here: many users at once (`serve`), text (`text.tokenizer`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cerulea.core.errors import Invalid, PromptTooLong
from cerulea.core.seeds import mixed
from cerulea.nn.attention import KVCache
from cerulea.nn.decoder import Decoder


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is picked."""

    max_tokens: int = 128
    temperature: float = 0.8  # 0 picks the likeliest
    top_k: int = 0  # only the k likeliest; 0 means all
    top_p: float = 1.0  # only the likeliest that together reach this probability
    seed: int = 1

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise Invalid(f"max_tokens is {self.max_tokens}.", fix="Ask for at least one token.")
        if not 0 <= self.temperature < 100:
            raise Invalid(
                f"temperature is {self.temperature}.", fix="Use 0 for the likeliest token, or up to about 1.5."
            )
        if self.top_k < 0:
            raise Invalid(f"top_k is {self.top_k}.", fix="Use 0 for all tokens.")
        if not 0 < self.top_p <= 1:
            raise Invalid(f"top_p is {self.top_p}.", fix="Use a share above 0 and at most 1.")


def pick(logits_BV: Tensor, noise_BV: Tensor, sampling: Sampling) -> Tensor:
    """token_B: one draw per row from softmax(logits / temperature), cut to top-k and top-p.

    Args:
        logits_BV: float32.
        noise_BV: Exponential(1) draws: argmax(p / noise) is one draw from p.
    """
    if sampling.temperature == 0:
        return logits_BV.argmax(dim=-1)
    scaled_BV = logits_BV / max(sampling.temperature, 1e-4)  # below, float32 would overflow
    if 0 < sampling.top_k < scaled_BV.shape[1]:
        least_B1 = scaled_BV.topk(sampling.top_k, dim=-1).values[:, -1:]
        scaled_BV = scaled_BV.masked_fill(scaled_BV < least_B1, -torch.inf)
    probs_BV = scaled_BV.softmax(dim=-1)
    if sampling.top_p < 1:
        sorted_BV, order_BV = probs_BV.sort(dim=-1, descending=True)
        beyond_BV = sorted_BV.cumsum(-1) - sorted_BV >= sampling.top_p
        probs_BV = torch.zeros_like(probs_BV).scatter(1, order_BV, sorted_BV.masked_fill(beyond_BV, 0.0))
    return (probs_BV / noise_BV).argmax(dim=-1)


def _noise(seed: int, rows: int, position: int, vocab: int, device: torch.device) -> Tensor:
    generator = torch.Generator()
    noise = torch.empty(rows, vocab)
    for row in range(rows):
        generator.manual_seed(mixed(seed, row, position) >> 1)
        noise[row].exponential_(generator=generator)
    return noise.to(device)


@torch.no_grad()
def generate(
    decoder: Decoder, prompt: Sequence[int], sampling: Sampling, *, stop: int | None = None, rows: int = 1
) -> list[list[int]]:
    """Continue `prompt` in `rows` independent ways.

    Args:
        prompt: at least one id, at most the context.
        stop: id that ends a row; it is not part of what is returned.

    Raises:
        PromptTooLong: the prompt leaves no room for a token.
    """
    context = decoder.shape.context
    if len(prompt) > context - 1:
        raise PromptTooLong(
            f"The prompt has {len(prompt):,} tokens; this model's context is {context:,}.",
            why="One place is needed for the first token written.",
            fix=f"Give at most {context - 1:,} tokens.",
        )
    assert prompt, "a prompt begins with end-of-text at least"
    training, device = decoder.training, decoder.embedding.weight.device
    decoder.eval()
    text_BT = torch.tensor([list(prompt)] * rows, dtype=torch.int64, device=device)
    written: list[list[int]] = [[] for _ in range(rows)]
    going = [True] * rows
    cache, fresh_BT = _new_cache(decoder, rows), text_BT
    for position in range(sampling.max_tokens):
        if cache.length + fresh_BT.shape[1] > context:
            cache, fresh_BT = _new_cache(decoder, rows), text_BT[:, -(context // 2) :]
        h = decoder(fresh_BT, cache)[:, -1]
        token_B = pick(h, _noise(sampling.seed, rows, position, h.shape[1], device), sampling)
        for row, token in enumerate(token_B.tolist()):
            going[row] = going[row] and token != stop
            if going[row]:
                written[row].append(token)
        if not any(going):
            break
        fresh_BT = token_B[:, None]
        text_BT = torch.cat((text_BT, fresh_BT), dim=1)
    decoder.train(training)
    return written


def _new_cache(decoder: Decoder, rows: int) -> KVCache:
    like = decoder.embedding.weight.new_empty(0, dtype=decoder.compute_dtype)
    return KVCache(decoder.shape, rows, decoder.shape.context, like)
