"""The desk of a platform elsewhere: `flows.work.Desk`, spoken over HTTP.

Kept:    an answer that says why is raised as the error it was; no answer is Unreachable, and the caller asks again:
         every message may come twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx

from cerulea.client.problems import error_of
from cerulea.core.errors import Unreachable
from cerulea.core.files import json_line
from cerulea.jobs.protocol import Assignment, Ending, Order, Report, wire

TIMEOUT_S = 15.0


class RemoteDesk:
    """Where a worker reports over HTTP."""

    def __init__(self, url: str, key: str) -> None:
        """`key` is an API key of role service (`ck_...`), or the token of one attempt, which opens that job alone."""
        bearer = key if key.startswith("ck_") else f"lt_{key}"
        self._http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {bearer}", "Content-Type": "application/json"},
            timeout=TIMEOUT_S,
            trust_env=False,
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def enlist(self, worker: str, *, name: str, slots: int, device: str, kinds: Sequence[str]) -> list[tuple[str, str]]:
        """A worker is there; (id, name) of the others."""
        body = {"worker": worker, "name": name, "slots": slots, "device": device, "kinds": list(kinds)}
        return [(other["id"], other["name"]) for other in self._post("enlist", body)["others"]]

    def bury(self, worker: str) -> None:
        """A worker is surely dead, and its jobs' processes with it."""
        self._post("bury", {"worker": worker})

    def drain(self, worker: str) -> None:
        """A worker is about to go: nothing new for it."""
        self._post("drain", {"worker": worker})

    def leave(self, worker: str) -> None:
        """A worker goes."""
        self._post("leave", {"worker": worker})

    def claim(self, worker: str) -> list[Assignment]:
        """What the worker was given and has not begun."""
        return [Assignment.of(item) for item in self._post("claim", {"worker": worker})["assignments"]]

    def heartbeat(self, job: str, token: str, report: Report) -> Order:
        """Report, and be told how to go on."""
        return Order.of(self._post(f"jobs/{job}/heartbeat", {"token": token, "report": wire(report)}))

    def record(
        self, job: str, token: str, attempt: int, entries: list[dict[str, Any]], first_seq: int, stream: str
    ) -> None:
        """Keep metrics or log lines."""
        body = {"token": token, "attempt": attempt, "entries": entries, "first_seq": first_seq, "stream": stream}
        self._post(f"jobs/{job}/record", body)

    def finish(self, job: str, token: str, ending: Ending) -> None:
        """Say how an attempt ended."""
        self._post(f"jobs/{job}/finish", {"token": token, "ending": wire(ending)})

    def died(self, job: str, token: str, detail: str, *, crash: bool) -> None:
        """Say that its process ended without a word."""
        self._post(f"jobs/{job}/died", {"token": token, "detail": detail, "crash": crash})

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        try:
            # NaN becomes null, half of a surrogate pair a question mark: neither may keep a report from arriving.
            content = json_line(body).encode("utf-8", "replace")
            answer = self._http.post(f"/api/work/{path}", content=content)
        except httpx.HTTPError as error:
            raise Unreachable(
                f"The platform at {self._http.base_url} does not answer: {error}.", fix="Is `cerulea up` running?"
            ) from error
        if answer.status_code >= 500:
            raise Unreachable(f"The platform at {self._http.base_url} answers {answer.status_code}.")
        if answer.is_error:
            raise error_of(answer.status_code, answer.content)
        return answer.json()
