"""The scheduler of a worker: what it does at a slot, after an outage, beside others, and when it cannot."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from raftwork import JobInfo, Raftwork, clock, serde
from raftwork.cron import define, job_id
from raftwork.errors import AccessDenied, NotRunning, Overloaded
from raftwork.storage.base import JobSpec, SessionInfo, Storage
from raftwork.worker import scheduler
from raftwork.worker.scheduler import Scheduler

HOUR = 3_600_000


def task_of(app: Raftwork) -> Any:
    @app.task(name="tick")
    def tick(number: int = 0) -> int:
        return number

    return tick


def eager(app: Raftwork) -> Scheduler:
    """A scheduler whose turns the test makes, and that never waits for others."""
    return Scheduler(app, lambda: 0.0)


def jobs_of(app: Raftwork, name: str = "tick") -> list[JobInfo]:
    """The jobs of a schedule, by their slot."""
    found = [job for job in app.jobs() if job.schedule == name]
    return sorted(found, key=lambda job: job.slot or job.created_at)


def slots_of(app: Raftwork, name: str = "tick") -> list[datetime | None]:
    return [job.slot for job in jobs_of(app, name)]


def advance(app: Raftwork, ms: int) -> None:
    app.storage.advance(ms)


def test_a_slot_fires_and_the_next_one_is_set(still: Raftwork) -> None:
    app, turns = still, eager(still)
    app.schedules.put("tick", task_of(app).s(7), every="1h")
    first = app.schedules.get("tick").next_at
    assert first is not None
    turns.turn(app.storage)
    assert slots_of(app) == []
    advance(app, HOUR)
    assert turns.turn(app.storage) == 0.0
    assert turns.turn(app.storage) > 0.0
    assert slots_of(app) == [first]
    stored = app.schedules.get("tick")
    assert (stored.next_at, stored.last_slot, stored.fired) == (first + timedelta(hours=1), first, 1)
    assert stored.last_job == jobs_of(app)[0].id


def test_schedules_of_code_are_put_with_the_first_turn(still: Raftwork) -> None:
    still.cron("@hourly", name="hourly", args=[3])(task_of(still))
    turns = eager(still)
    turns.turn(still.storage)
    (stored,) = still.schedules.list()
    assert (stored.name, stored.source, stored.call) == ("hourly", "code", "tick(3)")
    still.schedules.delete("hourly")
    turns.turn(still.storage)
    assert still.schedules.list() == []


@pytest.mark.parametrize(("misfire", "jobs"), [("skip", 0), ("run_once", 1), ("run_all", 5)])
def test_an_outage_becomes_what_the_policy_says(still: Raftwork, misfire: Any, jobs: int) -> None:
    app, turns = still, eager(still)
    app.schedules.put("tick", task_of(app), every="1h", misfire=misfire)
    first = app.schedules.get("tick").next_at
    assert first is not None
    to_slot = clock.to_ms(first) - app.storage.now_ms()
    advance(app, to_slot + 4 * HOUR + HOUR // 2)
    turns.turn(app.storage)
    assert slots_of(app) == [first + timedelta(hours=n) for n in range(5)][5 - jobs :]
    assert app.schedules.get("tick").next_at == first + timedelta(hours=5)


@pytest.mark.parametrize("skews", [[5], [-5], [5, -5, 0]], ids=["ahead", "behind", "jumping"])
def test_c1_slots_follow_the_time_of_the_storage_whatever_the_clock_here_says(
    still: Raftwork, monkeypatch: pytest.MonkeyPatch, skews: list[int]
) -> None:
    app, turns = still, eager(still)
    app.schedules.put("tick", task_of(app), every="1h", misfire="run_all")
    first, now, skew = app.schedules.get("tick").next_at, app.storage.now_ms(), itertools.cycle(skews)
    assert first is not None
    monkeypatch.setattr(scheduler.clock, "now_ms", lambda: now + next(skew) * HOUR)

    def turn_after(ms: int) -> list[datetime | None]:
        nonlocal now
        advance(app, ms)
        now += ms
        while (wait_s := turns.turn(app.storage)) == 0.0:
            pass
        assert wait_s <= scheduler.IDLE_S
        return slots_of(app)

    assert turn_after(clock.to_ms(first) - now - 1) == [], "none is early"
    assert turn_after(1) == [first], "and none is late"
    for half in range(1, 8):
        assert turn_after(HOUR // 2) == [first + timedelta(hours=n) for n in range(half // 2 + 1)]


@pytest.mark.parametrize(("window", "jobs"), [("3h", 3), ("10m", 0)])
def test_an_outage_makes_up_for_no_more_than_the_window(
    still: Raftwork, caplog: pytest.LogCaptureFixture, window: str, jobs: int
) -> None:
    app, turns = still, eager(still)
    app.schedules.put("tick", task_of(app), every="1h", misfire="run_all", catchup_window=window)
    first = app.schedules.get("tick").next_at
    assert first is not None
    advance(app, clock.to_ms(first) - app.storage.now_ms() + 4 * HOUR + HOUR // 2)
    turns.turn(app.storage)
    assert slots_of(app) == [first + timedelta(hours=n) for n in range(5)][5 - jobs :]
    assert app.schedules.get("tick").next_at == first + timedelta(hours=5)
    assert ("missed all slots" in caplog.text) == (jobs == 0)


def connected(app: Raftwork, monkeypatch: pytest.MonkeyPatch, kinds: list[str]) -> None:
    """Let the storage tell of so many sessions."""
    rows = [SessionInfo(number, kind, "host", number, {}, 0, 0) for number, kind in enumerate(kinds)]
    monkeypatch.setattr(type(app.storage), "sessions", lambda *_: rows)


def test_many_idle_workers_ask_less_often_and_not_together(still: Raftwork, monkeypatch: pytest.MonkeyPatch) -> None:
    connected(still, monkeypatch, ["worker"] * 1_000)
    sleeps = [eager(still).turn(still.storage) for _ in range(1_000)]
    assert max(sleeps) <= 2 * scheduler.IDLE_MANY_S
    assert sum(sleeps) / 1_000 == pytest.approx(scheduler.IDLE_MANY_S, rel=0.2)
    assert sum(sleep <= 1.0 for sleep in sleeps) > scheduler.QUESTIONS_S, "each second some ask"


def test_few_workers_ask_each_second_however_many_clients_there_are(
    still: Raftwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected(still, monkeypatch, ["worker"] * scheduler.QUESTIONS_S + ["client"] * 1_000)
    assert eager(still).turn(still.storage) == scheduler.IDLE_S


def test_one_of_many_workers_is_awake_when_a_slot_comes(still: Raftwork, monkeypatch: pytest.MonkeyPatch) -> None:
    connected(still, monkeypatch, ["worker"] * 1_000)
    monkeypatch.setattr(scheduler.random, "random", lambda: 0.9)
    still.schedules.put("tick", task_of(still), every="1h")
    next_at = still.schedules.get("tick").next_at
    assert next_at is not None
    for ahead_ms, sleep_s in [(HOUR, 2 * scheduler.IDLE_MANY_S * 0.9), (300, 0.3)]:
        monkeypatch.setattr(scheduler.clock, "now_ms", lambda ahead_ms=ahead_ms: clock.to_ms(next_at) - ahead_ms)
        assert eager(still).turn(still.storage) == pytest.approx(sleep_s)


def test_lanes_of_one_worker_are_no_workers(still: Raftwork, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [SessionInfo(number, "worker", "host", 1, {}, 0, 0) for number in range(1_000)]
    monkeypatch.setattr(type(still.storage), "sessions", lambda *_: rows)
    assert eager(still).turn(still.storage) == scheduler.IDLE_S


def test_a_worker_that_may_not_see_the_others_asks_each_second(
    still: Raftwork, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*_: object) -> None:
        raise AccessDenied("no")

    monkeypatch.setattr(type(still.storage), "sessions", refused)
    assert eager(still).turn(still.storage) == scheduler.IDLE_S
    assert not caplog.records


def test_what_failed_is_tried_again_in_a_second_by_one_of_many_workers_too(
    still: Raftwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise Overloaded("no")

    connected(still, monkeypatch, ["worker"] * 1_000)
    still.schedules.put("tick", task_of(still), every="1h")
    turns = eager(still)
    advance(still, HOUR)
    with monkeypatch.context() as broken:
        broken.setattr(scheduler, "decide", refused)
        assert [turns.turn(still.storage) for _ in range(3)] == [scheduler.IDLE_S] * 3
    assert not jobs_of(still)


def test_how_many_workers_there_are_is_looked_at_again(still: Raftwork, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(scheduler.clock, "monotonic", lambda: now)
    connected(still, monkeypatch, ["worker"] * 1_000)
    turns = eager(still)
    turns.turn(still.storage)
    connected(still, monkeypatch, ["worker"])
    now += 2 * scheduler.COUNT_S
    assert turns.turn(still.storage) == scheduler.IDLE_S


def test_two_schedulers_fire_a_slot_once_and_the_last_one_goes_first(still: Raftwork) -> None:
    app = still
    waited: list[str] = []
    one = Scheduler(app, lambda: waited.append("one") or 0.0)  # type: ignore[func-returns-value]
    two = Scheduler(app, lambda: waited.append("two") or 0.0)  # type: ignore[func-returns-value]
    app.schedules.put("tick", task_of(app), every="1h")
    for _ in range(3):
        advance(app, HOUR)
        one.turn(app.storage)
        two.turn(app.storage)
    assert len(jobs_of(app)) == 3
    assert waited == ["one"]


def test_what_is_due_fires_together_but_no_more_jobs_than_a_bound(
    still: Raftwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, turns = still, eager(still)
    groups: list[int] = []
    whole = app.storage.fire_schedules

    def watched(firings: Any) -> Any:
        groups.append(sum(len(firing.jobs) for firing in firings))
        return whole(firings)

    monkeypatch.setattr(app.storage, "fire_schedules", watched)
    monkeypatch.setattr(scheduler, "JOBS_TOGETHER", 8)
    for number in range(10):
        app.schedules.put(f"tick-{number}", task_of(app), every="1h", misfire="run_all", catchup=12)
    advance(app, HOUR)
    turns.turn(app.storage)
    assert groups == [8, 2]
    advance(app, 12 * HOUR)
    turns.turn(app.storage)
    assert groups[2:] == [12] * 10, "one that is larger goes alone"
    assert len(list(app.jobs())) == 130


class SeenBefore:
    """A storage whose question for what is due is answered as it was a moment ago."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._due = storage.due_schedules(100)

    def due_schedules(self, limit: int, after: Any = None) -> Any:
        return self._due

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)


def test_a_scheduler_that_was_too_late_changes_nothing_and_waits_next_time(still: Raftwork) -> None:
    app = still
    app.schedules.put("tick", task_of(app), every="1h")
    advance(app, HOUR)
    late: Any = SeenBefore(app.storage)
    eager(app).turn(app.storage)
    turns = eager(app)
    turns._fired_last = True
    assert turns.turn(late) == 0.0
    assert not turns._fired_last
    assert len(jobs_of(app)) == 1


def test_a_definition_that_cannot_be_read_holds_up_no_other(still: Raftwork, caplog: pytest.LogCaptureFixture) -> None:
    app, turns = still, eager(still)
    app.schedules.put("tick", task_of(app), every="1h")
    app.storage.put_schedule("foreign", JobSpec("tick"), b"", b"\x91\x02", app.storage.now_ms())
    advance(app, HOUR)
    with caplog.at_level(logging.WARNING, "raftwork.schedules"):
        turns.turn(app.storage)
        assert turns.turn(app.storage) > 0.0
    assert len(jobs_of(app)) == 1
    assert [record.getMessage()[:40] for record in caplog.records] == ["The schedule 'foreign' is not fired here"]
    assert app.schedules.get("foreign").definition is None


def test_thousands_that_cannot_be_fired_are_told_in_one_line(still: Raftwork, caplog: pytest.LogCaptureFixture) -> None:
    app, turns = still, eager(still)
    app.schedules.put("tick", task_of(app), every="1h")
    for number in range(2_500):
        app.storage.put_schedule(f"foreign-{number:04}", JobSpec("tick"), b"", b"\x91\x02", app.storage.now_ms())
    advance(app, HOUR)
    for _ in range(3):
        turns.turn(app.storage)
    assert len(jobs_of(app)) == 1
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("2,500 schedules are not fired here, foreign-0000, foreign-0001, ")
    assert line.count("foreign-") == scheduler.NAMES_TOLD and " and others: " in line


def test_a_schedule_that_breaks_again_is_told_again(
    still: Raftwork, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, turns = still, eager(still)
    app.schedules.put("tick", task_of(app), every="1h")
    whole = app.storage.fire_schedules
    refused = [Overloaded("Too many.")]
    now = 0.0
    monkeypatch.setattr(scheduler.clock, "monotonic", lambda: now)
    for works in (False, False, True, False, False):
        monkeypatch.setattr(app.storage, "fire_schedules", whole if works else lambda group: refused)
        advance(app, HOUR)
        now += scheduler.IDLE_S
        turns.turn(app.storage)
    told = [record.getMessage() for record in caplog.records]
    assert sum(line.startswith("The schedule 'tick' is not fired here") for line in told) == 2, told
    assert jobs_of(app)


def test_an_outage_is_told_each_time(still: Raftwork, caplog: pytest.LogCaptureFixture) -> None:
    turns: Any = eager(still)
    script: list[bool] = [False, False, True, False, True]

    def turn(storage: Storage) -> float:
        works = script.pop(0)
        if not script:
            turns.stop()
        if not works:
            raise Overloaded("Too many.")
        return 0.0

    turns.turn = turn
    turns._closed = Unhurried()
    turns._run()
    assert [record.getMessage()[:21] for record in caplog.records] == ["Schedules are held up"] * 2


class Unhurried(threading.Event):
    """Is not waited for."""

    def wait(self, timeout: float | None = None) -> bool:
        return self.is_set()


def test_idle_it_sleeps_until_the_next_slot_but_never_longer_than_a_second(still: Raftwork) -> None:
    turns = eager(still)
    assert turns.turn(still.storage) == scheduler.IDLE_S
    still.schedules.put("tick", task_of(still), every="1h")
    assert 0.0 < turns.turn(still.storage) <= scheduler.IDLE_S


def test_jitter_delays_the_job_and_not_the_slot(still: Raftwork) -> None:
    app = still
    app.schedules.put("tick", task_of(app), every="1h", jitter="10m")
    advance(app, HOUR)
    eager(app).turn(app.storage)
    (job,) = jobs_of(app)
    assert job.slot is not None
    assert job.run_at is not None
    assert timedelta(0) <= job.run_at - job.slot < timedelta(minutes=10)


def test_a_worker_fires_and_runs(app: Raftwork, work: Callable[..., Any]) -> None:
    ran = threading.Event()

    @app.every("1s")
    @app.task(name="tick")
    def tick() -> None:
        ran.set()

    work(app)
    assert ran.wait(20)


def test_a_closed_application_ends_the_thread(app: Raftwork) -> None:
    running = Scheduler(app)
    app.close()
    with pytest.raises(NotRunning):
        running.turn(app.storage)
    running.start()
    running._thread.join(20)
    assert not running._thread.is_alive()


def test_schedules_of_code_that_are_refused_are_put_later(
    still: Raftwork, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    still.every("1h", name="hourly")(task_of(still))
    still.every("1h", name="refused", overlap="skip")(task_of(still))
    whole = still.storage.put_schedule

    def refuse(name: str, *args: Any, **given: Any) -> Any:
        if name == "refused":
            raise Overloaded("Too many.")
        return whole(name, *args, **given)

    monkeypatch.setattr(still.storage, "put_schedule", refuse)
    now = 0.0
    monkeypatch.setattr(scheduler.clock, "monotonic", lambda: now)
    turns = eager(still)
    for _ in range(3):
        turns.turn(still.storage)
    assert [one.name for one in still.schedules.list()] == ["hourly"]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    monkeypatch.setattr(still.storage, "put_schedule", whole)
    now = scheduler.PUT_AGAIN_S
    turns.turn(still.storage)
    assert [one.name for one in still.schedules.list()] == ["hourly", "refused"]


def test_an_old_process_does_not_undo_the_new_code(caplog: pytest.LogCaptureFixture) -> None:
    new = Raftwork("shop", "memory://?clock=manual", release="2026-11-30T12:00:00Z")
    old = Raftwork("shop", new.storage, release="2026-11-29T12:00:00Z")
    new.cron("@hourly", name="tick")(task_of(new))
    old.cron("@daily", name="tick")(task_of(old))
    for app, older in ((old, []), (new, []), (old, ["tick"]), (old, ["tick"])):
        assert app.schedules.put_defined() == older
    assert str(new.schedules.get("tick").definition) == "@hourly UTC"
    assert "Newer code defines the schedules tick" in caplog.text
    new.close()


def test_a_schedule_that_is_gone_from_the_code_is_told_once_and_fires(
    still: Raftwork, caplog: pytest.LogCaptureFixture
) -> None:
    app, turns, told = still, eager(still), []
    task, args = task_of(app), serde.encode_args((), {})
    for number in range(30):
        app.storage.put_schedule(
            f"gone-{number:02}", JobSpec("tick"), args, define("@hourly").pack(), app.storage.now_ms(), generation=1
        )
    app.every("1h", name="kept")(task)
    stop = app.subscribe(lambda event: told.append(event.fields), "schedule.orphaned")
    for _ in range(3):
        turns.turn(app.storage)
    stop()
    assert told == [{"schedule": f"gone-{number:02}", "function": "tick"} for number in range(30)]
    (line,) = [record.getMessage() for record in caplog.records if "any more" in record.getMessage()]
    assert "gone-00, gone-01, " in line and "gone-19 and others" in line and "gone-20" not in line
    assert len(jobs_of(app, "gone-00")) == 1


def test_ten_thousand_schedules_cost_nothing_while_none_is_due(still: Raftwork) -> None:
    storage, turns = still.storage, eager(still)
    packed, next_ms = define("@hourly").pack(), storage.now_ms() + HOUR
    for number in range(10_000):
        storage.put_schedule(f"idle-{number}", JobSpec("tick"), b"", packed, next_ms)
    turns.turn(storage)
    began = time.thread_time()
    for _ in range(100):
        assert turns.turn(storage) > 0.0
    assert (time.thread_time() - began) / 100 < 0.001


def test_a_failure_of_our_own_holds_up_no_other_schedule(
    still: Raftwork, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, turns = still, eager(still)
    app.schedules.put("a broken one", task_of(app), every="1h", jitter="1m")
    app.schedules.put("tick", task_of(app), every="1h")
    advance(app, HOUR)
    monkeypatch.setattr(scheduler, "job_id", lambda name, slot: job_id(name, slot) if name == "tick" else 1 // 0)
    for _ in range(3):
        turns.turn(app.storage)
    assert len(jobs_of(app)) == 1
    assert [record.getMessage() for record in caplog.records] == ["The schedule 'a broken one' is not fired here."]
