"""`app.bulk(filter)`: counted first, changed in chunks, stoppable, told; and what became of every job."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from raftwork import (
    BulkProgress,
    InvalidOption,
    JobState,
    Overloaded,
    Raftwork,
    events,
)
from raftwork.errors import InvalidFilter, InvalidName
from raftwork.storage.base import Change


def work(number: int = 0) -> None: ...


@pytest.fixture
def app() -> Iterator[Raftwork]:
    with Raftwork("test", "memory://?clock=manual") as app:
        yield app


@pytest.fixture
def task(app: Raftwork) -> Any:
    return app.task(work)


def put(app: Raftwork, task: Any, count: int) -> None:
    app.enqueue_many(task.s(number) for number in range(count))


def test_verbs_change_what_fits_and_nothing_else(app: Raftwork, task: Any) -> None:
    put(app, task, 5)
    put(app, task.using(queue="mail"), 7)
    mail = app.bulk("queue:mail")
    assert mail.count() == 7
    answer = mail.cancel("not today")
    assert answer[:3] == (7, 7, 0)
    assert not answer.stopped
    assert {info.reason for info in app.jobs("state:cancelled")} == {"not today"}
    assert app.counts()["enqueued"] == 5
    assert app.bulk("state:cancelled").retry()[:3] == (7, 7, 0)
    assert app.bulk("queue:mail").retry()[:3] == (7, 0, 7), "they wait already"
    assert app.bulk("queue:mail").delete()[:3] == (7, 7, 0)
    assert app.bulk("queue:mail").delete()[:3] == (0, 0, 0)
    assert app.bulk(everything=True).cancel()[:3] == (5, 5, 0)


def test_which_jobs_are_meant_is_settled_before_the_first_change(app: Raftwork, task: Any) -> None:
    put(app, task, 3)
    bulk = app.bulk("state:enqueued", chunk=1)
    assert bulk.count() == 3
    put(app, task, 2)
    seen: list[BulkProgress] = []
    assert bulk.cancel(progress=seen.append)[:3] == (3, 3, 0)
    assert seen == [(3, 1, 0), (3, 2, 0), (3, 3, 0)]
    assert [now.done for now in seen] == [1, 2, 3]
    assert bulk.count() == 2, "a second time it asks anew"


def test_a_running_job_is_told_or_skipped(app: Raftwork, task: Any) -> None:
    put(app, task, 3)
    session = app.storage.open_session("worker")
    app.storage.claim(session, [("default", 1)], [task.name])
    assert app.bulk("fn:*work*").delete()[:3] == (3, 2, 1)
    answer = app.bulk("state:processing").cancel()
    assert answer[:3] == (1, 1, 0)
    assert answer.codes == (Change.TOLD,)


def test_jobs_that_wait_are_moved_and_given_a_priority(app: Raftwork, task: Any) -> None:
    put(app, task, 4)
    task.using(delay="1h").enqueue(7)
    session = app.storage.open_session("worker")
    (running,) = app.storage.claim(session, [("default", 1)], [task.name])
    answer = app.bulk("fn:*work*").move("mail")
    assert answer[:3] == (5, 4, 1)
    assert set(answer.codes) == {Change.DONE, Change.RUNNING}
    assert app.bulk("queue:mail").move("mail").codes == (Change.ALREADY,) * 4
    assert [info.id.bytes for info in app.jobs("queue:default")] == [running.id]
    assert app.bulk("queue:mail state:scheduled").set_priority(100)[:3] == (1, 1, 0)
    assert app.bulk("queue:mail").set_priority(-100)[:3] == (4, 4, 0)
    assert {info.priority for info in app.jobs("queue:mail")} == {-100}
    (moved,) = app.storage.claim(session, [("mail", 1)], [task.name])
    assert moved.priority == -100
    assert app.move([moved.id, running.id], "other")[:3] == (2, 0, 2)
    assert app.set_priority([running.id], 3).codes == (Change.RUNNING,)


@pytest.mark.parametrize("queue", ["", "a\nb", "x" * 256, 7])
def test_a_bad_queue_is_refused_before_anything_is_asked(app: Raftwork, queue: Any) -> None:
    for move in (app.bulk("state:enqueued").move, lambda queue: app.move([], queue)):
        with pytest.raises(InvalidName, match="The queue"):
            move(queue)


@pytest.mark.parametrize("priority", [101, -101, 1.5, True, "5", None])
def test_a_bad_priority_is_refused_before_anything_is_asked(app: Raftwork, priority: Any) -> None:
    for give in (app.bulk("state:enqueued").set_priority, lambda priority: app.set_priority([], priority)):
        with pytest.raises(InvalidOption, match="-100 to 100"):
            give(priority)


def test_every_verb_has_a_twin_for_coroutines(app: Raftwork, task: Any) -> None:
    put(app, task, 2)
    seen: list[BulkProgress] = []

    async def use() -> None:
        assert (await app.bulk("queue:default").amove("mail", progress=seen.append)).changed == 2
        assert (await app.bulk("queue:mail").aset_priority(5)).changed == 2
        assert (await app.bulk("priority:5").acancel("no")).changed == 2
        assert (await app.bulk("state:cancelled").aretry()).changed == 2
        assert (await app.bulk("priority:5").adelete(stop=lambda: True)).stopped
        assert (await app.bulk("priority:5").adelete()).changed == 2

    asyncio.run(use())
    assert seen == [(2, 2, 0)]


def test_a_job_that_is_gone_by_then_is_skipped(app: Raftwork, task: Any) -> None:
    put(app, task, 3)
    bulk = app.bulk("state:enqueued")
    bulk.count()
    next(iter(map(app.job, [info.id for info in app.jobs()]))).delete()
    assert bulk.cancel()[:3] == (3, 2, 1)


def test_a_unique_key_that_another_job_has_is_skipped(app: Raftwork, task: Any) -> None:
    """The machine refuses to retry it (J10)."""
    first = task.using(unique="args").enqueue(7)
    first.cancel()
    task.using(unique="args").enqueue(7)
    answer = app.bulk("state:cancelled").retry()
    assert answer[:3] == (1, 0, 1)
    assert answer.codes == (Change.CONFLICT,)
    assert first.retry() is False
    assert app.retry([first])[:3] == (1, 0, 1)


def test_it_stops_between_two_chunks(app: Raftwork, task: Any) -> None:
    put(app, task, 10)
    seen: list[BulkProgress] = []
    answer = app.bulk("state:enqueued", chunk=3).cancel(progress=seen.append, stop=lambda: len(seen) == 2)
    assert answer[:3] == (10, 6, 0)
    assert answer.stopped
    assert app.counts()["enqueued"] == 4
    assert app.bulk("state:enqueued").cancel().changed == 4, "the same call goes on"


def test_an_error_in_between_says_how_far_it_came(app: Raftwork, task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    put(app, task, 5)
    cancel, chunks = app.storage.cancel, []

    def failing(ids: Any, reason: str = "") -> list[Change]:
        chunks.append(ids)
        if len(chunks) == 3:
            raise Overloaded("full")
        return cancel(ids, reason)

    monkeypatch.setattr(app.storage, "cancel", failing)
    with pytest.raises(Overloaded) as told:
        app.bulk("state:enqueued", chunk=2).cancel()
    assert told.value.__notes__ == ["Before that, 4 of 5 jobs were changed."]
    assert app.counts()["enqueued"] == 1


def test_each_change_is_told(app: Raftwork, task: Any, caplog: pytest.LogCaptureFixture) -> None:
    put(app, task, 3)
    seen: list[events.Event] = []
    unsubscribe = events.subscribe(seen.append)
    with caplog.at_level(logging.INFO, "raftwork.audit"):
        app.bulk("state:enqueued", chunk=2).cancel(stop=lambda: bool(app.counts()["cancelled"]))
    unsubscribe()
    (event,) = seen
    assert event == events.Event(
        "bulk.changed",
        {"verb": "cancel", "filter": "state:enqueued", "matched": 3, "changed": 2, "skipped": 0},
    )
    assert "cancel of all jobs that fit 'state:enqueued' by " in caplog.text
    assert "3 matched, 2 changed, 0 skipped" in caplog.text


def test_bad_input(app: Raftwork, task: Any) -> None:
    put(app, task, 1)
    with pytest.raises(InvalidFilter, match="Did you mean state"):
        app.bulk("stat:failed")
    for wrong in ({}, {"filter": " "}, {"filter": "state:failed", "everything": True}):
        with pytest.raises(InvalidOption, match="Which jobs"):
            app.bulk(**wrong)  # type: ignore[arg-type]
    for chunk in (0, 1_001, True, "many"):
        with pytest.raises(InvalidOption, match="chunk"):
            app.bulk("state:failed", chunk=chunk)  # type: ignore[arg-type]
    assert [info.state for info in app.jobs()] == [JobState.ENQUEUED]
