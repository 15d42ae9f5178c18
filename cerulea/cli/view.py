"""What a person sees: a live view of training, and tables. Numbers become text here and nowhere before.

Kept:    with `--json` one object per line and nothing else; without a terminal plain lines, few enough to read.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cerulea.cli.lines import put
from cerulea.core.values import Checkpoint, Evaluation, Progress

if TYPE_CHECKING:
    from cerulea.flows.here import Done
    from cerulea.flows.train import Event, Started

LINE_S = 5.0  # seconds between plain progress lines
BARS = "▁▂▃▄▅▆▇█"


class TrainView:
    """Shows what a run yields: JSON lines, plain lines, or a live panel on a terminal."""

    def __init__(self, *, as_json: bool, quiet: bool = False) -> None:
        self.as_json, self.quiet = as_json, quiet
        self.console = Console()
        self.live: Live | None = None
        self.title = "training"
        self.last: Progress | None = None
        self.evaluations: list[Evaluation] = []
        self.losses: list[float] = []
        self.saved = ""
        self.printed_at = self.reported_at = 0.0
        self.first: Progress | None = None

    def __enter__(self) -> TrainView:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None

    def report(self, what: str, done: int, total: int) -> None:
        """Progress of what comes before the first step."""
        now = time.monotonic()
        if self.quiet or self.as_json or now - self.reported_at < 2.0:
            return
        self.reported_at = now
        amount = f": {done / 1e6:,.1f} MB" if done else ""
        print(f"{what}{amount}", flush=True)

    def handle(self, event: Event | Done) -> None:
        """Show one event."""
        if self.quiet:
            return
        kind = type(event).__name__
        if self.as_json:
            self._json(kind, event)
            return
        match event:
            case Progress():
                self._progress(event)
            case Evaluation():
                self._evaluation(event)
            case Checkpoint():
                self.saved = f"step {event.step:,}"
                if self.live is None:
                    print(f"saved   step {event.step:,} to {event.folder}", flush=True)
            case _:
                self._other(kind, event)

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
                    "train_tokens": event.train_tokens,
                    "valid_bytes": event.valid_bytes,
                    "execution": event.execution.as_json(),
                }
            )
        else:
            names = {"Evaluation": "eval"}
            put({"event": names.get(kind, kind.lower()), **asdict(event)})

    # -- plain lines and the live panel -------------------------------------------------------------

    def _other(self, kind: str, event: Any) -> None:
        if kind == "Note":
            (self.live.console if self.live else self.console).print(f"note: {event.text}", markup=False)
        elif kind == "Started":
            self._begin(event)
        elif kind == "Done":
            self._end(event)

    def _begin(self, started: Started) -> None:
        self.title = started.recipe.name
        how = started.execution
        compiled = ", compiled" if how.compile else ""
        print(
            f"{started.recipe.name}: {started.parameters:,} parameters, {started.train_tokens:,} tokens to train on, "
            f"{started.valid_bytes:,} bytes held out\n"
            f"{how.device}, {how.precision}{compiled}, {how.threads} threads ({how.why})\n"
            f"run {started.run}{' (resumed)' if started.resumed else ''}",
            flush=True,
        )
        if sys.stdout.isatty():
            self.live = Live(self._panel(), console=self.console, refresh_per_second=4, transient=True)
            self.live.start()

    def _progress(self, progress: Progress) -> None:
        self.last, self.first = progress, self.first or progress
        self.losses.append(progress.loss)
        now = time.monotonic()
        if progress.skipped:
            (self.live.console if self.live else self.console).print(
                f"skipped step {progress.step:,}: {progress.skipped}", markup=False
            )
        if self.live is not None:
            if now - self.printed_at > 0.25:
                self.printed_at = now
                self.live.update(self._panel())
        elif now - self.printed_at > LINE_S or progress.step == 1:
            self.printed_at = now
            print(
                f"step {progress.step:>6,}  loss {progress.loss:.4f}  {progress.tokens_per_s:>9,.0f} tokens/s  "
                f"{progress.flops_utilization:4.0%} of peak  {progress.elapsed_s:6.1f} s  "
                f"{self._left(progress)} left",
                flush=True,
            )

    def _evaluation(self, evaluation: Evaluation) -> None:
        self.evaluations.append(evaluation)
        if self.live is not None:
            self.live.update(self._panel())
            return
        print(
            f"scored  step {evaluation.step:,}: {evaluation.bits_per_byte:.4f} bits per byte "
            f"({evaluation.loss:.4f} nats per token) at {evaluation.elapsed_s:.1f} s",
            flush=True,
        )
        if evaluation.sample:
            print(_indented(evaluation.sample), flush=True)

    def _left(self, progress: Progress) -> str:
        first = self.first
        if progress.fraction >= 1:
            return "0 s"
        # From the first step on: what came before it does not repeat itself.
        if first is None or progress.fraction <= first.fraction:
            return "some time"
        pace = (progress.elapsed_s - first.elapsed_s) / (progress.fraction - first.fraction)
        return duration(pace * (1 - progress.fraction))

    def _panel(self) -> Panel:
        rows = Table.grid(padding=(0, 2))
        if (p := self.last) is not None:
            width = max(20, min(80, shutil.get_terminal_size().columns - 24))
            rows.add_row("done", ProgressBar(total=1.0, completed=p.fraction, width=width))
            rows.add_row("step", f"{p.step:,}   {p.tokens:,} tokens   {self._left(p)} left")
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

    def _end(self, done: Done) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None
            if self.evaluations and self.evaluations[-1].sample:
                print(_indented(self.evaluations[-1].sample))
        before = (
            f" (before training {self.evaluations[0].bits_per_byte:.4f})"
            if self.evaluations and self.evaluations[0].step == 0
            else ""
        )
        score = f"{done.bits_per_byte:.4f} bits per byte{before}" if done.bits_per_byte is not None else "not scored"
        print(
            f"done: {done.model}@{done.version}, {score}, {done.step:,} steps, "
            f"{done.usage.trained_tokens:,} tokens in {duration(done.train_s)}; stopped by {done.stop_reason}"
        )
        print(f"cost:   {done.cost} from fund {done.fund}")
        if done.model_step != done.step:
            print(f"kept:   the model of step {done.model_step:,}, which scored best")
        if done.stop_reason.startswith("SIG"):
            print("go on:  the same command with --resume")
        print(f"next:   {command()} sample {done.model} --n 3")


def command() -> str:
    """How to type our command here: `cerulea` where it is on the path, else where it lies."""
    if shutil.which("cerulea"):
        return "cerulea"
    path = sys.argv[0]
    return os.path.relpath(path) if path.endswith("cerulea") else "python -m cerulea.cli.main"


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


# -- tables ------------------------------------------------------------------------------------------


def show_machine(values: dict[str, Any]) -> None:
    """`cerulea doctor` for a person."""
    print(
        f"{values['device']}: {values['cores']} cores, {values['threads']} threads, "
        f"{values['memory_bytes'] / 2**30:.1f} GiB of memory"
    )
    print(
        f"matrix products   fp32 {values['matmul_fp32_gflops']:,.0f} GFLOP/s   "
        f"bf16 {values['matmul_bf16_gflops']:,.0f} GFLOP/s"
    )
    print(f"memory reads      {values['memory_read_gb_per_s']:.1f} GB/s")
    for gpu in values["gpus"]:
        print(f"gpu               {gpu['name']}, {gpu['memory_bytes'] / 2**30:.0f} GiB")
    print(f"training begins with {values['precision']}; each run probes its own shape where there is a choice")


def show_score(values: dict[str, Any]) -> None:
    """`cerulea eval` for a person."""
    print(
        f"{values['bits_per_byte']:.4f} bits per byte, perplexity {values['perplexity']:.3f} "
        f"({values['loss']:.4f} nats per token), {values['tokens']:,} tokens, {values['bytes']:,} bytes"
    )


def show_tasks(suite: str, tasks: dict[str, dict[str, Any]]) -> None:
    """A suite's results; what is missing is named."""
    table = Table(title=suite)
    table.add_column("task")
    table.add_column("result")
    for name, metrics in tasks.items():
        cells = [f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in metrics.items()]
        table.add_row(name, "\n".join(cells))
    Console().print(table)


def show_text(number: int, of: int, prompt: str, text: str) -> None:
    """One sample."""
    if of > 1:
        print(f"--- {number + 1} of {of}")
    print(f"{prompt}{text}")


def show_models(found: Sequence[dict[str, Any]]) -> None:
    """`cerulea models` for a person."""
    if not found:
        print(f"No models yet. Train one: {command()} train recipes/quickstart.toml")
        return
    table = Table()
    for column in ("model", "aliases", "preset", "parameters", "context", "bits per byte", "trained tokens"):
        table.add_column(column, justify="left" if column in ("model", "aliases", "preset") else "right")
    for model in found:
        bits = model.get("bits_per_byte")
        table.add_row(
            f"{model['model']}@{model['version']}",
            "retired" if model["retired"] else " ".join(model["aliases"]),
            str(model.get("preset", "")),
            f"{model.get('parameters', 0):,}",
            f"{model.get('context', 0):,}",
            f"{bits:.4f}" if bits is not None else "-",
            f"{model.get('trained_tokens', 0):,}",
        )
    Console().print(table)


def show_moves(moves: Sequence[dict[str, Any]], as_json: bool) -> None:
    """Moves of aliases, one a line."""
    for move in moves:
        if as_json:
            put(move)
            continue
        before, after = (f"{move['model']}@{n}" if n else "nothing" for n in (move["before"], move["after"]))
        print(f"{move['at']}  {move['model']}:{move['alias']}  {before} -> {after}  by {move['actor']}")


def show_known(known: dict[str, Any], depth: int = 0) -> None:
    """`cerulea show` for a person: keys and values, evaluations as a table."""
    for name, value in known.items():
        pad = "  " * depth
        if depth == 0 and value is None:
            continue
        if isinstance(value, dict):
            print(f"{pad}{name}:")
            show_known(value, depth + 1)
        elif name == "evaluations" and value:
            print(f"{pad}evaluations:")
            for line in value:
                print(
                    f"{pad}  step {line['step']:>7,}  {line['bits_per_byte']:.4f} bits per byte  "
                    f"{line['elapsed_s']:.1f} s"
                )
        else:
            print(f"{pad}{name}: {value}")
