"""The page that tells how to add a game: its code runs, in sixty lines, and is learned from."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "add-a-game.md"


def test_nim_takes_sixty_lines_keeps_the_protocol_and_is_trained(tmp_path, monkeypatch):
    game, use = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}

    exec(compile(game + use, "add-a-game.md", "exec"), names)

    assert len(game.splitlines()) <= 60
    assert (tmp_path / "nim-run" / "metrics.jsonl").read_text().count('"progress"') == 5
