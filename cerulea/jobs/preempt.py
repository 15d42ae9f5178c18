"""Which running jobs give way to a waiting one.

Rules:   a job gives way to one of its own team with higher priority. To another team's it gives way only while its
         team holds more borrowed slots for its weight than the other would hold with the new job: share after < share
         before. A team that takes back slots of its own holds no borrowed ones. One that borrows, too, must have used
         less, must not end up with more than it leaves the other (unless it holds nothing yet), and takes the place of
         no job in the time that was charged for at its start. Nobody takes the place of a job of another team that it
         gave way to before. All slots that are needed come free, or nobody stops.
Kept:    the larger of the two shares falls with every exchange between teams, so while nothing else changes no two jobs
         can preempt one another in turns.
Not here: which job asks first (`schedule`); how a job stops and saves (`flows.work`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from cerulea.jobs.share import Standing
from cerulea.jobs.slots import NEVER, Board, Pool
from cerulea.jobs.view import Policy, Running, Waiting


class Victims:
    """Running jobs that may be stopped in this decision."""

    def __init__(
        self, running: Sequence[Running], board: Board, standings: Mapping[str, Standing], now: int, policy: Policy
    ) -> None:
        self.board, self.standings, self.now, self.policy = board, standings, now, policy
        able = [job for job in running if job.preemptible and not job.stopping]
        able.sort(key=lambda job: (job.priority, -job.started_at, job.id))  # the least is lost first
        self.by_team: dict[str, list[Running]] = {name: [] for name in standings}
        for job in able:
            self.by_team[job.team].append(job)
        self.at: list[list[Running]] = [[] for _ in board.slots]  # by place
        for job in able:
            for place in board.on(job):
                self.at[place].append(job)
        self.exempt = {job.id for job in able if now - job.started_at < policy.exempt_ms}
        self._refused: dict[tuple[str, Pool, bool], int] = {}  # fewest slots that a team could not free for itself

    def choose(self, job: Waiting, pool: Pool, first: bool, limit: int) -> list[Running]:
        """The jobs to stop for `job`, or none where that is not enough or not allowed.

        Args:
            first: it is first in line, and may use what is free and take from other teams; else its own team swaps.
            limit: slots that its team may use.
        """
        if not self.lower(job) and (not first or self.standings[job.team].held + job.slots > limit):
            return []
        key = (job.team, pool, job.spans)
        if not first and job.slots >= self._refused.get(key, NEVER):
            return []  # jobs of a team come with falling priority: what one could not get, the next cannot
        if job.spans and job.slots > 1:
            found = self._gather(job, pool, pool.places, first, limit)
        else:
            found = self._gather_on_one(job, pool, first, limit)
        if not found and not first:
            self._refused[key] = min(job.slots, self._refused.get(key, NEVER))
        return found

    def lower(self, job: Waiting) -> bool:
        """Whether a job of its team with lower priority runs."""
        own = self.by_team[job.team]
        return bool(own) and own[0].priority < job.priority

    def evict(self, leaving: Sequence[Running], job: Waiting, pool: Pool, first: bool) -> dict[int, int]:
        """Stop them, and return the slots that `job` gets by place."""
        freed = [0] * len(self.board.slots)
        for victim in leaving:
            for place, n in self._gain(victim, job, pool, set(pool.places), first).items():
                freed[place] += n
            self.board.vacate(victim)
            self.standings[victim.team].held -= _slots([victim])
            self.by_team[victim.team].remove(victim)
            for place in self.board.on(victim):
                self.at[place].remove(victim)
        chosen = self.board.pick(pool.places, job.slots, job.spans, self.board.room() if first else freed)
        assert chosen is not None, "choose() counted the same slots"
        return chosen

    def _gather_on_one(self, job: Waiting, pool: Pool, first: bool, limit: int) -> list[Running]:
        """The fewest jobs, then the fewest slots, on any one worker."""
        best: list[Running] = []
        for place in pool.places:
            if self.board.slots[place] >= job.slots and self.at[place]:
                found = self._gather(job, pool, [place], first, limit)
                if found and (not best or (len(found), _slots(found)) < (len(best), _slots(best))):
                    best = found
                if len(best) == 1 and _slots(best) <= job.slots:
                    break
        return best

    def _gather(self, job: Waiting, pool: Pool, places: Sequence[int], first: bool, limit: int) -> list[Running]:
        """Stop one after the other until the job fits on these places, then spare those that were not needed."""
        within = set(places)
        asking = self.standings[job.team]
        able = self.at[places[0]] if len(places) == 1 else [v for team in self.by_team.values() for v in team]
        room = sum(self.board.free[p] + self.board.coming[p] for p in places) if first else 0
        chosen: list[tuple[Running, int]] = []  # and the slots that it gives
        lost: dict[str, int] = {}

        def stop(victim: Running) -> None:
            nonlocal room
            gain = sum(self._gain(victim, job, pool, within, first).values())
            if gain:
                room += gain
                chosen.append((victim, gain))
                lost[victim.team] = lost.get(victim.team, 0) + _slots([victim])

        def stop_own() -> None:
            for victim in able:
                if room >= job.slots:
                    return
                if victim.team == job.team and victim.priority < job.priority:
                    stop(victim)

        def stop_others() -> None:
            queues: dict[str, deque[Running]] = {}
            for victim in able:
                if victim.team != job.team and victim.id not in self.exempt and victim.id not in job.gave_way_to:
                    queues.setdefault(victim.team, deque()).append(victim)
            while room < job.slots:
                after = asking.borrowed(job.slots - lost.get(job.team, 0))
                teams = [t for t, queue in queues.items() if queue and self._may(asking, job, after, queue[0], lost)]
                if not teams:
                    return
                most = max(teams, key=lambda team: (self._share(team, lost), team))
                stop(queues[most].popleft())

        if not first:
            stop_own()
        elif asking.held + job.slots <= min(asking.quota, limit):
            stop_others()
            stop_own()
        else:
            stop_own()
            if asking.held - lost.get(job.team, 0) + job.slots <= limit:
                stop_others()
        if room < job.slots or asking.held - lost.get(job.team, 0) + job.slots > limit:
            return []
        # An own job that stopped lowered the share that others were measured by: it is spared only without them.
        keep_own = asking.held + job.slots > limit or any(victim.team != job.team for victim, _ in chosen)
        for victim, gain in reversed(chosen):
            if room - gain >= job.slots and not (keep_own and victim.team == job.team):
                room -= gain
                chosen.remove((victim, gain))
        return [victim for victim, _ in chosen]

    def _gain(self, victim: Running, job: Waiting, pool: Pool, within: set[int], first: bool) -> dict[int, int]:
        """Slots by place that the job would get from it."""
        end = self.board.end(victim)
        return {
            place: n
            for place, n in self.board.on(victim).items()
            if place in within and (first or self.board.replaces(place, end, job.max_ms, pool))
        }

    def _share(self, team: str, lost: Mapping[str, int]) -> float:
        return self.standings[team].borrowed(-lost.get(team, 0))

    def _may(self, asking: Standing, job: Waiting, after: float, victim: Running, lost: Mapping[str, int]) -> bool:
        """Whether the asking team, with `after` borrowed slots for its weight, may take the place of `victim`."""
        if after >= self._share(victim.team, lost):
            return False
        if after == 0:
            return True
        if self.now - victim.started_at < self.policy.entry_ms:
            return False
        other, gone = self.standings[victim.team], _slots([victim])
        left = other.borrowed(-lost.get(victim.team, 0) - gone)
        if after > left and asking.held:
            return False
        # Both are charged for a start by the exchange; the one that used less must be the same before and after.
        charged = asking.used + 2 * job.slots * self.policy.entry_ms
        return charged / asking.weight < (other.used - gone * self.policy.entry_ms) / other.weight


def _slots(jobs: Sequence[Running]) -> int:
    return sum(sum(job.slots.values()) for job in jobs)
