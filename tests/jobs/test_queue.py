"""The queue on both engines: the chart of states, leases and their tokens, what a repeat does."""

from __future__ import annotations

import itertools
import threading

import pytest

from cerulea.core.clock import FakeClock
from cerulea.core.errors import EdgeRefused, KeyReused, LeaseStale, NotFound
from cerulea.core.values import Usage
from cerulea.jobs.job import EDGES, ENDED, Job, NewJob, Status, check_edge
from cerulea.jobs.queue import Queue
from cerulea.jobs.workers import Workers
from cerulea.store.database import Database


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def queue(database: Database, clock: FakeClock) -> Queue:
    def furnish(tx):
        for team in ("sea", "sky"):
            tx.run("INSERT INTO team (name, fund, created_at) VALUES (:name, 'home', 0)", name=team)

    database.write(furnish)
    Workers(database, clock).enlist("w1", name="w1", slots=2, device="cpu", kinds=["text"])
    return Queue(database, clock, lease_ms=1000)


def new(**values) -> NewJob:
    given = {
        "kind": "text",
        "name": "brook",
        "recipe": {"name": "brook"},
        "recipe_digest": "abc",
        "team": "sea",
        "fund": "home",
        "person": "ada",
    }
    return NewJob(**{**given, **values})


def started(queue: Queue, **values) -> Job:
    job = queue.put(new(**values))
    return queue.place(job.id, {"w1": job.slots})


def brought_to(queue: Queue, status: Status) -> Job:
    """A job in the state asked for, by the shortest way."""
    job = queue.put(new())
    if status == Status.QUEUED:
        return job
    job = queue.place(job.id, {"w1": 1})
    if status == Status.STARTING:
        return job
    job = queue.heartbeat(job.id, job.token)
    if status == Status.RUNNING:
        return job
    if status in (Status.SUCCEEDED, Status.FAILED):
        return queue.finish(job.id, job.token, status, reason="x")
    reason = "budget" if status == Status.PAUSED else "cancel"
    job = queue.ask_stop(job.id, reason, actor="ada")
    return job if status == Status.STOPPING else queue.finish(job.id, job.token, status, reason=reason)


@pytest.mark.parametrize(("before", "after"), list(itertools.product(Status, Status)))
def test_every_pair_of_states_is_an_edge_or_is_refused(before: Status, after: Status):
    if (before, after) in EDGES:
        check_edge("job-1", before, after)
    else:
        with pytest.raises(EdgeRefused):
            check_edge("job-1", before, after)


@pytest.mark.parametrize("status", list(Status))
def test_every_state_can_be_reached(queue: Queue, status: Status):
    job = brought_to(queue, status)

    assert job.status == status
    assert (job.token is None) == (status not in (Status.STARTING, Status.RUNNING, Status.STOPPING))


@pytest.mark.parametrize("status", list(Status))
def test_cancel_ends_what_waits_and_stops_what_runs(queue: Queue, status: Status):
    job = brought_to(queue, status)

    if status in ENDED:
        with pytest.raises(EdgeRefused):
            queue.ask_stop(job.id, "cancel", actor="ada")
        return
    after = queue.ask_stop(job.id, "cancel", actor="ada")

    waits = status in (Status.QUEUED, Status.PAUSED)
    assert after.status == (Status.CANCELLED if waits else Status.STOPPING)


def test_the_history_of_a_job_is_a_path_through_the_chart(queue: Queue):
    job = brought_to(queue, Status.PAUSED)
    queue.requeue(job.id, reason="money", actor="conductor")

    events = queue.events(job.id)

    assert [e.after for e in events] == ["QUEUED", "STARTING", "RUNNING", "STOPPING", "PAUSED", "QUEUED"]
    assert all((Status(e.before), Status(e.after)) in EDGES for e in events[1:])


def test_a_repeated_key_answers_the_first_job(queue: Queue):
    first = queue.put(new(), key="k")

    assert queue.put(new(), key="k") == first
    assert len(queue.newest()) == 1


def test_a_repeated_key_with_another_job_is_refused(queue: Queue):
    queue.put(new(), key="k")

    with pytest.raises(KeyReused):
        queue.put(new(recipe_digest="other"), key="k")


def test_another_team_may_use_the_same_key(queue: Queue):
    assert queue.put(new(), key="k").id != queue.put(new(team="sky"), key="k").id


def test_a_placed_job_has_a_new_token_each_time(queue: Queue):
    job = started(queue)
    queue.finish(job.id, job.token, Status.QUEUED, reason="lost")

    again = queue.place(job.id, {"w1": 1})

    assert (again.attempt, again.token == job.token) == (2, False)


def test_nothing_of_a_stale_attempt_is_taken(queue: Queue):
    """The zombie of the first attempt reports, finishes and fails; the second attempt feels nothing of it."""
    zombie = started(queue)
    queue.finish(zombie.id, zombie.token, Status.QUEUED, reason="lost")
    owner = queue.place(zombie.id, {"w1": 1})
    before = queue.heartbeat(owner.id, owner.token, usage=Usage(trained_tokens=5))

    for act in (
        lambda: queue.heartbeat(zombie.id, zombie.token, usage=Usage(trained_tokens=9)),
        lambda: queue.finish(zombie.id, zombie.token, Status.SUCCEEDED, reason="done"),
        lambda: queue.heartbeat(zombie.id, "", step=1),
    ):
        with pytest.raises(LeaseStale):
            act()

    assert queue.get(owner.id) == before


def test_a_finished_job_takes_no_more_reports(queue: Queue):
    job = started(queue)
    queue.finish(job.id, job.token, Status.FAILED, reason="crash")

    with pytest.raises(LeaseStale):
        queue.heartbeat(job.id, job.token)


def test_a_lease_runs_out_and_is_renewed(queue: Queue, clock: FakeClock):
    job = started(queue)
    clock.advance(900)
    queue.heartbeat(job.id, job.token)
    clock.advance(900)
    assert queue.overdue() == []

    clock.advance(200)

    assert [late.id for late in queue.overdue()] == [job.id]


def test_usage_only_grows(queue: Queue):
    """After a resume the counters begin at the checkpoint again: what was counted before is not counted twice."""
    job = started(queue)
    queue.heartbeat(job.id, job.token, usage=Usage(trained_tokens=100, device_ms=7))

    after = queue.heartbeat(job.id, job.token, usage=Usage(trained_tokens=60, device_ms=9))

    assert after.usage == Usage(trained_tokens=100, device_ms=9)


def test_all_slots_of_a_gang_or_none(queue: Queue):
    job = queue.put(new(slots=3))

    with pytest.raises(EdgeRefused):
        queue.place(job.id, {"w1": 3})
    with pytest.raises(EdgeRefused):
        queue.place(job.id, {"w1": 2})

    assert queue.get(job.id).status == Status.QUEUED
    assert queue.place(queue.put(new(slots=2)).id, {"w1": 2}).status == Status.STARTING


def test_slots_come_free_when_a_job_ends(queue: Queue):
    job = started(queue, slots=2)
    with pytest.raises(EdgeRefused):
        started(queue)
    queue.finish(job.id, job.token, Status.FAILED, reason="crash")

    assert started(queue).status == Status.STARTING


def test_a_job_goes_on_with_another_number_of_slots(queue: Queue):
    """Stopped on one process, resumed with two."""
    job = brought_to(queue, Status.PAUSED)

    queue.requeue(job.id, reason="resume", actor="ada", slots=2)

    assert queue.place(job.id, {"w1": 2}).slots == 2


def test_a_job_that_waits_is_revised_and_one_that_runs_is_not(queue: Queue):
    waits, runs = queue.put(new()), started(queue)

    revised = queue.revise(waits.id, actor="ada", slots=2, recipe={"name": "brook", "steps": 9}, pinned=1)

    assert (revised.slots, revised.recipe["steps"], revised.pinned) == (2, 9, 1)
    assert revised.version == waits.version + 1
    with pytest.raises(EdgeRefused, match="STARTING"):
        queue.revise(runs.id, actor="ada", slots=2)


def test_eight_conductors_place_a_job_once(queue: Queue):
    """Whoever comes second finds that it waits no more."""
    job = queue.put(new())
    outcomes = []

    def place() -> None:
        try:
            outcomes.append(queue.place(job.id, {"w1": 1}).attempt)
        except EdgeRefused:
            outcomes.append(0)

    threads = [threading.Thread(target=place) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(outcomes) == [0] * 7 + [1]


def test_a_job_of_another_team_is_not_there(queue: Queue):
    job = queue.put(new(team="sky"))

    with pytest.raises(NotFound):
        queue.get(job.id, teams=["sea"])
    assert queue.newest(teams=["sea"]) == []
    assert queue.newest(teams=["sky"]) == [job]


def test_a_mistyped_job_names_the_nearest(queue: Queue):
    job = queue.put(new())

    with pytest.raises(NotFound, match=job.id):
        queue.get(job.id[:-1] + "x")


def test_reasons_are_written_for_those_that_wait(queue: Queue):
    waits, runs = queue.put(new()), started(queue)

    queue.explain({waits.id: ("capacity", "All slots are taken."), runs.id: ("capacity", "no")})

    assert queue.get(waits.id).reason_detail == "All slots are taken."
    assert queue.get(runs.id).reason == "placed"


def test_events_cannot_be_changed(queue: Queue):
    queue.put(new())

    with pytest.raises(Exception, match="append-only"):
        queue.database.write(lambda tx: tx.run("UPDATE job_event SET reason = 'x'"))
    with pytest.raises(Exception, match="append-only"):
        queue.database.write(lambda tx: tx.run("DELETE FROM job_event"))
