"""`cerulea watch`: a job on a platform, seen as `cerulea train` shows one of its own.

In:      what the job tells (metrics, changes of state, its end), live or from its beginning.
Out:     a live panel on a terminal, plain lines otherwise, JSON lines on demand; the exit code of its fate.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from rich.live import Live

from cerulea.cli.lines import put
from cerulea.cli.view import TrainView, command
from cerulea.core.values import Evaluation, Progress

if TYPE_CHECKING:
    from cerulea.client import Client


def watch_job(client: Client, job: str, *, as_json: bool) -> int:
    """Show a job until it ends, or rests until somebody does something; returns the exit code.

    Raises:
        NotFound: no such job.
    """
    from cerulea.cli.jobs import fate

    view = JobView(as_json=as_json)
    with view:
        view.meet(client.jobs.get(job).name)
        for item in client.jobs.follow(job):
            if as_json:
                put({"event": item.type, **item.data})
            else:
                view.take(item.type, item.data)
            if item.type == "job" and item.data["after"] == "PAUSED":
                found = client.jobs.get(job)
                if found.status == "PAUSED" and found.on_budget == "pause":
                    break
        found = client.jobs.get(job)
        if not as_json:
            view.part(found.status, found.cost, found.fund, found.detail or found.waits, found.result)
    return fate(found)


class JobView(TrainView):
    """The view of a run, fed from afar."""

    def meet(self, title: str) -> None:
        """Begin to show."""
        self.title = title
        if not self.as_json and self.console.is_terminal:
            self.live = Live(self._panel(), console=self.console, refresh_per_second=4, transient=True)
            self.live.start()

    def take(self, kind: str, data: dict[str, Any]) -> None:
        """Show one thing that the job told."""
        if kind == "job":
            what = data["after"] + (f" ({data['reason']})" if data["reason"] else "")
            self._say(f"{data['at'][11:19]}  {what}{'  ' + data['detail'] if data['detail'] else ''}")
        elif kind == "metric":
            self._metric(data)

    def part(self, status: str, cost: str, fund: str, detail: str, result: dict[str, Any]) -> None:
        """Say how it ended."""
        if self.live is not None:
            self.live.stop()
            self.live = None
        model = f": {result['model']}@{result['version']}" if "model" in result else ""
        bits = result.get("bits_per_byte")
        print(f"{status}{model}{f', {bits:.4f} bits per byte' if bits is not None else ''}; cost {cost} from {fund}")
        if detail:
            print(f"  {detail}")
        if "model" in result:
            print(f"next:   {command()} sample {result['model']} --n 3")

    def _metric(self, data: dict[str, Any]) -> None:
        match data["event"]:
            case "progress":
                self._progress(Progress(**_known(Progress, data)))
            case "eval":
                self._evaluation(Evaluation(**_known(Evaluation, data)))
            case "checkpoint":
                self.saved = f"step {data['step']:,}"
                if self.live is None:
                    print(f"saved   step {data['step']:,}", flush=True)
            case "note":
                self._say(f"note: {data.get('text', '')}")

    def _say(self, text: str) -> None:
        (self.live.console if self.live else self.console).print(text, markup=False, highlight=False)


def _known(kind: type, data: dict[str, Any]) -> dict[str, Any]:
    """The fields of a value; a number that was none (a loss that was not finite) as NaN again."""
    values = {field.name: data[field.name] for field in fields(kind) if field.name in data}
    return {name: float("nan") if value is None else value for name, value in values.items()}
