"""Tokens per second of one training step, ours beside a plain PyTorch loop of the same shape.

The peer: GPT-2 written in the ordinary manner (one fused projection, nn.LayerNorm, torch's attention, whole
logits, torch's AdamW, clipping), in fp32 eager; compiled; and where the machine has bf16, with autocast.
Ours:     Decoder.loss, backward, clipping and Optimizer as a run does them, `gpt2` and `modern`.
Steps of all of them are interleaved: each round times one step of each, and medians are compared.

    python benchmarks/throughput.py                  # 6 layers, width 384, context 256, batch 16
    python benchmarks/throughput.py --shape 124m --presets gpt2 --rounds 3  # GPT-2 124M, context 512, batch 2
    python benchmarks/throughput.py --compile        # adds the compiled peer and our compiled steps
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import median
from time import perf_counter

import torch
from plain_gpt import PlainGPT
from torch import Tensor, nn

from cerulea.nn.decoder import Decoder
from cerulea.nn.flops import train_flops_per_token
from cerulea.nn.optim import Optimizer
from cerulea.nn.precision import DTYPES, Execution, Machine, measure_machine, pick_device, set_threads
from cerulea.train.loop import clip, gradient_norm
from cerulea.train.recipe import recipe_from
from cerulea.train.schedule import optimizer_settings

SHAPES = {
    "small": ({"layers": 6, "width": 384, "heads": 6, "context": 256}, 65, 16),  # nanoGPT's Shakespeare shape
    "124m": ({"layers": 12, "width": 768, "heads": 12, "context": 512}, 50_257, 2),
}
Step = Callable[[Tensor, Tensor], None]


def plain_step(shape: dict[str, int], vocab: int, device: torch.device, *, bf16: bool, compiled: bool) -> Step:
    """The peer's step."""
    model = PlainGPT(vocab, **shape).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1)
    call = torch.compile(model) if compiled else model

    def step(x: Tensor, y: Tensor) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = call(x, y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loss.item()

    return step


def our_step(shape: dict[str, int], vocab: int, device: torch.device, *, preset: str, execution: Execution) -> Step:
    """A run's step: loss, gradients, norm, clipping, update."""
    recipe = recipe_from({"model": {"preset": preset, **shape}, "train": {"steps": 1000}})
    decoder = Decoder(recipe.shape(vocab)).to(device).train()
    decoder.compute_dtype = DTYPES[execution.precision]
    if execution.compile:
        decoder.compile_blocks()
    settings = optimizer_settings(recipe, execution)
    optimizer = Optimizer(decoder, settings)

    def step(x: Tensor, y: Tensor) -> None:
        decoder.zero_grad(set_to_none=True)
        loss = decoder.loss(x, y) / y.numel()
        loss.backward()
        norm = gradient_norm(decoder)
        clip(decoder, norm, 1.0 if settings.kind == "adamw" else 0.0)
        optimizer.step(rate_scale=1.0, momentum=settings.momentum, decay_scale=1.0)
        loss.item()

    return step


def candidates(machine: Machine, shape: dict[str, int], vocab: int, device: torch.device, args: argparse.Namespace):
    """(name, flops per token, precision, step) of everything that is timed; the first is the yardstick."""
    bf16 = machine.precision == "bf16"
    flops = {
        preset: train_flops_per_token(
            recipe_from({"model": {"preset": preset, **shape}, "train": {"steps": 1}}).shape(vocab), shape["context"]
        )
        for preset in ("gpt2", "modern")
    }
    for precision in ("fp32", "bf16") if bf16 else ("fp32",):
        for compiled in (False, True) if args.compile else (False,):
            how = f"{precision}{' compiled' if compiled else ''}"
            peer = plain_step(shape, vocab, device, bf16=precision == "bf16", compiled=compiled)
            yield f"plain PyTorch, {how}", flops["gpt2"], precision, peer
            execution = Execution(
                device=device.type,
                precision=precision,
                compile=compiled,
                threads=machine.threads,
                peak_flops=machine.peak_flops(precision),
                why="",
            )
            for preset in args.presets:
                ours = our_step(shape, vocab, device, preset=preset, execution=execution)
                yield f"cerulea {preset}, {how}", flops[preset], precision, ours


def main() -> None:
    """Time everything in turns and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--presets", nargs="+", default=["gpt2", "modern"])
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    device, threads = pick_device(), set_threads()
    machine = measure_machine(device, threads)
    shape, vocab, rows = SHAPES[args.shape]
    print(f"peak: {machine.matmul_fp32_gflops} GFLOP/s fp32, {machine.matmul_bf16_gflops} bf16, {threads} threads")
    if machine.precision != "bf16":
        print("bf16 products are not faster here: everything that presupposes them is left out")
    torch.manual_seed(1)
    ids = torch.randint(vocab, (rows, shape["context"] + 1), device=device)
    x, y = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    timed = list(candidates(machine, shape, vocab, device, args))
    seconds: dict[str, list[float]] = {name: [] for name, *_ in timed}
    for round_ in range(args.rounds + 1):  # one round to compile and to warm the caches
        for name, _, _, step in timed:
            began = perf_counter()
            step(x, y)
            if round_ > 0:
                seconds[name].append(perf_counter() - began)
    base = seconds[timed[0][0]]
    print("\n| step | s | tokens/s | share of peak | against the first |\n|---|---:|---:|---:|---:|")
    for name, flops, precision, _ in timed:
        middle = median(seconds[name])
        ratio = median(theirs / ours for theirs, ours in zip(base, seconds[name], strict=True))
        share = flops * x.numel() / middle / machine.peak_flops(precision)
        print(f"| {name} | {middle:.3f} | {x.numel() / middle:,.0f} | {share:.0%} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
