"""What is around a worker in a harness: entered before the first job, and ended with it, but not by a dead worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from raftwork import LimitExceeded, Raftwork, Retry, depends
from raftwork.testing import harness


@pytest.fixture
def log(app: Raftwork) -> list[str]:
    """What happens, in an application whose middleware and tasks write it down."""
    log: list[str] = []

    @app.middleware.worker
    def plain() -> Iterator[None]:
        log.append("open")
        yield
        log.append("close")

    @app.middleware.worker
    async def of_loop() -> AsyncIterator[None]:
        log.append("aopen")
        yield
        await asyncio.sleep(0)
        log.append("aclose")

    def pool() -> Iterator[list[str]]:
        log.append("pool")
        yield []
        log.append("pool ends")

    @app.task(name="job")
    def job(number: int, *, shared: list[str] = depends(pool, scope="worker")) -> int:
        shared.append("used")
        log.append(f"job {number}, use {len(shared)}")
        return number

    @app.task(name="ajob")
    async def ajob(number: int) -> int:
        log.append(f"ajob {number}")
        return number

    return log


def test_it_is_around_all_jobs_of_the_harness_and_only_if_there_is_one(app: Raftwork, log: list[str]) -> None:
    with harness(app) as h:
        assert h.drain() == 0
        assert log == [], "a worker that has nothing to do opens nothing here"
        for number in range(2):
            app.tasks["job"].enqueue(number)
            h.drain()
        assert log == ["open", "pool", "job 0, use 1", "job 1, use 2"]
    assert log[4:] == ["pool ends", "close"]


def test_coroutine_jobs_share_what_is_around_their_loop(app: Raftwork, log: list[str]) -> None:
    with harness(app) as h:
        for number in range(2):
            app.tasks["ajob"].enqueue(number)
            h.drain()
        assert log == ["open", "aopen", "ajob 0", "ajob 1"]
    assert log[4:] == ["aclose", "close"]


def test_on_a_loop_of_the_test_it_ends_with_adrain(app: Raftwork, log: list[str]) -> None:
    async def test() -> None:
        with harness(app) as h:
            for number in range(2):
                await app.tasks["ajob"].aenqueue(number)
            await app.tasks["job"].aenqueue(2)
            await h.adrain()
            assert log == ["open", "aopen", "ajob 0", "ajob 1", "pool", "job 2, use 1", "aclose"]
            await app.tasks["ajob"].aenqueue(3)
            await h.adrain()
        assert log[7:] == ["aopen", "ajob 3", "aclose", "pool ends", "close"]

    asyncio.run(test())


def test_inline_and_inside_of_a_loop_it_is_the_same_worker(app: Raftwork, log: list[str]) -> None:
    async def test() -> None:
        with harness(app, mode="inline"):
            app.tasks["ajob"].enqueue(1)  # Blocks the loop, as it would in a job; it runs on the harness's own.
            app.tasks["job"].enqueue(2)
            await app.tasks["job"].aenqueue(3)
        assert log == [
            "open",
            "aopen",
            "ajob 1",
            "pool",
            "job 2, use 1",
            "job 3, use 2",
            "aclose",
            "pool ends",
            "close",
        ]

    asyncio.run(test())


def test_a_worker_that_dies_ends_nothing_and_the_next_one_opens_its_own(app: Raftwork, log: list[str]) -> None:
    with harness(app) as h:
        app.tasks["job"].enqueue(1)
        app.tasks["ajob"].enqueue(2)
        h.crash_worker()
        h.drain()
        once = ["open", "pool", "job 1, use 1"]
        assert log == [*once, "open", "aopen", "ajob 2", "pool", "job 1, use 1"]
    assert log[8:] == ["aclose", "pool ends", "close"], "of one of the two"


def test_it_may_use_the_application_to_its_end(app: Raftwork, tmp_path: Path) -> None:
    @app.task(name="job")
    def job() -> None: ...

    @app.middleware.worker
    def enqueues() -> Iterator[None]:
        yield
        job.enqueue()

    with harness(app) as h:
        job.enqueue()
        h.drain()
    assert not (tmp_path / "jobs").exists(), "the harness stood in for the storage until then"


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_a_worker_that_does_not_start_runs_nothing(app: Raftwork, kind: str) -> None:
    fails = [True]

    def check() -> None:
        if fails:
            raise ConnectionError("no database")

    if kind == "plain":

        @app.middleware.worker
        def plain() -> Iterator[None]:
            check()
            yield

        @app.task(name="job")
        def job() -> None: ...
    else:

        @app.middleware.worker
        async def of_loop() -> AsyncIterator[None]:
            check()
            yield

        @app.task(name="job")
        async def ajob() -> None: ...

    with harness(app) as h:
        handle = app.tasks["job"].enqueue()
        with pytest.raises(ConnectionError, match="no database"):
            h.drain(raise_errors=False)
        info = handle.info()
        assert (info.state, info.attempts, info.crashes) == ("enqueued", (), 0), "it was given back"
        fails.clear()
        assert h.drain() == 1
        assert handle.info().attempt == 1
        assert h.counts() == {"succeeded": 1}


def test_what_fails_at_its_end_is_logged(app: Raftwork, caplog: pytest.LogCaptureFixture) -> None:
    @app.middleware.worker
    def fails() -> Iterator[None]:
        yield
        raise ValueError("at the end")

    @app.task(name="job")
    def job() -> None: ...

    with harness(app) as h:
        job.enqueue()
        h.drain()
    assert "What is around the worker failed at its end" in caplog.text


def test_limits_of_a_process_are_none_here_and_what_they_do_can_be_played(app: Raftwork) -> None:
    @app.task(name="job", executor="process", memory="32MiB", retry=Retry(5, unless=(LimitExceeded,)))
    def job(over: bool) -> int:
        if over:
            raise LimitExceeded("memory=32MiB")
        return len(bytearray(64 << 20))

    with harness(app, raise_errors=False) as h:
        small, over = job.enqueue(False), job.enqueue(True)
        h.drain()
        assert small.result() == 64 << 20
        info = over.info()
        assert info.error is not None
        assert (info.state, info.attempt, info.error.type) == ("failed", 1, "raftwork.errors.LimitExceeded")
