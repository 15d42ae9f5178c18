"""Serve for a long time and see whether memory grows: streams, plain calls, choices, hang-ups, refusals, all mixed.

    python benchmarks/soak.py [--minutes 30] [--clients 6]

A small GPT-2 with random weights behind `cerulea up`. Memory of the server and of the engine is read from /proc after a
tenth of the time and at the end; the books are audited at last.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
import tempfile
import time
from pathlib import Path

import httpx

from cerulea.core.settings import read_settings
from cerulea.flows.models import import_model
from cerulea.flows.platform import open_platform

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.running import Up, command_of, descendants
from tests.serve.test_parity import SMALL, folder_of_gpt2


def resident_mb(up: Up, word: str) -> float:
    """Resident memory of the process whose command has this word, in MB."""
    assert up.process is not None
    pid = next(pid for pid in descendants(up.process.pid) if word in command_of(pid))
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1000


async def one_client(up: Up, seed: int, until: float, counts: dict[str, int]) -> None:
    """Ask one thing after the other."""
    draw = random.Random(seed)
    headers = {"Authorization": f"Bearer {up.key}"}
    async with httpx.AsyncClient(base_url=up.url, headers=headers, timeout=120, trust_env=False) as http:
        while time.monotonic() < until:
            kind = draw.choice(["plain", "stream", "hang up", "choices", "refused"])
            body = {
                "model": "soak",
                "prompt": [draw.randrange(256) for _ in range(draw.randrange(1, 400))],
                "max_tokens": draw.randrange(1, 80),
                "n": 3 if kind == "choices" else 1,
                "stream": kind in ("stream", "hang up"),
                "top_p": draw.choice([1.0, 0.9]),
            }
            if kind == "refused":
                body["max_tokens"] = 5000
            counts[kind] = counts.get(kind, 0) + 1
            with contextlib.suppress(httpx.RemoteProtocolError):
                async with http.stream("POST", "/v1/completions", json=body) as answer:
                    async for _ in answer.aiter_lines():
                        if kind == "hang up" and draw.random() < 0.2:
                            break
                if answer.status_code not in (200, 400, 429):
                    counts[f"status {answer.status_code}"] = counts.get(f"status {answer.status_code}", 0) + 1


async def soak(up: Up, minutes: float, clients: int) -> None:
    """Run, and print memory on the way."""
    began = time.monotonic()
    counts: dict[str, int] = {}
    until = began + 60 * minutes
    running = [asyncio.create_task(one_client(up, seed, until, counts)) for seed in range(clients)]
    readings = []
    for share in (0.1, 0.25, 0.5, 0.75, 1.0):
        await asyncio.sleep(max(0.0, began + 60 * minutes * share - 2 - time.monotonic()))
        readings.append((resident_mb(up, "parts server"), resident_mb(up, "cerulea.serve.process")))
        asked = sum(number for what, number in counts.items() if not what.startswith("status"))
        at = f"{minutes * share:5.1f} min, {asked:,} requests"
        print(f"{at}: server {readings[-1][0]:.1f} MB, engine {readings[-1][1]:.1f} MB", flush=True)
    await asyncio.gather(*running)
    print(f"requests: {counts}")
    for place, name in enumerate(("server", "engine")):
        print(f"{name}: {100 * (readings[-1][place] / readings[0][place] - 1):+.2f} % from 10 % of the time to the end")


def main() -> None:
    """Soak and audit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--clients", type=int, default=6)
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        home = Path(root) / "home"
        with open_platform(read_settings(home=home)) as platform:
            import_model(platform, folder_of_gpt2(Path(root) / "gpt2", SMALL), "soak")
        with Up(home, workers=0) as up:
            asyncio.run(soak(up, words.minutes, words.clients))
            (audit,) = up.cli("fund", "audit")
            print(f"audit: balanced {audit['balanced']}, problems {audit['problems']}")


if __name__ == "__main__":
    main()
