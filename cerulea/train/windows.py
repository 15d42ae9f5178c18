"""Windows over token ids, and the loss of their targets under a decoder, batch by batch.

In:      a Decoder and token ids, memory-mapped or not.
Out:     for each window, the nats of its scored targets and whether each was the most probable token.
Kept:    windows of one text score each target once; arithmetic is float32; the decoder leaves in the mode it
         came in; memory is bounded by `rows` windows.
Not here: sums and what they mean (`evaluate`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice

import numpy as np
import torch

from cerulea.nn.decoder import Decoder
from cerulea.nn.loss import IGNORE, logits_of, nats

SORTED_BATCHES = 8  # batches whose windows are sorted by length together, so that little is padded
ARGMAX_ROWS = 256  # positions whose whole logits are held at once

Window = tuple[np.ndarray, np.ndarray]  # token_T and target_T, int64; a target is IGNORE where nothing is scored
Scored = tuple[np.ndarray, np.ndarray, np.ndarray]  # target_N, nats_N float32, hit_N bool: the target is the argmax


def sliding_windows(ids: np.ndarray, context: int, stride: int, first: int = 1) -> Iterator[Window]:
    """Windows of `context` tokens that begin at 0, stride, 2 stride ...; the last may be shorter.

    Args:
        ids: (N,) token ids of any integer dtype; the first only conditions.
        context: tokens that a window reads.
        stride: 1..context, targets that a window scores; the first window scores all of its own.
        first: index of the first id that is a target; those before it only condition.
    """
    last = ids.size - 1
    done = first - 1  # index of the last id that needs no score any more
    for begin in range(0, last, stride):
        end = min(begin + context, last)
        if end > done:
            target_T = np.array(ids[begin + 1 : end + 1], np.int64)
            target_T[: max(0, done - begin)] = IGNORE
            yield np.array(ids[begin:end], np.int64), target_T
            done = end
        if end == last:
            return


def window_nats(decoder: Decoder, windows: Iterable[Window], rows: int, *, greedy: bool = False) -> Iterator[Scored]:
    """Score windows, in their order: targets, their nats, and (with `greedy`, else empty) which are the argmax.

    Windows are read a few batches ahead and sorted by length among those, so that short ones stand together.
    """
    windows = iter(windows)
    while group := list(islice(windows, SORTED_BATCHES * rows)):
        order = sorted(range(len(group)), key=lambda i: group[i][0].size)
        scored: dict[int, Scored] = {}
        for start in range(0, len(order), rows):
            picked = order[start : start + rows]
            scored.update(zip(picked, _score_batch(decoder, [group[i] for i in picked], greedy), strict=True))
        yield from (scored[i] for i in range(len(group)))


def _score_batch(decoder: Decoder, batch: list[Window], greedy: bool) -> Iterator[Scored]:
    longest = max(token_T.size for token_T, _ in batch)
    # Padding stands at the right, where no scored token can see it.
    token_BT = np.zeros((len(batch), longest), np.int64)
    target_BT = np.full((len(batch), longest), IGNORE, np.int64)
    for row, (token_T, target_T) in enumerate(batch):
        token_BT[row, : token_T.size] = token_T
        target_BT[row, : target_T.size] = target_T
    device = decoder.head_weight.device
    scored_BT = target_BT != IGNORE
    target_N = torch.from_numpy(target_BT[scored_BT]).to(device)
    with scoring(decoder), torch.no_grad():
        h_BTD = decoder.hidden(torch.from_numpy(token_BT).to(device))
        # The head is the dearest matrix of a small model: only scored positions go through it.
        h_ND = h_BTD[torch.from_numpy(scored_BT).to(device)]
        weight, softcap = decoder.head_weight, decoder.shape.softcap
        nats_N = nats(h_ND, weight, target_N, softcap)
        hit_N = torch.empty(0, dtype=torch.bool)
        if greedy:
            pieces = (h_ND[i : i + ARGMAX_ROWS] for i in range(0, len(h_ND), ARGMAX_ROWS))
            top = [logits_of(h, weight, softcap).argmax(dim=-1) for h in pieces]
            hit_N = torch.cat(top) == target_N
    ends = scored_BT.sum(axis=1).cumsum().tolist()
    columns = target_N.cpu().numpy(), nats_N.cpu().numpy(), hit_N.cpu().numpy()
    for start, end in zip([0, *ends], ends, strict=False):
        target, loss, hit = (column[start:end] for column in columns)
        yield target, loss, hit


@contextmanager
def scoring(decoder: Decoder) -> Iterator[None]:
    """Eval mode and float32 activations for the duration; afterwards as before."""
    training, dtype = decoder.training, decoder.compute_dtype
    decoder.eval()
    decoder.compute_dtype = torch.float32
    try:
        yield
    finally:
        decoder.train(training)
        decoder.compute_dtype = dtype
