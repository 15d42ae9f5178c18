"""Money and states of a job together, with a worker that is played and a clock that stands still."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterator
from pathlib import Path

import pytest

from cerulea.core.clock import FakeClock
from cerulea.core.errors import FundTooLow, Invalid, LeaseStale
from cerulea.core.money import UNIT, nanos
from cerulea.core.settings import read_settings
from cerulea.core.values import Usage
from cerulea.flows.conduct import LEAD_MS, Conductor, say_open
from cerulea.flows.platform import Platform, open_platform
from cerulea.flows.work import Desk
from cerulea.jobs.job import Job, NewJob, Status
from cerulea.jobs.protocol import Ending, Report
from cerulea.ledger.audit import audit

PRICES = """
[[price]]
sku = "device_ms.cpu"
nanos = 1_000_000_000  # 1 a second
per = 1000
from = 2026-01-01
source = "the test's own"
[[price]]
sku = "trained_tokens"
nanos = 1
per = 3
from = 2026-01-01
source = "the test's own"
"""
TOKENS_A_S = 1000


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(int(datetime.datetime(2026, 6, 1, tzinfo=datetime.UTC).timestamp() * 1000))


@pytest.fixture
def platform(tmp_path: Path, clock: FakeClock) -> Iterator[Platform]:
    home = tmp_path / "home"
    home.mkdir()
    (home / "prices.toml").write_text(PRICES, encoding="utf-8")
    with open_platform(read_settings({}, home=home), clock) as opened:
        opened.people.create_team("sea", fund="lab", actor="owner")
        opened.ledger.create_fund("lab", actor="owner")
        opened.ledger.open_purse("lab", "sea")
        yield opened


class DeskAndWorker(Desk):
    """The worker asks for its assignment at once: the `token` of what was placed is the text that it got."""

    def place(self, job: Job, slots: dict[str, int], *, actor: str = "conductor") -> Job:
        placed = super().place(job, slots, actor=actor)
        return dataclasses.replace(placed, token=self.assignment(placed).token)


@pytest.fixture
def desk(platform: Platform) -> Desk:
    made = DeskAndWorker(platform, heartbeat_s=1.0, tranche_s=20.0)
    made.enlist("w", name="w", slots=4, device="cpu", kinds=["text"])
    return made


def give(platform: Platform, amount: str, key: str) -> None:
    platform.ledger.grant("lab", nanos(amount), key=f"grant {key}", actor="owner")
    platform.ledger.draw("lab", "sea", nanos(amount), key=f"draw {key}", actor="owner")


def submit(platform: Platform, **values) -> Job:
    new = NewJob(
        kind="text", name="brook", recipe={}, recipe_digest="x", team="sea", fund="lab", person="owner", **values
    )
    return platform.queue.put(new)


def used(seconds: float) -> Report:
    """A job that has run for so long."""
    return Report(
        usage=Usage(trained_tokens=int(seconds * TOKENS_A_S), device_ms=int(seconds * 1000)), step=int(seconds)
    )


def price(seconds: float) -> int:
    """What it must have cost, by the list: a second of the device, and tokens, rounded up once."""
    return int(seconds * UNIT) - (-int(seconds * TOKENS_A_S) // 3)


def play(desk: Desk, platform: Platform, clock: FakeClock, job: Job, begin: int, end: int) -> tuple[Job, int]:
    """Work second by second as a worker does; returns the job and the second at which it stopped."""
    order = desk.heartbeat(job.id, job.token, used(begin))
    for second in range(begin + 1, end + 1):
        clock.advance(1000)
        order = desk.heartbeat(job.id, job.token, used(second))
        assert platform.ledger.available("lab", "sea") >= 0
        if order.desired == "stop" or (order.paid is not None and price(second) >= order.paid):
            ending = Ending(outcome="stopped", reason=order.reason or "budget", report=used(second))
            return desk.finish(job.id, job.token, ending), second
    return desk.finish(job.id, job.token, Ending(outcome="done", reason="steps", report=used(end))), end


def test_a_job_costs_what_the_list_says_and_gives_the_rest_back(platform: Platform, desk: Desk, clock: FakeClock):
    give(platform, "1000", "a")
    job = desk.place(submit(platform), {"w": 1})

    done, _ = play(desk, platform, clock, job, 0, 7)

    assert (done.status, done.charged) == (Status.SUCCEEDED, price(7))
    assert platform.ledger.available("lab", "sea") == nanos("1000") - price(7)
    assert platform.ledger.holds("lab") == []


def test_chopping_a_job_into_tranches_costs_the_same(platform: Platform, desk: Desk, clock: FakeClock):
    """A hundred seconds are five tranches and more."""
    give(platform, "1000", "a")
    job = desk.place(submit(platform), {"w": 1})

    done, _ = play(desk, platform, clock, job, 0, 100)

    assert done.tranche > 4
    assert done.charged == price(100)


def test_money_for_forty_percent_pauses_and_more_money_finishes(platform: Platform, desk: Desk, clock: FakeClock):
    give(platform, "40", "a")
    conductor = Conductor(platform, desk)
    job = desk.place(submit(platform), {"w": 1})

    paused, second = play(desk, platform, clock, job, 0, 100)

    assert (paused.status, paused.reason) == (Status.PAUSED, "budget")
    assert 30 < second < 40
    assert paused.charged == price(second) <= nanos("40")
    conductor.wake()
    assert platform.queue.get(job.id).status == Status.PAUSED

    give(platform, "100", "b")
    conductor.wake()
    again = desk.place(platform.queue.get(job.id), {"w": 1})
    done, _ = play(desk, platform, clock, again, second, 100)

    assert (done.status, done.charged) == (Status.SUCCEEDED, price(100))
    assert platform.ledger.available("lab", "sea") == nanos("140") - price(100)


def test_a_team_without_money_cannot_start(platform: Platform, desk: Desk):
    job = submit(platform)

    with pytest.raises(FundTooLow, match="cerulea fund draw lab sea"):
        desk.place(job, {"w": 1})

    assert platform.queue.get(job.id) == job
    assert platform.workers.present()[0]["free"] == 4


def test_work_repeated_after_a_loss_is_charged_once(platform: Platform, desk: Desk, clock: FakeClock):
    give(platform, "1000", "a")
    job = desk.place(submit(platform), {"w": 1})
    for second in range(1, 31):
        clock.advance(1000)
        desk.heartbeat(job.id, job.token, used(second))

    lost = desk.lose(platform.queue.get(job.id), "It is gone.")
    assert (lost.status, lost.reason, lost.charged) == (Status.QUEUED, "lost", price(30))
    again = desk.place(lost, {"w": 1})
    done, _ = play(desk, platform, clock, again, 20, 50)  # from a checkpoint ten seconds back

    assert done.charged == price(50)
    assert done.retries == 0


def test_nothing_of_a_zombie_is_accepted(platform: Platform, desk: Desk, clock: FakeClock):
    give(platform, "1000", "a")
    zombie = desk.place(submit(platform), {"w": 1})
    desk.heartbeat(zombie.id, zombie.token, used(1))
    clock.advance(platform.queue.lease_ms + 1)
    desk.lose(platform.queue.overdue()[0], "silent")
    owner = desk.place(platform.queue.get(zombie.id), {"w": 1})
    before, money = platform.queue.get(owner.id), platform.ledger.available("lab", "sea")

    model = {"files": {}, "digest": "d", "card": {}}
    ending = Ending(outcome="done", reason="steps", report=used(9), model=model)
    for act in (
        lambda: desk.heartbeat(zombie.id, zombie.token, used(9)),
        lambda: desk.record(zombie.id, zombie.token, 1, [{"event": "progress", "step": 9}], 0, "run"),
        lambda: desk.finish(zombie.id, zombie.token, ending),
        lambda: desk.died(zombie.id, zombie.token, "x", crash=True),
        lambda: desk.died(zombie.id, zombie.token, "x", crash=False),
    ):
        with pytest.raises(LeaseStale):
            act()

    assert platform.queue.get(owner.id) == before
    assert platform.ledger.available("lab", "sea") == money
    assert platform.registry.versions() == []
    assert platform.journal.since(owner.id) == []


def test_what_was_used_beyond_the_hold_is_paid_or_absorbed_never_overdrawn(
    platform: Platform, desk: Desk, clock: FakeClock
):
    """A worker that did not report for a minute: the team has money for a part of it."""
    give(platform, "30", "a")
    job = desk.place(submit(platform), {"w": 1})
    clock.advance(60_000)

    done = desk.finish(job.id, job.token, Ending(outcome="done", reason="steps", report=used(60)))

    assert done.status == Status.SUCCEEDED
    assert platform.ledger.available("lab", "sea") >= 0
    assert done.charged <= nanos("30")


def test_crashes_are_tried_again_later_each_time(platform: Platform, desk: Desk, clock: FakeClock):
    give(platform, "1000", "a")
    job = submit(platform, max_retries=2)
    waits = []
    for _ in range(3):
        placed = desk.place(platform.queue.get(job.id), {"w": 1})
        after = desk.died(placed.id, placed.token, "Its process ended with code 1.", crash=True)
        waits.append(after.not_before - clock.now())

    assert (after.status, after.retries) == (Status.FAILED, 2)
    assert waits[1] == 2 * waits[0]


def test_a_failure_of_the_platform_burns_no_retry(platform: Platform, desk: Desk):
    give(platform, "1000", "a")
    job = desk.place(submit(platform), {"w": 1})

    after = desk.finish(job.id, job.token, Ending(outcome="failed", reason="platform", detail="The disk is full."))

    assert (after.status, after.retries) == (Status.QUEUED, 0)


def test_a_cancelled_job_is_told_to_stop_and_pays_what_it_used(platform: Platform, desk: Desk):
    give(platform, "1000", "a")
    job = desk.place(submit(platform), {"w": 1})
    desk.heartbeat(job.id, job.token, used(2))
    platform.queue.ask_stop(job.id, "cancel", actor="ada")

    order = desk.heartbeat(job.id, job.token, used(3))
    after = desk.finish(job.id, job.token, Ending(outcome="stopped", reason="cancel", report=used(4)))

    assert (order.desired, order.reason) == ("stop", "cancel")
    assert (after.status, after.charged) == (Status.CANCELLED, price(4))


def test_a_cap_on_a_job_pauses_it(platform: Platform, desk: Desk, clock: FakeClock):
    give(platform, "1000", "a")
    job = submit(platform)
    platform.ledger.set_cap("job", job.id, "total", nanos("50"), actor="owner")
    placed = desk.place(job, {"w": 1})

    paused, second = play(desk, platform, clock, placed, 0, 100)

    assert (paused.status, paused.reason) == (Status.PAUSED, "budget")
    assert second < 50
    assert paused.charged <= nanos("50")


def test_a_lost_foreground_job_is_not_given_to_another_worker(platform: Platform, desk: Desk):
    give(platform, "1000", "a")
    job = desk.place(submit(platform, pinned=1), {"w": 1})

    assert desk.lose(job, "Its process is gone.").status == Status.CANCELLED


def test_a_job_that_loses_worker_after_worker_is_given_up(platform: Platform, desk: Desk):
    give(platform, "1000", "a")
    job = submit(platform)
    after = job
    for _ in range(10):
        after = desk.lose(desk.place(platform.queue.get(job.id), {"w": 1}), "gone")

    assert after.status == Status.FAILED


def test_the_conductor_reaps_nothing_for_one_lease_after_a_start_or_a_jump(
    platform: Platform, desk: Desk, clock: FakeClock
):
    give(platform, "1000", "a")
    job = desk.place(submit(platform), {"w": 1})
    clock.advance(platform.queue.lease_ms + 1)
    conductor = Conductor(platform, desk)

    conductor.tick()
    assert platform.queue.get(job.id).status == Status.STARTING
    clock.advance(platform.queue.lease_ms)
    desk.heartbeat(job.id, job.token, used(1))
    clock.jump(3_600_000)
    conductor.tick()
    assert platform.queue.get(job.id).status == Status.RUNNING
    clock.advance(platform.queue.lease_ms + 1)
    conductor.tick()

    assert platform.queue.events(job.id)[-1].reason == "lost"


def test_nobody_is_lost_while_no_server_answers(platform: Platform, desk: Desk, clock: FakeClock):
    give(platform, "1000", "a")
    job = desk.place(submit(platform), {"w": 1})
    conductor = Conductor(platform, desk)
    say_open(platform)
    for _ in range(5):
        clock.advance(platform.queue.lease_ms)
        conductor.tick()
    assert platform.queue.get(job.id).status == Status.STARTING

    for _ in range(2 * platform.queue.lease_ms // 2000):
        say_open(platform)
        conductor.tick()
        clock.advance(2000)

    assert platform.queue.events(job.id)[-1].reason == "lost"


def test_the_conductor_places_what_fits_and_says_why_the_rest_waits(platform: Platform, desk: Desk):
    give(platform, "1000", "a")
    jobs = [submit(platform, slots=2) for _ in range(3)]
    Conductor(platform, desk).tick()

    found = [platform.queue.get(job.id) for job in jobs]

    assert [job.status for job in found] == [Status.STARTING, Status.STARTING, Status.QUEUED]
    assert found[2].reason == "gang"
    assert found[2].reason_detail


def test_only_one_conductor_leads(platform: Platform, desk: Desk, clock: FakeClock):
    first, second = Conductor(platform, desk), Conductor(platform, desk)

    assert first.tick()
    assert not second.tick()
    clock.advance(LEAD_MS + 1)
    assert second.tick()
    assert not first.tick()


def test_a_conductor_that_leaves_is_followed_at_once(platform: Platform, desk: Desk):
    """The platform is stopped and started again: the first job must not wait for the lease of the one before."""
    first, second = Conductor(platform, desk), Conductor(platform, desk)
    first.tick()

    first.leave()

    assert second.tick()
    first.leave()  # it does not lead any more, and takes nothing away
    assert not first.tick()


def test_one_team_that_cannot_pay_does_not_stand_in_front_of_another(platform: Platform, desk: Desk):
    """Sea has crumbs, less than a start costs; sky has money. One slot is free."""
    platform.people.create_team("sky", fund="lab", actor="owner")
    platform.ledger.open_purse("lab", "sky")
    give(platform, "1", "crumbs")
    platform.ledger.grant("lab", nanos("1000"), key="grant sky", actor="owner")
    platform.ledger.draw("lab", "sky", nanos("1000"), key="draw sky", actor="owner")
    poor = submit(platform, slots=4)
    rich = platform.queue.put(
        NewJob(kind="text", name="x", recipe={}, recipe_digest="x", team="sky", fund="lab", person="owner", slots=4)
    )

    Conductor(platform, desk).tick()

    assert platform.queue.get(rich.id).status == Status.STARTING
    assert platform.queue.get(poor.id).reason == "budget"


def test_a_cap_below_one_tranche_is_held_and_used(platform: Platform, desk: Desk, clock: FakeClock):
    """A tranche is 23; the job may cost 15 in all."""
    give(platform, "1000", "a")
    job = submit(platform)
    platform.ledger.set_cap("job", job.id, "total", nanos("15"), actor="owner")

    paused, second = play(desk, platform, clock, desk.place(job, {"w": 1}), 0, 100)

    assert (paused.status, paused.reason) == (Status.PAUSED, "budget")
    assert 8 < second <= 15
    assert paused.charged <= nanos("15")


def test_a_cap_that_is_lowered_stops_the_job_and_breaks_nothing(platform: Platform, desk: Desk, clock: FakeClock):
    give(platform, "1000", "a")
    job = submit(platform)
    platform.ledger.set_cap("job", job.id, "total", nanos("500"), actor="owner")
    placed = desk.place(job, {"w": 1})
    clock.advance(1000)
    desk.heartbeat(placed.id, placed.token, used(1))
    platform.ledger.set_cap("job", job.id, "total", nanos("2"), actor="owner")

    paused, _ = play(desk, platform, clock, placed, 1, 100)

    assert (paused.status, paused.reason) == (Status.PAUSED, "budget")


def test_a_name_that_belongs_to_another_team_ends_with_the_reason(platform: Platform, desk: Desk):
    give(platform, "1000", "a")
    files = {"model.safetensors": {"sha256": "a" * 64, "bytes": 1}}
    model = {"files": files, "digest": "b" * 64, "card": {}}
    platform.registry.register("brook", manifest=files, digest="b" * 64, card={}, team="home", actor="owner")
    job = desk.place(submit(platform), {"w": 1})

    after = desk.finish(job.id, job.token, Ending(outcome="done", reason="steps", report=used(1), model=model))

    assert after.status == Status.FAILED
    assert "brook" in after.reason_detail
    assert after.retries == 0


def test_a_worker_that_reported_again_is_not_lost(platform: Platform, desk: Desk, clock: FakeClock):
    give(platform, "1000", "a")
    job = desk.place(submit(platform), {"w": 1})
    clock.advance(platform.queue.lease_ms + 1)
    seen = platform.queue.overdue()[0]
    desk.heartbeat(job.id, job.token, used(1))

    with pytest.raises(LeaseStale):
        desk.lose(seen, "silent", overdue=True)

    assert platform.queue.get(job.id).status == Status.RUNNING


def test_a_cancel_that_comes_before_the_loss_is_remembered(platform: Platform, desk: Desk):
    give(platform, "1000", "a")
    job = desk.place(submit(platform), {"w": 1})
    seen = platform.queue.get(job.id)
    platform.queue.ask_stop(job.id, "cancel", actor="ada")

    assert desk.lose(seen, "gone").status == Status.CANCELLED


def test_a_job_that_was_cancelled_is_not_woken(platform: Platform, desk: Desk, clock: FakeClock):
    give(platform, "10", "a")
    paused, _ = play(desk, platform, clock, desk.place(submit(platform), {"w": 1}), 0, 100)
    conductor = Conductor(platform, desk)
    stale = platform.queue.broke()
    desk.cancel(paused.id, actor="ada")
    give(platform, "100", "b")

    platform.queue.broke = lambda limit=0: stale  # type: ignore[method-assign]
    conductor.wake()

    assert platform.queue.get(paused.id).status == Status.CANCELLED


def test_a_report_cannot_name_another_runs_folder(platform: Platform, desk: Desk):
    give(platform, "1000", "a")
    job = desk.place(submit(platform), {"w": 1})

    for run in ("../../etc", "/tmp/x", f"{job.run}/..", "other", "", f"{job.run}~/../x"):
        with pytest.raises(Invalid):
            desk.heartbeat(job.id, job.token, dataclasses.replace(used(1), run=run))
    desk.heartbeat(job.id, job.token, dataclasses.replace(used(1), run=f"{job.run}~2"))

    assert platform.queue.get(job.id).run == f"{job.run}~2"


def test_a_cancelled_job_pays_what_it_still_owes_or_the_house_does(platform: Platform, desk: Desk, clock: FakeClock):
    """Paused with more used than was held; then a person cancels it."""
    give(platform, "10", "a")
    job = desk.place(submit(platform), {"w": 1})
    paused = desk.finish(job.id, job.token, Ending(outcome="stopped", reason="budget", report=used(14)))
    assert (paused.status, paused.charged) == (Status.PAUSED, nanos("10"))
    give(platform, "100", "b")

    after = desk.cancel(paused.id, actor="ada")

    assert (after.status, after.charged) == (Status.CANCELLED, price(14))
    assert audit(platform.database).problems == []


def test_a_foreground_job_never_waits_in_the_queue(platform: Platform, desk: Desk):
    give(platform, "1000", "a")
    job = desk.place(submit(platform, pinned=1), {"w": 1})

    after = desk.finish(job.id, job.token, Ending(outcome="failed", reason="platform", detail="The disk is full."))

    assert after.status == Status.CANCELLED


def test_a_foreground_job_that_cannot_start_leaves_nothing(platform: Platform, desk: Desk):
    new = NewJob(kind="text", name="x", recipe={}, recipe_digest="x", team="sea", fund="lab", person="owner", pinned=1)

    with pytest.raises(FundTooLow):
        desk.start_here(lambda tx: platform.queue.put(new, tx=tx), "w", 1)

    assert platform.queue.newest() == []


def test_a_clock_that_is_set_back_hides_no_dead_worker(platform: Platform, desk: Desk, clock: FakeClock):
    give(platform, "1000", "a")
    desk.place(submit(platform), {"w": 1})
    conductor = Conductor(platform, desk)
    clock.jump(-3_600_000)
    for _ in range(3):
        clock.advance(platform.queue.lease_ms + 1)
        conductor.tick()

    assert platform.workers.present() == []
    assert platform.queue.newest()[0].status == Status.QUEUED
