"""The slots of all live workers while one decision is made: free, coming free, taken, kept for a job.

Kept:    no worker gives more than it has; what is kept for a job is given only to jobs that end before it starts,
         or that leave it enough.
Not here: who comes first, who is preempted (`schedule`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from cerulea.jobs.view import Running, Worker

NEVER = 1 << 62  # the end of a job whose end nobody knows


class Pool:
    """The workers that can run one kind of job on one device."""

    __slots__ = ("began", "free", "kept", "places", "refused", "refused_long", "slots", "widest")

    def __init__(self, places: list[int], slots: Sequence[int], free: Sequence[int]) -> None:
        self.places = places
        self.slots = sum(slots[p] for p in places)
        self.widest = max((slots[p] for p in places), default=0)  # slots of the largest worker
        self.free = self.began = sum(free[p] for p in places)  # now, and when the decision began
        self.kept: list[Reservation] = []  # that name a worker of this pool
        # The fewest slots that were refused: slots only get scarcer while a decision is made. By `spans`.
        self.refused, self.refused_long = {True: NEVER, False: NEVER}, {True: NEVER, False: NEVER}


class Reservation:
    """Slots kept for the first job in line that has to wait."""

    __slots__ = ("extra", "job", "places", "start")

    def __init__(self, job: str, places: frozenset[int], start: int, extra: int) -> None:
        self.job = job
        self.places = places  # workers that it will start on
        self.start = start  # when enough of them are free, or NEVER where nobody knows
        self.extra = extra  # slots that it will not need then


class Board:
    """The slots of one decision."""

    def __init__(self, workers: Sequence[Worker], now: int, short_ms: int) -> None:
        """Live workers; jobs of at most `short_ms` may run before a job whose start nobody knows."""
        self.now, self.short_ms = now, short_ms
        self.workers = workers
        self.place = {worker.id: p for p, worker in enumerate(workers)}
        self.slots = [worker.slots for worker in workers]
        self.free = [max(0, min(worker.free, worker.slots)) for worker in workers]
        self.coming = [0] * len(workers)  # slots of jobs that are being stopped, promised to nobody yet
        self.ends: list[list[tuple[int, int]]] = [[] for _ in workers]  # (when, slots) of what runs
        self._pools: dict[tuple[str, str], Pool] = {}
        self._pools_of: list[list[Pool]] = [[] for _ in workers]

    def pool(self, kind: str, device: str) -> Pool:
        """The workers that can run `kind` on `device`."""
        pool = self._pools.get((kind, device))
        if pool is None:
            places = [p for p, w in enumerate(self.workers) if w.device == device and kind in w.kinds]
            pool = self._pools[kind, device] = Pool(places, self.slots, self.free)
            for p in places:
                self._pools_of[p].append(pool)
        return pool

    def named(self, chosen: Mapping[int, int]) -> dict[str, int]:
        """Slots by the worker's id."""
        return {self.workers[p].id: n for p, n in chosen.items()}

    def fit(self, pool: Pool, slots: int, spans: bool, max_ms: int | None) -> dict[int, int] | None:
        """Free slots for a job that no reservation is hurt by, all of them or None."""
        if pool.free < slots or slots >= pool.refused[spans]:
            return None
        harmed = [kept for kept in pool.kept if self._delays(max_ms, kept)]
        if harmed and slots >= pool.refused_long[spans]:
            return None
        closed = [kept for kept in harmed if kept.extra < slots]
        places = [p for p in pool.places if not any(p in kept.places for kept in closed)] if closed else pool.places
        chosen = self.pick(places, slots, spans, self.free)
        if chosen is None:
            known = pool.refused_long if harmed else pool.refused
            known[spans] = min(known[spans], slots)
            return None
        for kept in harmed:
            kept.extra -= sum(n for p, n in chosen.items() if p in kept.places)
        return chosen

    def pick(self, places: Iterable[int], slots: int, spans: bool, room: Sequence[int]) -> dict[int, int] | None:
        """One worker with the least room that is enough; else, for a job that spans, the fewest workers."""
        enough = [p for p in places if room[p] >= slots]
        if enough:
            return {min(enough, key=room.__getitem__): slots}
        if not spans or slots == 1:
            return None
        chosen: dict[int, int] = {}
        for p in sorted(places, key=room.__getitem__, reverse=True):
            if room[p] == 0:
                break
            chosen[p] = min(slots, room[p])
            slots -= chosen[p]
            if slots == 0:
                return chosen
        return None

    def take(self, chosen: Mapping[int, int], ends_at: int) -> None:
        """Give the slots away until `ends_at`."""
        for p, n in chosen.items():
            self.free[p] -= n
            self.ends[p].append((ends_at, n))
            for pool in self._pools_of[p]:
                pool.free -= n

    def claim(self, chosen: Mapping[int, int], ends_at: int) -> None:
        """Promise slots that are free or coming free; what is free of them stays empty until the rest comes."""
        for p, n in chosen.items():
            now = min(n, self.free[p])
            self.coming[p] -= n - now
            self.take({p: now}, ends_at)
            self.ends[p].append((ends_at, n - now))

    def room(self) -> list[int]:
        """Slots by worker that are free or coming free."""
        return [free + coming for free, coming in zip(self.free, self.coming, strict=True)]

    def reserve(self, job: str, pool: Pool, slots: int, spans: bool) -> Reservation:
        """Keep slots for a job that must wait: from when, on which workers, and how many it leaves over."""
        room = self.room()
        if spans and slots > 1:
            start, available = _first_time(slots, sum(room[p] for p in pool.places), self._ends_of(pool.places))
            places = frozenset(pool.places)
        else:
            wide = [p for p in pool.places if self.slots[p] >= slots]
            times = {p: _first_time(slots, room[p], self._ends_of([p])) for p in wide}
            best = min(wide, key=lambda p: (times[p][0], -room[p], p))
            start, available = times[best]
            places = frozenset([best])
        extra = 0 if start == NEVER else max(0, available - slots)
        reservation = Reservation(job, places, max(start, self.now), extra)
        for other in self._pools.values():
            if not places.isdisjoint(other.places):
                other.kept.append(reservation)
        return reservation

    def seat(self, job: Running) -> None:
        """Note when the slots of a running job will be free."""
        for place, n in self.on(job).items():
            if job.stopping:
                self.coming[place] += n
            else:
                self.ends[place].append((self.end(job), n))

    def vacate(self, job: Running) -> None:
        """It was told to stop: its slots come free."""
        for place, n in self.on(job).items():
            self.coming[place] += n
            self.ends[place].remove((self.end(job), n))

    def on(self, job: Running) -> dict[int, int]:
        """Its slots on live workers."""
        return {self.place[worker]: n for worker, n in job.slots.items() if worker in self.place}

    def end(self, job: Running) -> int:
        """When it ends; a job that should have ended before ends any moment."""
        return NEVER if job.ends_at is None else max(job.ends_at, self.now)

    def replaces(self, place: int, ends_at: int, max_ms: int | None, pool: Pool) -> bool:
        """Whether a job may take over slots that would be free at `ends_at` without delaying what is kept."""
        for kept in pool.kept:
            counted_on = ends_at != NEVER and (kept.start == NEVER or ends_at <= kept.start)
            if place in kept.places and counted_on and self._delays(max_ms, kept):
                return False
        return True

    def _ends_of(self, places: Iterable[int]) -> list[tuple[int, int]]:
        return sorted(end for p in places for end in self.ends[p])

    def _delays(self, max_ms: int | None, kept: Reservation) -> bool:
        if max_ms is None:
            return True
        return max_ms > self.short_ms if kept.start == NEVER else self.now + max_ms > kept.start


def _first_time(slots: int, room: int, ends: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """When `slots` slots will be free and how many then are; NEVER where what runs has no known end."""
    start = 0
    for end, n in ends:
        if room >= slots and end > start:
            break
        if end == NEVER:
            return NEVER, room
        start, room = end, room + n
    return (start, room) if room >= slots else (NEVER, room)
