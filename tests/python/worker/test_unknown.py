"""Jobs that wait while no connected worker knows their function are told."""

from __future__ import annotations

from typing import Any

from raftwork import serde
from raftwork.app import Raftwork
from raftwork.storage.base import JobSpec, NewJob

WAIT_S = 30.0


def put(app: Raftwork, function: str, count: int = 1, delay_ms: int = 0) -> None:
    ids = app.storage.new_ids(count)
    app.storage.enqueue([NewJob(id, JobSpec(function), serde.encode_args((), {}), delay_ms) for id in ids])


def test_what_no_worker_knows_is_told(app: Raftwork, work: Any) -> None:
    @app.task(name="plain")
    def plain() -> None: ...

    @app.task(name="coroutine")
    async def coroutine() -> None: ...

    assert app.unknown_jobs() == []
    put(app, "strange", 3)
    put(app, "later", delay_ms=3_600_000)
    jobs = [plain.enqueue(), coroutine.enqueue()]
    assert app.unknown_jobs() == [("coroutine", 1), ("plain", 1), ("strange", 3)], "no worker is there"
    work(app, prefetch=0)
    for job in jobs:
        job.result(WAIT_S)
    assert app.unknown_jobs() == [("strange", 3)]
    assert all(set(worker.labels) == {"lane"} for worker in app.workers), "digests are no labels for people"


def test_known_jobs_that_wait_are_not_told(app: Raftwork, work: Any) -> None:
    @app.task(name="plain")
    def plain() -> None: ...

    app.queues.pause("default")
    work(app)
    plain.enqueue()
    put(app, "strange")
    assert app.unknown_jobs() == [("strange", 1)]


def test_as_many_functions_as_a_worker_can_claim(app: Raftwork, work: Any) -> None:
    def noop() -> None: ...

    for number in range(1_024):
        app.task(name=f"shop.jobs.task_{number}")(noop)
    work(app)
    put(app, "strange")
    app.queues.pause("default")
    put(app, "shop.jobs.task_1023")
    assert app.unknown_jobs() == [("strange", 1)]


def test_a_worker_of_before_counts_as_one_that_knows_everything(app: Raftwork, work: Any) -> None:
    @app.task(name="plain")
    def plain() -> None: ...

    work(app)
    put(app, "strange")
    old = app.storage.open_session("worker", labels={"lane": "thread"})
    assert app.unknown_jobs() == []
    app.storage.close_session(old)
    assert app.unknown_jobs() == [("strange", 1)]
