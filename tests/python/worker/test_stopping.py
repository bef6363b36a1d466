"""How jobs and workers are stopped: cancelled, timed out, drained, released."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from raftwork.app import Raftwork
from raftwork.context import JobContext
from raftwork.errors import ConfigError
from raftwork.worker import Worker
from worker.finals import final

WAIT_S = 20


@pytest.mark.parametrize("kind", ["thread", "async"])
def test_a_running_job_is_told_that_it_is_cancelled(app: Raftwork, work: Any, kind: str) -> None:
    started = threading.Event()
    seen: list[str] = []

    @app.task(name="waits")
    def waits(ctx: JobContext) -> None:
        started.set()
        while not ctx.cancelled:
            threading.Event().wait(0.005)
        seen.append("told")
        ctx.check_cancelled()

    @app.task(name="awaits")
    async def awaits(ctx: JobContext) -> None:
        started.set()
        try:
            await asyncio.sleep(WAIT_S)
        except asyncio.CancelledError:
            seen.append("told")
            raise

    @app.task(name="after")
    def after() -> int:
        return 1

    work(app, threads=1, concurrency=1)
    job = (waits if kind == "thread" else awaits).enqueue()
    assert started.wait(WAIT_S)
    job.cancel("changed my mind")
    info = final(job)
    assert info.state == "cancelled" and seen == ["told"]
    assert info.reason == "changed my mind"
    assert after.enqueue().result(WAIT_S) == 1


def test_a_job_that_ends_before_it_notices_has_succeeded(app: Raftwork, work: Any) -> None:
    started, release = threading.Event(), threading.Event()

    @app.task(name="deaf")
    def deaf(ctx: JobContext) -> str:
        started.set()
        release.wait(WAIT_S)
        while not ctx.cancelled:
            threading.Event().wait(0.005)
        return "done anyway"

    work(app)
    job = deaf.enqueue()
    assert started.wait(WAIT_S)
    job.cancel()
    release.set()
    info = final(job)
    assert (info.state, info.result) == ("succeeded", "done anyway")


@pytest.mark.parametrize("kind", ["thread", "async", "swallows"])
def test_a_timeout_is_a_failed_attempt(app: Raftwork, work: Any, kind: str) -> None:
    @app.task(name="spins", timeout="100ms", retry=1)
    def spins() -> None:
        while True:
            pass

    @app.task(name="aspins", timeout="100ms", retry=1)
    async def aspins() -> None:
        await asyncio.sleep(WAIT_S)

    @app.task(name="swallows", timeout="100ms", retry=1)
    async def swallows() -> str:
        try:
            await asyncio.sleep(WAIT_S)
        except asyncio.CancelledError:
            pass
        return "late"

    @app.task(name="quick", timeout="10s")
    def quick() -> int:
        return 1

    @app.task(name="aquick", timeout="10s")
    async def aquick() -> int:
        await asyncio.sleep(0)
        return 1

    work(app, threads=1, concurrency=1)
    started = time.monotonic()
    info = final({"thread": spins, "async": aspins, "swallows": swallows}[kind].enqueue())
    assert info.state == "failed" and info.error is not None
    assert info.error.type == "TimeoutError" and "100ms" in info.error.message
    assert time.monotonic() - started < 10
    assert quick.enqueue().result(WAIT_S) == 1
    assert aquick.enqueue().result(WAIT_S) == 1


def test_a_timeout_tells_where_the_job_was(app: Raftwork, work: Any) -> None:
    def find_me() -> None:
        while True:
            pass

    @app.task(name="spins", timeout="50ms", retry=1)
    def spins(ctx: JobContext) -> None:
        find_me()

    work(app)
    error = final(spins.enqueue()).error
    assert error is not None and "in find_me" in error.traceback


def test_check_cancelled_leaves_a_job_that_is_out_of_time(app: Raftwork, work: Any) -> None:
    @app.task(name="polite", timeout="50ms", retry=1)
    async def polite(ctx: JobContext) -> None:
        while True:
            ctx.check_cancelled()
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                pass

    work(app)
    error = final(polite.enqueue()).error
    assert error is not None and error.type == "TimeoutError"


@pytest.mark.parametrize("kind", ["thread", "async"])
def test_stop_waits_for_running_jobs_and_gives_the_others_back(app: Raftwork, work: Any, kind: str) -> None:
    started, release = threading.Semaphore(0), threading.Event()

    @app.task(name="slow")
    def slow(number: int) -> int:
        started.release()
        release.wait(WAIT_S)
        return number

    @app.task(name="aslow")
    async def aslow(number: int) -> int:
        started.release()
        while not release.is_set():
            await asyncio.sleep(0.005)
        return number

    worker = work(app, threads=2, concurrency=2)
    jobs = [(slow if kind == "thread" else aslow).enqueue(number) for number in range(6)]
    for _ in range(2):
        assert started.acquire(timeout=WAIT_S)
    stopping = threading.Thread(target=worker.stop)
    stopping.start()
    while worker._state.name != "STOPPING":
        threading.Event().wait(0.005)
    release.set()
    stopping.join(WAIT_S)
    assert not stopping.is_alive()
    assert [job.info().state for job in jobs[:2]] == ["succeeded"] * 2
    assert [(job.info().state, job.info().attempt, job.info().crashes) for job in jobs[2:]] == [("enqueued", 0, 0)] * 4
    with pytest.raises(ConfigError):
        worker.start()


@pytest.mark.parametrize("kind", ["thread", "async", "stubborn"])
def test_what_does_not_end_in_time_is_released_without_an_attempt(app: Raftwork, work: Any, kind: str) -> None:
    started, release = threading.Event(), threading.Event()
    runs: list[int] = []

    @app.task(name="stubborn")
    def stubborn(ctx: JobContext) -> str:
        runs.append(ctx.attempt)
        if len(runs) > 1:
            return "second worker"
        started.set()
        release.wait(WAIT_S)
        return "first worker"

    @app.task(name="polite")
    def polite(ctx: JobContext) -> str:
        runs.append(ctx.attempt)
        started.set()
        while len(runs) == 1:
            ctx.check_cancelled()
        return "second worker"

    @app.task(name="apolite")
    async def apolite(ctx: JobContext) -> str:
        runs.append(ctx.attempt)
        started.set()
        if len(runs) == 1:
            await asyncio.sleep(WAIT_S)
        return "second worker"

    worker = work(app)
    job = {"thread": polite, "async": apolite, "stubborn": stubborn}[kind].enqueue()
    assert started.wait(WAIT_S)
    worker.stop("20ms")
    info = job.info()
    assert (info.state, info.attempt, info.crashes) == ("enqueued", 0, 0)
    work(app)
    assert job.result(WAIT_S) == "second worker"
    release.set()
    assert runs == [1, 1], "the attempt was not spent"
    assert job.info().result == "second worker", "J4: the first worker's late answer changes nothing"


def test_a_hurried_stop_does_not_wait(app: Raftwork, work: Any) -> None:
    started, release = threading.Event(), threading.Event()

    @app.task(name="slow")
    def slow() -> None:
        started.set()
        release.wait(WAIT_S)

    worker = work(app, drain_timeout="10m")
    slow.enqueue()
    assert started.wait(WAIT_S)
    stopping = threading.Thread(target=worker.stop)
    stopping.start()
    worker.hurry()
    stopping.join(WAIT_S)
    assert not stopping.is_alive()
    release.set()


def test_queues_with_a_number_run_that_many_at_once(app: Raftwork, work: Any) -> None:
    lock = threading.Lock()
    now: dict[str, int] = {"mail": 0, "other": 0}
    most = dict(now)
    all_in = threading.Barrier(3)

    @app.task(name="counts")
    def counts(queue: str) -> None:
        with lock:
            now[queue] += 1
            most[queue] = max(most[queue], now[queue])
        if queue == "other":
            all_in.wait(WAIT_S)
        with lock:
            now[queue] -= 1

    work(app, {"mail": 1, "other": None}, threads=3)
    jobs = [counts.using(queue="mail").enqueue("mail") for _ in range(30)]
    jobs += [counts.using(queue="other").enqueue("other") for _ in range(9)]
    for job in jobs:
        job.result(WAIT_S)
    assert most == {"mail": 1, "other": 3}


def test_strict_queues_are_served_in_order(app: Raftwork, work: Any) -> None:
    order: list[str] = []

    @app.task(name="notes")
    def notes(queue: str) -> None:
        order.append(queue)

    jobs = [notes.using(queue=queue).enqueue(queue) for queue in ["low", "high", "middle"] * 5]
    work(app, ["high", "middle", "low"], threads=1, strict=True, prefetch=0)
    for job in jobs:
        job.result(WAIT_S)
    assert order == ["high"] * 5 + ["middle"] * 5 + ["low"] * 5


def test_a_worker_runs_on_the_loop_of_the_program(app: Raftwork) -> None:
    @app.task(name="where")
    async def where() -> int:
        await asyncio.sleep(0)
        return id(asyncio.get_running_loop())

    async def main() -> tuple[int, int]:
        worker = Worker(app, loop=asyncio.get_running_loop(), drain_timeout="5s")
        async with worker:
            job = await where.aenqueue()
            return await job.aresult(WAIT_S), id(asyncio.get_running_loop())

    found, mine = asyncio.run(main())
    assert found == mine


@pytest.mark.parametrize(
    "options",
    [{"threads": 0}, {"threads": True}, {"processes": -1}, {"concurrency": 10**9}, {"drain_timeout": 5}],
)
def test_a_wrong_setting_is_refused(app: Raftwork, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Worker(app, **options)


@pytest.mark.parametrize("queues", [[], {}, {"mail": 0}, ["mail:x"], {"mail": True}])
def test_wrong_queues_are_refused(app: Raftwork, queues: Any) -> None:
    @app.task(name="noop")
    def noop() -> None: ...

    with pytest.raises(ConfigError):
        Worker(app, queues).start()


def test_a_worker_without_tasks_is_refused(app: Raftwork) -> None:
    with pytest.raises(ConfigError, match="No task"):
        Worker(app).start()


@pytest.mark.parametrize("kind", ["thread", "async"])
def test_a_paused_worker_finishes_what_runs_and_starts_nothing(app: Raftwork, work: Any, kind: str) -> None:
    started, release = threading.Semaphore(0), threading.Event()

    @app.task(name="slow")
    def slow() -> None:
        started.release()
        release.wait(WAIT_S)

    @app.task(name="aslow")
    async def aslow() -> None:
        started.release()
        while not release.is_set():
            await asyncio.sleep(0.005)

    worker = work(app, threads=1, concurrency=1)
    task: Any = slow if kind == "thread" else aslow
    jobs = [task.enqueue() for _ in range(3)]
    assert started.acquire(timeout=WAIT_S)
    worker.pause()
    release.set()
    final(jobs[0])
    assert [job.info().state for job in jobs] == ["succeeded", "enqueued", "enqueued"]
    assert not started.acquire(timeout=0.05)
    worker.resume()
    worker.resume()
    assert [final(job).state for job in jobs] == ["succeeded"] * 3
