"""How late ticks of live matches are, with several at once, each watched and one of its heroes played over a websocket.

Prints, for each number of matches: lateness of ticks as the process of matches tells it, and how far frames were apart
at the watchers, against what the game's time says. Everything, watchers too, runs on this machine.

    python benchmarks/match_server.py [--game rift] [--matches 4] [--seconds 60] [--player bot:team]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

import httpx
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from cerulea.api.app import create_app

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.serving import key_for, platform_in, served


def watch(url: str, match: str, key: str, seconds: float, found: dict) -> None:
    """Watch one match, play its first hero, note when frames came and how orders were answered."""
    until = time.monotonic() + seconds
    came, answers = [], []
    with connect(f"{url.replace('http', 'ws')}/api/matches/{match}/live", subprotocols=["cerulea.v1", key]) as line:
        line.send(json.dumps({"type": "take", "seat": 0}))
        last = -1
        try:
            while time.monotonic() < until:
                message = json.loads(line.recv(timeout=30))
                if message["type"] == "frame" and message["step"] != last:
                    came.append((time.monotonic(), message["step"]))
                    last = message["step"]
                    legal = message["legal"].get("0", [[]])[0]
                    if legal:
                        order = {"type": "act", "seat": 0, "step": last, "action": [legal[last % len(legal)]]}
                        line.send(json.dumps(order))
                elif message["type"] in ("done", "refused"):
                    answers.append(message.get("code", "done"))
        except ConnectionClosed:
            pass
    found[match] = came, answers


def share(values: list[float], at: float) -> float:
    """A quantile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(at * len(ordered)))]


def main() -> None:
    """Begin matches, watch them, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--game", default="rift")
    parser.add_argument("--matches", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--player", default="bot:team", help="who plays every place: bot:NAME, or an agent's folder")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as home, platform_in(Path(home)) as platform:
        player = args.player
        if not player.startswith("bot:"):
            from cerulea.flows.model_folders import register

            register(platform, Path(player), "agent", team="home", actor="owner", extra={})
            player = "agent"
        app, key = create_app(platform), key_for(platform, "developer")
        with served(app) as url:
            body = {"game": args.game, "players": [player, "bot:team"]}
            with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=120) as http:
                begun = [http.post("/api/matches", json=body).json() for _ in range(args.matches)]
                while any(http.get(f"/api/matches/{m['id']}").json()["status"] == "loading" for m in begun):
                    time.sleep(0.2)
                step_s = http.get(f"/api/matches/{begun[0]['id']}").json()["step_s"]
            found: dict = {}
            threads = [threading.Thread(target=watch, args=(url, m["id"], key, args.seconds, found)) for m in begun]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            late = app.state.matches.late
        app.state.matches.close()
    gaps, answers = [], []
    for came, told in found.values():
        gaps += [1000 * abs((b[0] - a[0]) - step_s * (b[1] - a[1])) for a, b in itertools.pairwise(came)]
        answers += told
    refused = sum(answer != "done" for answer in answers)
    print(f"{os.cpu_count()} cores; {args.matches} matches of {args.game} at once, {player} against bot:team,")
    print(f"each watched and one hero played over a websocket, {args.seconds:.0f} s")
    p50, p95, most = late["p50_ms"], late["p95_ms"], late["max_ms"]
    print(f"ticks      {late['ticks']:,}: late by {p50} ms (median), {p95} (95 %), {most} (most)")
    print(f"watchers   frames off their time by {median(gaps):.1f} ms (median), {share(gaps, 0.95):.1f} (95 %)")
    print(f"orders     {len(answers):,} answered, {refused} refused (a frame had come meanwhile)")


if __name__ == "__main__":
    main()
