"""Writing: seeds, cuts, limits, and contexts that run full."""

from __future__ import annotations

import pytest
import torch

from cerulea.core.errors import Invalid, PromptTooLong
from cerulea.nn.decoder import Decoder
from cerulea.nn.generate import Sampling, generate, pick
from cerulea.nn.shape import preset_shape


@pytest.fixture
def decoder() -> Decoder:
    torch.manual_seed(0)
    decoder = Decoder(preset_shape("modern", vocab=50, layers=2, width=32, heads=2, context=16))
    with torch.no_grad():
        decoder.head.weight.normal_(0, 0.5)
    return decoder


def test_greedy_text_is_the_likeliest_token_of_the_full_pass(decoder: Decoder):
    prompt = [1, 2, 3]
    (written,) = generate(decoder, prompt, Sampling(max_tokens=8, temperature=0))

    for i, token in enumerate(written):
        logits = decoder.eval()(torch.tensor([prompt + written[:i]]))[0, -1]
        assert token == int(logits.argmax())


def test_a_row_does_not_depend_on_its_neighbours(decoder: Decoder):
    alone = generate(decoder, [1], Sampling(max_tokens=10, seed=3), rows=1)
    among = generate(decoder, [1], Sampling(max_tokens=10, seed=3), rows=4)

    assert among[0] == alone[0]
    assert len({tuple(row) for row in among}) == 4


def test_the_same_seed_writes_the_same_text(decoder: Decoder):
    def write(seed: int) -> list[list[int]]:
        return generate(decoder, [1], Sampling(max_tokens=10, seed=seed))

    assert write(1) == write(1) != write(2)


def test_a_text_goes_on_beyond_the_context(decoder: Decoder):
    (written,) = generate(decoder, [1, 2], Sampling(max_tokens=60))

    assert len(written) == 60


def test_the_stop_token_ends_a_row_and_is_not_part_of_it(decoder: Decoder):
    (free,) = generate(decoder, [1], Sampling(max_tokens=20))
    (ended,) = generate(decoder, [1], Sampling(max_tokens=20), stop=free[5])

    assert ended == free[: free.index(free[5])]


def test_a_prompt_as_long_as_the_context_is_refused(decoder: Decoder):
    with pytest.raises(PromptTooLong, match="The prompt has 16 tokens; this model's context is 16"):
        generate(decoder, [1] * 16, Sampling(max_tokens=1))


def test_the_decoder_stays_in_the_mode_it_came_in(decoder: Decoder):
    decoder.train()
    generate(decoder, [1], Sampling(max_tokens=2))
    assert decoder.training


def test_cuts_leave_only_the_likeliest_tokens():
    logits_BV = torch.tensor([[3.0, 2.0, 1.0, 0.0]]).repeat(2000, 1)
    noise_BV = torch.empty(2000, 4).exponential_(generator=torch.Generator().manual_seed(1))

    def seen(**settings: float) -> set[int]:
        return set(pick(logits_BV, noise_BV, Sampling(temperature=1.0, **settings)).tolist())

    assert seen() == {0, 1, 2, 3}
    assert seen(top_k=2) == {0, 1}
    assert seen(top_p=0.6) == {0}
    assert seen(top_p=0.7) == {0, 1}


def test_draws_follow_the_probabilities():
    logits_BV = torch.tensor([[0.7, 0.2, 0.1]]).log().repeat(20_000, 1)
    noise_BV = torch.empty(20_000, 3).exponential_(generator=torch.Generator().manual_seed(1))

    shares = torch.bincount(pick(logits_BV, noise_BV, Sampling(temperature=1.0)), minlength=3) / 20_000

    torch.testing.assert_close(shares, torch.tensor([0.7, 0.2, 0.1]), atol=0.02, rtol=0)


@pytest.mark.parametrize("settings", [{"max_tokens": 0}, {"temperature": -1.0}, {"top_k": -1}, {"top_p": 0.0}])
def test_settings_out_of_range_are_refused(settings: dict):
    with pytest.raises(Invalid):
        Sampling(**settings)
