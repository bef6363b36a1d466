"""Recurring schedules in a harness: they fire as its time moves, by the worker's own steps."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from raftwork import InvalidOption, JobContext, JobState, Raftwork
from raftwork.testing import Harness, RunawayJobs, harness
from raftwork.testing import slots as slots_module

HOUR = timedelta(hours=1)


@pytest.fixture
def inline(app: Raftwork) -> Iterator[Harness]:
    """The application in a harness that runs jobs at once."""
    with harness(app, mode="inline") as h:
        yield h


def slots_of(h: Harness, task: Any, *states: JobState | str) -> list[datetime]:
    return sorted(info.slot for info in h.jobs(task, *states) if info.slot is not None)


def test_schedules_of_code_fire_at_each_slot(app: Raftwork) -> None:
    @app.cron("30 3 * * *", name="nightly", args=["sales"])
    @app.task(name="report")
    def report(kind: str) -> str:
        return kind

    @app.every("6h")
    @app.task(name="sweep")
    def sweep() -> None: ...

    with harness(app) as h:
        assert [one.name for one in app.schedules.list()] == ["nightly", "sweep"]
        began = h.now
        h.advance("1d")
        assert h.now == began + 24 * HOUR
        job = h.assert_enqueued(report, "sales")
        assert job.slot is not None
        assert (job.schedule, job.slot.hour, job.slot.minute) == ("nightly", 3, 30)
        assert job.created_at == job.slot, "it fired when its slot came"
        sweeps = slots_of(h, sweep)
        assert sweeps == [sweeps[0] + n * 6 * HOUR for n in range(4)]
        assert h.drain() == 5
        assert h.counts() == {"succeeded": 5}
    assert app.schedules.list() == [], "the storage of the application has none of it"


def test_those_that_are_put_and_defined_later_fire_too(app: Raftwork, h: Harness) -> None:
    @app.every("1h", name="defined")
    @app.task(name="tick")
    def tick(number: int = 0) -> None: ...

    app.schedules.put("put", tick.s(7), every="1h")
    h.advance("2h")
    assert sorted(info.args[0] if info.args else 0 for info in h.jobs(tick)) == [0, 0, 7, 7]
    app.schedules.delete("defined")
    app.schedules.pause("put")
    h.advance("2h")
    assert len(h.jobs(tick)) == 4, "a schedule that the test deletes or pauses stays so"
    app.schedules.resume("put")
    h.advance("1h")
    assert len(h.jobs(tick)) == 5


@pytest.mark.parametrize(("misfire", "jobs"), [("skip", 0), ("run_once", 1), ("run_all", 5)])
def test_an_outage_becomes_what_the_policy_says(app: Raftwork, h: Harness, misfire: Any, jobs: int) -> None:
    task = app.task(name="tick")(nothing)
    first = app.schedules.put("tick", task, every="1h", misfire=misfire).next_at
    assert first is not None
    h.advance(first - h.now + timedelta(hours=4, minutes=30), workers=False)
    assert slots_of(h, task) == [first + n * HOUR for n in range(5)][5 - jobs :]
    h.advance("1h")
    assert slots_of(h, task)[jobs:] == [first + 5 * HOUR]


def test_jitter_delays_the_job_and_not_the_slot(app: Raftwork, h: Harness) -> None:
    task = app.task(name="tick")(nothing)
    first = app.schedules.put("tick", task, every="1d", jitter="10m").next_at
    assert first is not None
    h.advance(first - h.now)
    job = h.assert_enqueued(task, within="10m")
    assert (job.slot, job.state) == (first, JobState.SCHEDULED)
    assert h.drain() == 0
    h.advance("10m")
    assert h.drain() == 1


def test_overlap_counts_jobs_that_nobody_has_run(app: Raftwork, h: Harness) -> None:
    task = app.task(name="tick")(nothing)
    app.schedules.put("tick", task, every="1h", overlap="skip")
    h.advance("5h")
    assert len(h.jobs(task)) == 1
    assert app.schedules.get("tick").skipped == 4
    for _ in range(5):
        h.drain()
        h.advance("1h")
    assert len(h.jobs(task)) == 6


def test_inline_they_run_at_their_slot(app: Raftwork, inline: Harness) -> None:
    ran: list[tuple[datetime | None, datetime]] = []

    @app.every("1h", overlap="skip")
    @app.task(name="tick")
    def tick(ctx: JobContext) -> None:
        ran.append((ctx.slot, inline.now))

    inline.advance("3h")
    assert len(ran) == 3
    assert all(slot == now for slot, now in ran)
    app.schedules.trigger("tick")
    assert ran[3:] == [(None, inline.now)]


def test_inline_an_error_comes_out_when_the_time_has_moved_all_the_way(app: Raftwork, inline: Harness) -> None:
    @app.every("1h")
    @app.task(name="tick", retry=1)
    def tick() -> None:
        raise ZeroDivisionError

    began = inline.now
    with pytest.raises(ZeroDivisionError):
        inline.advance("3h")
    assert inline.now == began + 3 * HOUR
    assert inline.counts() == {"failed": 1, "enqueued": 2}, "what is still due is for the next call"


def test_inline_each_slot_may_cause_as_many_runs_as_an_enqueue(app: Raftwork) -> None:
    task = app.task(name="tick")(nothing)
    with harness(app, mode="inline", max_jobs=2) as h:
        app.schedules.put("tick", task, every="1h")
        h.advance("5h")
        assert h.counts() == {"succeeded": 5}


def test_more_slots_than_a_test_can_mean(app: Raftwork, h: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots_module, "SLOTS_MAX", 50)
    app.schedules.put("often", app.task(name="tick")(nothing), every="1s")
    with pytest.raises(RunawayJobs, match=r"most of them of 'often'.*app\.schedules\.pause\('often'\)"):
        h.advance("1h")
    app.schedules.pause("often")
    h.advance("1h")


def test_a_schedule_that_cannot_be_stored_is_told(app: Raftwork, h: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    app.every("1h", name="hourly")(app.task(name="tick")(nothing))

    def refuse(*args: Any, **given: Any) -> Any:
        raise InvalidOption("Not so.")

    monkeypatch.setattr(app.storage, "put_schedule", refuse)
    with pytest.raises(InvalidOption, match="Not so") as raised:
        h.advance("1h")
    assert raised.value.__notes__ == ["The schedule is 'hourly'."]


def nothing() -> None: ...
