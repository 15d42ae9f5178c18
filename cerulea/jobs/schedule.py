"""Decide which waiting jobs start, on which workers, and which running ones give way.

In:      a View of teams, workers and jobs at one moment.
Out:     a Decision: placements, preemptions, and for each job that still waits, why.
Policy:  within a team priority, then first come; between teams those within their own slots first, then the lowest
         faded use for its weight (`share`). All slots of a job at once or none. The first job that does not fit keeps
         slots for itself; others run before it only if they end before it starts. A job may take the place of one of
         its team with lower priority, or of one of a team that holds more borrowed slots for its weight than its own
         would then hold: share after < share before, so that nobody is preempted back and forth.
Kept:    nothing is read or written here; the same View gives the same Decision.
Not here: the database (`queue`), money (`flows.work`), the clock (`now` is given).
"""

from __future__ import annotations

import datetime
from operator import attrgetter

from cerulea.jobs.preempt import Victims
from cerulea.jobs.share import Standing, prepaid, turns
from cerulea.jobs.slots import NEVER, Board, Pool
from cerulea.jobs.view import Decision, Policy, Preemption, Reason, Running, Team, View, Waiting, Worker

_seq, _priority = attrgetter("seq"), attrgetter("priority")
_shape = attrgetter("team", "kind", "device", "slots", "priority", "spans")  # what decides where it may run


def decide(view: View, now: int, policy: Policy = Policy()) -> Decision:
    """Who starts, who gives way, and why the others wait.

    Whoever carries it out shows a job with the reason `preempting` as `promised` the next time, so that slots freed for
    it are not given to another; and a job that was told to stop as `stopping`.
    """
    return _Round(view, now, policy).run()


class _Round:
    """One decision in the making."""

    def __init__(self, view: View, now: int, policy: Policy) -> None:
        self.view, self.now, self.policy = view, now, policy
        self.decision = Decision()
        self.board = Board([w for w in view.workers if w.alive], now, policy.short_ms)
        self.standings = {t.name: Standing(t.weight, t.slots, t.used, 0) for t in view.teams}
        self.limits = {t.name: NEVER if t.borrows else t.slots for t in view.teams}
        self.present = dict.fromkeys(self.standings, 0)  # slots held, those of stopping jobs included
        for job in view.running:
            self._seat(job)
        self.victims = Victims(view.running, self.board, self.standings, now, policy)
        self.full: dict[str, str] = {}  # team that may use no more slots: the job that waits for them
        self.pools: dict[tuple[str, str], Pool] = {}  # by kind and device
        self.settled: dict[tuple[object, ...], Reason] = {}  # why jobs of some shape wait

    def run(self) -> Decision:
        """Go through all waiting jobs once, in the order of their turns."""
        reasons, positions, settled = self.decision.reasons, self.decision.positions, self.settled
        position = 0
        for job in self._in_line():
            shape = _shape(job)
            why = settled.get(shape) or settled.get((shape, job.max_ms))
            if why is None and (why := self._place(job, shape)) is None:
                continue
            position += 1
            positions[job.id] = position
            reasons[job.id] = why
        return self.decision

    def _place(self, job: Waiting, shape: tuple[object, ...]) -> Reason | None:
        """Start a job, or say why it waits."""
        limit, pool = self.limits[job.team], self.pools[job.kind, job.device]
        if job.slots > limit:
            return Reason("quota", f"It needs {job.slots} slots; team {job.team} may use {limit}.")
        if job.team in self.full:
            return Reason("turn", f"It is behind {self.full[job.team]}, which waits for slots of its team.")
        over = self.present[job.team] + job.slots > limit
        chosen = None if over else self.board.fit(pool, job.slots, job.spans, job.max_ms)
        if chosen is not None:
            self.board.take(chosen, self._end(job))
            self._hold(job)
            self.decision.placements[job.id] = self.board.named(chosen)
            return None
        if (why := self._free_slots(job, pool)) is not None:
            self._hold(job)
            return why
        if over:
            self.full[job.team] = job.id
            return Reason("quota", f"Team {job.team} uses {self.present[job.team]} of the {limit} slots it may use.")
        if not pool.kept:
            kept = self.board.reserve(job.id, pool, job.slots, job.spans)
            if job.slots > 1:
                when = "" if kept.start == NEVER else f", expected at {_clock(kept.start)}"
                return Reason(
                    "gang", f"It starts with all its {job.slots} slots at once; those free are kept for it{when}."
                )
        # Slots only get scarcer from here on: what is true of this job is true of all that ask for the same.
        why = Reason("turn" if pool.began >= job.slots else "capacity", _sentence(job, pool))
        hopeless = pool.free < job.slots and not self.victims.lower(job)  # however short it is
        self.settled[shape if hopeless else (shape, job.max_ms)] = why
        return why

    def _seat(self, job: Running) -> None:
        """Put a running job's slots where they are."""
        standing, slots = self.standings[job.team], sum(job.slots.values())
        self.present[job.team] += slots
        if not job.stopping:
            standing.held += slots
            standing.used += prepaid(slots, job.started_at, self.now, self.policy.entry_ms)
        self.board.seat(job)

    def _in_line(self) -> list[Waiting]:
        """Jobs that could run if there were room, in the order of their turns; the others are told why not."""
        queues: dict[str, list[Waiting]] = {name: [] for name in self.standings}
        promised: list[Waiting] = []
        pools = self.pools
        for job in self.view.waiting:
            key = job.kind, job.device
            if (pool := pools.get(key)) is None:
                pool = pools[key] = self.board.pool(*key)
            if job.not_before > self.now or job.slots > (pool.slots if job.spans else pool.widest):
                self.decision.reasons[job.id] = self._why_never(job, pool)
            elif job.promised:
                promised.append(job)
            else:
                queues[job.team].append(job)
        lines = []
        for name in sorted(queues):
            queues[name].sort(key=_seq)
            queues[name].sort(key=_priority, reverse=True)  # keeps the order of equals
            lines.append((self.standings[name], queues[name]))
        promised.sort(key=_seq)
        return promised + turns(lines, self.policy.entry_ms)

    def _free_slots(self, job: Waiting, pool: Pool) -> Reason | None:
        """Promise the job slots that come free, preempting for it where the rules allow."""
        limit = self.limits[job.team]
        first = not pool.kept  # nobody before it in line waits for these workers
        if first and self.standings[job.team].held + job.slots <= limit:
            coming = self.board.pick(pool.places, job.slots, job.spans, self.board.room())
            if coming is not None:
                self.board.claim(coming, self._end(job))
                return Reason("preempting", "It starts when those that are stopping have saved.")
        leaving = self.victims.choose(job, pool, first, limit)
        if not leaving:
            return None
        self.board.claim(self.victims.evict(leaving, job, pool, first), self._end(job))
        self.decision.preemptions.extend(Preemption(victim.id, job.id) for victim in leaving)
        return Reason("preempting", f"{', '.join(victim.id for victim in leaving)} saves and gives way to it.")

    def _why_never(self, job: Waiting, pool: Pool) -> Reason:
        """Why a job is not in line at all."""
        workers = self.board.workers
        if job.not_before > self.now:
            return Reason("backoff", f"It failed and is tried again at {_clock(job.not_before)}.")
        if not workers:
            return Reason("no_worker", "No worker is there.")
        if not any(job.device == worker.device for worker in workers):
            return Reason("device", f"No worker has the device {job.device}.")
        if not pool.places:
            return Reason("kind", f"No worker with the device {job.device} runs jobs of the kind {job.kind}.")
        if job.slots > pool.slots:
            return Reason("size", f"It needs {job.slots} slots; all workers for it together have {pool.slots}.")
        return Reason("size", f"It needs {job.slots} slots of one worker; the largest has {pool.widest}.")

    def _hold(self, job: Waiting) -> None:
        standing = self.standings[job.team]
        standing.held += job.slots
        standing.used += job.slots * self.policy.entry_ms
        self.present[job.team] += job.slots

    def _end(self, job: Waiting) -> int:
        return NEVER if job.max_ms is None else self.now + job.max_ms


def _sentence(job: Waiting, pool: Pool) -> str:
    """Why a job that could run on these workers does not."""
    where = f"{job.device} slots that run {job.kind}"
    if pool.began < job.slots:
        if pool.free == 0:
            return f"All {pool.slots} {where} are taken."
        return f"It needs {job.slots} {where}; {pool.free} of {pool.slots} are free."
    if pool.free < job.slots:
        return f"The free {where} went to jobs before it; between teams, less use for the weight comes first."
    if job.id != pool.kept[0].job:
        return f"The free {where} are kept for {pool.kept[0].job}, which is before it."
    return f"It needs {job.slots} {where} on one worker; no worker has that many free."


def _clock(ms: int) -> str:
    """`14:32 UTC`, the minute after `ms`: the same from one decision to the next."""
    return datetime.datetime.fromtimestamp(-(-ms // 60_000) * 60, datetime.UTC).strftime("%H:%M UTC")


__all__ = ["Decision", "Policy", "Preemption", "Reason", "Running", "Team", "View", "Waiting", "Worker", "decide"]
