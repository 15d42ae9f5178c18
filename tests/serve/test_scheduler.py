"""Who runs next: fair by tokens, first come first served inside a team, and prompts that do not stop streams."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from cerulea.serve.scheduler import (
    BURST_MS,
    LEAST_CHUNK,
    MOST_CHUNK,
    SOON_CHUNK,
    SOON_MS,
    STILL,
    STRETCH,
    Costs,
    Scheduler,
)


@dataclass(eq=False)
class One:
    team: str
    to_read: int = 1
    may_go_on: bool = True
    will_write: bool = True
    begins: bool = False


def started(scheduler: Scheduler, running: list[One], rows: int = 64) -> list[One]:
    """Start all that may, in order."""
    begun = []
    while (one := scheduler.next(running, rows - len(running))) is not None:
        running.append(one)
        begun.append(one)
    return begun


def test_inside_a_team_the_first_goes_first():
    scheduler: Scheduler = Scheduler(8)
    line = [One("sea") for _ in range(5)]
    for one in line:
        scheduler.add(one)

    assert started(scheduler, []) == line


def test_the_team_that_was_served_least_goes_first():
    scheduler: Scheduler = Scheduler(1)
    for team in ("sea", "sky"):
        scheduler.add(One(team, 10))
    scheduler.count("sea", read=10, written=5)

    assert started(scheduler, [])[0].team == "sky"


def test_two_teams_with_equal_work_share_tokens_equally():
    """Sea has 100 requests before sky comes; from then on each gets half, within one request."""
    scheduler: Scheduler = Scheduler(1)
    for _ in range(100):
        scheduler.add(One("sea", 10))
    served = {"sea": 0, "sky": 0}
    for turn in range(100):
        if turn == 40:
            for _ in range(60):
                scheduler.add(One("sky", 10))
        one = scheduler.next([], 1)
        assert one is not None
        scheduler.count(one.team, read=10, written=20)
        served[one.team] += turn >= 40

    assert abs(served["sea"] - served["sky"]) <= 1


def test_who_was_away_has_no_claim_on_the_past():
    scheduler: Scheduler = Scheduler(1)
    scheduler.add(One("sky"))
    assert scheduler.next([], 1) is not None
    for _ in range(3):
        scheduler.add(One("sea"))
        scheduler.count("sea", written=1000)

    scheduler.add(One("sky"))
    scheduler.count("sky", written=1)

    assert scheduler.next([], 1).team == "sea"


def test_who_runs_was_not_away():
    scheduler: Scheduler = Scheduler(2)
    for team in ("sea", "sky"):
        scheduler.add(One(team))
    running = [taken for _ in range(2) if (taken := scheduler.next([], 2)) is not None]
    scheduler.count("sea", written=1000)
    scheduler.count("sky", written=10)

    scheduler.add(One("sea"), running)
    scheduler.add(One("sky"), running)

    found = scheduler.next(running[:1], 1)
    assert found is not None and found.team == "sky"


def test_when_nobody_waits_or_runs_all_begin_alike():
    scheduler: Scheduler = Scheduler(1)
    scheduler.add(One("sea"))
    assert scheduler.next([], 1).team == "sea"
    scheduler.count("sea", written=1_000_000)

    scheduler.add(One("sky"))
    scheduler.add(One("sea"))
    scheduler.count("sky", written=1)

    assert scheduler.next([], 1).team == "sea"


def test_a_flood_of_one_team_leaves_a_row_for_another():
    scheduler: Scheduler = Scheduler(4)
    for _ in range(20):
        scheduler.add(One("sea"))
    running: list[One] = []
    assert len(started(scheduler, running)) == 4

    scheduler.add(One("sky"))
    scheduler.add(One("sky"))

    assert [one.team for one in started(scheduler, running)] == ["sky"]
    assert len(running) == 5


def test_running_sequences_go_first_and_prompts_take_what_is_left_of_the_step():
    scheduler: Scheduler = Scheduler(8)
    scheduler.costs = Costs(writing_ms={2: 20.0}, reading_ms=0.5)
    running = [One("sea"), One("sea", 900), One("sky"), One("sky", 30)]
    scheduler.count("sea", read=100)

    plan = scheduler.plan(running)

    spare = int((STRETCH - 1) * 20 / 0.5)
    assert plan == [(running[0], 1), (running[2], 1), (running[3], 30), (running[1], spare - 30)]


def test_while_many_begin_and_few_write_a_step_may_take_as_long_as_it_will_when_all_write():
    scheduler: Scheduler = Scheduler(16)
    scheduler.costs = Costs(writing_ms={1: 10.0, 15: 30.0, 16: 40.0}, reading_ms=0.5)
    running = [One("sea"), *(One("sea", 100) for _ in range(15))]

    plan = scheduler.plan(running)

    assert sum(n for _, n in plan if n > 1) == int((STRETCH * 30 - 10) / 0.5)
    for one in running[1:]:  # scores and embeddings, however many: no step of theirs will ever be a step of writers
        one.will_write = False
    assert sum(n for _, n in scheduler.plan(running) if n > 1) == max(LEAST_CHUNK, int((STRETCH - 1) * 10 / 0.5))


def test_those_who_begin_together_go_on_when_all_have_their_first_token():
    scheduler: Scheduler = Scheduler(8)
    scheduler.costs = Costs(writing_ms={1: 20.0}, reading_ms=SOON_MS / 300)
    begun, first, second = One("sea", begins=True), One("sea", 200), One("sky", 200)

    assert scheduler.plan([begun, first, second]) == [(first, 200), (second, 100)]
    scheduler.add(One("sea"))
    assert (begun, 1) in scheduler.plan([begun, first, second]), "rows would be used as they come free"
    assert scheduler.drop(scheduler.oldest()[0])
    scheduler.ran([(first, 200)], SOON_MS * 200 / 300)
    first.to_read, first.begins = 1, True
    assert scheduler.plan([begun, first, second]) == [(second, 200)]
    second.to_read, second.begins = 1, True
    assert scheduler.plan([begun, first, second]) == [(begun, 1), (first, 1), (second, 1)]


def read(plan: list[tuple[One, int]]) -> None:
    """What was planned is done; whose prompt is read has begun."""
    for one, tokens in plan:
        one.to_read -= tokens
        if not one.to_read:
            one.to_read, one.begins = 1, True


def test_who_begins_does_not_wait_for_others_without_end():
    scheduler: Scheduler = Scheduler(64)
    scheduler.costs = Costs(writing_ms={1: 20.0}, reading_ms=1.0)
    begun, others = One("sea", begins=True), [One("sea", 40) for _ in range(40)]
    silent_ms = 0.0

    while (begun, 1) not in (plan := scheduler.plan([begun, *others])):
        took = 1.0 * sum(tokens for _, tokens in plan)
        read(plan)
        scheduler.ran(plan, took)
        silent_ms += took
    assert BURST_MS - 40 < silent_ms <= BURST_MS
    scheduler.ran(plan, 30.0)
    begun.begins = False
    assert (begun, 1) in scheduler.plan([begun, *others])


@pytest.mark.parametrize(
    "other",
    [One("sky", 500, will_write=False), One("sky", 500, may_go_on=False), One("sky", 1001)],
    ids=["writes nothing", "has no lease", "would not begin in time"],
)
def test_nobody_waits_for_who_will_not_begin(other: One):
    scheduler: Scheduler = Scheduler(8)
    scheduler.costs = Costs(writing_ms={1: 20.0}, reading_ms=1.0)
    begun = One("sea", begins=True)

    assert (begun, 1) in scheduler.plan([begun, other])


def test_a_burst_is_not_broken_by_a_token_that_is_left():
    for longest in range(100, 160):
        scheduler: Scheduler = Scheduler(8)
        scheduler.costs = Costs(reading_ms=0.6)
        running = [One("sea", tokens) for tokens in (80, longest, 60)]

        while not all(one.begins for one in running):
            plan = scheduler.plan(running)
            assert all(tokens > 1 for _, tokens in plan), "who has begun waits for the others"
            read(plan)
            scheduler.ran(plan, 0.6 * sum(tokens for _, tokens in plan))
        assert scheduler.plan(running) == [(one, 1) for one in running]


def test_a_burst_after_work_that_writes_nothing_is_a_burst_too():
    scheduler: Scheduler = Scheduler(8)
    scheduler.ran([(One("sea", 500, will_write=False), 500)], 2 * BURST_MS)
    begun, other = One("sea", begins=True), One("sea", 20)
    scheduler.add(begun)
    scheduler.add(other)
    assert started(scheduler, []) == [begun, other]
    scheduler.costs = Costs(reading_ms=1.0)

    assert scheduler.plan([begun, other]) == [(other, 20)]


def test_a_model_whose_steps_are_dear_reads_prompts_in_large_ones():
    """What a step costs beside its tokens makes each look dearer, and must not make the next step smaller for ever."""
    scheduler: Scheduler = Scheduler(8)
    one, steps = One("sea", 4000), 0

    while one.to_read > 1:
        plan = scheduler.plan([one])
        read(plan)
        scheduler.ran(plan, 60.0 + 3 * plan[0][1])
        steps += 1
    assert steps <= 4000 // SOON_CHUNK + 1


def test_who_writes_already_does_not_wait_for_those_who_begin():
    scheduler: Scheduler = Scheduler(8)
    scheduler.costs = Costs(writing_ms={2: 20.0}, reading_ms=1.0)
    writes, begins, reads = One("sea"), One("sea", begins=True), One("sea", 200)

    assert scheduler.plan([writes, begins, reads])[:2] == [(writes, 1), (begins, 1)]


def writers_and(*more: One) -> tuple[Scheduler, list[One]]:
    """Sixteen that write, all of one team, and more; a step of theirs takes 40 ms, a prompt token 0.5."""
    scheduler: Scheduler = Scheduler(16)
    scheduler.costs = Costs(writing_ms={16: 40.0}, reading_ms=0.5)
    running = [*(One("sea") for _ in range(16)), *more]
    for one in running:
        scheduler.count(one.team, read=0)
    return scheduler, running


def test_the_first_token_of_a_team_that_writes_nothing_does_not_wait_for_those_of_others():
    new = One("sky", 64)
    scheduler, running = writers_and(new, One("sea", 30))

    assert scheduler.plan(running) == [(new, 64)]


def test_a_newcomer_goes_first_also_while_a_flood_begins():
    new = One("sky", 64)
    scheduler, running = writers_and(new)
    scheduler.costs.writing_ms[1] = 10.0
    for one in running[1:16]:
        one.to_read = 64

    assert scheduler.plan(running) == [(new, 64)]


def test_no_two_steps_in_which_writers_stand_still_follow_one_another():
    first, second = One("sky", 100), One("air", 100)
    scheduler, running = writers_and(first, second)

    plan = scheduler.plan(running)
    assert plan == [(first, 100)]
    assert scheduler.plan(running) == plan  # looking changes nothing
    scheduler.ran(plan, 50.0)
    first.to_read = 1
    scheduler.count("sky", read=100, written=1)

    plan = scheduler.plan(running)
    left = max(LEAST_CHUNK, int((STILL * 40 - 50) / scheduler.costs.reading_ms))
    assert plan == [*((one, 1) for one in running if one.to_read == 1), (second, left)]


def test_a_prompt_that_is_too_long_is_read_beside_the_writers_but_for_its_last_part():
    long = One("sky", 180)
    scheduler, running = writers_and(long)
    assert 180 > STILL * 40 / 0.5 > 180 - scheduler.costs.chunk(16, 16)

    plan = scheduler.plan(running)
    assert plan == [*((one, 1) for one in running[:16]), (long, scheduler.costs.chunk(16, 16))]
    long.to_read -= scheduler.costs.chunk(16, 16)
    scheduler.ran(plan, 72.0)

    assert scheduler.plan(running) == [(long, long.to_read)]


def test_a_team_that_writes_or_was_served_more_does_not_make_others_stand_still():
    scheduler, running = writers_and(One("sea", 20))
    assert len(scheduler.plan(running)) == 17

    scheduler, running = writers_and(One("sky", 20), One("sky"))
    assert len(scheduler.plan(running)) == 18

    scheduler, running = writers_and(One("sky", 20))
    scheduler.count("sky", read=1)
    assert len(scheduler.plan(running)) == 17


def test_a_stream_beside_newcomers_without_end_is_never_without_a_token_for_long():
    """Every step brings another team's prompt; the times are those that the costs say."""
    scheduler, running = writers_and(One("sea", 400))
    old, gap, longest, firsts = running[16], 0.0, 0.0, 0
    for number in range(200):
        new = One(f"team{number}", 120)
        scheduler.count(new.team, read=0)
        running = [*running[:16], *(one for one in running[16:] if one.to_read > 1), new]
        plan = scheduler.plan(running)
        writing = sum(n == 1 for _, n in plan)
        took = 40.0 * (writing > 0) + scheduler.costs.reading_ms * sum(n for _, n in plan if n > 1)
        for one, n in plan:
            one.to_read = max(1, one.to_read - n)
            firsts += one.team != "sea" and one.to_read == 1
        scheduler.ran(plan, took)
        longest = max(longest, gap + took)
        gap = 0.0 if writing else gap + took

    least = LEAST_CHUNK * scheduler.costs.reading_ms  # which a step may read in any case
    assert STRETCH * 40 < longest <= (1 + STILL) * 40 + least
    assert firsts >= 80  # nearly one in each pair of steps
    assert old.to_read == 1  # what is left of the steps reads for those who were served more


def test_what_has_no_lease_waits_and_keeps_its_row():
    scheduler: Scheduler = Scheduler(8)

    assert scheduler.plan([One("sea", may_go_on=False)]) == []


def test_costs_are_measured():
    costs = Costs()
    assert costs.chunk(0, 1) == SOON_CHUNK
    assert Costs(reading_ms=0.3).chunk(0, 1) == int(SOON_MS / 0.3), "newcomers are seen soon"
    assert Costs(reading_ms=0.01).chunk(0, 1) == MOST_CHUNK
    for _ in range(50):
        costs.note(8, 0, 16.0)
        costs.note(8, 32, 16.0 + 32 * 0.6)

    assert abs(costs.reading_ms - 0.6) < 0.01
    assert costs.chunk(8, 8) == int((STRETCH - 1) * 16 / costs.reading_ms)
    assert costs.chunk(1, 1) == costs.chunk(8, 8)  # the nearest that was measured
    costs.reading_ms = 100.0
    assert costs.chunk(8, 8) == LEAST_CHUNK


def test_what_writing_takes_is_seen_also_while_prompts_are_read_without_end():
    """All takes four times as long as before: by what writing took then, reading would look dear for ever."""
    scheduler, running = writers_and(*(One("sea", 1000) for _ in range(50)))
    for _ in range(200):
        plan = scheduler.plan(running)
        read = sum(n for _, n in plan if n > 1)
        scheduler.ran(plan, 4 * (40.0 + 0.5 * read))

    assert abs(scheduler.costs.of_writing(16) - 160) < 10
    assert scheduler.costs.chunk(16, 16) > 40


def test_a_dropped_request_waits_no_more():
    scheduler: Scheduler = Scheduler(8)
    one, other = One("sea"), One("sea")
    scheduler.add(one)
    scheduler.add(other)

    assert scheduler.drop(one)
    assert not scheduler.drop(one)
    assert started(scheduler, []) == [other]
    assert scheduler.waiting == 0
