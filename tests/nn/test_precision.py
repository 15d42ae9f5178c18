"""How to compute: chosen by what was timed, and as much at once as fits."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cerulea.core.errors import Invalid
from cerulea.nn import precision
from cerulea.nn.decoder import Decoder
from cerulea.nn.precision import Execution, Machine, choose_execution, fitting_tokens, pick_device, set_threads
from cerulea.nn.shape import preset_shape

CPU = torch.device("cpu")
SHAPE = preset_shape("modern", vocab=97, layers=2, width=32, heads=2, context=32)


def machine(*, bf16_gflops: float = 1.0) -> Machine:
    return Machine(
        device="cpu",
        cores=2,
        threads=2,
        memory_bytes=8 << 30,
        matmul_fp32_gflops=100.0,
        matmul_bf16_gflops=bf16_gflops,
        memory_read_gb_per_s=10.0,
        gpus=[],
    )


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, bool], float]:
    """Seconds a step by (precision, compiled) in place of a clock; what is not there cannot be run."""
    seconds: dict[tuple[str, bool], float] = {}

    def step_seconds(decoder: Decoder, token_BT: torch.Tensor, name: str, *, compiled: bool) -> float:
        if (name, compiled) not in seconds:
            raise RuntimeError("no C++ compiler\nwas found")
        return seconds[name, compiled]

    monkeypatch.setattr(precision, "_step_seconds", step_seconds)
    return seconds


def choose(on: Machine, **keys: Any) -> Execution:
    wanted = {"precision": "auto", "compile_": "auto", "expected_tokens": 0.0, "expected_s": 0.0, **keys}
    return choose_execution(on, CPU, lambda: Decoder(SHAPE), 32, 1024, **wanted)


def test_what_the_recipe_decides_is_not_timed(timed: dict):
    """Nothing can be run here, so that any timing would fail."""
    how = choose(machine(bf16_gflops=300.0), precision="bf16", compile_="on")

    assert (how.precision, how.compile, how.why) == ("bf16", True, "as the recipe says")
    assert how.peak_flops == 300e9
    assert (how.micro_batch_tokens, how.threads, how.device) == (1024, 2, "cpu")


def test_bf16_is_not_tried_where_its_products_are_slow(timed: dict):
    """114 against 100 GFLOP/s is less than what makes a trial worth it; a short run is not compiled."""
    how = choose(machine(bf16_gflops=114.0), expected_s=60.0)

    assert (how.precision, how.compile) == ("fp32", False)
    assert "bf16 products are not faster here" in how.why and "too short to compile" in how.why


@pytest.mark.parametrize(("fp32_s", "bf16_s", "best"), [(0.2, 0.1, "bf16"), (0.1, 0.2, "fp32")])
def test_the_faster_step_decides_the_precision(timed: dict, fp32_s: float, bf16_s: float, best: str):
    """Products say bf16; the shape's own step has the last word."""
    timed |= {("fp32", False): fp32_s, ("bf16", False): bf16_s}

    how = choose(machine(bf16_gflops=300.0), compile_="off")

    assert (how.precision, how.compile) == (best, False)
    assert f"{fp32_s:.3f} s in fp32 and {bf16_s:.3f} s in bf16" in how.why


@pytest.mark.parametrize(("compiled_s", "kept"), [(0.5, True), (0.97, False), (2.0, False)])
def test_a_long_run_is_compiled_where_that_wins(timed: dict, compiled_s: float, kept: bool):
    """A gain of three per cent is not worth its compiling."""
    timed |= {("fp32", False): 1.0, ("fp32", True): compiled_s}

    how = choose(machine(), expected_s=10_000.0)

    assert how.compile is kept
    assert f"compiled {compiled_s:.3f} s against 1.000 s" in how.why


def test_the_length_of_a_run_in_tokens_follows_from_the_timed_step(timed: dict):
    """1,024 tokens a second: 100,000 tokens are too short to compile for, ten millions are not."""
    timed |= {("fp32", False): 1.0, ("fp32", True): 0.5}

    assert not choose(machine(), expected_tokens=100_000).compile
    assert choose(machine(), expected_tokens=10_000_000).compile


def test_where_compiling_fails_the_plain_step_stays_and_the_reason_is_told(timed: dict):
    timed |= {("fp32", False): 1.0}

    how = choose(machine(), expected_s=10_000.0)

    assert not how.compile
    assert "compiling failed (RuntimeError: no C++ compiler)" in how.why


def test_a_real_step_can_be_timed():
    """No clock is replaced: the choice is one of the two, and nothing of the decoder is kept."""
    how = choose(machine(bf16_gflops=300.0), compile_="off")

    assert how.precision in ("fp32", "bf16")


@pytest.mark.parametrize("batch_tokens", [32, 96, 8192, 1 << 20])
def test_fitting_tokens_are_whole_rows_of_at_most_a_batch(batch_tokens: int):
    tokens = fitting_tokens(SHAPE, CPU, 8 << 30, batch_tokens)

    assert tokens % SHAPE.context == 0
    assert SHAPE.context <= tokens <= min(batch_tokens, precision.MICRO_BATCH_TOKENS["cpu"])


def test_less_memory_fits_fewer_tokens_and_never_less_than_a_row():
    """GPT-2's largest shape: its weights alone do not fit 8 GiB."""
    large = preset_shape("gpt2", vocab=50257, layers=48, width=1600, heads=25, context=1024)

    sizes = [fitting_tokens(large, CPU, memory << 30, 1 << 20) for memory in (8, 64, 128, 512)]

    assert sizes == sorted(sizes)
    assert sizes[0] == 1024 and sizes[-1] > sizes[1]


def test_threads_are_the_wanted_ones_then_openmps(monkeypatch: pytest.MonkeyPatch):
    before = torch.get_num_threads()
    try:
        monkeypatch.setenv("OMP_NUM_THREADS", "1,4")
        assert set_threads() == torch.get_num_threads() == 1
        assert set_threads(2) == torch.get_num_threads() == 2
        monkeypatch.setenv("OMP_NUM_THREADS", "")
        assert set_threads() >= 1
    finally:
        torch.set_num_threads(before)


def test_cuda_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    assert pick_device() == CPU
    with pytest.raises(Invalid, match="torch sees no GPU"):
        pick_device("cuda")
