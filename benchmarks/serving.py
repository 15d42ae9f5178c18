"""What a served model does through HTTP: speed alone and for many, long prompts beside streams, floods, full queues.

    python benchmarks/serving.py --gpt2 FOLDER [--weights bf16] [--parts speed,many,gateway,…] [--rounds N]

A model of GPT-2 124M's shape with random weights, behind `cerulea up` on this machine; FOLDER holds the two files of
GPT-2's tokenizer. With --peer, transformers' generate runs in turn with ours: batch 1, and a static batch of 16.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "2")

import torch

from cerulea.core.settings import read_settings
from cerulea.flows.host import Host
from cerulea.flows.models import import_model
from cerulea.flows.platform import open_platform
from cerulea.nn.decoder import Decoder
from cerulea.nn.shape import GPT2_SIZES, preset_shape
from cerulea.nn.weights import save_decoder
from cerulea.serve.process import Options
from cerulea.serve.request import Request, SamplingParams
from cerulea.text.tokenizer import gpt2_tokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.burst import Line, burst, request_bytes
from tests.running import Up, is_loaded
from tests.serve.test_parity import SMALL, folder_of_gpt2

TOKENS = 128
CLIENTS = 16


@dataclass
class Reading:
    """One streamed answer: when it was asked, and when each of its chunks came."""

    asked: float
    stamps: list[float] = field(default_factory=list)
    status: int = 0
    usage: dict[str, int] = field(default_factory=dict)

    @property
    def first_s(self) -> float:
        """Until the first token."""
        return self.stamps[0] - self.asked

    @property
    def gaps(self) -> list[float]:
        """Between chunks."""
        return [b - a for a, b in zip(self.stamps, self.stamps[1:], strict=False)]


def prompt_of(tokens: int, seed: int, vocab: int = 50_000) -> list[int]:
    """Random ids."""
    draw = random.Random(seed)
    return [draw.randrange(vocab) for _ in range(tokens)]


async def ask(up: Up, prompt: list[int], most: int = TOKENS, key: str = "", **more: Any) -> Reading:
    """One streamed completion over a plain socket: what an HTTP library does with a chunk would count as ours."""
    body = {
        "model": "bench",
        "prompt": prompt,
        "max_tokens": most,
        "temperature": 1.0,
        "seed": 1,
        "stream": True,
        "ignore_eos": True,
        "stream_options": {"include_usage": True},
        "share_prefix": False,
        **more,
    }
    reader, writer = await asyncio.open_connection("127.0.0.1", up.port)
    reading = Reading(time.perf_counter())
    writer.write(request_bytes(key or up.key, "/v1/completions", body))
    came = b""
    while not came.endswith(b"0\r\n\r\n") and (piece := await reader.read(1 << 16)):
        came += piece
        reading.stamps += [time.perf_counter()] * (came.count(b'"choices":[{') - len(reading.stamps))
    writer.close()
    reading.status = int(came.split(b" ", 2)[1])
    if reading.status != 200:
        raise SystemExit(came.decode())
    reading.usage = json.loads(re.findall(rb"data: (.*?)\n\n", came)[-2])["usage"]
    return reading


async def speed(up: Up) -> float:
    """Tokens a second of one stream, everything counted: from the request to its last byte."""
    reading = await ask(up, prompt_of(16, 7))
    return reading.usage["completion_tokens"] / (reading.stamps[-1] - reading.asked)


async def many(up: Up, clients: int = CLIENTS) -> float:
    """Tokens a second of many streams that begin together, prompts of 64 to 128 tokens."""
    began = time.perf_counter()
    prompts = [prompt_of(random.Random(i).randrange(64, 129), i) for i in range(clients)]
    readings = await asyncio.gather(*(ask(up, prompt) for prompt in prompts))
    return sum(one.usage["completion_tokens"] for one in readings) / (time.perf_counter() - began)


async def gap(up: Up) -> tuple[float, float, float]:
    """Eight streams run and a prompt of 900 tokens comes: median gap before it, longest gap of any stream after."""
    streams = [asyncio.create_task(ask(up, prompt_of(32, i), 300)) for i in range(8)]
    await asyncio.sleep(2.0)
    came = time.perf_counter()
    long = await ask(up, prompt_of(900, 99), 4)
    readings = await asyncio.gather(*streams)
    before, after = [], []
    for reading in readings:
        for stamp, one in zip(reading.stamps[1:], reading.gaps, strict=True):
            (before if stamp < came else after).append(one)
    return median(before[16:]), max(after), long.first_s


class Caller:
    """Another team, which asks one thing every two seconds, in a process of its own (`caller`)."""

    def __init__(self, up: Up, key: str) -> None:
        command = [sys.executable, str(Path(__file__).with_name("caller.py")), str(up.port)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdin is not None
        self._process.stdin.write(f"{key}\n")
        self._process.stdin.flush()

    def end(self) -> list[float]:
        """Milliseconds to the first token of each of its requests."""
        out, _ = self._process.communicate()
        return [float(line) for line in out.split()]


@dataclass
class Flood:
    """What a flood of 200 requests of one team did; milliseconds to the first token, and between tokens."""

    alone: list[float]
    flooded: list[float]
    gaps: list[float]
    seconds: float

    def __str__(self) -> str:
        alone, flooded = p95(self.alone), p95(self.flooded)
        return (
            f"flood: p95 first token alone {alone:.0f} ms (median {median(self.alone):.0f}), flooded {flooded:.0f} ms "
            f"(median {median(self.flooded):.0f}, longest {max(self.flooded):.0f}), {flooded / alone:.2f} x; "
            f"the flood took {self.seconds:.1f} s, its gaps {median(self.gaps):.0f} ms, longest {max(self.gaps):.0f}"
        )


async def flood(up: Up, other: str, seconds: float = 20.0) -> Flood:
    """Another team's time to the first token: alone, and while one team floods with 200 requests."""
    caller = Caller(up, other)
    await asyncio.sleep(seconds)
    alone = await asyncio.to_thread(caller.end)
    caller = Caller(up, other)
    await asyncio.sleep(0.2)
    began = time.perf_counter()
    readings = await asyncio.gather(*(ask(up, prompt_of(64, i), 64) for i in range(200)))
    took = time.perf_counter() - began
    flooded = await asyncio.to_thread(caller.end)
    return Flood(alone, flooded[: int(took // 2) + 1], [1000 * gap for one in readings for gap in one.gaps], took)


def queue(up: Up, requests: int = 500) -> dict[str, Any]:
    """500 requests at once against a queue of 64 beside the 16 that run; the model has been asked before."""
    bodies = [
        {"model": "bench", "prompt": prompt_of(8, number), "max_tokens": 8, "seed": number}
        for number in range(requests)
    ]
    replies, sending_s = burst(up.port, [request_bytes(up.key, "/v1/completions", body) for body in bodies])
    refused = [one for one in replies if one.status == 429]
    waited = sorted(1000 * one.first_byte_s for one in refused)
    return {
        "accepted": sum(one.status == 200 for one in replies),
        "refused": len(refused),
        "other": sum(one.status not in (200, 429) for one in replies),
        "refused_with_retry_after": sum("\nretry-after: " in one.headers for one in refused),
        "sending_all_ms": round(1000 * sending_s, 1),
        "refused_median_ms": round(median(waited), 1) if refused else None,
        "refused_p99_ms": round(waited[int(0.99 * (len(waited) - 1))], 1) if refused else None,
        "refused_longest_ms": round(waited[-1], 1) if refused else None,
    }


async def gateway(up: Up, home: Path, pairs: int = 300) -> tuple[float, float]:
    """Median milliseconds of one small request: through HTTP with its bill, and to an engine of the model directly."""
    with open_platform(read_settings(home=home)) as platform:
        host = Host(platform, Options(folder="", weights="fp32", threads=1), load_wait_s=300)
        owner = platform.people.caller()
        try:
            served = await host.open(owner, "small")
            over_http, direct = [], []
            line = Line(up.port)
            for number in range(pairs + 20):
                prompt = prompt_of(8, number, 256)
                body = {
                    "model": "small",
                    "prompt": prompt,
                    "max_tokens": 1,
                    "temperature": 0,
                    "share_prefix": False,
                }
                # In a thread: this process's own loop must not stand still while the engine beside it is asked.
                status, seconds = await asyncio.to_thread(line.ask, request_bytes(up.key, "/v1/completions", body))
                assert status == 200
                over_http.append(1000 * seconds)
                middle = time.perf_counter()
                sampling = SamplingParams(max_tokens=1, temperature=0.0)
                request = Request(
                    id=f"r{number}",
                    team="home",
                    prompt=tuple(prompt),
                    sampling=sampling,
                    leased=2,
                    share_prefix=False,
                )
                async for _ in served.submit(request):
                    pass
                direct.append(1000 * (time.perf_counter() - middle))
            line.close()
            return median(over_http[20:]), median(direct[20:])
        finally:
            await host.close()


def p95(values: list[float]) -> float:
    """The value that 95 % are not above."""
    return sorted(values)[max(0, -(-95 * len(values) // 100) - 1)]


class Peer:
    """transformers' generate with the same weights."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        from transformers import GPT2LMHeadModel

        self.model = GPT2LMHeadModel.from_pretrained(folder, dtype=dtype).eval()

    def rate(self, rows: int, prompt: int = 96) -> float:
        """Tokens a second of a static batch."""
        token_BT = torch.tensor([prompt_of(prompt if rows > 1 else 16, i) for i in range(rows)])
        began = time.perf_counter()
        with torch.inference_mode():
            out = self.model.generate(
                token_BT, max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=True, pad_token_id=0
            )
        return rows * (out.shape[1] - token_BT.shape[1]) / (time.perf_counter() - began)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpt2", type=Path, required=True)
    parser.add_argument("--weights", default="bf16")
    parser.add_argument("--parts", default="speed,many,gap,flood,queue")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer", action="store_true")
    words = parser.parse_args()
    parts = words.parts.split(",")
    layers, width, heads = GPT2_SIZES["gpt2-124m"]
    shape = preset_shape("gpt2", vocab=50_257, layers=layers, width=width, heads=heads, context=1024)
    with tempfile.TemporaryDirectory() as root:
        home, folder = Path(root) / "home", Path(root) / "model"
        torch.manual_seed(0)
        tokenizer = gpt2_tokenizer(words.gpt2)
        save_decoder(Decoder(shape), folder, end_of_text=tokenizer.end_of_text)
        tokenizer.save(folder)
        with open_platform(read_settings(home=home)) as platform:
            import_model(platform, folder, "bench")
            platform.registry.alias("bench", "served", 1, "owner")
            if "gateway" in parts:
                import_model(platform, folder_of_gpt2(Path(root) / "small", SMALL), "small")
        environment = {"CERULEA_SERVE_WEIGHTS": words.weights, "OMP_NUM_THREADS": "2", "CERULEA_THREADS": "2"}
        environment["CERULEA_SERVE_QUEUE"] = "64" if "queue" in parts else "256"
        with Up(home, workers=0, environment=environment) as up:
            up.wait_for(lambda: is_loaded(up), "the model to be loaded")
            asyncio.run(speed(up))  # not counted
            asyncio.run(many(up))
            dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}.get(words.weights)
            peer = Peer(folder, dtype) if words.peer and dtype is not None else None
            for part, rows in (("speed", 1), ("many", CLIENTS)):
                if part not in parts:
                    continue
                ours, theirs = [], []
                for _ in range(words.rounds):
                    ours.append(asyncio.run(speed(up) if rows == 1 else many(up)))
                    if peer is not None:
                        theirs.append(peer.rate(rows))
                line = f"{words.weights} {part}: {median(ours):.1f} tokens/s ({min(ours):.1f} to {max(ours):.1f})"
                if theirs:
                    ratio = median(a / b for a, b in zip(ours, theirs, strict=True))
                    line += f", transformers {median(theirs):.1f}, ratio {ratio:.2f}"
                print(line, flush=True)
            if "gateway" in parts:
                http_ms, direct_ms = asyncio.run(gateway(up, home))
                more = http_ms - direct_ms
                print(f"gateway: {http_ms:.2f} ms through HTTP, {direct_ms:.2f} ms direct, {more:.2f} ms more")
            if "gap" in parts:
                for _ in range(words.rounds):
                    before, after, first = asyncio.run(gap(up))
                    print(
                        f"gap: median before {1000 * before:.1f} ms, longest after {1000 * after:.1f} ms "
                        f"({after / before:.2f} x), first token of the long prompt {1000 * first:.0f} ms",
                        flush=True,
                    )
            if "flood" in parts:
                up.cli("team", "create", "other")
                up.cli("person", "create", "ann", "--team", "other", "--role", "operator")
                key = up.cli("key", "create", "--person", "ann", "--team", "other")[0]["key"]
                floods = []
                for _ in range(words.rounds):
                    floods.append(asyncio.run(flood(up, key)))
                    print(floods[-1], flush=True)
                alone = p95([one for each in floods for one in each.alone])
                flooded = p95([one for each in floods for one in each.flooded])
                print(f"flood, all rounds: p95 alone {alone:.0f} ms, flooded {flooded:.0f} ms, {flooded / alone:.2f} x")
            if "queue" in parts:
                for _ in range(words.rounds):
                    print(f"queue: {json.dumps(queue(up))}", flush=True)


if __name__ == "__main__":
    main()
