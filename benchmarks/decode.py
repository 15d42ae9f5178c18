"""Tokens a second of the engine's compute side alone: GPT-2 124M's shape, random weights, 1, 4 and 16 sequences.

Formats and row counts are run in turn, round after round, so that a slow minute is everybody's; figures are the median
and the best of all steps. Beside them stands the memory limit: the time to read weights, keys and values once at the
best read bandwidth that was measured between the rounds. Compiling is not timed. The environment is an engine's
(`serve.threads`).

    python benchmarks/decode.py
    python benchmarks/decode.py --formats bf16 --rows 1 16 --context 256 --kernels torch
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from statistics import median

from cerulea.serve.threads import engine_environment

STEPS = 8  # of one round
BYTES = {"fp32": 4, "bf16": 2, "int8": 1}
MARKER = "CERULEA_BENCHMARK_ENVIRONMENT"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", nargs="+", default=["fp32", "bf16", "int8"])
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 4, 16])
    parser.add_argument("--context", nargs="+", type=int, default=[128, 256])
    parser.add_argument("--kernels", default="auto")
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()

    import torch

    from cerulea.nn.decoder import Decoder
    from cerulea.nn.precision import measure_machine, set_threads
    from cerulea.nn.shape import preset_shape
    from cerulea.serve.plan import Chunk
    from cerulea.serve.runner import DecoderRunner

    threads = set_threads()
    torch.manual_seed(0)
    shape = preset_shape("gpt2", vocab=50257, layers=12, width=768, heads=12, context=1024)
    runners = {}
    for form in given.formats:
        began = time.perf_counter()
        runner = DecoderRunner(Decoder(shape), rows=max(given.rows), weights=form, kernels=given.kernels)
        for row in range(max(given.rows)):
            for start in range(0, max(given.context), 64):
                runner.run([Chunk(row, start, list(range(start, start + 64)), 0)])
        runners[form] = runner
        print(f"{form}: {runner.kernels} kernels, ready after {time.perf_counter() - began:.1f} s", flush=True)
    times: dict[tuple[str, int, int], list[float]] = {}
    reads = []
    for _ in range(given.rounds):
        reads.append(measure_machine(torch.device("cpu"), threads).memory_read_gb_per_s)
        for rows in given.rows:
            for context in given.context:
                chunks = [Chunk(row, context - 1, [row + 11]) for row in range(rows)]
                for form, runner in runners.items():
                    seconds = times.setdefault((form, rows, context), [])
                    runner.run(chunks)
                    for _ in range(STEPS):
                        began = time.perf_counter()
                        runner.run(chunks)
                        seconds.append(time.perf_counter() - began)
    print(f"\n{threads} threads, memory reads {median(reads):.1f} GB/s (best {max(reads):.1f})\n")
    print("| weights | rows | context | tokens/s | best | limit | best of the limit |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for (form, rows, context), seconds in times.items():
        kv = 2 * shape.layers * shape.kv_heads * shape.head_size * context * rows * (4 if form == "fp32" else 2)
        limit = rows * max(reads) * 1e9 / (shape.matrix_parameters() * BYTES[form] + kv)
        middle, best = rows / median(seconds), rows / min(seconds)
        print(f"| {form} | {rows} | {context} | {middle:.0f} | {best:.0f} | {limit:.0f} | {best / limit:.0%} |")


if __name__ == "__main__":
    if MARKER not in os.environ:
        # Threading libraries read their settings when they are loaded: start over with an engine's.
        os.environ.update({**engine_environment(), **os.environ, MARKER: "1"})
        os.execv(sys.executable, [sys.executable, *sys.argv])
    main()
