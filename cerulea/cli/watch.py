"""`cerulea watch`: a job on a platform, seen as `cerulea train` shows one of its own.

In:      what the job tells (metrics, changes of state, its end), live or from its beginning.
Out:     a live panel on a terminal, plain lines otherwise, JSON lines on demand; the exit code of its fate.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from cerulea.cli.lines import put
from cerulea.cli.view import RunView, view_of
from cerulea.core.values import Evaluation, PlayProgress, Progress

if TYPE_CHECKING:
    from cerulea.client import Client


def watch_job(client: Client, job: str, *, as_json: bool) -> int:
    """Show a job until it ends, or rests until somebody does something; returns the exit code.

    Raises:
        NotFound: no such job.
    """
    from cerulea.cli.jobs import fate

    first = client.jobs.get(job)
    with view_of(first.kind, as_json=as_json) as shown:
        view = JobView(shown)
        view.meet(first.name)
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


class JobView:
    """The view of a run, fed from afar."""

    def __init__(self, view: RunView) -> None:
        self.view = view

    def meet(self, title: str) -> None:
        """Begin to show."""
        self.view.title = title
        self.view.open()

    def take(self, kind: str, data: dict[str, Any]) -> None:
        """Show one thing that the job told."""
        if kind == "job":
            what = data["after"] + (f" ({data['reason']})" if data["reason"] else "")
            self.view.say(f"{data['at'][11:19]}  {what}{'  ' + data['detail'] if data['detail'] else ''}")
        elif kind == "metric":
            self._metric(data)

    def part(self, status: str, cost: str, fund: str, detail: str, result: dict[str, Any]) -> None:
        """Say how it ended."""
        self.view.close()
        model = f": {result['model']}@{result['version']}" if "model" in result else ""
        score = self.view.scored(result)
        print(f"{status}{model}{f', {score}' if score else ''}; cost {cost} from {fund}")
        if detail:
            print(f"  {detail}")
        if "model" in result:
            alone = {"sides": 1} if "episode_return" in result else {}
            self.view.facts = self.view.facts or {key: result[key] for key in ("game",) if key in result} | alone
            print(f"next:   {self.view.next_command(result['model'])}")

    def _metric(self, data: dict[str, Any]) -> None:
        match data["event"]:
            case "progress":
                kind = PlayProgress if "agent_steps" in data else Progress
                self.view.step(kind(**_known(kind, data)))
            case "eval":
                self.view.step(Evaluation(**_known(Evaluation, data)))
            case "checkpoint":
                self.view.save(data["step"])
            case "note":
                self.view.say(f"note: {data.get('text', '')}")


def _known(kind: type, data: dict[str, Any]) -> dict[str, Any]:
    """The fields of a value; a number that was none (a loss that was not finite) as NaN again."""
    values = {field.name: data[field.name] for field in fields(kind) if field.name in data}
    return {name: float("nan") if value is None else value for name, value in values.items()}
