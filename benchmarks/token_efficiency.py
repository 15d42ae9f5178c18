"""Tokens that `modern` needs to reach the final bits per byte of `gpt2` with AdamW, at the same shape.

The peer: the `gpt2` preset with AdamW and a cosine, N tokens, at the best of three rates (found with seed 1).
Ours:     the `modern` preset at its own rates, given 0.65 N and 0.35 N, its schedule ended there.
Scored on spans spread evenly over all held-out books, the same for every run.

    python benchmarks/token_efficiency.py --train books-train.jsonl.xz --valid books-valid.jsonl.xz

Runs are kept in --results as JSON lines: what is there is not run again, so `--at-most 2` does it in parts.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import numpy as np

from cerulea.core.settings import Settings
from cerulea.core.values import Evaluation
from cerulea.flows.train_text import prepare
from cerulea.nn.precision import Execution, measure_machine, pick_device, set_threads
from cerulea.text.shards import Shards
from cerulea.text.tokenizer import Tokenizer
from cerulea.train.recipe import recipe_from
from cerulea.train.text import train_text

SHAPE = {"layers": 4, "width": 128, "heads": 4, "context": 128}
VOCAB, BATCH_TOKENS = 2048, 4096
RATES = (1e-3, 2e-3, 4e-3)
SHARES = (0.65, 0.35)
SEEDS = (1, 2, 3)
SPANS, SPAN_TOKENS = 8, 16_384


def recipe(args, preset: str, tokens: int, seed: int, rate: float = 0.0):
    """One arm; rate 0 takes the preset's own."""
    train = {"tokens": tokens, "batch_tokens": BATCH_TOKENS, "seed": seed, "learning_rate": rate}
    train |= {"eval_steps": 0, "sample_tokens": 0, "checkpoint_minutes": 0.0}
    if preset == "gpt2":
        train |= {"warmup_steps": 30, "final_rate": 0.1}
    return recipe_from(
        {
            "data": {"train": [args.train], "valid": [args.valid]},
            "tokenizer": {"kind": "bpe", "vocab": VOCAB},
            "model": {"preset": preset, **SHAPE},
            "train": train,
        }
    )


def sampled(shards: Shards, tokenizer: Tokenizer) -> Shards:
    """The same shards with a held-out part of SPANS spans spread over the whole."""
    starts = np.linspace(0, len(shards.valid) - SPAN_TOKENS, SPANS).astype(int)
    ids = np.concatenate([shards.valid[start : start + SPAN_TOKENS] for start in starts])
    return replace(shards, valid=ids, valid_bytes=int(tokenizer.bytes_of[ids[1:]].sum()))


def bits_per_byte(args, plan, execution: Execution) -> float:
    """Train one arm and score it once, at its end."""
    tokenizer, shards = prepare(Settings(home=Path(args.home)), plan)
    with tempfile.TemporaryDirectory() as folder:
        run = train_text(plan, sampled(shards, tokenizer), tokenizer, Path(folder), execution)
        return next(event.bits_per_byte for event in run if isinstance(event, Evaluation))


def arms(known: dict[str, float], tokens: int):
    """(key, preset, tokens, seed, rate) of every run; the peer's other seeds once its best rate is known."""
    for rate in RATES:
        yield f"gpt2 {rate} seed 1", "gpt2", tokens, 1, rate
    if all(f"gpt2 {rate} seed 1" in known for rate in RATES):
        best = min(RATES, key=lambda rate: known[f"gpt2 {rate} seed 1"])
        for seed in SEEDS:
            yield f"gpt2 {best} seed {seed}", "gpt2", tokens, seed, best
        for share in SHARES:
            for seed in SEEDS:
                yield f"modern {share} seed {seed}", "modern", int(share * tokens), seed, 0.0


def table(known: dict[str, float]) -> str:
    """Markdown: one line a seed, then mean and standard deviation."""
    best = min(RATES, key=lambda rate: known[f"gpt2 {rate} seed 1"])
    names = [f"gpt2 {best}", *(f"modern {share}" for share in SHARES)]
    names = [name for name in names if all(f"{name} seed {seed}" in known for seed in SEEDS)]
    columns = [[known[f"{name} seed {seed}"] for seed in SEEDS] for name in names]
    lines = ["| seed | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    rows = zip(SEEDS, zip(*columns, strict=True), strict=True)
    lines += [f"| {seed} | " + " | ".join(f"{x:.4f}" for x in row) + " |" for seed, row in rows]
    lines.append("| mean ± sd | " + " | ".join(f"{mean(c):.4f} ± {stdev(c):.4f}" for c in columns) + " |")
    lines.append("\nrates tried: " + ", ".join(f"{r}: {known[f'gpt2 {r} seed 1']:.4f}" for r in RATES))
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--train", required=True)
    parser.add_argument("--valid", required=True)
    parser.add_argument("--tokens", type=int, default=1_500_000)
    parser.add_argument("--home", default=str(Path(tempfile.gettempdir()) / "cerulea-benchmarks"))
    parser.add_argument("--results", default=str(Path(tempfile.gettempdir()) / "token-efficiency.jsonl"))
    parser.add_argument("--at-most", type=int, default=1000, help="runs before the program ends")
    args = parser.parse_args()
    threads = set_threads()
    machine = measure_machine(pick_device(), threads)
    execution = Execution(
        device=machine.device,
        precision="fp32",
        compile=False,
        threads=threads,
        peak_flops=machine.peak_flops("fp32"),
        why="a benchmark of tokens, not of time",
    )
    results = Path(args.results)
    lines = results.read_text().splitlines() if results.exists() else []
    known = dict(json.loads(line) for line in lines)
    for _ in range(args.at_most):
        missing = next((arm for arm in arms(known, args.tokens) if arm[0] not in known), None)
        if missing is None:
            break
        key, preset, tokens, seed, rate = missing
        known[key] = bits_per_byte(args, recipe(args, preset, tokens, seed, rate), execution)
        with results.open("a") as file:
            file.write(json.dumps([key, known[key]]) + "\n")
        print(f"{key}: {tokens:,} tokens, {known[key]:.4f} bits per byte", flush=True)
    if all(f"gpt2 {rate} seed 1" in known for rate in RATES):
        print(table(known))


if __name__ == "__main__":
    main()
