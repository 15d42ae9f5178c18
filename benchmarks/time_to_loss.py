"""Seconds from the command's start to a score on Tiny Shakespeare: first nine tenths train, last tenth is scored.

Ours:     `cerulea train recipes/shakespeare.toml`, as a process of its own; everything counts, imports included.
The peer: nanoGPT's recipe for a CPU in a plain PyTorch loop: 4 layers, width 128, 4 heads, context 64, batch 12,
          2,000 steps, AdamW 1e-3 with a cosine to 1e-4 after 100 steps, no dropout, characters, fp32 eager.

    python benchmarks/time_to_loss.py tinyshakespeare.txt          # five minutes
    python benchmarks/time_to_loss.py tinyshakespeare.txt --peer   # about two minutes
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import torch
from plain_gpt import PlainGPT

MARKS = (2.72, 2.25, 2.12)  # bits per byte: nanoGPT on a CPU, a round one, nanoGPT on an A100
SHAPE = {"layers": 4, "width": 128, "heads": 4, "context": 64}
ROWS, STEPS, WARMUP = 12, 2000, 100


def ours(data: Path, recipe: Path) -> None:
    """Run the command and note when each score arrived."""
    with tempfile.TemporaryDirectory() as home:
        began = perf_counter()
        command = [sys.executable, "-m", "cerulea.cli.main", "train", str(recipe), "--data", str(data)]
        run = subprocess.Popen([*command, "--home", home, "--json"], stdout=subprocess.PIPE, text=True)
        scores = []
        assert run.stdout is not None
        for line in run.stdout:
            event = json.loads(line)
            if event["event"] == "eval":
                scores.append((perf_counter() - began, event["bits_per_byte"], event["step"]))
                print(
                    f"{scores[-1][0]:6.1f} s: {scores[-1][1]:.4f} bits per byte at step {scores[-1][2]:,}", flush=True
                )
        if run.wait():
            raise SystemExit(run.returncode)
        print(f"{perf_counter() - began:6.1f} s: the command's end")
    for mark in MARKS:
        first = next((f"{seconds:.1f} s" for seconds, bits, _ in scores if bits <= mark), "not reached")
        print(f"{mark} bits per byte or less: {first}")


def peer(data: Path) -> None:
    """NanoGPT's CPU recipe; the text is ASCII, so that bits per character are bits per byte."""
    began = perf_counter()
    torch.manual_seed(1)
    text = data.read_text(encoding="utf-8")
    letters = sorted(set(text))
    number = {letter: i for i, letter in enumerate(letters)}
    ids = torch.tensor([number[letter] for letter in text])
    cut, context = int(0.9 * len(ids)), SHAPE["context"]
    train, valid = ids[:cut], ids[cut:]
    model = PlainGPT(len(letters), **SHAPE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1)
    for step in range(STEPS):
        share = max(0, step - WARMUP) / (STEPS - WARMUP)
        cosine = 1e-4 + 0.5 * (1 + math.cos(math.pi * share)) * 9e-4
        for group in optimizer.param_groups:
            group["lr"] = cosine * min(1.0, (step + 1) / WARMUP)
        starts = torch.randint(len(train) - context, (ROWS,)).tolist()
        rows = torch.stack([train[start : start + context + 1] for start in starts])
        loss = model(rows[:, :-1], rows[:, 1:])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    seconds = perf_counter() - began
    with torch.no_grad():
        count = (len(valid) - 1) // context
        x, y = valid[: count * context].view(count, context), valid[1 : count * context + 1].view(count, context)
        nats = sum(float(model(a, b)) * a.numel() for a, b in zip(x.split(256), y.split(256), strict=True)) / x.numel()
    print(f"peer: {seconds:.1f} s of training, {nats:.4f} nats = {nats / math.log(2):.4f} bits per character")


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--recipe", type=Path, default=Path("recipes/shakespeare.toml"))
    parser.add_argument("--peer", action="store_true", help="nanoGPT's recipe instead of ours")
    args = parser.parse_args()
    peer(args.data) if args.peer else ours(args.data, args.recipe)


if __name__ == "__main__":
    main()
