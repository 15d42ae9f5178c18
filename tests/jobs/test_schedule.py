"""Who runs next: rules by example, properties of any decision, and a cluster that runs until everything is done."""

from __future__ import annotations

import dataclasses
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cerulea.jobs.schedule import Decision, Policy, Preemption, Running, Team, View, Waiting, Worker, decide
from cerulea.jobs.share import HALF_LIFE_MS, Standing, charge, decay, prepaid, turns
from tests.jobs.cluster import MINUTE, Cluster, random_cluster

NOW = 1_800_000_000_000
LONG_AGO = NOW - 600 * MINUTE


def asks(seq: int, team: str = "a", **values: object) -> Waiting:
    return Waiting(id=f"w{seq}", seq=seq, team=team, **values)  # type: ignore[arg-type]


def runs(name: str, team: str = "a", slots: int = 1, on: str = "m", **values: object) -> Running:
    values.setdefault("started_at", LONG_AGO)
    return Running(id=name, team=team, slots={on: slots}, **values)  # type: ignore[arg-type]


def machine(slots: int, free: int | None = None, name: str = "m", **values: object) -> Worker:
    return Worker(id=name, slots=slots, free=slots if free is None else free, **values)  # type: ignore[arg-type]


def decided(
    waiting: list[Waiting],
    workers: list[Worker],
    running: list[Running] | None = None,
    teams: list[Team] | None = None,
    policy: Policy | None = None,
) -> Decision:
    view = View(
        teams=teams or [Team(name="a"), Team(name="b")], workers=workers, waiting=waiting, running=running or []
    )
    return decide(view, NOW, policy or Policy())


def codes(decision: Decision) -> dict[str, str]:
    return {job: reason.code for job, reason in decision.reasons.items()}


# -- within a team ---------------------------------------------------------------------------------------


def test_higher_priority_comes_first_then_who_came_first():
    decision = decided([asks(1), asks(2, priority=5), asks(3, priority=5)], [machine(2)])

    assert list(decision.placements) == ["w2", "w3"]
    assert decision.positions == {"w1": 1}


def test_a_job_gives_way_to_one_of_its_team_with_higher_priority():
    """The one that lost least by it, the youngest, saves and goes back to the queue."""
    running = [runs("old", started_at=LONG_AGO), runs("young", started_at=NOW - MINUTE)]

    decision = decided([asks(1, priority=1)], [machine(2, 0)], running)

    assert decision.preemptions == [Preemption("young", "w1")]
    assert decision.reasons["w1"].code == "preempting"


def test_equal_priority_waits():
    decision = decided([asks(1)], [machine(1, 0)], [runs("r")])

    assert decision.preemptions == []
    assert decision.reasons["w1"] == ("capacity", "All 1 cpu slots that run text are taken.")


def test_what_cannot_save_is_not_stopped():
    assert decided([asks(1, priority=1)], [machine(1, 0)], [runs("r", preemptible=False)]).preemptions == []


def test_nobody_is_stopped_where_that_is_not_enough():
    running = [runs("low"), runs("high", priority=9)]

    assert decided([asks(1, priority=5, slots=2)], [machine(2, 0)], running).preemptions == []


def test_nobody_is_stopped_twice():
    """While one saves, its slot is on its way: the next decision asks for no other."""
    running = [runs("r", stopping=True), runs("s")]

    decision = decided([asks(1, priority=5, promised=True)], [machine(2, 0)], running)

    assert decision.preemptions == []
    assert codes(decision) == {"w1": "preempting"}


def test_slots_freed_for_a_job_are_given_to_it():
    """Team b has used nothing and would come first; the slot was freed for w2."""
    teams = [Team(name="a", used=1e9), Team(name="b")]
    waiting = [asks(1, "b"), asks(2, "a", priority=1, promised=True)]

    assert list(decided(waiting, [machine(1)], teams=teams).placements) == ["w2"]


# -- between teams ---------------------------------------------------------------------------------------


def test_the_team_that_used_less_for_its_weight_comes_first():
    teams = [Team(name="a", weight=1, used=1e9), Team(name="b", weight=4, used=2e9)]

    assert list(decided([asks(1, "a"), asks(2, "b")], [machine(1)], teams=teams).placements) == ["w2"]


def test_a_hundred_submissions_do_not_jump():
    """Team a came with a hundred jobs before b's three: of eight slots b gets all it asks for."""
    waiting = [asks(i, "a") for i in range(100)] + [asks(i, "b") for i in range(100, 103)]

    decision = decided(waiting, [machine(8)])

    assert {f"w{i}" for i in range(100, 103)} <= set(decision.placements)
    assert len(decision.placements) == 8


def test_a_start_that_was_just_charged_counts():
    """One second ago a got four slots: the next one is b's, though nobody has used anything to speak of."""
    running = [runs(f"r{i}", "a", started_at=NOW - 1_000) for i in range(4)]

    assert list(decided([asks(1, "a"), asks(2, "b")], [machine(5, 1)], running).placements) == ["w2"]


def test_a_team_takes_its_own_slots_back_at_once():
    """b borrowed all four; two of them are a's, and a has used far more than b ever did."""
    teams = [Team(name="a", slots=2, used=1e12), Team(name="b", slots=2)]
    running = [runs(f"r{i}", "b", started_at=NOW - (i + 2) * MINUTE) for i in range(4)]

    decision = decided([asks(1, "a"), asks(2, "a"), asks(3, "a")], [machine(4, 0)], running, teams)

    assert decision.preemptions == [Preemption("r0", "w1"), Preemption("r1", "w2")]
    assert codes(decision) == {"w1": "preempting", "w2": "preempting", "w3": "capacity"}


def test_a_team_within_its_own_slots_loses_none():
    teams = [Team(name="a"), Team(name="b", slots=4, used=1e12)]
    running = [runs(f"r{i}", "b") for i in range(4)]

    assert decided([asks(1, "a")], [machine(4, 0)], running, teams).preemptions == []


def test_a_team_that_borrows_takes_from_one_that_borrows_more():
    """b holds four slots, a none: a gets two, then both hold as much."""
    teams = [Team(name="a"), Team(name="b", used=1e9)]
    running = [runs(f"r{i}", "b") for i in range(4)]

    decision = decided([asks(1, "a"), asks(2, "a"), asks(3, "a")], [machine(4, 0)], running, teams)

    assert len(decision.preemptions) == 2
    assert codes(decision)["w3"] == "capacity"


def test_who_just_started_is_left_alone():
    """Between borrowers for the time that was charged at the start; a team's own slots come back after a minute."""
    borrowing = [Team(name="a"), Team(name="b", used=1e9)]
    own = [Team(name="a", slots=4), Team(name="b", used=1e9)]
    started = [runs(f"r{i}", "b", started_at=NOW - 5 * MINUTE) for i in range(4)]
    begun = [runs(f"r{i}", "b", started_at=NOW - 1_000) for i in range(4)]

    assert decided([asks(1, "a")], [machine(4, 0)], started, borrowing).preemptions == []
    assert len(decided([asks(1, "a")], [machine(4, 0)], started, own).preemptions) == 1
    assert decided([asks(1, "a")], [machine(4, 0)], begun, own).preemptions == []


def test_nobody_stops_the_job_that_it_was_stopped_for():
    """Team a may take one of its own slots back, but from r1: it was r0 that took the place of w1."""
    teams = [Team(name="a", slots=1), Team(name="b", used=1e9)]
    running = [runs("r0", "b", started_at=NOW - 5 * MINUTE), runs("r1", "b")]

    decision = decided([asks(1, "a", gave_way_to=frozenset({"r0"}))], [machine(2, 0)], running, teams)

    assert decision.preemptions == [Preemption("r1", "w1")]


def test_a_team_that_may_not_borrow_stays_within_its_slots():
    teams = [Team(name="a", slots=2, borrows=False), Team(name="b")]
    waiting = [asks(1), asks(2, slots=3), asks(3, slots=2), asks(4)]

    decision = decided(waiting, [machine(8)], teams=teams)

    assert list(decision.placements) == ["w1"]
    assert decision.reasons["w2"] == ("quota", "It needs 3 slots; team a may use 2.")
    assert decision.reasons["w3"] == ("quota", "Team a uses 1 of the 2 slots it may use.")
    assert decision.reasons["w4"] == ("turn", "It is behind w3, which waits for slots of its team.")


# -- gangs -----------------------------------------------------------------------------------------------


def test_a_gang_gets_all_its_slots_on_the_fewest_workers():
    workers = [machine(4, 1, "m1"), machine(4, 4, "m2"), machine(4, 3, "m3")]

    assert decided([asks(1, slots=6)], workers).placements == {"w1": {"m2": 4, "m3": 2}}


def test_a_gang_that_does_not_fit_gets_nothing_and_keeps_what_is_free():
    """Two of its four slots are free; a job that may run for ever must not take them."""
    decision = decided([asks(1, slots=4), asks(2)], [machine(4, 2)], [runs("r", slots=2)])

    assert decision.placements == {}
    assert codes(decision) == {"w1": "gang", "w2": "turn"}
    assert decision.reasons["w2"].sentence == "The free cpu slots that run text are kept for w1, which is before it."


def test_a_job_that_ends_before_the_gang_starts_runs_first():
    """The slots that the gang lacks come free in ten minutes."""
    running = [runs("r", slots=2, ends_at=NOW + 10 * MINUTE)]
    waiting = [asks(1, slots=4), asks(2, max_ms=11 * MINUTE), asks(3, max_ms=10 * MINUTE)]

    decision = decided(waiting, [machine(4, 2)], running)

    assert list(decision.placements) == ["w3"]
    assert decision.reasons["w1"].sentence.endswith("expected at 08:10 UTC.")


def test_slots_that_the_gang_will_not_need_are_given_away():
    """Of eight slots six will be free when the gang of four starts: two may go to whoever comes."""
    running = [runs("r", slots=4, ends_at=NOW + 10 * MINUTE), runs("s", slots=1)]
    waiting = [asks(1, slots=4), asks(2), asks(3), asks(4), asks(5)]

    assert list(decided(waiting, [machine(8, 3)], running).placements) == ["w2", "w3", "w4"]


def test_a_short_job_may_run_before_a_gang_whose_start_nobody_knows():
    waiting = [asks(1, slots=4), asks(2, max_ms=5 * MINUTE), asks(3, max_ms=50 * MINUTE)]

    assert list(decided(waiting, [machine(4, 2)], [runs("r", slots=2)]).placements) == ["w2"]


def test_a_job_of_one_worker_is_not_spread():
    workers = [machine(4, 2, "m1"), machine(4, 2, "m2")]

    decision = decided([asks(1, slots=3, spans=False), asks(2, slots=5, spans=False)], workers)

    assert codes(decision) == {"w1": "gang", "w2": "size"}


# -- why it waits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("job", "workers", "code", "sentence"),
    [
        (asks(1), [], "no_worker", "No worker is there."),
        (asks(1), [machine(1, alive=False)], "no_worker", "No worker is there."),
        (asks(1, device="cuda"), [machine(1)], "device", "No worker has the device cuda."),
        (
            asks(1, kind="selfplay"),
            [machine(1)],
            "kind",
            "No worker with the device cpu runs jobs of the kind selfplay.",
        ),
        (asks(1, slots=3), [machine(2)], "size", "It needs 3 slots; all workers for it together have 2."),
        (asks(1, not_before=NOW + MINUTE), [machine(1)], "backoff", "It failed and is tried again at 08:01 UTC."),
    ],
)
def test_a_job_that_cannot_run_is_told_why(job: Waiting, workers: list[Worker], code: str, sentence: str):
    assert decided([job], workers).reasons == {"w1": (code, sentence)}


def test_a_job_that_cannot_run_holds_nobody_up():
    waiting = [asks(1, slots=99), asks(2, device="cuda"), asks(3)]

    assert list(decided(waiting, [machine(1)]).placements) == ["w3"]


def test_positions_count_all_who_wait_over_all_teams():
    decision = decided([asks(1, "a"), asks(2, "a"), asks(3, "b")], [machine(1, 0)], [runs("r", "b")])

    assert decision.positions == {"w1": 1, "w3": 2, "w2": 3}


# -- share -----------------------------------------------------------------------------------------------


def test_use_of_a_week_ago_counts_half():
    assert decay(100.0, HALF_LIFE_MS) == pytest.approx(50.0)
    assert decay(100.0, -5) == 100.0


@given(st.floats(0, 1e15), st.integers(0, 10**10), st.integers(0, 10**10), st.integers(0, 1000))
def test_charging_in_pieces_is_charging_at_once(used: float, first: int, second: int, slots: int):
    pieces = charge(charge(used, first, slots), second, slots)

    assert pieces == pytest.approx(charge(used, first + second, slots), rel=1e-9, abs=1e-6)


def test_a_short_interval_is_charged_as_it_is():
    assert charge(0.0, 60_000, 4) == pytest.approx(240_000, rel=1e-3)
    assert prepaid(4, NOW, NOW) == 4 * 600_000
    assert prepaid(4, LONG_AGO, NOW) == 0


@given(st.lists(st.tuples(st.integers(1, 5), st.lists(st.integers(1, 4), max_size=20)), max_size=6))
def test_turns_keep_each_queue_in_its_order_and_lose_nobody(queues: list[tuple[int, list[int]]]):
    lines = [
        (Standing(weight, 0, 0.0, 0), [asks(100 * i + j, slots=n) for j, n in enumerate(sizes)])
        for i, (weight, sizes) in enumerate(queues)
    ]

    ordered = turns(lines)

    for _, jobs in lines:
        assert [job for job in ordered if job in jobs] == jobs
    assert len(ordered) == sum(len(jobs) for _, jobs in lines)


# -- any decision ----------------------------------------------------------------------------------------


def random_view(seed: int) -> View:
    """Three teams, up to four workers, eight running and twelve waiting jobs, of all sorts."""
    draw = random.Random(seed)
    names = ("a", "b", "c")
    devices, kinds = ("cpu", "cpu", "cuda"), ("text", "text", "selfplay")
    teams = [
        Team(
            name=name,
            weight=draw.randint(1, 4),
            slots=draw.randint(0, 6),
            borrows=draw.random() < 0.7,
            used=draw.choice((0.0, 1e9, 1e10 * draw.random())),
        )
        for name in names
    ]
    workers = [
        machine(
            draw.randint(1, 6),
            name=f"m{i}",
            device=draw.choice(devices),
            kinds=frozenset(draw.sample(kinds, draw.randint(1, 3))),
            alive=draw.random() < 0.85,
        )
        for i in range(draw.randint(0, 4))
    ]
    left = {worker.id: worker.slots for worker in workers}
    running = []
    for i in range(draw.randint(0, 8)):
        open_ = [name for name, n in left.items() if n]
        slots = {name: draw.randint(1, left[name]) for name in draw.sample(open_, min(len(open_), draw.randint(1, 2)))}
        for name, n in slots.items():
            left[name] -= n
        if slots:
            running.append(
                Running(
                    id=f"r{i}",
                    team=draw.choice(names),
                    slots=slots,
                    priority=draw.randint(0, 2),
                    started_at=NOW - draw.randint(0, 30) * MINUTE,
                    ends_at=draw.choice((None, NOW + draw.randint(-5, 60) * MINUTE)),
                    preemptible=draw.random() < 0.8,
                    stopping=draw.random() < 0.2,
                )
            )
    waiting = [
        asks(
            i,
            draw.choice(names),
            kind=draw.choice(kinds),
            device=draw.choice(devices),
            slots=draw.randint(1, draw.choice((1, 3, 8))),
            priority=draw.randint(0, 2),
            not_before=draw.choice((0, 0, 0, 0, NOW + 1)),
            max_ms=draw.choice((None, draw.randint(1, 60) * MINUTE)),
            spans=draw.random() < 0.7,
            promised=draw.random() < 0.1,
        )
        for i in range(draw.randint(0, 12))
    ]
    workers = [dataclasses.replace(worker, free=left[worker.id]) for worker in workers]
    return View(teams=teams, workers=workers, waiting=waiting, running=running)


VIEWS = st.integers(0, 1 << 62).map(random_view)


@settings(max_examples=500, deadline=None)
@given(VIEWS)
def test_any_decision_can_be_carried_out(view: View):
    """No part of a gang, no slot twice, no wrong worker, nobody over a limit, everyone placed or told why."""
    decision = decide(view, NOW)

    jobs, workers = {j.id: j for j in view.waiting}, {w.id: w for w in view.workers}
    free = {w.id: w.free for w in view.workers}
    held = {t.name: sum(sum(r.slots.values()) for r in view.running if r.team == t.name) for t in view.teams}
    for name, slots in decision.placements.items():
        job = jobs[name]
        assert sum(slots.values()) == job.slots and min(slots.values()) > 0
        assert job.spans or len(slots) == 1
        assert job.not_before <= NOW
        for on, n in slots.items():
            assert workers[on].alive and workers[on].device == job.device and job.kind in workers[on].kinds
            free[on] -= n
            assert free[on] >= 0
        held[job.team] += job.slots
    for team in view.teams:
        placed = any(jobs[name].team == team.name for name in decision.placements)
        assert team.borrows or not placed or held[team.name] <= team.slots
    assert set(decision.placements) | set(decision.reasons) == set(jobs)
    assert not set(decision.placements) & set(decision.reasons)
    assert set(decision.positions) <= set(decision.reasons)
    positions = list(decision.positions.values())
    assert positions == list(range(1, len(positions) + 1))


@settings(max_examples=500, deadline=None)
@given(VIEWS)
def test_any_preemption_follows_the_rules(view: View):
    """Its own team's lower priority, or share after < share before; never twice, never what cannot save."""
    decision = decide(view, NOW)

    jobs, running = {j.id: j for j in view.waiting}, {r.id: r for r in view.running}
    teams = {t.name: t for t in view.teams}
    held = {
        t.name: sum(sum(r.slots.values()) for r in view.running if r.team == t.name and not r.stopping)
        for t in view.teams
    }
    victims = [victim for victim, _ in decision.preemptions]
    assert len(victims) == len(set(victims))
    given = [*decision.placements, *(name for name, reason in decision.reasons.items() if reason.code == "preempting")]
    for name in given:
        held[jobs[name].team] += jobs[name].slots
    for victim, beneficiary in decision.preemptions:
        gone, job = running[victim], jobs[beneficiary]
        assert gone.preemptible and not gone.stopping
        assert decision.reasons[beneficiary].code == "preempting"
        if gone.team == job.team:
            assert gone.priority < job.priority
        else:
            assert NOW - gone.started_at >= Policy().exempt_ms
            before = max(0, held[gone.team] - teams[gone.team].slots) / teams[gone.team].weight
            assert before > 0


@settings(max_examples=200, deadline=None)
@given(VIEWS)
def test_the_same_view_gives_the_same_decision(view: View):
    backwards = View(
        teams=view.teams[::-1], workers=view.workers, waiting=view.waiting[::-1], running=view.running[::-1]
    )

    assert decide(view, NOW) == decide(view, NOW)
    assert decide(backwards, NOW).placements == decide(view, NOW).placements


# -- a cluster that runs ---------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_decisions_come_to_rest(data: st.DataObject):
    """Carried out again and again while no job ends, decisions stop preempting: nobody takes turns in being stopped."""
    teams = [
        Team(name=name, weight=data.draw(st.integers(1, 3)), slots=data.draw(st.integers(0, 4)), used=used)
        for name, used in (("a", 0.0), ("b", 1e8), ("c", 1e9))
    ]
    cluster = Cluster(teams, [machine(4, name="m1"), machine(4, name="m2")], Policy(exempt_ms=0, entry_ms=0))
    for _ in range(data.draw(st.integers(1, 14))):
        team = data.draw(st.sampled_from(["a", "b", "c"]))
        cluster.submit(team, 10**12, slots=data.draw(st.integers(1, 6)), priority=data.draw(st.integers(0, 2)))
        if data.draw(st.booleans()):
            cluster.step(15_000)

    for _ in range(60):
        cluster.step(15_000)
    rest = [cluster.step(15_000).preemptions for _ in range(10)]

    assert rest == [[]] * 10


def test_a_gang_is_not_starved_by_a_stream_of_small_jobs():
    """It needs the whole machine while single jobs of unknown length come for ever, from its own team and another."""
    cluster = Cluster([Team(name="a"), Team(name="b")], [machine(4)])
    for _ in range(8):
        cluster.submit("a", 20 * MINUTE)
    cluster.step(MINUTE)
    gang = cluster.submit("a", 5 * MINUTE, slots=4)

    for minute in range(200):
        cluster.submit("ab"[minute % 2], 20 * MINUTE, preemptible=False)
        cluster.step(MINUTE)

    begun = cluster.works[gang].begun_at
    assert begun is not None
    assert begun - cluster.works[gang].submitted_at <= 120 * MINUTE


def test_a_team_that_comes_late_gets_its_part():
    """Team b comes when a has filled all slots for a day: it runs after one saving, not after a's jobs."""
    cluster = Cluster([Team(name="a"), Team(name="b")], [machine(8)])
    for _ in range(16):
        cluster.submit("a", 10_000 * MINUTE)
    for _ in range(24 * 60):
        cluster.step(MINUTE)
    for _ in range(4):
        cluster.submit("b", 100 * MINUTE)

    for _ in range(4):
        cluster.step(15_000)

    assert cluster.held("b") == 4
    assert sum(cluster.preempted.values()) == 4


@pytest.mark.parametrize("quotas", [False, True])
def test_a_backlog_is_shared_by_weight_and_all_of_it_is_done(quotas: bool):
    """600 jobs of five teams on 64 slots, every decision checked; the whole size is benchmarks/schedule.py."""
    cluster = random_cluster(600, seed=7, quotas=quotas)
    cluster.run(lambda: len({job.team for job in cluster.waiting.values()}) < 5)
    shares = {name: used / sum(cluster.slot_ms.values()) for name, used in cluster.slot_ms.items()}

    cluster.run(cluster.idle)

    total = sum(team.weight for team in cluster.teams.values())
    for name, team in cluster.teams.items():
        assert shares[name] == pytest.approx(team.weight / total, rel=0.25)  # a small backlog ends before it evens out
    assert cluster.finished == 600
    assert cluster.longest_first_ms <= 120 * MINUTE
    assert max(cluster.preempted.values(), default=0) <= 10
