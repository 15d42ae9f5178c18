"""Who runs next: fair by tokens, first come first served inside a team, and prompts that do not stop streams."""

from __future__ import annotations

from dataclasses import dataclass

from cerulea.serve.scheduler import LEAST_CHUNK, MOST_CHUNK, STRETCH, Costs, Scheduler


@dataclass(eq=False)
class One:
    team: str
    to_read: int = 1
    may_go_on: bool = True


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


def test_what_has_no_lease_waits_and_keeps_its_row():
    scheduler: Scheduler = Scheduler(8)

    assert scheduler.plan([One("sea", may_go_on=False)]) == []


def test_costs_are_measured():
    costs = Costs()
    assert costs.chunk(0) == MOST_CHUNK
    for _ in range(50):
        costs.note(8, 0, 16.0)
        costs.note(8, 32, 16.0 + 32 * 0.6)

    assert abs(costs.reading_ms - 0.6) < 0.01
    assert costs.chunk(8) == int((STRETCH - 1) * 16 / costs.reading_ms)
    assert costs.chunk(1) == costs.chunk(8)  # the nearest that was measured
    costs.reading_ms = 100.0
    assert costs.chunk(8) == LEAST_CHUNK


def test_a_dropped_request_waits_no_more():
    scheduler: Scheduler = Scheduler(8)
    one, other = One("sea"), One("sea")
    scheduler.add(one)
    scheduler.add(other)

    assert scheduler.drop(one)
    assert not scheduler.drop(one)
    assert started(scheduler, []) == [other]
    assert scheduler.waiting == 0
