"""transformers judges what the engine writes: greedy texts of many prompts at once, prefix cache on and off.

The engine runs in a process of its own, as it does behind the API; sixteen clients ask it at moments of their own.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cerulea.core.settings import Settings
from cerulea.flows.host import Host
from cerulea.flows.models import import_model
from cerulea.flows.platform import Platform, open_platform
from cerulea.nn.decoder import Decoder
from cerulea.nn.shape import preset_shape
from cerulea.nn.weights import save_decoder
from cerulea.serve.process import Options
from cerulea.serve.request import Delta, Request, SamplingParams
from cerulea.text.tokenizer import bytes_tokenizer
from tests.flows.test_model_folders import OWNER

CLIENTS, PROMPTS = 16, 50
SMALL = {"vocab": 301, "layers": 3, "width": 64, "heads": 4}
LARGE = {"vocab": 50_257, "layers": 12, "width": 768, "heads": 12}


def folder_of_gpt2(folder: Path, sizes: dict[str, int]) -> Path:
    """A GPT-2 of these sizes with random weights, large enough that no two logits are nearly equal."""
    torch.manual_seed(3)
    decoder = Decoder(preset_shape("gpt2", context=1024, **sizes))
    with torch.no_grad():
        for weight in decoder.parameters():
            if weight.ndim == 2:
                weight.mul_(2.0)
    tokenizer = bytes_tokenizer()
    save_decoder(decoder, folder, end_of_text=tokenizer.end_of_text)
    tokenizer.save(folder)
    return folder


def prompts() -> list[list[int]]:
    """Fifty prompts of 1 to 900 tokens; some begin alike."""
    draw = random.Random(5)
    shared = [draw.randrange(300) for _ in range(400)]
    found = []
    for number in range(PROMPTS):
        own = [draw.randrange(300) for _ in range([1, 7, 60, 300, 900][number % 5])]
        found.append((shared[: draw.randrange(20, 400)] + own[:450]) if number % 3 == 0 else own)
    return found


def judged(folder: Path, asked: list[list[int]], written: int) -> list[list[int]]:
    """What transformers' generate writes."""
    from transformers import GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(folder).eval()
    texts = []
    with torch.inference_mode():
        for prompt in asked:
            token_BT = torch.tensor([prompt])
            out = model.generate(
                token_BT,
                attention_mask=torch.ones_like(token_BT),
                max_new_tokens=written,
                min_new_tokens=written,
                do_sample=False,
                pad_token_id=0,
            )
            texts.append(out[0, len(prompt) :].tolist())
    return texts


async def written_by_us(
    platform: Platform, asked: list[list[int]], sampling: SamplingParams, *, share: bool, clients: int = CLIENTS
) -> list[list[Delta]]:
    """The same through an engine's process, by clients that each take the next prompt when they are ready."""
    host = Host(platform, Options(folder="", weights="fp32", threads=1))
    try:
        served = await host.open(OWNER, "judged")
        todo, found = list(enumerate(asked)), {}

        async def one_client(seed: int) -> None:
            draw = random.Random(seed)
            while todo:
                number, prompt = todo.pop(0)
                await asyncio.sleep(draw.random() / 50)
                request = Request(
                    id=f"r{number}",
                    team="home",
                    prompt=tuple(prompt),
                    sampling=sampling,
                    leased=9999,
                    share_prefix=share,
                )
                found[number] = [delta async for delta in served.submit(request)]

        await asyncio.gather(*(one_client(seed) for seed in range(clients)))
        return [found[number] for number in range(len(asked))]
    finally:
        await host.close()


def assert_a_tie(folder: Path, prompt: list[int], ours: list[int], theirs: list[int]) -> None:
    """Where two texts part, float64 tells the two tokens' logits less apart than float32 can."""
    from transformers import GPT2LMHeadModel

    at = next(k for k, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
    model = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float64).eval()
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + theirs[:at]])).logits[0, -1]
    best = logits.max()
    assert best - logits[ours[at]] < 1e-6 and best - logits[theirs[at]] < 1e-6


def compare(tmp_path: Path, sizes: dict[str, int], written: int, most_ties: int = 0) -> None:
    folder = folder_of_gpt2(tmp_path / "gpt2", sizes)
    asked = prompts()
    theirs = judged(folder, asked, written)
    greedy = SamplingParams(max_tokens=written, temperature=0.0)
    with open_platform(Settings(home=tmp_path / "home")) as platform:
        import_model(platform, folder, "judged")
        for share in (True, False):
            ours = asyncio.run(written_by_us(platform, asked, greedy, share=share))
            texts = [[token for delta in deltas for token in delta.tokens] for deltas in ours]
            differing = [i for i in range(len(asked)) if texts[i] != theirs[i]]
            assert len(differing) <= most_ties, f"prefix cache {share}: {differing}"
            for i in differing:
                assert_a_tie(folder, asked[i], texts[i], theirs[i])
            assert any(deltas[-1].cached_tokens for deltas in ours) == share


@pytest.mark.slow
def test_greedy_texts_are_those_of_transformers(tmp_path: Path):
    compare(tmp_path, SMALL, written=16)


@pytest.mark.deep
def test_greedy_texts_of_the_size_of_gpt2_are_those_of_transformers(tmp_path: Path):
    compare(tmp_path, LARGE, written=64, most_ties=2)


@pytest.mark.slow
def test_deterministic_log_probabilities_are_the_same_alone_and_under_load(tmp_path: Path):
    """Every bit of them, with and without a cached prefix."""
    folder = folder_of_gpt2(tmp_path / "gpt2", SMALL)
    asked = [prompt[:120] for prompt in prompts()[:24]]
    exact = SamplingParams(max_tokens=12, temperature=1.0, seed=9, logprobs=3, deterministic=True)
    with open_platform(Settings(home=tmp_path / "home")) as platform:
        import_model(platform, folder, "judged")
        alone = asyncio.run(written_by_us(platform, asked, exact, share=False, clients=1))
        for share in (True, False):
            crowd = asyncio.run(written_by_us(platform, asked, exact, share=share))
            assert [[d.logprobs for d in deltas] for deltas in crowd] == [[d.logprobs for d in ds] for ds in alone]
        seeds = asyncio.run(written_by_us(platform, asked, replace(exact, seed=10), share=True))
        assert [[d.tokens for d in deltas] for deltas in seeds] != [[d.tokens for d in ds] for ds in alone]
