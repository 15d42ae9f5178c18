"""Serve for a long time and see whether memory grows: streams, plain calls, choices, hang-ups, refusals, all mixed.

    python benchmarks/soak.py [--minutes 30] [--clients 6]

A small GPT-2 with random weights behind `cerulea up`. Memory of the server and of the engine is read from /proc after a
tenth of the time and at the end, as the median of READINGS seconds, since what is in flight comes and goes; of it, what
is no file's is told too. The books are audited at last.
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
from statistics import median

import httpx

from cerulea.core.settings import read_settings
from cerulea.flows.models import import_model
from cerulea.flows.platform import open_platform

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.running import Up, command_of, descendants
from tests.serve.test_parity import SMALL, folder_of_gpt2

READINGS = 24
NAMES = ("server", "engine")


def resident_mb(up: Up, word: str) -> tuple[float, float]:
    """Resident memory of the process whose command has this word, and how much of it is no file's, in MB."""
    assert up.process is not None
    pid = next(pid for pid in descendants(up.process.pid) if word in command_of(pid))
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    values = dict(line.split(":", 1) for line in status.splitlines() if line.endswith(" kB"))
    return int(values["VmRSS"].split()[0]) / 1000, int(values["RssAnon"].split()[0]) / 1000


async def settled_mb(up: Up) -> list[tuple[float, float]]:
    """The same of the server and the engine, in the median of some seconds."""
    found = []
    for _ in range(READINGS):
        found.append([resident_mb(up, word) for word in ("parts server", "cerulea.serve.process")])
        await asyncio.sleep(1.0)
    return [(median(each[p][0] for each in found), median(each[p][1] for each in found)) for p in range(2)]


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
        await asyncio.sleep(max(0.0, began + 60 * minutes * share - READINGS - 2 - time.monotonic()))
        readings.append(await settled_mb(up))
        asked = sum(number for what, number in counts.items() if not what.startswith("status"))
        at = f"{minutes * share:5.1f} min, {asked:,} requests"
        told = (
            f"{name} {all_of_it:.1f} MB ({own:.1f} its own)"
            for name, (all_of_it, own) in zip(NAMES, readings[-1], strict=True)
        )
        print(f"{at}: {', '.join(told)}", flush=True)
    await asyncio.gather(*running)
    print(f"requests: {counts}")
    for name, first, last in zip(NAMES, readings[0], readings[-1], strict=True):
        print(f"{name}: {100 * (last[0] / first[0] - 1):+.2f} % from 10 % of the time to the end")


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
