"""The view of a self-play run: speed in decisions and in years of play, win shares, rating, and a map of one match.

In:      PlayProgress, checkpoints, and now and then the frame of the match that is being played.
Not here: what views share, JSON lines (`view`), replays (`replaying`).
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from rich.columns import Columns
from rich.console import Group
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cerulea.cli.board import board
from cerulea.cli.view import RunView, command, curve, duration
from cerulea.core.values import PlayProgress

if TYPE_CHECKING:
    from cerulea.flows.here import Done
    from cerulea.flows.story import Started

SHOWN = 8  # opponents, the newest ones
BAR = 24  # characters of a share's bar


class PlayView(RunView):
    """The view of an agent's run."""

    def __init__(self, *, as_json: bool, quiet: bool = False) -> None:
        super().__init__(as_json=as_json, quiet=quiet)
        self.last: PlayProgress | None = None
        self.ratings: list[float] = []
        self.frame: dict[str, Any] = {}

    def ground(self, started: Started) -> str:
        """The game and how much of it is played at once."""
        facts = started.facts
        return f"{facts['matches']:,} matches of {facts['game']} at a time, {facts['players']} players each"

    def step(self, event: Any) -> None:
        """A step, or what is to be seen of a match."""
        if not isinstance(event, PlayProgress):
            self.frame = getattr(event, "frame", self.frame)
            return
        self.last = event
        self.ratings.append(event.rating)
        if self.refresh(event):
            years = f"{event.match_years_per_day:,.1f} years/day  " if event.match_years_per_day else ""
            print(
                f"step {event.step:>6,}  {event.agent_steps / 1e6:8.2f} M learned from  "
                f"{event.agent_steps_per_s:>8,.0f} played/s  {years}{_shares(event.win_shares, 3)}  "
                f"online rating {event.rating:.1f}  entropy {event.entropy:.2f}  {event.elapsed_s:6.1f} s  "
                f"{self.left(event)}".rstrip(),
                flush=True,
            )

    def panel(self) -> Panel:
        """Numbers on the left, the match on the right."""
        rows = Table.grid(padding=(0, 2))
        if (p := self.last) is not None:
            width = max(20, min(60, shutil.get_terminal_size().columns - 64))
            rows.add_row("done", ProgressBar(total=1.0, completed=p.fraction, width=width))
            rows.add_row("step", f"{p.step:,}   {p.agent_steps:,} decisions learned from   {self.left(p)}")
            years = f"   {p.match_years_per_day:,.1f} match-years a day" if p.match_years_per_day else ""
            rows.add_row("speed", f"{p.agent_steps_per_s:,.0f} decisions/s of all who play{years}")
            rows.add_row(
                "matches", f"{p.matches:,}   {p.episode_steps:,.0f} steps each   return {p.episode_return:.2f}"
            )
            rows.add_row("online rating", f"{p.rating:.1f}, by training's own matches")
            rows.add_row("", Text(curve(self.ratings, width), style="cyan"))
            rows.add_row(
                "policy",
                f"entropy {p.entropy:.3f}   divergence {p.divergence:.4f}   value explains {p.explained_variance:.0%}",
            )
            rows.add_row("samples", f"staleness {p.staleness:.2f} versions   reuse {p.reuse:.2f}")
            for name, share in list(p.win_shares.items())[-SHOWN:]:
                rows.add_row(Text(name[-24:]), Text(f"{_bar(share)} {share:4.0%}"))
        if self.spent:
            rows.add_row("cost", self.spent)
        if self.saved:
            rows.add_row("saved", self.saved)
        if p is not None and p.fraction >= 1 and self.doing:
            rows.add_row("now", self.doing)
        parts: list[Any] = [rows]
        if (drawn := board(self.frame)) is not None:
            parts.append(drawn)
        return Panel(Group(Columns(parts)), title=self.title, border_style="blue")

    def end(self, done: Done) -> None:
        """The rating, and against whom it won."""
        print(
            f"done: {done.model}@{done.version}, {self.scored(done.score) or 'not rated'}, {done.step:,} steps, "
            f"{done.usage.agent_steps:,} decisions in {duration(done.train_s)}; stopped by {done.stop_reason}"
        )
        shares = done.score.get("win_shares") or {}
        if shares:
            late = done.score.get("timeouts") or {}
            told = (f"{name} {share:.0%}{_late(late.get(name, 0.0))}" for name, share in shares.items())
            print(f"won:    {'; '.join(told)}")
        self.closing(done)

    def scored(self, result: dict[str, Any]) -> str:
        """The rating with its interval; of a game of one side what a match paid in training."""
        if result.get("rating") is None:
            paid = result.get("episode_return")
            return f"mean return {paid:.1f}" if paid is not None else ""
        low, high = result.get("low"), result.get("high")
        return f"rating {result['rating']:.1f}" + (f" ({low:.1f} to {high:.1f})" if low is not None else "")

    def next_command(self, model: str) -> str:
        """Let it play; in a game of one side there is nobody to play against."""
        if self.facts.get("sides", 2) < 2:
            return f"{command()} eval {model}"
        game = str(self.facts.get("game", "GAME"))
        return f"{command()} match {model} bot:random --game {game}"


def _shares(shares: dict[str, float], most: int) -> str:
    return "  ".join(f"{name} {share:.0%}" for name, share in list(shares.items())[:most])


def _late(share: float) -> str:
    """The share of matches that ran out of time, which are nobody's win."""
    return f", {share:.0%} ran out of time" if share else ""


def _bar(share: float) -> str:
    full = round(BAR * max(0.0, min(1.0, share)))
    return "█" * full + "░" * (BAR - full)
