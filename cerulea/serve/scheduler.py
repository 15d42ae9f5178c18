"""Decide which sequences the engine's next step works on, and how much of a prompt it reads.

In:      waiting and running sequences, as their progress; how long steps took.
Out:     the sequence to start next; a list of (sequence, tokens) for one step.
Policy:  running sequences go first, a token each, so that no stream stands still; what is left of the step's time
         reads prompts. Teams that were served least go first, by tokens; inside a team the one that came first. A team
         with nothing running may start beyond the usual number of rows, so that a flood of another team does not
         make it wait for one of its sequences to end; the last part of its prompt is read in a step of its own, so
         that its first token does not wait for theirs. Of those who begin together each has its first token as soon as
         its prompt is read and, where nobody waits for rows, the second when all have had the first whom `BURST_MS` of
         reading reach: the burst takes fewer steps, and ends sooner.
Kept:    nobody waits behind a younger one of the same team. Reading a prompt lengthens a step to at most `STRETCH`
         times what it takes once those write who begin together, by measured costs. Those who have written two
         tokens stand still for at most `STILL` of their steps, never in two steps that follow one another, and the next
         step reads less for it: so no stream has a gap of more than 1 + `STILL` of those that it has when all who run
         write. The one after its first token, where others begin with it, ends `BURST_MS` after the last step in which
         anybody went on, or a step later.
Not here: rows and cached prefixes (`prefix`), computing (`runner`), picking tokens (`sampler`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

STRETCH = 1.8  # how much longer a step may become by reading prompts, while others write
STILL = 1.6  # how long they may stand still for others' first tokens, in steps without any reading
LEAST_CHUNK = 16  # tokens of a prompt that a step reads at least: below, it costs the same
MOST_CHUNK = 512  # and at most, in any step
SOON_CHUNK = 128  # and at least while nobody writes: fewer cost each more than they let newcomers be seen sooner,
SOON_MS = 75.0  # more where they take no longer than this
BURST_MS = 1000.0  # how long prompts are read, one after the other, before those who have begun go on
SPARE_ROWS = 2  # beyond `most_running`, for teams with nothing running
WRITTEN_WEIGHT = 2  # a token written counts as much as so many read
SMOOTHING = 0.2  # weight of the newest step in measured costs
MIXED = 8  # steps in a row that read beside those who write; then one without, which shows what writing takes


class Planned(Protocol):
    """What the scheduler sees of a sequence."""

    @property
    def team(self) -> str:
        """Whose it is."""
        ...

    @property
    def to_read(self) -> int:
        """Tokens that are known and not computed yet; 1 for one that writes."""
        ...

    @property
    def will_write(self) -> bool:
        """Whether it writes more than the token after its prompt."""
        ...

    @property
    def begins(self) -> bool:
        """Whether it has written its first token and no other."""
        ...

    @property
    def may_go_on(self) -> bool:
        """Whether computing its last known token is of use: its lease allows the token after it."""
        ...


S = TypeVar("S", bound=Planned)


@dataclass(slots=True)
class Costs:
    """What steps take, measured as they run; milliseconds."""

    writing_ms: dict[int, float] = field(default_factory=dict)  # of a step by number of sequences that write
    reading_ms: float = 1.0  # of one prompt token, beside those

    def note(self, writing: int, read: int, step_ms: float) -> None:
        """A step with so many sequences writing and so many prompt tokens read took this long."""
        if read == 0 and writing:
            before = self.writing_ms.get(writing)
            self.writing_ms[writing] = step_ms if before is None else before + SMOOTHING * (step_ms - before)
        elif read >= LEAST_CHUNK:
            beside = max(step_ms - self.of_writing(writing), 0.2 * step_ms) if writing else step_ms
            self.reading_ms += SMOOTHING * (beside / read - self.reading_ms)

    def of_writing(self, writing: int) -> float:
        """Of a step with so many sequences; by the nearest number that was measured."""
        if not self.writing_ms:
            return 0.0
        nearest = min(self.writing_ms, key=lambda known: abs(known - writing))
        return self.writing_ms[nearest]

    def chunk(self, writing: int, soon: int, still_ms: float = 0.0) -> int:
        """How many prompt tokens a step may read.

        Args:
            writing, soon: sequences that write, and those with all who will: of many who read now all but one count as
                if they wrote already, and a step may take as long as one of theirs.
            still_ms: how long those who write stood still in the step before.
        """
        if not writing:
            return max(SOON_CHUNK, min(MOST_CHUNK, int(SOON_MS / self.reading_ms)))
        usual_ms = self.of_writing(max(writing, soon - 1))
        most_ms = min(STRETCH * usual_ms, (1 + STILL) * usual_ms - still_ms)
        spare_ms = most_ms - self.of_writing(writing)
        return max(LEAST_CHUNK, min(MOST_CHUNK, int(spare_ms / self.reading_ms)))

    def within_burst(self, silent_ms: float) -> int:
        """How many can still be read before those who begin together go on, when nobody went on for so long."""
        return max(0, int((BURST_MS - silent_ms) / self.reading_ms))

    def chunk_alone(self, running: int) -> int:
        """How many a step may read in which all who write stand still, where so many run."""
        return min(MOST_CHUNK, int(STILL * self.of_writing(running) / self.reading_ms))


class Scheduler(Generic[S]):
    """Waiting lines of the teams, and what each was served.

    Args:
        most_running: sequences that run at a time.
    """

    def __init__(self, most_running: int) -> None:
        self.most_running = most_running
        self.costs = Costs()
        self._lines: dict[str, deque[S]] = {}
        self._served: dict[str, int] = {}  # tokens, weighted, of teams that wait or run
        self._still_ms: float | None = None  # that the last step took, where nobody who writes had a token of it
        self._silent_ms = 0.0  # that steps took since the last one in which anybody went on writing
        self._mixed = 0  # steps since the last one in which only those who write had a token
        self.waiting = 0

    def add(self, sequence: S, running: Iterable[S] = ()) -> None:
        """A sequence waits from now on."""
        team = sequence.team
        if team not in self._lines:
            if not self._lines and not any(True for _ in running):
                self._served.clear()  # nobody waits or runs: all begin alike
                self._silent_ms = 0.0
            active = {*self._lines, *(one.team for one in running)}
            if team not in active:  # who was away has no claim on what was served meanwhile
                floor = min((self._served[one] for one in active if one in self._served), default=0)
                self._served[team] = max(self._served.get(team, 0), floor)
            self._lines[team] = deque()
        self._lines[team].append(sequence)
        self.waiting += 1

    def oldest(self) -> list[S]:
        """The first of each line."""
        return [line[0] for line in self._lines.values()]

    def drop(self, sequence: S) -> bool:
        """It waits no more; whether it did."""
        line = self._lines.get(sequence.team)
        if line is None or sequence not in line:
            return False
        line.remove(sequence)
        self._gone(sequence.team)
        return True

    def next(self, running: list[S], free_rows: int, later: Collection[str] = ()) -> S | None:
        """Take the sequence that starts next out of its line; None where nobody may start.

        Args:
            later: teams that are passed over.
        """
        if not free_rows or not self.waiting:
            return None
        busy = {one.team for one in running}
        if len(running) >= self.most_running:
            if len(running) >= self.most_running + SPARE_ROWS:
                return None
            teams = [team for team in self._lines if team not in busy and team not in later]
        else:
            teams = [team for team in self._lines if team not in later]
        if not teams:
            return None
        team = min(teams, key=lambda one: self._served.get(one, 0))
        sequence = self._lines[team].popleft()
        self._gone(team)
        return sequence

    def put_back(self, sequence: S) -> None:
        """It was taken and cannot start yet: it is the first of its line again."""
        self._lines.setdefault(sequence.team, deque()).appendleft(sequence)
        self.waiting += 1

    def plan(self, running: list[S]) -> list[tuple[S, int]]:
        """Who works in the next step, and on how many tokens each."""
        writes = [(one, 1) for one in running if one.to_read == 1 and one.may_go_on]
        # Least served team first; sorting keeps the order of arrival inside a team.
        reading = sorted((one for one in running if one.to_read > 1), key=lambda one: self._served.get(one.team, 0))
        burst = self._burst(writes, reading)
        if writes and (burst or self._still_ms is None) and (firsts := self._firsts(running, reading)):
            return firsts
        if burst:
            return self._reads(burst, min(self.costs.chunk(0, 0), self.costs.within_burst(self._silent_ms)))
        if writes and self._mixed >= MIXED:
            return writes
        soon = len(writes) + sum(one.will_write for one in reading)
        return writes + self._reads(reading, self.costs.chunk(len(writes), soon, self._still_ms or 0.0))

    def _burst(self, writes: list[tuple[S, int]], reading: list[S]) -> list[S]:
        """Whom those who write wait for: they have begun together, and so all of them will end sooner.

        Nobody is waited for who writes nothing, or has no time left to begin. Nothing is won where somebody waits for a
        row that comes free, and nothing is done where somebody waits for an equal prompt, to copy what is read of it.
        """
        if not writes or self.waiting or not all(one.begins for one, _ in writes):
            return []
        most = self.costs.within_burst(self._silent_ms)
        return [one for one in reading if one.will_write and one.may_go_on and one.to_read <= most]

    def _reads(self, reading: list[S], left: int) -> list[tuple[S, int]]:
        """So many tokens of prompts, in this order."""
        reads = []
        for one in reading:
            if left < 2:  # one token alone would look like one that is written
                break
            # The last known token is read when the one after it is leased.
            count = min(left, one.to_read if one.may_go_on else one.to_read - 1)
            if one.may_go_on and one.to_read - count == 1 and count > 2:  # so would one that is left
                count -= 1
            reads.append((one, count))
            left -= count
        return reads

    def ran(self, plan: list[tuple[S, int]], step_ms: float) -> None:
        """A step that was planned so took this long."""
        writing, read = sum(n == 1 for _, n in plan), sum(n for _, n in plan if n > 1)
        self._still_ms = None if writing else step_ms
        self._silent_ms = 0.0 if writing else self._silent_ms + step_ms
        self._mixed = self._mixed + 1 if read else 0
        self.costs.note(writing, read, step_ms)

    def _firsts(self, running: list[S], reading: list[S]) -> list[tuple[S, int]]:
        """What brings a first token to teams that write nothing, and were not served more than those who do."""
        writing = {one.team for one in running if one.to_read == 1}
        least = min(self._served.get(team, 0) for team in writing)
        # Those who read now write soon: a flood that begins has few who write and many who will.
        left, firsts = self.costs.chunk_alone(len(running)), []
        for one in reading:
            new = one.team not in writing and self._served.get(one.team, 0) <= least
            if new and one.may_go_on and one.to_read <= left:
                firsts.append((one, one.to_read))
                left -= one.to_read
        return firsts

    def count(self, team: str, *, read: int = 0, written: int = 0) -> None:
        """A team was served so many tokens."""
        self._served[team] = self._served.get(team, 0) + read + WRITTEN_WEIGHT * written

    def _gone(self, team: str) -> None:
        self.waiting -= 1
        if not self._lines[team]:
            del self._lines[team]
