"""What this machine can do, measured: matrix products, memory, and the fastest way to run one shape.

In:      a device; for a shape, one micro-batch to try.
Out:     Machine (for `doctor`), Execution (what a run uses).
Kept:    nothing is assumed from a processor's name; a choice is never slower than plain float32, because
         plain float32 is among what is timed.
Not here: where measurements are cached (`flows.machine`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from cerulea.core.cores import usable_cores, usable_threads
from cerulea.core.errors import Invalid
from cerulea.core.memory import usable_memory
from cerulea.nn.decoder import Decoder
from cerulea.nn.shape import DecoderShape

BF16_WORTH_TRYING = 1.15  # bf16 products must be this much faster before a shape is tried in bf16
COMPILE_WORTH_TRYING_S = {"cpu": 900.0, "cuda": 180.0}  # shorter runs spend more on compiling than they win
PROBE_TOKENS = {"cpu": 2048, "cuda": 65536}  # of one timed step
COMPILE_WORTH_KEEPING = 1.05
MICRO_BATCH_TOKENS = {"cpu": 8192, "cuda": 65536}  # more gains nothing
MEMORY_SHARE = 0.3  # of the memory, for activations
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Measured rates of one device."""

    device: str  # cpu or cuda
    cores: int  # CPU cores this process may use
    threads: int  # CPU threads that torch uses
    memory_bytes: int
    matmul_fp32_gflops: float
    matmul_bf16_gflops: float
    memory_read_gb_per_s: float
    gpus: list[dict[str, Any]]

    @property
    def precision(self) -> str:
        """The precision that matrix products are fastest in; a shape may still do better in fp32."""
        return "bf16" if self.matmul_bf16_gflops > BF16_WORTH_TRYING * self.matmul_fp32_gflops else "fp32"

    def peak_flops(self, precision: str) -> float:
        """Measured peak of matrix products in a precision, operations per second."""
        return 1e9 * (self.matmul_bf16_gflops if precision == "bf16" else self.matmul_fp32_gflops)

    def as_json(self) -> dict[str, Any]:
        """All values, and the precision that training picks first."""
        return {**asdict(self), "precision": self.precision}


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """How a run computes; kept with its checkpoints, so that a resumed run computes the same."""

    device: str
    precision: str  # fp32 or bf16
    compile: bool
    threads: int
    peak_flops: float  # of this precision, measured, operations per second
    micro_batch_tokens: int = 8192  # of one forward pass
    why: str  # one sentence for the person who runs it

    def as_json(self) -> dict[str, Any]:
        """All values."""
        return asdict(self)


def pick_device(wanted: str = "auto") -> torch.device:
    """`cpu`, `cuda`, or with `auto` a GPU where there is one; with several processes, each its own.

    Raises:
        Invalid: cuda is asked for and torch sees none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise Invalid("CERULEA_DEVICE is cuda, and torch sees no GPU.", fix="Unset it, or install torch's CUDA build.")
    if wanted == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def set_threads(wanted: int = 0) -> int:
    """Use `wanted` CPU threads, or with 0 what OMP_NUM_THREADS says, or all usable cores; returns the number."""
    threads = wanted or usable_threads()
    torch.set_num_threads(threads)
    # Numbers below 1e-38 take a slow path on CPUs and carry nothing that training needs.
    torch.set_flush_denormal(True)
    return threads


def measure_machine(device: torch.device, threads: int) -> Machine:
    """Time matrix products and memory reads; about two seconds on a CPU."""
    size = 8192 if device.type == "cuda" else 1536
    fp32 = _matmul_gflops(torch.float32, size, device)
    # Without hardware for it bf16 can be a hundred times slower: look at a small product first.
    small = _matmul_gflops(torch.bfloat16, 256, device)
    worth = device.type == "cuda" or small > 0.25 * _matmul_gflops(torch.float32, 256, device)
    bf16 = _matmul_gflops(torch.bfloat16, size, device) if worth else small
    block = torch.ones(64 << 20 if device.type == "cpu" else 1 << 28, device=device)
    read = block.numel() * 4 / _seconds(lambda: block.sum(), device) / 1e9
    gpus = []
    if device.type == "cuda":
        for i in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(i)
            gpus.append({"name": properties.name, "memory_bytes": properties.total_memory})
    return Machine(
        device=device.type,
        cores=usable_cores(),
        threads=threads,
        memory_bytes=usable_memory(),
        matmul_fp32_gflops=round(fp32, 1),
        matmul_bf16_gflops=round(bf16, 1),
        memory_read_gb_per_s=round(read, 1),
        gpus=gpus,
    )


def faster_precision(device: torch.device) -> str:
    """The precision that matrix products are faster in, by products of a size that takes milliseconds."""
    if device.type == "cuda":
        return "bf16"
    small = [_matmul_gflops(dtype, 256, device) for dtype in (torch.float32, torch.bfloat16)]
    return "bf16" if small[1] > BF16_WORTH_TRYING * small[0] else "fp32"


def choose_execution(
    machine: Machine,
    device: torch.device,
    make: Callable[[], Decoder],
    context: int,
    micro_batch_tokens: int,
    *,
    precision: str,
    compile_: str,
    expected_tokens: float,
    expected_s: float,
) -> Execution:
    """Pick precision and compiling for one shape, by timing training steps of it where there is a choice.

    Args:
        make: builds a decoder of the shape to try.
        context: tokens of a row.
        micro_batch_tokens: of one forward pass, as `fitting_tokens` finds them.
        precision: fp32, bf16 or auto.
        compile_: on, off or auto.
        expected_tokens: tokens that the run will train on, 0 where only a time is known.
        expected_s: seconds that the run may take, 0 where only tokens are known.
    """
    probed = min(micro_batch_tokens, PROBE_TOKENS[device.type])
    token_BT = torch.zeros(max(1, probed // context), context, dtype=torch.int64, device=device)

    def execution(chosen: str, compiled: bool, why: str) -> Execution:
        return Execution(
            device=machine.device,
            precision=chosen,
            compile=compiled,
            threads=machine.threads,
            peak_flops=machine.peak_flops(chosen),
            micro_batch_tokens=micro_batch_tokens,
            why=why,
        )

    candidates = [precision] if precision != "auto" else ["fp32"]
    if precision == "auto" and machine.precision == "bf16":
        candidates.append("bf16")
    known = len(candidates) == 1
    if known and compile_ != "auto":
        return execution(candidates[0], compile_ == "on", "as the recipe says")
    why = "bf16 products are not faster here" if precision == "auto" else "as the recipe says"
    worth_s = COMPILE_WORTH_TRYING_S[device.type]
    if known and 0 < expected_s < worth_s:
        return execution(candidates[0], False, f"{why}; the run is too short to compile for")
    seconds = {name: _step_seconds(make(), token_BT, name, compiled=False) for name in candidates}
    best = min(seconds, key=lambda name: seconds[name])
    if len(candidates) > 1:
        why = f"one step took {seconds['fp32']:.3f} s in fp32 and {seconds['bf16']:.3f} s in bf16"
    lengths = (expected_s, expected_tokens / token_BT.numel() * seconds[best])
    length_s = min((length for length in lengths if length), default=0.0)
    if compile_ == "on":
        return execution(best, True, why)
    if compile_ == "off" or length_s < worth_s:
        return execution(best, False, why if compile_ == "off" else f"{why}; the run is too short to compile for")
    try:
        compiled_s = _step_seconds(make(), token_BT, best, compiled=True)
    except Exception as error:  # no compiler on this machine, for example: eager stays, and the reason is told
        reason = str(error).strip().splitlines()[0][:120]
        return execution(best, False, f"{why}; compiling failed ({type(error).__name__}: {reason})")
    keep = compiled_s * COMPILE_WORTH_KEEPING < seconds[best]
    return execution(best, keep, f"{why}; compiled {compiled_s:.3f} s against {seconds[best]:.3f} s a step")


def fitting_tokens(shape: DecoderShape, device: torch.device, memory_bytes: int, batch_tokens: int) -> int:
    """Tokens of one forward and backward pass that fit a share of the memory, a whole number of rows.

    Activations take about 34 bytes per channel and layer in 16 bits with fused attention (Korthikanti et al. 2022,
    equation 2 without its quadratic term); twice that is counted in 32 bits, and half as much again for what the
    loss and the allocator need.
    """
    if device.type == "cuda":
        memory_bytes = torch.cuda.get_device_properties(device).total_memory
    per_token = 34 * 1.5 * shape.layers * shape.width * (1 if device.type == "cuda" else 2)
    free = memory_bytes - 16 * shape.parameters()  # weights, gradients and two moments in float32
    tokens = min(int(MEMORY_SHARE * max(free, 0) / per_token), MICRO_BATCH_TOKENS[device.type], batch_tokens)
    return max(1, tokens // shape.context) * shape.context


def _step_seconds(decoder: Decoder, token_BT: Tensor, precision: str, *, compiled: bool) -> float:
    decoder.compute_dtype = DTYPES[precision]
    if compiled:
        decoder.compile_blocks()

    def step() -> Tensor:
        decoder.zero_grad(set_to_none=True)
        loss = decoder.loss(token_BT, token_BT)
        loss.backward()
        return loss

    return _seconds(step, token_BT.device, repeats=3)


def _matmul_gflops(dtype: torch.dtype, size: int, device: torch.device) -> float:
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / _seconds(lambda: a @ b, device, best=True) / 1e9


def _seconds(work: Callable[[], Tensor], device: torch.device, *, repeats: int = 5, best: bool = False) -> float:
    """Median (or best) of a few runs after one that is not timed."""

    def once() -> float:
        began = perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return perf_counter() - began

    once()
    times = [once() for _ in range(repeats)]
    return min(times) if best else median(times)
