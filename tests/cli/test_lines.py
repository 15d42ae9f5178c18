"""Lines of progress, and tables whose names can be typed."""

from __future__ import annotations

import pytest

from cerulea.cli import lines
from cerulea.cli.reach import show
from cerulea.cli.tables import short, show_models


def test_progress_is_told_now_and_then_where_nothing_moves(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    clock = [0.0]
    monkeypatch.setattr(lines.time, "monotonic", lambda: clock[0])
    report = lines.telling(None, "ada")
    for second in range(12):
        clock[0] = float(second)
        report("bot:random", second, 12)

    assert capsys.readouterr().err.splitlines() == ["ada: bot:random, 5 of 12", "ada: bot:random, 10 of 12"]


def test_progress_moves_in_one_line_on_a_terminal(capsys: pytest.CaptureFixture[str]):
    class Status:
        def __init__(self) -> None:
            self.told: list[str] = []

        def update(self, line: str) -> None:
            self.told.append(line)

    status = Status()
    lines.telling(status, "ada")("bot:random", 1_000, 2_000)

    assert status.told == ["ada: bot:random, 1,000 of 2,000"]
    assert capsys.readouterr().err == ""


def test_names_in_tables_are_whole_in_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("COLUMNS", "60")
    names = ["a-model-with-a-long-name", "another-model-with-one"]
    card = {"aliases": ["served", "prod"], "retired": False, "preset": "connect-four", "parameters": 1_234_567}
    extra = {"agent_steps": 12_345_678, "rating": 12.3}
    show_models([{"model": name, "version": 12, **card, "extra": extra} for name in names])
    show(names, False, {"replay": str, "players": lambda name: "bot:random against bot:taker " * 3}, "none")

    told = capsys.readouterr().out
    for name in names:
        assert f"{name}@12" in told and f" {name} " in told
    assert all(len(line) <= 60 and line[-1] in "┓┃┩│┘" for line in told.splitlines()), "no column is cropped"


def test_large_numbers_have_three_digits():
    numbers = (7, 9_999, 10_000, 56_008, 99_999, 999_999, 2_006_345, 9_999_999, 124_000_000, 999_999_999, 1_558_000_000)

    assert [short(number) for number in numbers] == [
        "7", "9,999", "10.0K", "56.0K", "100K", "1.00M", "2.01M", "10.0M", "124M", "1.00B", "1.56B"
    ]  # fmt: skip
