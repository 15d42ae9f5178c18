"""What a person sees of a run: JSON lines, plain lines, or a live panel on a terminal. Numbers become text here.

In:      what a run yields (`flows.story.Event`), and at its end Done.
Kept:    with `--json` one object per line and nothing else; without a terminal plain lines, few enough to read.
Not here: games (`view_play`), tables (`tables`).
"""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cerulea.cli.lines import LINE_S, put
from cerulea.core.values import Checkpoint, Evaluation, PlayProgress, Progress

if TYPE_CHECKING:
    from cerulea.flows.here import Done
    from cerulea.flows.story import Event, Started

BARS = "▁▂▃▄▅▆▇█"


def view_of(kind: str, *, as_json: bool, quiet: bool = False) -> RunView:
    """The view of a kind of recipe."""
    if kind == "selfplay":
        from cerulea.cli.view_play import PlayView

        return PlayView(as_json=as_json, quiet=quiet)
    return TextView(as_json=as_json, quiet=quiet)


class RunView:
    """What views of all kinds of runs share; a kind fills in its lines and its panel."""

    names: ClassVar[dict[str, str]] = {"Evaluation": "eval", "PlayProgress": "progress"}  # of events, in JSON

    def __init__(self, *, as_json: bool, quiet: bool = False) -> None:
        self.as_json, self.quiet = as_json, quiet
        self.console = Console()
        self.live: Live | None = None
        self.title = "training"
        self.saved = self.spent = self.doing = ""
        self.facts: dict[str, Any] = {}
        self.printed_at = self.reported_at = 0.0
        self.first: tuple[float, float] | None = None  # (elapsed_s, fraction) of the first step seen

    def __enter__(self) -> RunView:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the panel away."""
        if self.live is not None:
            self.live.stop()
            self.live = None

    def open(self) -> None:
        """Show the panel, where there is a terminal."""
        if not self.as_json and sys.stdout.isatty():
            self.live = Live(self.panel(), console=self.console, refresh_per_second=4, transient=True)
            self.live.start()

    def report(self, what: str, done: int, total: int) -> None:
        """Progress of what comes before the first step, or after the last one."""
        now = time.monotonic()
        if self.quiet or self.as_json or now - self.reported_at < 2.0:
            return
        self.reported_at = now
        amount = f": {done / 1e6:,.1f} MB" if done else ""
        self.doing = f"{what}{amount}"
        if self.live is None:
            print(self.doing, flush=True)
        else:
            self.live.update(self.panel())

    def handle(self, event: Event | Done) -> None:
        """Show one event."""
        if self.quiet:
            return
        kind = type(event).__name__
        if self.as_json:
            self._json(kind, event)
        elif kind == "Note":
            self.say(f"note: {event.text}")  # type: ignore[union-attr]
        elif kind == "Started":
            self._begin(event)  # type: ignore[arg-type]
        elif kind == "Done":
            self.close()
            self.end(event)  # type: ignore[arg-type]
        elif kind == "Spent":
            self.spent = event.amount  # type: ignore[union-attr]
        elif isinstance(event, Checkpoint):
            self.save(event.step, str(event.folder))
        else:
            self.step(event)

    def say(self, text: str) -> None:
        """One line, above the panel where there is one."""
        (self.live.console if self.live else self.console).print(text, markup=False, highlight=False)

    def save(self, step: int, where: str = "") -> None:
        """A checkpoint was written."""
        self.saved = f"step {step:,}"
        if self.live is None:
            print(f"saved   step {step:,}{f' to {where}' if where else ''}", flush=True)

    def _json(self, kind: str, event: Any) -> None:
        if kind == "Checkpoint":
            put(
                {
                    "event": "checkpoint",
                    "step": event.step,
                    "digest": event.digest,
                    "folder": str(event.folder),
                    "write_s": event.write_s,
                    "stall_s": event.stall_s,
                }
            )
        elif kind == "Started":
            put(
                {
                    "event": "started",
                    "run": event.run,
                    "folder": str(event.folder),
                    "parameters": event.parameters,
                    **event.facts,
                    "execution": event.execution.as_json(),
                }
            )
        elif kind == "Done":
            values = asdict(event)
            put({"event": "done", **values.pop("score"), **values})
        elif kind not in ("Seen", "Spent"):  # for eyes alone
            put({"event": self.names.get(kind, kind.lower()), **asdict(event)})

    def _begin(self, started: Started) -> None:
        self.title, self.facts = started.recipe.name, started.facts
        how = started.execution
        compiled = ", compiled" if how.compile else ""
        processes = started.facts.get("processes", 1)
        each = f"{processes} processes of " if processes > 1 else ""
        print(
            f"{started.recipe.name}: {started.parameters:,} parameters, {self.ground(started)}\n"
            f"{how.device}, {how.precision}{compiled}, {each}{counted(how.threads, 'thread')} ({how.why})\n"
            f"run {started.run}{' (resumed)' if started.resumed else ''}",
            flush=True,
        )
        self.open()

    def refresh(self, progress: Progress | PlayProgress) -> bool:
        """Take note of a step; true where a plain line is due, while the panel is drawn anew by itself."""
        self.first = self.first or (progress.elapsed_s, progress.fraction)
        now = time.monotonic()
        if self.live is not None:
            if now - self.printed_at > 0.25:
                self.printed_at = now
                self.live.update(self.panel())
            return False
        due = now - self.printed_at > LINE_S or progress.step == 1
        self.printed_at = now if due else self.printed_at
        return due

    def left(self, progress: Progress | PlayProgress) -> str:
        """How long the rest will take, by the pace so far; nothing where that is not known yet."""
        if progress.fraction >= 1:
            return "0 s left"
        # From the first step on: what came before it does not repeat itself.
        if self.first is None or progress.fraction <= self.first[1]:
            return ""
        pace = (progress.elapsed_s - self.first[0]) / (progress.fraction - self.first[1])
        return f"{duration(pace * (1 - progress.fraction))} left"

    def closing(self, done: Done) -> None:
        """The lines that end every run."""
        print(f"cost:   {done.cost} from fund {done.fund}")
        if done.model_step != done.step:
            print(f"kept:   the model of step {done.model_step:,}, which scored best")
        if done.stop_reason.startswith("SIG"):
            print("go on:  the same command with --resume")
        print(f"next:   {self.next_command(done.model)}")

    # -- what a kind fills in ------------------------------------------------------------------------

    def ground(self, started: Started) -> str:
        """What is trained on, in a few words."""
        raise NotImplementedError

    def step(self, event: Any) -> None:
        """Show a step, or what was measured."""
        raise NotImplementedError

    def panel(self) -> Panel:
        """The live panel."""
        raise NotImplementedError

    def end(self, done: Done) -> None:
        """Say what came out."""
        raise NotImplementedError

    def scored(self, result: dict[str, Any]) -> str:
        """How good a job's model is, in a few words; nothing where nobody measured."""
        raise NotImplementedError

    def next_command(self, model: str) -> str:
        """What a person may want to type next."""
        raise NotImplementedError


class TextView(RunView):
    """The view of a language model's run."""

    def __init__(self, *, as_json: bool, quiet: bool = False) -> None:
        super().__init__(as_json=as_json, quiet=quiet)
        self.last: Progress | None = None
        self.evaluations: list[Evaluation] = []
        self.losses: list[float] = []

    def ground(self, started: Started) -> str:
        """Tokens and bytes."""
        facts = started.facts
        return f"{facts['train_tokens']:,} tokens to train on, {facts['valid_bytes']:,} bytes held out"

    def step(self, event: Any) -> None:
        """A step or an evaluation."""
        if isinstance(event, Progress):
            self._progress(event)
        elif isinstance(event, Evaluation):
            self._evaluation(event)

    def _progress(self, progress: Progress) -> None:
        self.last = progress
        self.losses.append(progress.loss)
        if progress.skipped:
            self.say(f"skipped step {progress.step:,}: {progress.skipped}")
        if self.refresh(progress):
            print(
                f"step {progress.step:>6,}  loss {progress.loss:.4f}  {progress.tokens_per_s:>9,.0f} tokens/s  "
                f"{progress.flops_utilization:4.0%} of peak  {progress.elapsed_s:6.1f} s  "
                f"{self.left(progress)}".rstrip(),
                flush=True,
            )

    def _evaluation(self, evaluation: Evaluation) -> None:
        self.evaluations.append(evaluation)
        if self.live is not None:
            self.live.update(self.panel())
            return
        print(
            f"scored  step {evaluation.step:,}: {evaluation.bits_per_byte:.4f} bits per byte "
            f"({evaluation.loss:.4f} nats per token) at {evaluation.elapsed_s:.1f} s",
            flush=True,
        )
        if evaluation.sample:
            print(_indented(evaluation.sample), flush=True)

    def panel(self) -> Panel:
        """Loss, speed and held-out scores."""
        rows = Table.grid(padding=(0, 2))
        if (p := self.last) is not None:
            width = max(20, min(80, shutil.get_terminal_size().columns - 24))
            rows.add_row("done", ProgressBar(total=1.0, completed=p.fraction, width=width))
            rows.add_row("step", f"{p.step:,}   {p.tokens:,} tokens   {self.left(p)}")
            rows.add_row("loss", f"{p.loss:.4f} nats per token   rate {p.learning_rate:.2f}")
            rows.add_row("", Text(curve(self.losses, width), style="cyan"))
            rows.add_row(
                "speed", f"{p.tokens_per_s:,.0f} tokens/s   {p.flops_utilization:.0%} of this machine's measured peak"
            )
        if self.evaluations:
            first, e = self.evaluations[0], self.evaluations[-1]
            best = min(x.bits_per_byte for x in self.evaluations)
            rows.add_row(
                "held out",
                f"{e.bits_per_byte:.4f} bits per byte at step {e.step:,}   "
                f"best {best:.4f}   first {first.bits_per_byte:.4f}",
            )
        if self.saved:
            rows.add_row("saved", self.saved)
        parts: list[Any] = [rows]
        if self.evaluations and self.evaluations[-1].sample:
            parts.append(Text("\n" + self.evaluations[-1].sample[:600], style="italic"))
        return Panel(Group(*parts), title=self.title, border_style="blue")

    def end(self, done: Done) -> None:
        """The score before and after."""
        if self.evaluations and self.evaluations[-1].sample and sys.stdout.isatty():
            print(_indented(self.evaluations[-1].sample))
        before = (
            f" (before training {self.evaluations[0].bits_per_byte:.4f})"
            if self.evaluations and self.evaluations[0].step == 0
            else ""
        )
        score = self.scored(done.score)
        print(
            f"done: {done.model}@{done.version}, {f'{score}{before}' if score else 'not scored'}, {done.step:,} steps, "
            f"{done.usage.trained_tokens:,} tokens in {duration(done.train_s)}; stopped by {done.stop_reason}"
        )
        self.closing(done)

    def scored(self, result: dict[str, Any]) -> str:
        """Bits per byte."""
        bits = result.get("bits_per_byte")
        return f"{bits:.4f} bits per byte" if bits is not None else ""

    def next_command(self, model: str) -> str:
        """Let it write."""
        return f"{command()} sample {model} --n 3"


def command() -> str:
    """How to type our command here: `cerulea` where it is on the path, else where it lies."""
    if shutil.which("cerulea"):
        return "cerulea"
    path = sys.argv[0]
    return os.path.relpath(path) if path.endswith("cerulea") else "python -m cerulea.cli.main"


def counted(number: int, what: str) -> str:
    """1 thread, 2 threads."""
    return f"{number} {what}" + ("" if number == 1 else "s")


def duration(seconds: float) -> str:
    """1 h 02 min, 3 min 20 s, or 12 s."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


def curve(values: list[float], width: int) -> str:
    """A line of bars: the mean of each part of the run, between the lowest and the highest."""
    if not values:
        return ""
    count = min(width, len(values))
    edges = [len(values) * i // count for i in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low, high = min(means), max(means)
    span = (high - low) or 1.0
    return "".join(BARS[min(7, int(8 * (m - low) / span))] if m == m else "?" for m in means)


def _indented(text: str) -> str:
    return "\n".join(f"    | {line}" for line in text.split("\n"))
