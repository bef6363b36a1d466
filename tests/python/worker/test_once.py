"""Jobs that run at most once: one attempt, one crash, and a note that they have begun."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from raftwork import Discard, JobContext
from raftwork.app import Raftwork
from worker.shop import WAIT_S, Shop


@pytest.mark.crash
def test_a_job_whose_worker_died_does_not_run_again(shop: Shop) -> None:
    waits = shop.open()
    worker = shop.work()
    once = waits.using(retry=1, max_crashes=1).enqueue(shop.port)
    shop.knock()
    worker.kill()
    worker.wait()
    assert shop.client is not None
    info = shop.client.job_wait(once.id.bytes, WAIT_S)
    assert (info.state, info.attempt, info.crashes) == ("failed", 0, 1)
    shop.work()
    other = waits.enqueue(shop.port)
    shop.knock().say("other")
    assert other.result(WAIT_S) == "other", "who knocks next is another job"
    assert once.info().crashes == 1


def test_a_job_that_raises_does_not_run_again(app: Raftwork, work: Any) -> None:
    runs: list[int] = []

    @app.task(name="once", retry=1, max_crashes=1)
    def once() -> None:
        runs.append(1)
        raise ValueError("no")

    work(app)
    info = app.job_wait(once.enqueue().id.bytes, WAIT_S)
    assert (info.state, info.attempt, runs) == ("failed", 1, [1])


@pytest.mark.parametrize("remembers", [False, True])
def test_a_job_that_was_given_back_runs_again_unless_it_remembers(app: Raftwork, work: Any, remembers: bool) -> None:
    """A worker that stops gives back what does not end in time, which spends neither attempt nor crash."""
    begun, release = threading.Event(), threading.Event()
    runs: list[int] = []

    @app.task(name="once", retry=1, max_crashes=1)
    def once(ctx: JobContext) -> None:
        if ctx.state is not None:
            raise Discard("begun before")
        if remembers:
            ctx.save("begun")
        runs.append(ctx.attempt)
        begun.set()
        release.wait(WAIT_S)

    first = work(app, threads=1)
    job = once.enqueue()
    try:
        assert begun.wait(WAIT_S)
        first.stop("0s")
    finally:
        release.set()
    assert job.info().state == "enqueued"
    work(app, threads=1)
    info = app.job_wait(job.id.bytes, WAIT_S)
    if remembers:
        assert info.error is not None and info.error.type.endswith("Discard")
        assert (info.state, runs) == ("failed", [1])
    else:
        assert (info.state, runs) == ("succeeded", [1, 1])
