"""How much of the machines each team has had, and whose turn that makes it.

Use is counted in slot-milliseconds and fades: what was used a week ago counts half. The first ENTRY_MS of a job are
charged when it starts, not as they pass: a burst of a hundred submissions pays for each start, and others come between.
Kept:    charging an interval in pieces is charging it at once; fading in pieces likewise.
Not here: which job runs where (`schedule`), where the numbers are kept (`queue`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from heapq import heapify, heapreplace
from typing import Protocol, TypeVar

HALF_LIFE_MS = 7 * 86_400_000  # of use
ENTRY_MS = 600_000  # of a job, charged at its start


class Sized(Protocol):
    """Whatever asks for slots."""

    @property
    def slots(self) -> int: ...


S = TypeVar("S", bound=Sized)


def decay(used: float, ms: float, half_life_ms: float = HALF_LIFE_MS) -> float:
    """What is left of `used` slot-milliseconds after `ms` milliseconds; a clock set back leaves it as it is."""
    return used * math.pow(0.5, max(0.0, ms) / half_life_ms)


def charge(used: float, ms: float, slots: float, half_life_ms: float = HALF_LIFE_MS) -> float:
    """`used` as it stands `ms` milliseconds later, when `slots` slots were held all that time."""
    rate = math.log(2) / half_life_ms
    return decay(used, ms, half_life_ms) - slots * math.expm1(-rate * max(0.0, ms)) / rate


def prepaid(slots: int, started_at: int, now: int, entry_ms: int = ENTRY_MS) -> int:
    """Slot-milliseconds of a running job that its team was charged for and that have not passed yet."""
    return slots * max(0, entry_ms - max(0, now - started_at))


class Standing:
    """A team in line: what it has had, what it holds, what it is due."""

    __slots__ = ("held", "quota", "used", "weight")

    def __init__(self, weight: int, quota: int, used: float, held: int) -> None:
        self.weight = weight
        self.quota = quota  # slots that are its own
        self.used = used  # slot-milliseconds, faded, what is prepaid included
        self.held = held  # slots in use now

    def borrowed(self, more: int = 0) -> float:
        """Slots it holds beyond its own, for its weight, if it held `more`: the share that preemption compares."""
        return max(0, self.held + more - self.quota) / self.weight


def turns(queues: Sequence[tuple[Standing, Sequence[S]]], entry_ms: int = ENTRY_MS) -> list[S]:
    """All jobs in the order of their turns: each queue in its own order, the queues against one another.

    A team whose next job fits into its own slots comes before teams that borrow; else the lowest use for its weight
    does. Every job listed counts as started, so that one team's hundred jobs do not stand in a row.
    """
    lines = [(standing, jobs) for standing, jobs in queues if jobs]
    ordered: list[S] = []
    used = [standing.used / standing.weight for standing, _ in lines]
    step = [entry_ms / standing.weight for standing, _ in lines]
    left = [standing.quota - standing.held for standing, _ in lines]
    place = [0] * len(lines)
    heap = [(jobs[0].slots > left[i], used[i], i) for i, (_, jobs) in enumerate(lines)]
    heapify(heap)
    while heap:
        i = heap[0][2]
        jobs = lines[i][1]
        at = place[i]
        if len(heap) == 1:
            ordered.extend(jobs[at:])
            break
        job = jobs[at]
        ordered.append(job)
        place[i] = at = at + 1
        slots = job.slots
        left[i] -= slots
        used[i] += slots * step[i]
        if at < len(jobs):
            heapreplace(heap, (jobs[at].slots > left[i], used[i], i))
        else:
            heap[0] = heap[-1]
            heap.pop()
            heapify(heap)
    return ordered
