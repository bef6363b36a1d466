"""The application with a storage in memory: enqueue, results, queries, and what operators do."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

import raftwork
from raftwork import (
    ForkedProcess,
    JobCancelled,
    JobFailed,
    JobState,
    Raftwork,
    TimedOut,
    UniqueConflict,
    clock,
    events,
    serde,
)
from raftwork.job import Job
from raftwork.storage.base import ClaimedJob, pack_error, result_failed, result_retry, result_succeeded
from raftwork.storage.memory import MemoryStorage


def add(left: int, right: int = 1) -> int:
    return left + right


async def fetch(url: str) -> str:
    return url


@pytest.fixture
def app() -> Iterator[Raftwork]:
    with Raftwork("shop", "memory://?clock=manual") as app:
        app.task(name="shop.add")(add)
        app.task(name="shop.fetch", queue="web")(fetch)
        yield app


def claim(app: Raftwork, queue: str = "default") -> ClaimedJob:
    storage = app.storage
    (job,) = storage.claim(storage.open_session("worker"), [(queue, 1)], list(app.tasks), 1)
    return job


def succeed(app: Raftwork, result: Any, queue: str = "default") -> None:
    job = claim(app, queue)
    app.storage.finish([result_succeeded(job.id, job.token, serde.encode(result))])


def test_a_job_is_a_light_handle(app: Raftwork) -> None:
    job = app.tasks["shop.add"].enqueue(1, right=2)
    assert isinstance(job.id, uuid.UUID)
    assert job.id.version == 7
    assert (job.state, job.info().args, job.info().kwargs) == (JobState.ENQUEUED, [1], {"right": 2})
    assert job.info().call == "add(1, right=2)"
    assert app.job(str(job.id)) == app.job(job.id) == app.job(job.id.bytes) == job
    assert len({job, app.job(job.id)}) == 1


def test_a_result_is_decoded(app: Raftwork) -> None:
    job = app.tasks["shop.add"].enqueue(1)
    succeed(app, {"sum": (1, 2)})
    assert job.result(0) == {"sum": (1, 2)}
    assert asyncio.run(job.aresult()) == {"sum": (1, 2)}


def test_a_failure_carries_the_remote_error(app: Raftwork) -> None:
    job = app.tasks["shop.add"].enqueue(1)
    claimed = claim(app)
    error = pack_error("builtins.ValueError", "no such user", "Traceback (most recent call last): ...")
    app.storage.finish([result_failed(claimed.id, claimed.token, error)])
    with pytest.raises(JobFailed, match="no such user") as caught:
        job.result(0)
    assert caught.value.error is not None
    assert (caught.value.error.type, caught.value.job_id) == ("builtins.ValueError", job.id)
    assert any("Traceback" in note for note in caught.value.__notes__)


def test_a_cancelled_job_says_why(app: Raftwork) -> None:
    job = app.tasks["shop.add"].enqueue(1)
    assert job.cancel("not needed")
    assert not job.cancel()
    with pytest.raises(JobCancelled, match="not needed") as caught:
        asyncio.run(job.aresult(5))
    assert caught.value.reason == "not needed"


def test_waiting_has_an_end(app: Raftwork) -> None:
    job = app.tasks["shop.add"].enqueue(1)
    with pytest.raises(TimedOut):
        job.result(timeout=0.01)
    with pytest.raises(TimeoutError):
        asyncio.run(job.aresult(timeout=0.01))


def test_a_conflict_answers_the_existing_job_or_raises(app: Raftwork) -> None:
    task = app.tasks["shop.add"]
    first = task.using(unique="args").enqueue(1)
    assert task.using(unique="args").enqueue(1, right=1) == first
    assert task.using(unique="args").enqueue(2) != first
    with pytest.raises(UniqueConflict) as caught:
        task.using(unique=raftwork.Unique(on_conflict="raise")).enqueue(1)
    assert caught.value.job_id == first.id
    replaced = task.using(unique=raftwork.Unique(on_conflict="replace")).enqueue(1)
    assert replaced != first
    assert first.state is JobState.CANCELLED
    unique = task.using(unique="args")
    jobs = app.enqueue_many([unique.s(1), unique.s(9), unique.s(9)])
    assert jobs[0] == replaced
    assert jobs[1] == jobs[2]


def test_only_stored_jobs_are_told_as_enqueued(app: Raftwork) -> None:
    """Not those that a unique key held back; one that replaced another is stored."""
    add, fetch = app.tasks["shop.add"], app.tasks["shop.fetch"]
    once = add.using(unique="args")
    seen: list[tuple[str, int]] = []
    stop = app.subscribe(lambda event: seen.append((event.fields["function"], event.fields["count"])), "job.enqueued")

    def told() -> list[tuple[str, int]]:
        found = seen.copy()
        seen.clear()
        return found

    first = once.enqueue(1)
    assert told() == [("shop.add", 1)]
    assert once.enqueue(1) == first == asyncio.run(once.aenqueue(1))
    assert told() == []
    assert add.using(unique=raftwork.Unique(on_conflict="replace")).enqueue(1) != first
    assert told() == [("shop.add", 1)]
    app.enqueue_many([once.s(1), once.s(2), once.s(2), fetch.s("x"), add.s(2)])
    assert sorted(told()) == [("shop.add", 2), ("shop.fetch", 1)]
    asyncio.run(app.aenqueue_many([once.s(1), once.s(2)]))
    assert told() == []
    raftwork.chain(once.s(2), fetch).enqueue()
    assert told() == [("shop.fetch", 1)]
    stop()


def test_bulk_keeps_the_order_and_mixes_tasks(app: Raftwork) -> None:
    add_task, fetch_task = app.tasks["shop.add"], app.tasks["shop.fetch"]
    calls = [add_task.s(number) if number % 2 else fetch_task.s(str(number)) for number in range(2_500)]
    jobs = app.enqueue_many(iter(calls))
    assert len(set(jobs)) == 2_500
    assert [job.info().args for job in jobs[::499]] == [call.args and list(call.args) for call in calls[::499]]
    async_jobs = asyncio.run(app.aenqueue_many(calls[:10]))
    assert [job.info().function for job in async_jobs] == [call.task.name for call in calls[:10]]


def test_delays_move_with_the_clock(app: Raftwork) -> None:
    job = app.tasks["shop.add"].using(delay="10m").enqueue(1)
    assert job.state is JobState.SCHEDULED
    app.storage.advance(599_999)
    assert job.state is JobState.SCHEDULED
    app.storage.advance(1)
    assert job.state is JobState.ENQUEUED


def test_enqueue_without_waiting_is_stored_soon(app: Raftwork) -> None:
    task = app.tasks["shop.add"].using(wait=False)
    jobs = [task.enqueue(number) for number in range(50)]
    jobs.append(asyncio.run(task.aenqueue(50)))
    assert {job.state for job in jobs} == {JobState.ENQUEUED}


def test_a_refusal_without_waiting_is_told_by_an_event(app: Raftwork) -> None:
    seen: list[events.Event] = []
    unsubscribe = events.subscribe(seen.append)
    try:
        once = app.tasks["shop.add"].using(unique=raftwork.Unique(on_conflict="raise"))
        once.enqueue(1)
        once.using(wait=False).enqueue(1)
        app.close()
    finally:
        unsubscribe()
    assert [event.name for event in seen] == ["job.enqueued", "job.enqueue_lost"]
    assert isinstance(seen[1].fields["error"], UniqueConflict)


def test_jobs_are_found_by_filter(app: Raftwork) -> None:
    jobs = app.enqueue_many(app.tasks["shop.add"].s(number) for number in range(250))
    web = app.tasks["shop.fetch"].using(tags=["crm"]).enqueue("x")
    assert [info.id for info in app.jobs("queue:web")] == [web.id]
    assert [info.id for info in app.jobs("tag:crm")] == [web.id]
    assert [info.id for info in app.jobs()] == [web.id, *(job.id for job in reversed(jobs))]
    assert len(list(app.jobs("state:enqueued", limit=120))) == 120
    assert len(list(app.jobs(limit=0))) == 0


def test_operators_change_jobs_in_bulk(app: Raftwork) -> None:
    jobs = app.enqueue_many(app.tasks["shop.add"].s(number) for number in range(3))
    running = claim(app)
    answer = app.cancel([*jobs, str(uuid.uuid4())], "closed")
    assert answer[:3] == (3, 3, 0)
    assert app.cancel(jobs)[:3] == (3, 1, 2)
    assert app.retry(job.id for job in jobs)[:3] == (3, 2, 1)
    assert app.delete(jobs)[:3] == (3, 2, 1)
    assert app.job(running.id).state is JobState.PROCESSING
    with pytest.raises(raftwork.WrongState):
        app.job(running.id).delete()


def test_a_single_job_is_retried(app: Raftwork) -> None:
    job = app.tasks["shop.add"].enqueue(1)
    assert not job.retry()
    claimed = claim(app)
    app.storage.finish([result_retry(claimed.id, claimed.token, 60_000, pack_error("E", "m"))])
    assert job.retry()
    assert job.state is JobState.ENQUEUED


def test_queues_are_listed_paused_and_resumed(app: Raftwork) -> None:
    app.tasks["shop.fetch"].enqueue("x")
    app.queues.pause("web", until=timedelta(hours=1), reason="deploy")
    (web,) = list(app.queues)
    assert (web.name, web.paused, web.reason, web.enqueued) == ("web", True, "deploy", 1)
    assert web.paused_until is not None
    app.queues.resume("web")
    assert not next(iter(app.queues)).paused


def test_a_pause_for_a_while_counts_by_the_clock_of_the_storage_t1(app: Raftwork) -> None:
    app.tasks["shop.fetch"].enqueue("x")
    began = app.storage.now_ms()  # Moved by hand, and far from what this machine's clock shows.
    app.queues.pause("web", until="10m")
    (web,) = list(app.queues)
    assert web.paused_until is not None
    assert clock.to_ms(web.paused_until) == began + 600_000
    app.storage.advance(599_000)
    assert next(iter(app.queues)).paused
    app.storage.advance(1_000)
    assert not next(iter(app.queues)).paused


def test_workers_are_listed(app: Raftwork) -> None:
    app.storage.open_session("worker", labels={"lane": "thread"})
    app.storage.open_session("client")
    assert [(worker.pid, worker.labels) for worker in app.workers] == [(os.getpid(), {"lane": "thread"})]


def test_a_storage_may_be_given_as_an_object() -> None:
    storage = MemoryStorage()
    app = Raftwork("shop", storage)
    assert app.storage is storage
    app.close()


def test_a_forked_child_cannot_use_jobs_in_memory(app: Raftwork) -> None:
    task = app.tasks["shop.add"]
    task.enqueue(1)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            task.enqueue(2)
            told = b"stored"
        except BaseException as error:
            told = type(error).__name__.encode()
        os.write(writer, told)
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 100).decode() == ForkedProcess.__name__
    os.close(reader)
    os.close(writer)
    assert task.enqueue(3).state is JobState.ENQUEUED


def test_handles_compare_by_id_only(app: Raftwork) -> None:
    job = app.tasks["shop.add"].enqueue(1)
    assert job != job.id
    assert job == Job(app, job.id.bytes)


def test_client_only_running_opens_and_closes(app: Raftwork) -> None:
    app.close()
    with app.running() as running:
        assert running.worker is None
        app.tasks["shop.add"].enqueue(1)
    with pytest.raises(raftwork.NotRunning):
        app.counts()
    with pytest.raises(raftwork.ConfigError):
        app.running(threads=4)

    async def use() -> None:
        async with app.running(workers=None):
            await app.tasks["shop.add"].aenqueue(1)

    asyncio.run(use())


def test_another_storage_stands_in_and_goes_again(app: Raftwork) -> None:
    own, other = app.storage, MemoryStorage()
    kept = app.tasks["shop.add"].enqueue(1)
    with pytest.raises(ZeroDivisionError), app.standing_in(other):
        assert app.storage is other and app.counts()["enqueued"] == 0
        app.close()
        with pytest.raises(raftwork.NotRunning):
            app.counts()
        raise ZeroDivisionError
    assert app.storage is own and kept.state is JobState.ENQUEUED


def test_a_session_that_lapses_counts_a_crash(app: Raftwork) -> None:
    assert isinstance(app.storage, MemoryStorage)
    job = app.tasks["shop.add"].enqueue(1)
    session = app.storage.open_session("worker")
    app.storage.claim(session, [("default", 1)], list(app.tasks))
    app.storage.lapse(session)
    info = job.info()
    assert (info.state, info.attempt, info.crashes) == (JobState.ENQUEUED, 0, 1)
