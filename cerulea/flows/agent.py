"""A worker on this machine: takes jobs that were placed on it, runs each in a process of its own, tells how they end.

In:      a desk (over HTTP), a launcher, the number of slots.
Kept:    a job's process dies with the agent; a process that ends without a word is reported dead at once, so that
         nobody waits for a lease to run out. SIGTERM drains: jobs save and go back to the queue.
Not here: the job itself (`flows.perform`, in its own process), the queue.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Protocol

from cerulea.compute.launcher import Child, Launcher, environment
from cerulea.core.clock import new_id
from cerulea.core.errors import CeruleaError, LeaseStale, Unreachable
from cerulea.jobs.protocol import Assignment, wire

KINDS = ("text", "selfplay")  # what the job process can run
POLL_S = 0.2
ENLIST_S = 5.0
COULD_NOT_TELL = 3  # exit code of a job that is well, but found nobody to say so to
FENCE_S = 15.0  # for a process that is done or has lost its job to end by itself; then to stop, before it is killed
DRAIN_S = 60.0  # for saving, before a job is killed
LINES = 500  # of output at a time


class AgentDesk(Protocol):
    """What an agent needs of the platform."""

    def enlist(
        self, worker: str, *, name: str, slots: int, device: str, kinds: Sequence[str]
    ) -> list[tuple[str, str]]: ...

    def bury(self, worker: str) -> None: ...

    def drain(self, worker: str) -> None: ...

    def leave(self, worker: str) -> None: ...

    def claim(self, worker: str) -> list[Assignment]: ...

    def record(
        self, job: str, token: str, attempt: int, entries: list[dict[str, Any]], first_seq: int, stream: str
    ) -> None: ...

    def died(self, job: str, token: str, detail: str, *, crash: bool) -> object: ...


@dataclass(slots=True)
class _Running:
    assignment: Assignment
    child: Child
    unsent: list[dict[str, Any]] = field(default_factory=list)
    sent: int = 0
    fenced_at: float = 0.0  # when we learned that the job is another worker's
    asked_at: float = 0.0  # when we last asked whether it is ours


class Agent:
    """The loop of one worker."""

    def __init__(
        self,
        desk: AgentDesk,
        launcher: Launcher,
        *,
        url: str,
        slots: int,
        device: str,
        threads: int,
        home: Path,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.desk, self.launcher, self.url = desk, launcher, url
        self.slots, self.device, self.threads, self.home, self.say = slots, device, threads, home, say
        self.id = new_id("worker")
        self.name = name_here()
        self.running: dict[str, _Running] = {}
        self._enlisted_at = -ENLIST_S

    def run(self, asked: Callable[[], bool]) -> None:
        """Work until `asked`, then drain."""
        try:
            while not asked():
                self.tick()
                sleep(POLL_S)
        finally:
            self.drain()  # also where our key was revoked: jobs save before they go

    def tick(self) -> None:
        """Say that we are here, take what is ours, look after what runs. The desk may be away: then nothing is new."""
        try:
            if monotonic() - self._enlisted_at >= ENLIST_S:
                others = self.desk.enlist(self.id, name=self.name, slots=self.slots, device=self.device, kinds=KINDS)
                for worker, name in others:
                    if is_dead(name):
                        self.desk.bury(worker)
                self._enlisted_at = monotonic()
            for assignment in self.desk.claim(self.id):
                if assignment.token not in self.running:
                    self._start(assignment)
        except Unreachable:
            pass
        for token in list(self.running):
            self._look_after(token)

    def drain(self) -> None:
        """Let every job save and go back to the queue, then leave."""
        with contextlib.suppress(CeruleaError):  # then it gives us nothing new either
            self.desk.drain(self.id)
        for running in self.running.values():
            running.child.stop()
        deadline = monotonic() + DRAIN_S
        while self.running and monotonic() < deadline:
            for token in list(self.running):
                self._look_after(token)
            sleep(POLL_S)
        for running in self.running.values():
            running.child.kill()
        try:
            self.desk.leave(self.id)
        except CeruleaError as error:
            self.say(f"The platform was not told that this worker goes, and will notice: {error}")

    def _start(self, assignment: Assignment) -> None:
        threads = max(1, self.threads * assignment.slots // self.slots)
        own = max(1, threads // assignment.slots)
        env = environment(CERULEA_HOME=str(self.home), CERULEA_THREADS=str(own), OMP_NUM_THREADS=str(own))
        first = json.dumps({"url": self.url, "assignment": wire(assignment)})
        child = self.launcher.start([sys.executable, "-m", "cerulea.cli.job"], first, env)
        self.running[assignment.token] = _Running(assignment, child)
        self.say(f"{assignment.job}: attempt {assignment.attempt} runs as process {child.pid}")

    def _look_after(self, token: str) -> None:
        running = self.running[token]
        a, code = running.assignment, running.child.poll()
        running.unsent += [{"text": line} for line in running.child.lines()]
        try:
            if monotonic() - running.asked_at > ENLIST_S or running.fenced_at:
                running.asked_at = monotonic()
                self.desk.record(a.job, a.token, a.attempt, [], running.sent, "log")
            while running.unsent:
                batch = running.unsent[:LINES]
                self.desk.record(a.job, a.token, a.attempt, batch, running.sent, "log")
                running.unsent, running.sent = running.unsent[len(batch) :], running.sent + len(batch)
            if code is not None and code != 0:
                how = f"ended with code {code}" if code > 0 else f"was killed by signal {-code}"
                self.desk.died(a.job, a.token, f"Its process {how}.", crash=code > 0 and code != COULD_NOT_TELL)
        except LeaseStale:
            # It said its last word before it ended, or the job was given to another worker.
            running.unsent.clear()
            if code is None:
                self._fence(running)
                return
        except Unreachable:
            return
        except CeruleaError as error:
            self.say(f"{a.job}: {error}")
        if code is not None:
            self.say(f"{a.job}: attempt {a.attempt} ended with code {code}")
            del self.running[token]

    def _fence(self, running: _Running) -> None:
        """The desk has its ending, or gave it to another worker: its process ends by itself, or is ended."""
        if not running.fenced_at:
            running.fenced_at = monotonic()
        elif monotonic() - running.fenced_at > 2 * FENCE_S:
            running.child.kill()
        elif monotonic() - running.fenced_at > FENCE_S:
            running.child.stop()


def name_here() -> str:
    """`host:pid@place`, by which a worker that starts later in the same place knows whether this one still lives.

    The place is this start of the machine and its space of process numbers: a container has one of its own.
    """
    return f"{socket.gethostname()}:{os.getpid()}@{_place()}"


def _place() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()[:8]
        return f"{boot}-{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return "?"


def is_here(name: str) -> bool:
    """Whether a worker of that name runs, or ran, on this machine since it was started."""
    host, _, rest = name.rpartition(":")
    pid, _, place = rest.partition("@")
    return host == socket.gethostname() and pid.isdigit() and place == _place() and place != "?"


def is_dead(name: str) -> bool:
    """Whether a worker of this machine has ended, and its jobs with it; False for those elsewhere."""
    if not is_here(name):
        return False
    pid = name.rpartition(":")[2].partition("@")[0]
    try:
        return b"cerulea" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True
