"""Somebody listens to everything: which events come of what, and with just the fields of the table."""

from __future__ import annotations

import queue
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from raftwork import Cancel, LockLost, Overloaded, Raftwork, Retry, Snooze, events
from raftwork.events import EVENTS, Event
from raftwork.storage.base import Firing, NewJob, SlotJob
from raftwork.worker import Worker, announce
from raftwork.worker.leases import Board, Listener
from raftwork.worker.scheduler import Scheduler

PATIENCE_S = 60


class Ear:
    """Keeps all events, and waits for some."""

    def __init__(self) -> None:
        self.seen: list[Event] = []
        self._changed = threading.Condition()

    def __call__(self, event: Event) -> None:
        with self._changed:
            self.seen.append(event)
            self._changed.notify_all()

    def wait(self, name: str) -> Event:
        """The first event of this name."""
        with self._changed:
            assert self._changed.wait_for(lambda: name in self.names, PATIENCE_S), f"{name} was not told: {self.names}"
            return next(event for event in self.seen if event.name == name)

    @property
    def names(self) -> list[str]:
        return [event.name for event in self.seen]


@pytest.fixture
def ear() -> Iterator[Ear]:
    heard = Ear()
    stop = events.subscribe(heard)
    yield heard
    stop()
    for event in heard.seen:
        assert set(event.fields) == set(EVENTS[event.name].fields), event


def good() -> None: ...


def bad() -> None:
    raise ValueError("no")


def late() -> Snooze:
    return Snooze("1h", reason="not yet")


def unwanted() -> Cancel:
    return Cancel("no need")


def test_a_worker_and_its_jobs(ear: Ear, tmp_path: Path) -> None:
    app = Raftwork("test", f"raft:///{tmp_path}/jobs")
    tasks = [app.task(name=fn.__name__, retry=Retry(2, backoff=["1ms"]))(fn) for fn in (good, bad, late, unwanted)]
    with app, Worker(app, threads=2):
        for task in tasks:
            task.enqueue()
        for name in ("job.succeeded", "job.failed", "job.snoozed", "job.cancelled"):
            ear.wait(name)
        with app.lock("books"):
            pass
        app.bulk("state:failed").delete()
    assert ear.names[0] == "worker.started"
    assert ear.names[-2:] == ["worker.draining", "worker.stopped"]
    expected = {"job.enqueued", "job.started", "job.retrying", "lock.acquired", "lock.released", "bulk.changed"}
    assert expected <= set(ear.names)
    assert ear.wait("job.failed").fields["attempt"] == 2
    assert ear.wait("job.failed").fields["error"].type == "ValueError"
    assert ear.wait("job.cancelled").fields["reason"] == "no need"
    assert ear.wait("job.snoozed").fields["reason"] == "not yet"
    acquired, released = ear.wait("lock.acquired"), ear.wait("lock.released")
    assert acquired.fields["lock"] == "books"
    assert acquired.fields["token"] == released.fields["token"]


def test_a_refused_job_that_nobody_waits_for(ear: Ear) -> None:
    with Raftwork("test", "memory://") as app:
        task = app.task(name="good")(good)

        def start(jobs: Sequence[NewJob], failed: Any) -> None:
            failed(Overloaded("full"))

        app.storage.start_enqueue = start  # type: ignore[method-assign]
        task.using(wait=False).enqueue()
    assert ear.wait("job.enqueue_lost").fields["function"] == "good"


def test_an_outbox(ear: Ear, tmp_path: Path) -> None:
    with Raftwork("test", "memory://") as app:
        task = app.task(name="good")(good)
        connection = sqlite3.connect(tmp_path / "shop.db")
        box = app.outbox(f"sqlite:///{tmp_path}/shop.db")
        box.create_table()
        task.using(connection=connection).enqueue()
        refused = task.using(connection=connection).enqueue()
        connection.execute("UPDATE raftwork_outbox SET job = x'00' WHERE id = ?", (str(refused.id),))
        connection.commit()
        connection.close()
        box.relay()
    assert ear.wait("outbox.relayed").fields == {"function": "good", "count": 1}
    assert ear.wait("outbox.refused").fields["id"] == str(refused.id)


def test_a_worker_that_lost_its_session_has_a_new_one(ear: Ear, tmp_path: Path) -> None:
    with Raftwork("test", f"raft:///{tmp_path}/jobs") as app:
        app.task(name="good")(good)
        with Worker(app, threads=1):
            (session,) = [worker.session for worker in app.workers]
            app.storage.close_session(session)
            assert ear.wait("worker.session_lost").fields["running"] == 0
            lane = ear.wait("worker.reconnected").fields["lane"]
            assert lane == ear.wait("worker.session_lost").fields["lane"]


def test_a_session_that_ends_with_an_error_is_told(ear: Ear) -> None:
    class Broken:
        def events(self, timeout: float | None) -> list[tuple[str, bytes, int]]:
            raise Overloaded("gone")

    lost: queue.SimpleQueue[object] = queue.SimpleQueue()
    Listener(Broken(), Board(), lost.put, "thread")
    assert isinstance(lost.get(timeout=PATIENCE_S), Overloaded)


def test_a_schedule_fires_and_skips(ear: Ear) -> None:
    """C2: what is not fired is told, too."""
    with Raftwork("test", "memory://?clock=manual") as app:
        task = app.task(name="good")(good)
        app.schedules.put("tidy", task.s(), every="1h", overlap="skip")
        scheduler = Scheduler(app, stagger=lambda: 0.0)
        for _ in range(2):
            app.storage.advance(3_600_000)
            scheduler.turn(app.storage)
    fired, skipped = ear.wait("schedule.fired"), ear.wait("schedule.skipped")
    assert (fired.fields["schedule"], fired.fields["count"]) == ("tidy", 1)
    assert (skipped.fields["reason"], skipped.fields["count"]) == ("overlap", 1)
    assert isinstance(fired.fields["slot"], datetime)
    assert skipped.fields["slot"] > fired.fields["slot"]


def test_missed_slots_are_told(ear: Ear) -> None:
    announce.missed(Firing("tidy", 1, 1_000, 2_000, []))
    assert ear.wait("schedule.skipped").fields["reason"] == "missed"
    announce.fired(Firing("tidy", 1, 1_000, 2_000, [SlotJob(bytes(16), 1_000)]), [True])
    assert ear.names == ["schedule.skipped", "schedule.fired"]


def test_a_lost_lock_is_told_once(ear: Ear) -> None:
    with Raftwork("test", "memory://") as app:
        lock = app.lock("books")
        token = lock.acquire()
        (info,) = app.locks()
        app.storage.close_session(info.session)
        assert lock.lost.wait(PATIENCE_S)
        assert lock.lost.is_set()
        with pytest.raises(LockLost):
            lock.check()
        with pytest.raises(LockLost):
            lock.release()
    assert [event.fields for event in ear.seen if event.name == "lock.lost"] == [{"lock": "books", "token": token}]
    assert "lock.released" not in ear.names


def test_a_lock_that_is_lost_unseen_is_told_by_its_release(ear: Ear) -> None:
    with Raftwork("test", "memory://") as app:
        lock = app.lock("books")
        lock.acquire()
        (info,) = app.locks()
        app.storage.close_session(info.session)
        with pytest.raises(LockLost):
            lock.release()
    assert ear.names == ["lock.acquired", "lock.lost"]
