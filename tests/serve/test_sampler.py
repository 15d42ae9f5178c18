"""Picks against a plain float64 reference, and against what they must not depend on."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cerulea.serve import sampler
from cerulea.serve.request import SamplingParams
from cerulea.serve.sampler import NothingToPick, Row, pick, prompt_logprobs

VOCAB = 1000


def reference(logits_V: np.ndarray, row: Row, written: list[int], prompt: list[int]) -> np.ndarray:
    """Probabilities of the next token in float64, filters spelled out with full sorts. Equal logits share one fate."""
    x, one = logits_V.astype(np.float64), row.sampling
    for i, bias in one.logit_bias:
        x[i] += bias
    if row.allowed is not None:
        x[~row.allowed] = -np.inf
    if row.position < one.least_tokens:
        x[list(one.stop_ids)] = -np.inf
    if one.repetition_penalty != 1:
        for i in {*written, *prompt}:
            x[i] = x[i] / one.repetition_penalty if x[i] > 0 else x[i] * one.repetition_penalty
    for i in set(written):
        x[i] -= written.count(i) * one.frequency_penalty + one.presence_penalty
    if one.temperature == 0:
        return (np.arange(len(x)) == x.argmax()).astype(float)
    x = (x - x.max()) / one.temperature
    if one.top_k:
        x[x < np.sort(x)[::-1][min(one.top_k, len(x)) - 1]] = -np.inf
    p = np.exp(x) / np.exp(x).sum()
    if one.top_p < 1:
        falling = np.sort(p)[::-1]
        p[p < falling[min(int((falling.cumsum() < one.top_p).sum()), len(p) - 1)] * (1 - 1e-9)] = 0
    p[p < one.min_p * p.max() * (1 - 1e-9)] = 0
    return p / p.sum()


def draws(logits_V: np.ndarray, one: SamplingParams, n: int, **kept) -> np.ndarray:
    """Tokens of n choices of one question at the same position."""
    rows = []
    for choice in range(n):
        values = {name: getattr(one, name) for name in one.__slots__} | {"choice": choice}
        rows.append(Row(SamplingParams(**values), kept.get("prompt", ()), kept.get("written", ())))
        rows[-1].allowed = kept.get("allowed")
    return np.array([p.token for p in pick(torch.from_numpy(logits_V).float().expand(n, -1).contiguous(), rows)])


def assert_drawn_from(tokens: np.ndarray, p: np.ndarray) -> None:
    """Chi-square over tokens of some mass, the rest as one; chance fails once in 10^9 (Wilson, Hilferty 1931)."""
    assert p[tokens].min() > 0, "a token that no filter leaves"
    big = np.flatnonzero(p * len(tokens) >= 5)
    expected = np.append(p[big], max(1 - p[big].sum(), 0)) * len(tokens)
    seen = np.append([(tokens == i).sum() for i in big], 0)
    seen[-1] = len(tokens) - seen.sum()
    fine = expected >= 5
    free = max(int(fine.sum()) - 1, 1)
    statistic = ((seen - expected)[fine] ** 2 / expected[fine]).sum()
    assert statistic < free * (1 - 2 / (9 * free) + 6 * math.sqrt(2 / (9 * free))) ** 3


# Logits on a grid, so that many are equal and none lies within a rounding error of a filter's edge.
some_logits = st.builds(
    lambda seed, size, spread: np.round(np.random.default_rng(seed).normal(size=size) * spread * 4) / 4,
    st.integers(0, 10**6),
    st.sampled_from([5, 40, 256, 257, VOCAB]),
    st.sampled_from([0.1, 1.0, 4.0]),
)
some_filters = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.5, 1.0, 2.0]),
    top_k=st.sampled_from([0, 0, 2, 30, 255, 256, 300, 5000]),
    top_p=st.sampled_from([1.0, 1.0, 0.3141, 0.9043, 0.99917]),
    min_p=st.sampled_from([0.0, 0.0, 0.0513, 0.701]),
    seed=st.integers(0, 2**64 - 1),
)


@settings(max_examples=150, deadline=None)
@given(some_logits, some_filters)
def test_filters_leave_what_the_reference_leaves(logits_V: np.ndarray, one: SamplingParams):
    """Alone and combined, within the window and beyond it."""
    p = reference(logits_V, Row(one), [], [])

    tokens = draws(logits_V, one, 400)

    assert_drawn_from(tokens, p)
    assert set(np.flatnonzero(p > 0.08)) <= set(tokens.tolist())  # missed with a chance of 3e-15


@settings(max_examples=100, deadline=None)
@given(some_logits, some_filters)
def test_a_gpu_s_way_leaves_the_same(logits_V: np.ndarray, one: SamplingParams):
    """A wide window and sorts, here on a CPU, with a window small enough to spill."""
    p = reference(logits_V, Row(one), [], [])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cerulea.serve.sampler._wide", lambda work: True)
        patch.setattr("cerulea.serve.sampler.WINDOW_CUDA", 100)

        tokens = draws(logits_V, one, 300)

    assert_drawn_from(tokens, p)
    assert set(np.flatnonzero(p > 0.1)) <= set(tokens.tolist())


@pytest.mark.requires_gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_picks_as_a_cpu_does():
    """Greedy rows exactly; the others the same every time, with equal log probabilities where tokens are equal."""
    logits_BV, rows = a_batch(42)

    there, again, here = pick(logits_BV.cuda(), rows), pick(logits_BV.cuda(), rows), pick(logits_BV, rows)

    assert there == again
    for one, other, row in zip(there, here, rows, strict=True):
        assert row.sampling.temperature or one.token == other.token
        assert one.token != other.token or one.logprob == pytest.approx(other.logprob, abs=1e-4)


@settings(max_examples=100, deadline=None)
@given(
    some_logits,
    st.builds(
        SamplingParams,
        temperature=st.sampled_from([0.0, 1.0]),
        presence_penalty=st.sampled_from([0.0, 0.7, -2.0]),
        frequency_penalty=st.sampled_from([0.0, 0.31, -1.0]),
        repetition_penalty=st.sampled_from([1.0, 1.3, 0.7]),
        logit_bias=st.sampled_from([(), ((1, 3.0), (2, -100.0))]),
        stop_ids=st.just((3,)),
        least_tokens=st.sampled_from([0, 9]),
        top_k=st.sampled_from([0, 3]),
    ),
    st.lists(st.integers(0, 4), max_size=6),
    st.lists(st.integers(0, 4), max_size=6),
    st.booleans(),
)
def test_edits_are_the_reference_s(logits_V, one, written, prompt, masked):
    """Bias, grammar, early stops, then penalties as OpenAI's documentation writes them, repetition before them."""
    row = Row(one, prompt, written)
    row.allowed = np.arange(len(logits_V)) % 3 != 1 if masked else None
    p = reference(logits_V, row, written, prompt)

    tokens = draws(logits_V, one, 200, prompt=prompt, written=written, allowed=row.allowed)

    assert_drawn_from(tokens, p)


@pytest.mark.parametrize("size", [7, 256, 50_257])
@pytest.mark.parametrize(
    "one",
    [
        SamplingParams(seed=5),
        SamplingParams(seed=5, temperature=1.7, top_p=0.95),
        SamplingParams(seed=5, temperature=0.2, top_p=0.95),
        SamplingParams(seed=5, top_k=50),
        SamplingParams(seed=5, min_p=0.1),
    ],
)
def test_draws_have_the_distribution(one: SamplingParams, size: int):
    logits_V = np.random.default_rng(1).normal(size=size) * 2

    tokens = np.concatenate([draws(logits_V, one, 500, written=[0] * i) for i in range(8)])

    assert_drawn_from(tokens, reference(logits_V.astype(np.float32), Row(one), [], []))


def a_batch(rows: int) -> tuple[torch.Tensor, list[Row]]:
    """Rows of every kind, with logprobs, over 50,257 tokens."""
    generator = torch.Generator().manual_seed(3)
    logits_BV = torch.randn(rows, 50_257, generator=generator) * torch.tensor([0.5, 2.0, 5.0]).repeat(rows)[:rows, None]
    kinds = [
        {"temperature": 0.0},
        {},
        {"top_p": 0.9},
        {"top_k": 40, "temperature": 0.7},
        {"min_p": 0.05},
        {"top_k": 3000, "top_p": 0.8},
        {"presence_penalty": 1.0, "logit_bias": ((7, 5.0),)},
    ]
    draw = random.Random(2)
    return logits_BV, [
        Row(
            SamplingParams(seed=draw.getrandbits(64), choice=b % 3, logprobs=b % 4, **kinds[b % len(kinds)]),
            [1, 2, 3],
            range(b),
        )
        for b in range(rows)
    ]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_s_pick_does_not_depend_on_its_neighbours(threads: int):
    """Alone, in any order, among any others: the same token and the same bits of its log probabilities."""
    logits_BV, rows = a_batch(42)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        together = pick(logits_BV, rows)
        alone = [pick(logits_BV[b : b + 1], [row])[0] for b, row in enumerate(rows)]
        order = random.Random(1).sample(range(42), 17)
        shuffled = pick(logits_BV[order], [rows[b] for b in order])
    finally:
        torch.set_num_threads(before)

    assert together == alone
    assert shuffled == [together[b] for b in order]


def test_a_pick_changes_neither_logits_nor_rows():
    logits_BV, rows = a_batch(14)
    kept = logits_BV.clone()

    first, second = pick(logits_BV, rows), pick(logits_BV, rows)

    assert first == second
    assert torch.equal(kept, logits_BV)


def test_seed_choice_and_position_each_decide():
    logits_V = np.zeros(50_257)
    tokens = [
        draws(logits_V, SamplingParams(seed=seed), 4, written=[0] * position)
        for seed in (0, 1)
        for position in (0, 1, 2)
    ]

    assert len(set(np.concatenate(tokens).tolist())) == 24


def test_noise_next_to_itself_is_not_alike():
    """Draws at following positions and of following seeds: no lag correlation beyond chance."""
    p = np.array([0.5, 0.3, 0.2])
    tokens = np.array(
        [draws(np.log(p), SamplingParams(seed=s), 1, written=[0] * i)[0] for s in range(40) for i in range(40)]
    ).reshape(40, 40)
    flat = (tokens == 0) - 0.5

    for pair in ((flat[:, 1:], flat[:, :-1]), (flat[1:], flat[:-1])):
        assert abs((pair[0] * pair[1]).mean() * 4) < 5 / math.sqrt(pair[0].size)


def test_equal_logits_are_picked_the_same_way_every_time():
    """Greedy takes the lowest id; the likeliest of equals are told in the order of their ids."""
    logits = torch.zeros(1, 600)
    logits[0, [30, 500, 20, 77]] = 2.0

    one = pick(logits, [Row(SamplingParams(temperature=0, logprobs=3))])[0]
    flat = pick(torch.zeros(1, 600), [Row(SamplingParams(temperature=0, logprobs=4))])[0]

    assert one.token == 20
    assert [i for i, _ in one.top] == [20, 30, 77]
    assert [i for i, _ in flat.top] == [0, 1, 2, 3]


def test_log_probabilities_are_the_model_s_own():
    """Before bias, penalties, temperature and filters; the picked token has the very float that stands in top."""
    logits_BV = torch.randn(3, 5000, generator=torch.Generator().manual_seed(1)) * 3
    settings_of = {"logit_bias": ((9, 100.0),), "logprobs": 5, "temperature": 0.3, "top_k": 7}

    picked = pick(logits_BV, [Row(SamplingParams(seed=b, **settings_of)) for b in range(3)])
    likeliest = pick(logits_BV, [Row(SamplingParams(temperature=0, logprobs=1)) for _ in range(3)])

    exact = logits_BV.double().log_softmax(-1)
    for b, one in enumerate(picked):
        assert one.token == 9
        assert one.logprob == pytest.approx(float(exact[b, 9]), abs=1e-6)
        assert [i for i, _ in one.top] == exact[b].argsort(descending=True)[:5].tolist()
    assert all(one.top == ((one.token, one.logprob),) for one in likeliest)
    assert pick(logits_BV, [Row(SamplingParams()) for _ in range(3)])[0].top == ()


def test_prompt_log_probabilities_are_those_of_a_log_softmax():
    logits_TV = torch.randn(70, 3000, generator=torch.Generator().manual_seed(1))
    targets = list(range(70))

    told = prompt_logprobs(logits_TV, targets, 2)

    exact = logits_TV.double().log_softmax(-1)
    assert [one.token for one in told] == targets
    assert np.allclose([one.logprob for one in told], exact[range(70), targets], atol=1e-6)
    assert [one.top[0][0] for one in told] == exact.argmax(-1).tolist()
    assert prompt_logprobs(logits_TV[:0], [], 1) == []


@pytest.mark.parametrize("sampling", [{"temperature": 0}, {}, {"top_p": 0.5}, {"top_k": 3}, {"min_p": 0.2}])
def test_rows_with_nothing_to_pick_are_named(sampling: dict):
    """All masked, NaN or infinity: rows 1, 2 and 4 of five; the others are picked when asked for without them."""
    logits_BV = torch.randn(5, 700, generator=torch.Generator().manual_seed(1))
    logits_BV[2, 5], logits_BV[4, 6] = torch.nan, torch.inf
    rows = [Row(SamplingParams(logprobs=1, **sampling)) for _ in range(5)]
    rows[1].allowed = np.zeros(700, bool)

    with pytest.raises(NothingToPick) as caught:
        pick(logits_BV, rows)

    assert caught.value.rows == (1, 2, 4)
    assert len(pick(logits_BV[[0, 3]], [rows[0], rows[3]])) == 2


def test_a_text_does_not_end_before_its_least_length():
    """Unless a grammar leaves nothing but the end."""
    logits = torch.zeros(1, 10)
    logits[0, 4] = 50.0
    row = Row(SamplingParams(stop_ids=(4,), least_tokens=2, temperature=0))

    first = pick(logits, [row])[0].token
    row.wrote(first)
    row.wrote(first)
    third = pick(logits, [row])[0].token
    ended = Row(row.sampling)
    ended.allowed = np.arange(10) == 4

    assert (first, third) == (0, 4)
    assert pick(logits, [ended])[0].token == 4


def test_ids_beyond_a_mask_are_forbidden():
    """A padded head has more rows than the tokenizer has ids."""
    logits = torch.zeros(1, 300)
    logits[0, 290] = 9.0
    row = Row(SamplingParams(temperature=0))
    row.allowed = np.ones(280, bool)

    assert pick(logits, [row])[0].token == 0


def test_penalties_count_as_tokens_come():
    """Many different tokens, counted one by one, give what counting anew gives."""
    logits_V = np.random.default_rng(1).normal(size=500)
    one = SamplingParams(frequency_penalty=0.5, presence_penalty=0.2, repetition_penalty=1.1, temperature=0, logprobs=0)
    row, written = Row(one, range(90)), []
    for _ in range(300):
        token = pick(torch.from_numpy(logits_V).float()[None], [row])[0].token
        assert token == reference(logits_V.astype(np.float32), row, written, list(range(90))).argmax()
        row.wrote(token)
        written.append(token)


@pytest.mark.parametrize("more", [{}, {"min_p": 0.05}, {"temperature": 0.3}, {"temperature": 0.0001}])
def test_one_call_picks_what_torch_picks_step_by_step(monkeypatch: pytest.MonkeyPatch, more: dict[str, float]):
    """Two sums of exponentials differ in their last bits; that moves a pick where two noisy logits are equal so far."""
    pytest.importorskip("numba")
    logits_BV = torch.randn(400, 2061, generator=torch.Generator().manual_seed(3)) * 4
    logits_BV[:, 7] = -torch.inf
    logits_BV[5] = torch.nan
    padded_BV = torch.zeros(400, 2080)
    padded_BV[:, :2061] = logits_BV
    rows = [Row(SamplingParams(**{"temperature": 1.0, "seed": seed, **more})) for seed in range(400)]
    kept = [b for b in range(400) if b != 5]

    with pytest.raises(NothingToPick) as compiled:
        pick(padded_BV[:, :2061], rows)
    ours = [one.token for one in pick(padded_BV[kept, :2061], [rows[b] for b in kept])]
    strided = [one.token for one in pick(padded_BV[6:, :2061], rows[6:])]
    monkeypatch.setattr(sampler, "_compiled", lambda: None)
    theirs = [one.token for one in pick(logits_BV[kept], [rows[b] for b in kept])]

    assert compiled.value.rows == (5,)
    assert ours[5:] == strided
    assert sum(a != b for a, b in zip(ours, theirs, strict=True)) <= 1
    assert len(set(ours)) > 100 and 7 not in ours
