"""`app.schedules`: the verbs, and what they say when something is wrong."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from raftwork import AccessDenied, InvalidOption, InvalidTask, Raftwork, ScheduleNotFound, clock
from raftwork.schedules import Schedules

HOUR = timedelta(hours=1)


@pytest.fixture
def app() -> Iterator[Raftwork]:
    app = Raftwork("test", "memory://?clock=manual")
    yield app
    app.close()


def task_of(app: Raftwork) -> Any:
    @app.task(name="tick", queue="mail")
    def tick(number: int = 0) -> int:
        return number

    return tick


def now(app: Raftwork) -> datetime:
    return clock.from_ms(app.storage.now_ms())


def test_a_schedule_is_put_shown_and_deleted(app: Raftwork) -> None:
    stored = app.schedules.put("one", task_of(app).s(7), "30 * * * *", overlap="skip")
    assert stored == app.schedules.get("one") == app.schedules.list()[0]
    assert (stored.function, stored.queue, stored.call, stored.source) == ("tick", "mail", "tick(7)", "api")
    assert (stored.overlap, stored.paused, stored.fired, stored.last_slot) == ("skip", False, 0, None)
    assert stored.next_at is not None
    assert (stored.next_at.minute, timedelta(0) < stored.next_at - now(app) <= HOUR) == (30, True)
    app.schedules.delete("one")
    assert app.schedules.list() == []


def test_the_same_again_keeps_the_slot_and_another_definition_does_not(app: Raftwork) -> None:
    task = task_of(app)
    stored = app.schedules.put("one", task, "30 * * * *")
    app.storage.advance(2 * 3_600_000)
    assert app.schedules.put("one", task, "30 * * * *") == stored
    changed = app.schedules.put("one", task, "45 * * * *")
    assert changed.generation > stored.generation
    assert changed.next_at is not None
    assert changed.next_at > now(app)


def test_slots_of_a_pause_are_not_made_up_for(app: Raftwork) -> None:
    first = app.schedules.put("one", task_of(app), every="1h").next_at
    app.schedules.pause("one", "holidays")
    paused = app.schedules.get("one")
    assert (paused.paused, paused.reason, paused.next_at) == (True, "holidays", first)
    app.storage.advance(5 * 3_600_000)
    app.schedules.resume("one")
    resumed = app.schedules.get("one")
    assert resumed.next_at is not None
    assert (resumed.paused, timedelta(0) < resumed.next_at - now(app) <= HOUR) == (False, True)


def test_a_short_pause_keeps_the_slot(app: Raftwork) -> None:
    first = app.schedules.put("one", task_of(app), every="1h").next_at
    app.schedules.pause("one")
    app.schedules.resume("one")
    app.schedules.resume("one")
    assert app.schedules.get("one").next_at == first


def test_a_trigger_makes_a_job_beside_the_slots(app: Raftwork) -> None:
    stored = app.schedules.put("one", task_of(app).s(7), every="1h", overlap="skip")
    app.schedules.pause("one")
    info = [app.schedules.trigger("one") for _ in range(2)][1].info()
    assert (info.schedule, info.slot, info.args) == ("one", None, [7])
    assert app.schedules.get("one").next_at == stored.next_at


def test_slots_are_previewed(app: Raftwork) -> None:
    stored = app.schedules.put("one", task_of(app), every="1h", end=now(app) + 3 * HOUR)
    assert stored.next_at is not None
    slots = app.schedules.preview("one")
    assert slots == [stored.next_at + n * HOUR for n in range(len(slots))]
    assert 2 <= len(slots) <= 3
    yearly = app.schedules.preview(cron="@yearly", tz="Asia/Tokyo", n=2)
    assert [(slot.month, slot.day, slot.hour) for slot in yearly] == [(12, 31, 15)] * 2
    with pytest.raises(InvalidOption, match="either it, or another"):
        app.schedules.preview("one", cron="@daily")
    with pytest.raises(InvalidOption, match="n=0"):
        app.schedules.preview("one", n=0)


def test_past_slots_are_made_up_for_once(app: Raftwork) -> None:
    app.schedules.put("one", task_of(app), "@hourly", overlap="skip")
    end = now(app).replace(minute=0, second=0, microsecond=0)
    jobs = app.schedules.backfill("one", end - 5 * HOUR, end)
    assert len(jobs) == 5
    assert len(app.schedules.backfill("one", end - 7 * HOUR, end)) == 2
    assert [(job.info().schedule, job.info().slot) for job in jobs] == [
        ("one", end - n * HOUR) for n in (5, 4, 3, 2, 1)
    ]
    assert app.schedules.backfill("one", end + HOUR, end + 100 * HOUR) == []
    with pytest.raises(InvalidOption, match=r"more than 1,000 slots.*several parts"):
        app.schedules.backfill("one", end - timedelta(days=100), end)


def test_verbs_name_a_schedule_that_there_is_not(app: Raftwork) -> None:
    schedules = app.schedules
    for verb in (schedules.get, schedules.pause, schedules.resume, schedules.trigger, schedules.delete):
        with pytest.raises(ScheduleNotFound, match="no schedule 'other'"):
            verb("other")
    with pytest.raises(ScheduleNotFound):
        schedules.preview("other")
    with pytest.raises(ScheduleNotFound):
        schedules.backfill("other", datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC))


def test_who_may_not_see_schedules_hears_that_there_is_none(app: Raftwork, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise AccessDenied("no")

    monkeypatch.setattr(type(app.storage), "schedules", refused)
    with pytest.raises(ScheduleNotFound, match="no schedule 'other'"):
        app.schedules.delete("other")


def test_what_is_put_is_checked_before_anything_is_stored(app: Raftwork) -> None:
    with pytest.raises(InvalidTask, match="not a task"):
        app.schedules.put("one", print, "@daily")  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match="either cron or every"):
        app.schedules.put("one", task_of(app))
    assert app._storage is None


def test_event_loops_have_twins(app: Raftwork) -> None:
    async def all_verbs() -> None:
        schedules = app.schedules
        stored = await schedules.aput("one", task_of(app), every="1h")
        await schedules.apause("one", "holidays")
        assert (await schedules.aget("one")).reason == "holidays"
        await schedules.aresume("one")
        assert await schedules.alist() == [stored]
        assert (await schedules.atrigger("one")).info().schedule == "one"
        assert await schedules.abackfill("one", now(app) - HOUR, now(app)) != []
        assert await schedules.apreview("one", n=3) == schedules.preview("one", n=3)
        assert len(await schedules.apreview(every="1h", tz="UTC", n=2)) == 2
        assert (await schedules.aput_defined(), await schedules.aorphaned()) == ([], [])
        await schedules.adelete("one")
        assert await schedules.alist() == []

    asyncio.run(all_verbs())


def test_each_verb_has_a_twin_that_is_called_alike() -> None:
    public = {name: verb for name, verb in vars(Schedules).items() if inspect.isfunction(verb) and name[0] != "_"}
    twins = {name: verb for name, verb in public.items() if inspect.iscoroutinefunction(verb)}
    verbs = {f"a{name}": verb for name, verb in public.items() if name not in twins}
    assert verbs.keys() == twins.keys()
    for name, verb in verbs.items():
        assert inspect.signature(verb) == inspect.signature(twins[name]), name
