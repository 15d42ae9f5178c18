"""Megabytes of text a second from files to packed tokens, and how long a checkpoint stops training.

The peer: `tokenizers` encode_batch alone, on texts that already lie in memory (nothing read, hashed or written).
Ours:     `pack`, from files to memory-mapped shards: reading, UTF-8 check, digests, duplicates, ids, writing.

    python benchmarks/packing.py --books books-train.jsonl.xz --gpt2 gpt2-bpe
    python benchmarks/packing.py --checkpoints       # a run of a minute and a half that saves every 30 s
"""

from __future__ import annotations

import argparse
import json
import lzma
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

from cerulea.text.corpus import Corpus, Split, open_corpus
from cerulea.text.shards import pack, training_texts
from cerulea.text.tokenizer import Tokenizer, gpt2_tokenizer, train_bpe

ROUNDS = 3
SPLIT = Split(fraction=0.05)


def as_text_files(books: Path, folder: Path) -> list[str]:
    """Write one .txt a book and return all texts."""
    folder.mkdir(parents=True, exist_ok=True)
    with lzma.open(books, "rt", encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    for number, text in enumerate(texts):
        (folder / f"{number:03}.txt").write_text(text, encoding="utf-8")
    return texts


def pack_seconds(corpus: Corpus, tokenizer: Tokenizer, folder: Path) -> float:
    """One whole packing into a new folder, with a tokenizer that has seen nothing yet."""
    fresh = Tokenizer(tokenizer.library, tokenizer.kind)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        began = perf_counter()
        pack([corpus], SPLIT, [], fresh, Path(place) / "shards")
        return perf_counter() - began


def library_seconds(texts: list[str], tokenizer: Tokenizer) -> float:
    """The library alone, on all cores; from every eighth book to the whole, since it takes its time."""
    some = texts[::8]
    began = perf_counter()
    tokenizer.library.encode_batch(some, add_special_tokens=False)
    return (perf_counter() - began) * sum(map(len, texts)) / sum(map(len, some))


def measure_packing(args: argparse.Namespace, folder: Path) -> None:
    """A table of MB/s: best of ROUNDS, ours and the peer in turns."""
    texts = as_text_files(args.books, folder / "books")
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    plain, packed = open_corpus(str(folder / "books")), open_corpus(str(args.books))
    began = perf_counter()
    bpe = train_bpe(training_texts([plain], SPLIT, []), 4096)
    print(f"training BPE 4,096: {perf_counter() - began:.1f} s\n")
    print(f"| {megabytes:.1f} MB | tokenizers alone | .txt files | .jsonl.xz |\n|---|---:|---:|---:|", flush=True)
    tokenizers = [("BPE 4,096", bpe)] + ([("GPT-2", gpt2_tokenizer(args.gpt2))] if args.gpt2 else [])
    for name, tokenizer in tokenizers:
        rounds = [
            (
                library_seconds(texts, tokenizer),
                pack_seconds(plain, tokenizer, folder),
                pack_seconds(packed, tokenizer, folder),
            )
            for _ in range(ROUNDS)
        ]
        best = [min(times) for times in zip(*rounds, strict=True)]
        print(f"| {name}, MB/s | " + " | ".join(f"{megabytes / s:.1f}" for s in best) + " |", flush=True)


def measure_checkpoints(recipe: Path, home: Path) -> None:
    """Run a recipe as a command, saving every half minute, and add up how long training stood still."""
    command = [sys.executable, "-m", "cerulea.cli.main", "train", str(recipe), "--home", str(home), "--json"]
    command += [
        "--set",
        "train.eval_minutes=0",
        "--set",
        "train.eval_first=false",
        "--set",
        "train.checkpoint_minutes=0.5",
    ]
    # The first run only packs, so that the second one trains for all of its time.
    subprocess.run([*command, "--set", "train.steps=1"], check=True, capture_output=True)
    run = subprocess.run([*command, "--set", "train.minutes=1.6"], check=True, capture_output=True, text=True)
    events = [json.loads(line) for line in run.stdout.splitlines()]
    saved = [event for event in events if event["event"] == "checkpoint"][:-1]  # the last ends the run
    for event in saved:
        share = event["stall_s"] / 30
        print(
            f"step {event['step']}: stall {event['stall_s']:.3f} s ({share:.2%}), written in {event['write_s']:.2f} s"
        )


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--books", type=Path)
    parser.add_argument("--gpt2", type=Path, help="folder of GPT-2's two tokenizer files")
    parser.add_argument("--checkpoints", action="store_true")
    parser.add_argument("--recipe", type=Path, default=Path("recipes/quickstart.toml"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.books:
            measure_packing(args, Path(folder))
        if args.checkpoints:
            measure_checkpoints(args.recipe, Path(folder))


if __name__ == "__main__":
    main()
