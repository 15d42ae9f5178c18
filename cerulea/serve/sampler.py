"""Pick the next token of every row of a batch, each row by its own settings.

In:      logits_BV of one step, and for each row a Row: its settings, what it has written, what a grammar allows.
Out:     one TokenLogprob for each row; `prompt_logprobs` reports tokens that are given.
Order:   logit bias, grammar, early stops, penalties, temperature, top-k, top-p, min-p.
Kept:    a pick is a pure function of (the row's logits, its settings, its choice, its position): neighbours, their
         number and their order change nothing. Every filter is a threshold, so that equal logits share one fate.
         The vocabulary is never sorted. `pick` changes no Row, so that a step may be tried again.
Not here: where logits come from (`runner`), what a grammar allows (`grammar`), when a text ends (`engine`).

The randomness is a hash of (seed, choice, position, token), turned into Gumbel noise: argmax(logit + noise) is one draw
from the softmax, and it rarely changes when logits change in their last bits. Noise for a whole vocabulary would cost
more than the rest, so that where nothing cuts the vocabulary short a block of tokens is drawn first, by the blocks'
masses, and then a token in it; the product of the two shares is the token's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from cerulea.core.seeds import mixed
from cerulea.serve.request import SamplingParams, TokenLogprob

BLOCK = 256  # tokens whose mass is summed first
WINDOW = 64  # likeliest tokens looked at where top-k leaves fewer
WINDOW_CUDA = 1024  # where it does not, on a GPU; on a CPU finding so many costs more than the nucleus in full
REPORT_ROWS = 32  # rows of a prompt reported at once: 6 MB of float32 at 50,257 tokens
BUCKETS = 2048  # of 1/64: down to exp(-32) of the likeliest
LOWEST = -87.0  # exp of less is not a normal float32 and forty times slower; no noise makes up for so much
COLDEST = 1e-6  # temperatures below are this one; float32 needs it


class NothingToPick(Exception):  # not for users: the engine fails these rows and asks again without them
    """Rows without a finite logit that is allowed, or with NaN or infinity among them.

    Attributes:
        rows: their places in the batch.
    """

    def __init__(self, rows: Sequence[int]) -> None:
        super().__init__(f"no token can be picked in rows {', '.join(map(str, rows))} of the batch")
        self.rows = tuple(rows)


class _Filters:
    """A row's filters, where those that change nothing are 0, 1 and -inf."""

    __slots__ = ("k", "least", "p")

    def __init__(self, sampling: SamplingParams, vocab: int) -> None:
        self.k = sampling.top_k if sampling.top_k < vocab else 0
        self.p = sampling.top_p
        self.least = math.log(sampling.min_p) if sampling.min_p > 0 else -math.inf  # below the likeliest


class Row:
    """What one sequence's picks depend on, kept from its first token to its last.

    Attributes:
        position: index in the completion of the token to be picked.
        allowed: bool over the vocabulary, or None; a grammar sets it before each step. Ids beyond it are forbidden.
    """

    def __init__(self, sampling: SamplingParams, prompt: Sequence[int] = (), written: Iterable[int] = ()) -> None:
        self.sampling = sampling
        self.position = 0
        self.allowed: np.ndarray | None = None
        self._penalised = bool(sampling.presence_penalty or sampling.frequency_penalty)
        self._repeats = sampling.repetition_penalty != 1
        self._place: dict[int, int] = {}  # id -> its place in the two arrays
        self._ids, self._counts = np.empty(64, np.int64), np.zeros(64, np.float32)
        for token in set(prompt) if self._repeats else ():
            self._slot(token)
        for token in written:
            self.wrote(token)

    def wrote(self, token: int) -> None:
        """The token stands in the text: count it and go to the next position."""
        self.position += 1
        if self._penalised or self._repeats:
            place = self._slot(token)  # may replace the arrays
            self._counts[place] += 1

    @property
    def edited(self) -> bool:
        """Whether its logits must be changed before anything else."""
        return bool(
            self.sampling.logit_bias
            or self.allowed is not None
            or (self.position < self.sampling.least_tokens and self.sampling.stop_ids)
            or self._place
        )

    @property
    def seen(self) -> tuple[np.ndarray, np.ndarray]:
        """Ids in the text (and, where repetition counts, in the prompt), and how often each was written."""
        n = len(self._place)
        return self._ids[:n], self._counts[:n]

    def _slot(self, token: int) -> int:
        place = self._place.setdefault(token, len(self._place))
        if place == len(self._ids):
            self._ids, self._counts = np.concatenate((self._ids, self._ids)), np.pad(self._counts, (0, place))
        self._ids[place] = token
        return place


@torch.no_grad()
def pick(logits_BV: Tensor, rows: Sequence[Row]) -> list[TokenLogprob]:
    """One token for each row; `logprob` is 0.0 and `top` empty where no log probabilities are asked for.

    Args:
        logits_BV: float32, not changed.
        rows: as many as there are rows of logits.

    Raises:
        NothingToPick: some rows have no token that could be picked; the others may be asked for again.
    """
    assert logits_BV.shape[0] == len(rows) and logits_BV.dtype == torch.float32
    kinds: dict[str, list[int]] = {}
    for b, row in enumerate(rows):
        kinds.setdefault(_kind(row.sampling, logits_BV.shape[1]), []).append(b)
    tokens = [0] * len(rows)
    failed: list[int] = []
    for kind, members in kinds.items():
        group = [rows[b] for b in members]
        some_GV = logits_BV if len(members) == len(rows) else logits_BV[members]
        if any(row.edited for row in group):
            some_GV = some_GV.clone() if some_GV is logits_BV else some_GV
            for logits_V, row in zip(some_GV, group, strict=True):
                _edit(logits_V, row)
        if kind == "greedy":
            token_G = some_GV.argmax(dim=-1)
            most_G = some_GV.gather(1, token_G[:, None])[:, 0]
        else:
            most_G = some_GV.amax(dim=-1)
            token_G = _drawn(kind, some_GV, most_G, group)
        for b, token, fine in zip(members, token_G.tolist(), most_G.isfinite().tolist(), strict=True):
            tokens[b] = token
            if not fine:
                failed.append(b)
    if failed:
        raise NothingToPick(sorted(failed))
    picked = [TokenLogprob(token, 0.0) for token in tokens]
    told = [b for b, row in enumerate(rows) if row.sampling.logprobs >= 0]
    if told:
        some_GV = logits_BV if len(told) == len(rows) else logits_BV[told]
        counts = [rows[b].sampling.logprobs for b in told]
        for b, one in zip(told, _reported(some_GV, [tokens[b] for b in told], counts), strict=True):
            picked[b] = one
    return picked


@torch.no_grad()
def prompt_logprobs(logits_TV: Tensor, targets: Sequence[int], n: int) -> list[TokenLogprob]:
    """The model's log probability of each target under its row of logits, and the n likeliest; a few rows at a time."""
    assert logits_TV.shape[0] == len(targets)
    told: list[TokenLogprob] = []
    for first in range(0, len(targets), REPORT_ROWS):
        chunk = targets[first : first + REPORT_ROWS]
        told.extend(_reported(logits_TV[first : first + REPORT_ROWS].float(), chunk, [n] * len(chunk)))
    return told


def _kind(sampling: SamplingParams, vocab: int) -> str:
    if sampling.temperature == 0 or sampling.top_k == 1:
        return "greedy"
    if 0 < sampling.top_k < min(WINDOW, vocab):
        return "window"
    return "nucleus" if sampling.top_p < 1 or 0 < sampling.top_k < vocab else "free"


def _edit(logits_V: Tensor, row: Row) -> None:
    """Bias, grammar, early stops and penalties, in place.

    Presence and frequency are OpenAI's: mu[j] - c[j] * frequency - (c[j] > 0) * presence, with c the completion's
    counts. Repetition is CTRL's (Keskar et al. 2019, eq. 2), as transformers computes it.
    """
    sampling = row.sampling
    if sampling.logit_bias:
        biased, by = zip(*sampling.logit_bias, strict=True)
        logits_V.index_add_(0, torch.tensor(biased, device=logits_V.device), logits_V.new_tensor(by))
    if row.allowed is not None:
        size = min(len(row.allowed), len(logits_V))
        logits_V[size:] = -torch.inf
        forbidden = torch.from_numpy(~row.allowed[:size]).to(logits_V.device)
        logits_V[:size].masked_fill_(forbidden, -torch.inf)
    if row.position < sampling.least_tokens and sampling.stop_ids and not _must_end(row):
        logits_V[[i for i in sampling.stop_ids if i < len(logits_V)]] = -torch.inf
    ids, counts = row.seen
    if len(ids):
        at = torch.from_numpy(ids).to(logits_V.device)
        there, count = logits_V[at], torch.from_numpy(counts).to(logits_V.device)
        if sampling.repetition_penalty != 1:
            factor = sampling.repetition_penalty
            there = torch.where(there > 0, there / factor, there * factor)
        logits_V[at] = there - count * sampling.frequency_penalty - (count > 0) * sampling.presence_penalty


def _must_end(row: Row) -> bool:
    """Whether the grammar leaves nothing but to end: it is stronger than a least length."""
    if row.allowed is None:
        return False
    ends = [i for i in row.sampling.stop_ids if i < len(row.allowed) and row.allowed[i]]
    return int(row.allowed.sum()) == len(set(ends))


def _drawn(kind: str, logits_GV: Tensor, most_G: Tensor, group: Sequence[Row]) -> Tensor:
    """token_G: one draw per row; any token where the largest logit, most_G, is not finite."""
    rows, vocab = logits_GV.shape
    filters = [_Filters(row.sampling, vocab) for row in group]
    keys = [mixed(row.sampling.seed, row.sampling.choice, row.position) for row in group]
    heat_G = logits_GV.new_tensor([max(row.sampling.temperature, COLDEST) for row in group])
    if kind == "free" and logits_GV.device.type == "cpu" and (compiled := _compiled()) is not None:
        return compiled(logits_GV, most_G, heat_G, [one.least for one in filters], keys)
    work_GP = logits_GV.new_empty(rows, -(-vocab // BLOCK) * BLOCK)  # whole blocks, ended with tokens never drawn
    torch.sub(logits_GV, most_G[:, None], out=work_GP[:, :vocab])
    work_GP[:, :vocab] /= heat_G[:, None]  # the likeliest is 0 now
    work_GP[:, vocab:] = -torch.inf
    finite_G = most_G.isfinite()
    if not finite_G.all():
        work_GP.masked_fill_(~finite_G[:, None], 0.0)
    key_G = torch.tensor([k - (1 << 64) if k >> 63 else k for k in keys], device=logits_GV.device)
    if kind == "window":
        return _from_window(work_GP, min(WINDOW, vocab), filters, key_G)
    if kind == "nucleus" and _wide(work_GP):
        return _from_window(work_GP, min(WINDOW_CUDA, vocab), filters, key_G)
    if kind == "nucleus":
        return _from_nucleus(work_GP, filters, key_G)
    least_G = work_GP.new_tensor([one.least for one in filters])
    if any(one.least > -math.inf for one in filters):
        work_GP.masked_fill_(work_GP < least_G[:, None], -torch.inf)
    return _from_blocks(work_GP, least_G, _masses(work_GP), key_G)


@cache
def _compiled() -> Callable[[Tensor, Tensor, Tensor, list[float], list[int]], Tensor] | None:
    """A draw of the whole vocabulary in one call, where Numba is installed: the many small steps of torch cost more."""
    if find_spec("numba") is None:
        return None
    from cerulea.serve.draw import compiled_draw

    draw = compiled_draw()

    def drawn(logits_GV: Tensor, most_G: Tensor, heat_G: Tensor, least: list[float], keys: list[int]) -> Tensor:
        rows, vocab = logits_GV.shape
        if logits_GV.stride(1) != 1:
            logits_GV = logits_GV.contiguous()
        stride = logits_GV.stride(0)
        flat = logits_GV.as_strided(((rows - 1) * stride + vocab,), (1,)).numpy()
        token_G = torch.empty(rows, dtype=torch.int64)
        floats = most_G.numpy(), heat_G.numpy(), np.array(least, np.float32)
        draw(flat, stride, vocab, *floats, np.array(keys, np.uint64), BLOCK, token_G.numpy())
        return token_G

    return drawn


def _wide(work_GP: Tensor) -> bool:
    """Whether many rows at once, and a sort of some of them, cost less than going through them one by one."""
    return work_GP.is_cuda


def _masses(work_GP: Tensor) -> Tensor:
    """Sums of exp over each block, float64. All are equally long, so that no bit depends on the number of rows."""
    at_once = len(work_GP) if _wide(work_GP) else 4  # on a CPU, what its caches hold
    parts = [part.clamp_min(LOWEST).exp_().view(len(part), -1, BLOCK).sum(dim=-1) for part in work_GP.split(at_once)]
    return torch.cat(parts).double()


def _from_blocks(work_GP: Tensor, least_G: Tensor, mass_GN: Tensor, key_G: Tensor) -> Tensor:
    """Draw a block by its mass, then a token in it of at least the row's least value."""
    blocks, device = mass_GN.shape[1], work_GP.device
    number_N = torch.arange(blocks, device=device)
    block_G = (mass_GN.log() + _gumbel(key_G[:, None], number_N - (1 << 40))).argmax(dim=-1)
    token_GK = block_G[:, None] * BLOCK + torch.arange(BLOCK, device=device)
    value_GK = work_GP.gather(1, token_GK)
    noisy_GK = (value_GK.double() + _gumbel(key_G[:, None], token_GK)).masked_fill(
        value_GK < least_G[:, None], -torch.inf
    )
    return token_GK.gather(1, noisy_GK.argmax(dim=-1, keepdim=True))[:, 0]


def _from_window(work_GP: Tensor, window: int, filters: Sequence[_Filters], key_G: Tensor) -> Tensor:
    """Draw from a window of the likeliest tokens; rows whose filters leave more than that are drawn in full."""
    value_GW, token_GW = work_GP.topk(window, dim=-1)
    need_mass = any(one.p < 1 and not 0 < one.k <= window for one in filters)
    total_G = _masses(work_GP).sum(dim=-1) if need_mass else torch.ones_like(key_G, dtype=torch.float64)
    least_G = _thresholds(value_GW, filters, total_G)
    noisy_GW = value_GW.double() + _gumbel(key_G[:, None], token_GW)
    noisy_GW = noisy_GW.masked_fill(value_GW < least_G[:, None], -torch.inf)
    picked_G = token_GW.gather(1, noisy_GW.argmax(dim=-1, keepdim=True))[:, 0]
    # A window that ends below the threshold holds all that is left; otherwise more may lie outside it.
    spilt = (value_GW[:, -1] >= least_G).nonzero()[:, 0].tolist()
    if spilt:
        picked_G[spilt] = _from_nucleus(work_GP[spilt], [filters[g] for g in spilt], key_G[spilt])
    return picked_G


def _from_nucleus(work_GP: Tensor, filters: Sequence[_Filters], key_G: Tensor) -> Tensor:
    """Draw from what the filters leave, however much it is."""
    if _wide(work_GP):
        total_G = _masses(work_GP).sum(dim=-1)
        least_G = _thresholds(work_GP.sort(dim=-1, descending=True).values, filters, total_G)
        mass_GN = _masses(work_GP.masked_fill(work_GP < least_G[:, None], -torch.inf))
    else:
        least_G, mass_GN = _cut(work_GP, filters)
    return _from_blocks(work_GP, least_G, mass_GN, key_G)


def _thresholds(value_GW: Tensor, filters: Sequence[_Filters], total_G: Tensor) -> Tensor:
    """The least value that each row's filters leave, -inf where none of them ends within the window.

    Args:
        value_GW: the likeliest tokens' values, falling, the first one 0.
        total_G: the mass of the whole row, where top-p is used without a top-k within the window.
    """
    window = value_GW.shape[1]
    k_G1 = torch.tensor([[one.k if one.k <= window else 0] for one in filters], device=value_GW.device)
    least_G1 = value_GW.gather(1, (k_G1 - 1).clamp_min(0)).masked_fill(k_G1 == 0, -torch.inf)
    mass_GW = value_GW.double().exp().masked_fill(value_GW < least_G1, 0.0)
    reach_G1 = torch.where(k_G1 > 0, mass_GW.sum(dim=-1, keepdim=True), total_G[:, None])
    p_G1 = torch.tensor([[one.p] for one in filters], dtype=torch.float64, device=value_GW.device)
    # The last token of the nucleus is the first at which the sum reaches p; it may lie outside the window.
    last_G1 = (mass_GW.cumsum(dim=-1) < p_G1 * reach_G1).sum(dim=-1, keepdim=True)
    nucleus_G1 = value_GW.gather(1, last_G1.clamp_max(window - 1))
    nucleus_G1 = nucleus_G1.masked_fill((last_G1 == window) | (p_G1 == 1), -torch.inf)
    min_p_G1 = value_GW.new_tensor([[one.least] for one in filters])
    least_G1 = torch.maximum(torch.maximum(least_G1, nucleus_G1), min_p_G1)
    # What top-p is a share of ends where top-k does: beyond the window nothing can be said.
    unknown = [[one.p < 1 and one.k > window] for one in filters]
    return least_G1.masked_fill(torch.tensor(unknown, device=value_GW.device), -torch.inf)[:, 0]


def _cut(work_GP: Tensor, filters: Sequence[_Filters]) -> tuple[Tensor, Tensor]:
    """On a CPU: the least value that each row's filters leave, and the masses of its blocks, float64, without the rest.

    Values fall into buckets 1/64 wide, and only the bucket with the edge is sorted: a tenth of a full sort's time.
    """
    rows, size = work_GP.shape
    least_G, mass_GN = np.empty(rows, np.float32), np.empty((rows, size // BLOCK), np.float32)
    scaled_P, mass_P, bucket_P = torch.empty(size), torch.empty(size), torch.empty(size, dtype=torch.int64)
    work, mass, bucket = work_GP.numpy(), mass_P.numpy(), bucket_P.numpy()
    for g, one in enumerate(filters):
        bucket_P.copy_(torch.mul(work_GP[g], -64, out=scaled_P).clamp_max_(BUCKETS - 1))
        torch.clamp_min(work_GP[g], LOWEST, out=mass_P).exp_()
        least = np.float32(-np.inf)
        if one.k:
            counts = np.bincount(bucket, minlength=BUCKETS).cumsum()
            edge = int(np.searchsorted(counts, one.k))
            place = one.k - int(counts[edge - 1] if edge else 0)
            least = np.sort(work[g][bucket == edge])[::-1][place - 1]
            mass *= work[g] >= least
        if one.p < 1:
            masses = np.bincount(bucket, mass, minlength=BUCKETS).cumsum()
            target = one.p * masses[-1]
            edge = int(np.searchsorted(masses, target))
            values = np.sort(work[g][bucket == edge])[::-1]
            sums = np.exp(values, dtype=np.float64).cumsum() + (masses[edge - 1] if edge else 0.0)
            least = max(least, values[min(int(np.searchsorted(sums, target)), len(values) - 1)])
        least_G[g] = least = max(least, np.float32(one.least))
        mass *= work[g] >= least
        mass.reshape(-1, BLOCK).sum(axis=1, out=mass_GN[g])
    return torch.from_numpy(least_G), torch.from_numpy(mass_GN).double()


def _gumbel(key: Tensor, number: Tensor) -> Tensor:
    """Gumbel noise of (key, number), float64, by splitmix64 (Steele, Lea, Flood 2014) over int64 that wraps."""
    x = key + number * -0x61C8864680B583EB
    x = (x ^ (x >> 30 & (1 << 34) - 1)) * -0x40A7B892E31B1A47
    x = (x ^ (x >> 27 & (1 << 37) - 1)) * -0x6B2FB644ECCEEE15
    x = x ^ (x >> 31 & (1 << 33) - 1)
    uniform = ((x >> 12 & (1 << 52) - 1).double() + 0.5) * 2.0**-52  # never 0, never 1
    return -(-uniform.log()).log()


def _reported(logits_GV: Tensor, tokens: Sequence[int], counts: Sequence[int]) -> list[TokenLogprob]:
    """Log probabilities of the model itself. One expression gives every float: equal tokens have equal floats."""
    rows, vocab = logits_GV.shape
    most_G1 = logits_GV.amax(dim=-1, keepdim=True)
    work_GP = logits_GV.new_full((rows, -(-vocab // BLOCK) * BLOCK), -torch.inf)
    torch.sub(logits_GV, most_G1, out=work_GP[:, :vocab])
    total = (_masses(work_GP).sum(dim=-1).log() + most_G1[:, 0].double()).tolist()
    mine = logits_GV.gather(1, torch.tensor(tokens, device=logits_GV.device)[:, None])[:, 0].tolist()
    n = min(max(counts), vocab)
    # One more than asked for shows whether the last one has an equal outside.
    values, ids = (part.tolist() for part in logits_GV.topk(min(n + 1, vocab), dim=-1)) if n > 0 else ([], [])
    told = []
    for g, (token, count) in enumerate(zip(tokens, counts, strict=True)):
        top: tuple[tuple[int, float], ...] = ()
        if count > 0:
            found = list(zip(values[g], ids[g], strict=True))
            if count < len(found) and values[g][count] == values[g][count - 1]:
                equal = (logits_GV[g] >= values[g][count - 1]).nonzero()[:, 0]
                found = list(zip(logits_GV[g][equal].tolist(), equal.tolist(), strict=True))
            found.sort(key=lambda pair: (-pair[0], pair[1]))
            top = tuple((i, value - total[g]) for value, i in found[:count])
        told.append(TokenLogprob(token, mine[g] - total[g], top))
    return told
