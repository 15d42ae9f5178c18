"""A match as characters: a small map for a terminal, from what `Game.frame` tells.

In:      a frame: plain values.
Out:     coloured text; None where a frame has nothing to draw.
Not here: panels (`view_play`), whole replays (`replaying`).
"""

from __future__ import annotations

from typing import Any

from rich.text import Text

WIDTH, HEIGHT = 48, 24  # a character is twice as high as wide
STYLES = ("bright_blue", "bright_red")  # of the teams
OTHER = "yellow"
STONES = {1: "●", 2: "○"}
MARKS = {"ancient": "◆", "outer tower": "▲", "inner tower": "▲", "melee": "·", "ranged": "·", "siege": "•", "boss": "Ω"}


def board(frame: dict[str, Any]) -> Text | None:
    """The map of a frame with units at places, or the cells of a frame with a grid."""
    if "heroes" in frame and "size" in frame:
        return _map(frame)
    if "board" in frame:
        return _cells(frame["board"])
    return None


def headline(frame: dict[str, Any]) -> str:
    """The clock and the score, where a frame has them."""
    if "clock_s" not in frame:
        return ""
    minutes, seconds = divmod(int(frame["clock_s"]), 60)
    kills, worth = frame.get("kills", [0, 0]), frame.get("worth", [0, 0])
    return f"{minutes}:{seconds:02d}   kills {kills[0]} : {kills[1]}   worth {worth[0]:,} : {worth[1]:,}"


def _map(frame: dict[str, Any]) -> Text:
    cells: dict[tuple[int, int], tuple[str, str]] = {}
    size = float(frame["size"])

    def put(unit: dict[str, Any], mark: str) -> None:
        column = min(WIDTH - 1, max(0, int(WIDTH * unit["x"] / size)))
        line = min(HEIGHT - 1, max(0, int(HEIGHT * (1 - unit["y"] / size))))
        team = unit["team"]
        cells[line, column] = mark, STYLES[team] if team in (0, 1) else OTHER

    # What matters more is drawn over what matters less.
    for unit in frame.get("creeps", []):
        put(unit, MARKS.get(unit["kind"], "·"))
    for unit in frame.get("buildings", []):
        put(unit, MARKS.get(unit["kind"], "▲") if unit["alive"] else "×")
    if frame.get("boss"):
        put({**frame["boss"], "team": -1}, MARKS["boss"])
    for unit in frame["heroes"]:
        if unit["alive"] and "x" in unit:
            put(unit, unit["name"][0])
    text = Text(headline(frame) + "\n")
    for line in range(HEIGHT):
        for column in range(WIDTH):
            mark, style = cells.get((line, column), (" ", ""))
            text.append(mark, style=style)
        text.append("\n")
    return text


def _cells(rows: list[list[Any]]) -> Text:
    """A grid: cells hold 1 or 2, the players, or 0 for nothing; told apart without colours too."""
    text = Text()
    for row in rows:
        for cell in row:
            text.append(f"{STONES.get(cell, '·')} ", style=STYLES[cell - 1] if cell in STONES else "dim")
        text.append("\n")
    return text
