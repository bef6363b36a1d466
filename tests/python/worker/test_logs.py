"""The last log lines of each job: while it runs, on its worker, and with its failure afterwards."""

from __future__ import annotations

import asyncio
import logging
import threading
import uuid
from typing import Any

import pytest

from raftwork import InvalidName, JobContext, Raftwork
from raftwork.worker.failure import LOG_LINES_MAX
from raftwork.worker.logs import LINES_MAX
from worker import log_jobs

WAIT_S = 60
logger = logging.getLogger("shop")


def texts(lines: list[str]) -> list[str]:
    """Lines without the time of day."""
    return [line.partition(" ")[2] for line in lines]


@pytest.mark.parametrize("kind", ["thread", "async"])
def test_lines_of_a_running_job(app: Raftwork, work: Any, kind: str) -> None:
    logged, go_on = threading.Event(), threading.Event()

    def body(ctx: JobContext) -> None:
        for number in range(LINES_MAX + 1):
            logger.warning("line %d", number)
        ctx.log("two\nlines", level=logging.ERROR)
        logged.set()

    @app.task(name="thread")
    def plain(ctx: JobContext) -> None:
        body(ctx)
        assert go_on.wait(WAIT_S)

    @app.task(name="async")
    async def coroutine(ctx: JobContext) -> None:
        body(ctx)
        assert await asyncio.to_thread(go_on.wait, WAIT_S)

    worker = work(app)
    job = (plain if kind == "thread" else coroutine).enqueue()
    assert logged.wait(WAIT_S)
    logger.warning("not of a job")
    lines = texts(worker.log_lines(job))
    assert lines == [f"WARNING shop: line {n}" for n in range(2, LINES_MAX + 1)] + ["ERROR raftwork.job: two\\nlines"]
    assert worker.log_lines(job.id) == worker.log_lines(str(job.id)) == worker.log_lines(job.id.bytes)
    go_on.set()
    job.result(WAIT_S)
    assert log_jobs.wait_until(lambda: worker.log_lines(job) == []), "it does not run any more"
    assert worker.log_lines(uuid.uuid4()) == []
    with pytest.raises(InvalidName):
        worker.log_lines("seven")


@pytest.mark.crash
def test_lines_of_a_job_in_a_child(work: Any) -> None:
    app = log_jobs.app.open()
    try:
        worker = work(app, processes=1)
        with log_jobs.door() as (port, accept):
            job = log_jobs.talks.enqueue(port)
            connection = accept()
            assert connection.recv(16)
            # A line goes through the pipe before what the job does next, but is taken from it a little later.
            assert log_jobs.wait_until(lambda: texts(worker.log_lines(job)) == ["WARNING shop: in a child"])
            connection.close()
        job.result(WAIT_S)
    finally:
        app.close()


def test_lines_are_kept_with_the_failure(app: Raftwork, work: Any) -> None:
    @app.task(name="fails", retry=1)
    def fails(lines: int) -> None:
        for number in range(lines):
            logger.warning("line %d", number)
        raise ValueError("Last log lines of the job:")

    work(app)
    for lines in (0, 1, LOG_LINES_MAX + 10):
        job = fails.using(delay="1h").enqueue(lines)
        assert job.info().log_lines == []
        job.retry()
        app.job_wait(job.id.bytes, WAIT_S)
        kept = range(max(0, lines - LOG_LINES_MAX), lines)
        assert texts(job.info().log_lines) == [f"WARNING shop: line {number}" for number in kept]


def test_jobs_at_once_have_lines_of_their_own(app: Raftwork, work: Any) -> None:
    barrier = threading.Barrier(2)

    @app.task(name="talks", retry=1)
    def talks(name: str) -> None:
        for _ in range(10):
            barrier.wait(WAIT_S)
            logger.warning("of %s", name)
        raise ValueError

    work(app, threads=2)
    jobs = [talks.enqueue(name) for name in ("a", "b")]
    for job, name in zip(jobs, ("a", "b"), strict=True):
        app.job_wait(job.id.bytes, WAIT_S)
        assert texts(job.info().log_lines) == [f"WARNING shop: of {name}"] * 10
