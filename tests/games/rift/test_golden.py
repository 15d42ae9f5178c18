"""What a version of rift is: the same seeds and actions lead to the same states, on every machine and in every year.

Replays, results and ratings are kept under the version. Whoever changes what this plays raises rules.VERSION and writes
the new digest below.
"""

from __future__ import annotations

import hashlib

from cerulea.games.rift import rules as r
from cerulea.games.rift.env import BOTS, Rift
from tests.games.playing import Played

GOLDEN = ("4", "3c33f7bfc307a059")  # VERSION, and what `python -m tests.games.rift.test_golden` prints
STEPS = 240


def digest() -> str:
    """Of all states of some matches of every preset: at random, by scripts, whose actions are given to the game."""
    found = hashlib.sha256()
    for preset, options in (("duel", {}), ("skirmish", {"scatter": 0.5}), ("rift", {"draft": "mixed"})):
        played = Played(Rift(preset, 4, **options), first=11)
        for step in range(STEPS):
            if step % 60 < 50:
                played.scripted(BOTS[step // 60 % len(BOTS)])
            else:
                played.random()
            found.update(played.game.digests().astype("<u8").tobytes())
    return found.hexdigest()[:16]


def test_what_a_version_plays_stays_as_it_is():
    now = (r.VERSION, digest())

    assert now == GOLDEN, (
        f"rift plays otherwise than version {GOLDEN[0]} did: raise VERSION in rules.py, and write GOLDEN = {now} here."
    )


if __name__ == "__main__":
    print((r.VERSION, digest()))
