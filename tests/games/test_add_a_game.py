"""The page that tells how to add a game: its code runs, in sixty lines, and is learned from."""

from __future__ import annotations

import re
from pathlib import Path

from cerulea.games.catalog import make_game
from cerulea.games.match import BotPlayer, play_match
from cerulea.games.replay import frames, read_replay, save_replay

PAGE = Path(__file__).resolve().parents[2] / "docs" / "add-a-game.md"


def test_nim_takes_sixty_lines_keeps_the_protocol_and_is_trained(tmp_path, monkeypatch):
    game, use = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    (tmp_path / "nim.py").write_text(game, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    exec(compile(use, "add-a-game.md", "exec"), {})
    replay = play_match(make_game("python:nim", 1), [BotPlayer("random")] * 2, seed=3)
    save_replay(replay, tmp_path / "one.replay")

    assert len(game.splitlines()) <= 60
    assert (tmp_path / "nim-run" / "metrics.jsonl").read_text().count('"progress"') == 5
    assert list(frames(read_replay(tmp_path / "one.replay"), named="python:nim"))[-1]["left"] == 0
