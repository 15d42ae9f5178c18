"""The runner: equal to the decoder, whatever is read beside what, in whatever pieces."""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from cerulea.nn.decoder import Decoder
from cerulea.serve.graphs import DecodeGraphs
from cerulea.serve.kv import PagedKV
from cerulea.serve.plan import Chunk
from cerulea.serve.runner import DecoderRunner, faster_kernels
from tests.serve.shapes import CONTEXT, SHAPES, VOCAB, decoder_of, logits_of

ROOT = Path(__file__).parents[2]
FAMILIES = list(SHAPES)
KINDS = ["compiled", "torch", "paged"]
TOLERANCE = {"fp32": 1e-4, "bf16": 0.10, "int8": 0.25}  # of the logits' standard deviation, bf16 and int8
MADE: dict[tuple[str, str, str], DecoderRunner] = {}


def runner_of(family: str, kind: str = "compiled", weights: str = "fp32") -> DecoderRunner:
    """A runner with six empty rows; made once, as rows need no more than a release."""
    if kind == "compiled":
        pytest.importorskip("numba")
    key = (family, kind, weights)
    if key not in MADE:
        kernels = "compiled" if kind == "compiled" else "torch"
        MADE[key] = DecoderRunner(decoder_of(family), rows=6, weights=weights, kernels=kernels, paged=kind == "paged")
        if kind == "paged":
            MADE[key].kv = PagedKV(SHAPES[family], 6, CONTEXT, torch.float32, page=8)
    for row in range(6):
        MADE[key].release(row)
    return MADE[key]


JUDGES = {family: decoder_of(family) for family in SHAPES}


def text(length: int, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(range(VOCAB), k=length)


def distance(logits: Tensor, judge: Tensor, weights: str) -> float:
    """The largest difference in fp32; otherwise its root mean square as a share of the logits' deviation."""
    if weights == "fp32":
        return (logits - judge).abs().max().item()
    return ((logits - judge).square().mean().sqrt() / judge.std()).item()


@pytest.mark.parametrize("weights", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("kind", ["compiled", "torch"])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_the_decoders(family: str, kind: str, weights: str):
    """Two prompts in pieces, mixed, then both a token at a time; judge: the decoder's own forward pass."""
    a, b = text(40, 1), text(33, 2)
    decoder = decoder_of(family)
    judge = torch.cat((logits_of(decoder, a), logits_of(decoder, b)))
    runner = runner_of(family, kind, weights)

    of_a = [runner.run([Chunk(4, 0, a[:9], 9)])]
    both = runner.run([Chunk(1, 0, b[:20], 20), Chunk(4, 9, a[9:20], 11)])
    of_b = [both[:20]]
    of_a.append(both[20:])
    for t in range(20, 33):
        step = runner.run([Chunk(4, t, [a[t]]), Chunk(1, t, [b[t]])])
        of_a.append(step[:1])
        of_b.append(step[1:])
    of_a.append(runner.run([Chunk(4, 33, a[33:], 7)]))

    assert distance(torch.cat(of_a + of_b), judge, weights) <= TOLERANCE[weights]


@pytest.mark.parametrize("kind", KINDS)
@given(st.data())
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_chunks_of_any_sequences_give_the_decoders_logits(kind: str, data: st.DataObject):
    """Up to six sequences of random lengths, cut at random, each asking for random logits."""
    family = data.draw(st.sampled_from(["gpt2", "mistral", "modern"]))
    runner, decoder = runner_of(family, kind), JUDGES[family]
    texts = {row: text(data.draw(st.integers(1, 40)), row) for row in range(data.draw(st.integers(1, 6)))}
    judge = {row: logits_of(decoder, tokens) for row, tokens in texts.items()}
    done = dict.fromkeys(texts, 0)
    while any(done[row] < len(texts[row]) for row in texts):
        chunks = []
        for row, tokens in texts.items():
            count = data.draw(st.integers(0, min(12, len(tokens) - done[row])))
            if count:
                chunk = tokens[done[row] : done[row] + count]
                chunks.append(Chunk(row, done[row], chunk, data.draw(st.integers(0, count))))
        if not chunks:
            continue
        logits = runner.run(chunks)
        expected = [
            judge[chunk.row][done[chunk.row] + len(chunk.tokens) - chunk.wanted :][: chunk.wanted] for chunk in chunks
        ]
        for chunk in chunks:
            done[chunk.row] += len(chunk.tokens)

        assert logits.dtype == torch.float32
        assert logits.shape == (sum(chunk.wanted for chunk in chunks), VOCAB)
        assert torch.allclose(logits, torch.cat(expected), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["gpt2", "mistral"])
def test_a_copied_prefix_is_as_good_as_a_read_one(family: str, kind: str):
    """The copy ends inside a page; then both rows go on with different texts."""
    decoder, runner = JUDGES[family], runner_of(family, kind)
    prefix = text(21, 3)
    rest = {0: text(10, 4), 3: text(10, 5)}
    runner.run([Chunk(3, 0, text(30, 9))])
    runner.run([Chunk(0, 0, prefix)])

    runner.copy(0, 3, 19)
    logits = runner.run([Chunk(3, 19, prefix[19:] + rest[3], 12), Chunk(0, 21, rest[0], 10)])

    judge = torch.cat((logits_of(decoder, prefix + rest[3])[-12:], logits_of(decoder, prefix + rest[0])[-10:]))
    assert (logits - judge).abs().max() <= 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_a_released_row_takes_another_sequence_and_leaves_the_others(kind: str):
    decoder, runner = decoder_of("llama"), runner_of("llama", kind)
    kept, gone, new = text(20, 1), text(25, 2), text(15, 3)
    runner.run([Chunk(0, 0, kept), Chunk(1, 0, gone)])

    runner.release(1)
    logits = runner.run([Chunk(1, 0, new, 15), Chunk(0, 20, [5])])

    assert (logits[:15] - logits_of(decoder, new)).abs().max() <= 1e-4
    assert (logits[15] - logits_of(decoder, [*kept, 5])[-1]).abs().max() <= 1e-4


@pytest.mark.parametrize("weights", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("kind", ["compiled", "torch"])
@given(st.data())
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
def test_deterministic_logits_do_not_depend_on_neighbours_or_pieces(kind: str, weights: str, data: st.DataObject):
    """Exactly equal: alone in one piece; cut at random beside up to five others; after a copied prefix."""
    family = data.draw(st.sampled_from(["gpt2", "mistral", "modern", "odd"]))
    tokens = text(30, 1)
    runner = runner_of(family, kind, weights)
    alone = runner.run([Chunk(2, 0, tokens, 30)], deterministic=True)

    runner = runner_of(family, kind, weights)
    start, parts = 0, []
    if data.draw(st.booleans()):
        start = data.draw(st.integers(1, 29))
        runner.run([Chunk(1, 0, text(40, 8)[:3])], deterministic=True)
        runner.run([Chunk(0, 0, tokens[:start])], deterministic=True)
        runner.copy(0, 5, start)
        parts.append(alone[:start])
    while start < 30:
        count = data.draw(st.integers(1, 30 - start))
        others = [Chunk(row, 0, text(data.draw(st.integers(1, 9)), row)) for row in range(data.draw(st.integers(0, 4)))]
        mine = Chunk(5, start, tokens[start : start + count], count)
        at = data.draw(st.integers(0, len(others)))
        logits = runner.run([*others[:at], mine, *others[at:]], deterministic=True)
        parts.append(logits[at : at + count])
        start += count

    assert torch.equal(torch.cat(parts), alone)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["gpt2", "modern"])
def test_hidden_states_are_the_decoders(family: str, kind: str):
    tokens = text(19, 6)
    with torch.no_grad():
        judge = decoder_of(family).hidden(torch.tensor([tokens]))[0]
    runner = runner_of(family, kind)

    hidden = torch.cat([runner.hidden([Chunk(0, 0, tokens[:8])]), runner.hidden([Chunk(0, 8, tokens[8:])])])

    assert hidden.dtype == torch.float32
    assert (hidden - judge).abs().max() <= 1e-4


def test_nothing_wanted_gives_no_logits():
    for kind in KINDS:
        assert runner_of("gpt2", kind).run([Chunk(0, 0, [1, 2, 3], 0)]).shape == (0, VOCAB)


def test_rows_may_be_shorter_than_the_context():
    runner = DecoderRunner(decoder_of("gpt2"), rows=2, max_len=20, kernels="torch")

    assert runner.context == 20
    assert DecoderRunner(decoder_of("gpt2"), rows=1, max_len=10_000, kernels="torch").context == CONTEXT


def test_without_numba_torch_computes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cerulea.serve.runner.find_spec", lambda name: None)

    runner = DecoderRunner(decoder_of("gpt2"), rows=1)

    assert runner.kernels == "torch"
    assert (runner.run([Chunk(0, 0, [1, 2], 2)]) - logits_of(decoder_of("gpt2"), [1, 2])).abs().max() <= 1e-4


def test_the_trial_names_a_kind_of_kernels():
    assert faster_kernels(SHAPES["llama"], "fp32") in ("compiled", "torch")


@pytest.mark.parametrize("family", ["gpt2", "mistral", "modern"])
def test_decoding_with_fixed_buffers_gives_the_decoders_logits(family: str):
    """What a GPU records, computed here without recording: three sequences in the buffers of four."""
    decoder = decoder_of(family)
    texts = {row: text(20 + row, row) for row in range(3)}
    judge = [logits_of(decoder, tokens)[-1] for tokens in texts.values()]
    runner = DecoderRunner(decoder_of(family), rows=3, kernels="torch")
    runner.kv = PagedKV(SHAPES[family], 3, CONTEXT, torch.float32, page=8)
    runner.run([Chunk(row, 0, tokens[:-1], 0) for row, tokens in texts.items()])

    graphs = DecodeGraphs(runner.decoder, runner.head, runner.kv, record=False)
    with torch.inference_mode():
        logits = graphs.run([Chunk(row, len(tokens) - 1, tokens[-1:]) for row, tokens in texts.items()])

    assert (logits - torch.stack(judge)).abs().max() <= 1e-4


@pytest.mark.requires_gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("family", ["gpt2", "llama", "modern"])
def test_a_gpu_decodes_what_the_cpu_does(family: str):
    tokens = text(30, 1)
    judge = logits_of(decoder_of(family), tokens)
    runner = DecoderRunner(decoder_of(family), rows=3, weights="bf16", device=torch.device("cuda"))

    parts = [runner.run([Chunk(1, 0, tokens[:20], 20)])]
    parts += [runner.run([Chunk(1, t, [tokens[t]])]) for t in range(20, 30)]

    assert distance(torch.cat(parts).cpu(), judge, "bf16") <= TOLERANCE["bf16"]


@pytest.mark.slow
def test_a_processor_without_wide_vectors_computes_the_same(tmp_path: Path):
    """Compiled for AVX2 alone, in a process of its own; bf16 and int8 stay near the decoder."""
    pytest.importorskip("numba")
    code = (
        "import torch; from tests.serve.shapes import *; from cerulea.serve.runner import *\n"
        "tokens = list(range(30)); judge = logits_of(decoder_of('compat'), tokens)\n"
        "for weights in ('fp32', 'bf16', 'int8'):\n"
        "    runner = DecoderRunner(decoder_of('compat'), rows=1, weights=weights, kernels='compiled')\n"
        "    print(((runner.run([Chunk(0, 0, tokens, 30)]) - judge).std() / judge.std()).item())\n"
    )
    environment = {
        **os.environ,
        "NUMBA_CPU_NAME": "x86-64-v3",
        "NUMBA_CPU_FEATURES": "+avx2,+fma,+avx",
        "NUMBA_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": str(ROOT),
    }

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=True
    )

    fp32, bf16, int8 = map(float, done.stdout.split())
    assert fp32 <= 1e-5
    assert bf16 <= TOLERANCE["bf16"]
    assert int8 <= TOLERANCE["int8"]
    assert math.isfinite(fp32)


def test_a_decoder_is_taken_over_without_its_gradients():
    decoder = Decoder(SHAPES["gpt2"])
    DecoderRunner(decoder, rows=1, kernels="torch")

    assert not any(weight.requires_grad for weight in decoder.parameters())
