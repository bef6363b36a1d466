"""What a running job can ask and say: its context, its log, its listeners."""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from typing import Any

import pytest

from raftwork import events
from raftwork.app import Raftwork
from raftwork.context import JobContext, current_job
from raftwork.errors import NotRunning, TimedOut
from raftwork.outcomes import Snooze
from raftwork.worker.failure import LOG_LINES_MAX
from raftwork.worker.logs import LINE_CHARS_MAX
from raftwork.worker.run import PROGRESS_PERIOD_S

WAIT_S = 20
color: contextvars.ContextVar[str] = contextvars.ContextVar("color", default="none")


@pytest.mark.parametrize("kind", ["thread", "async"])
def test_the_context_tells_about_the_job(app: Raftwork, work: Any, kind: str) -> None:
    def facts(ctx: JobContext) -> list[Any]:
        assert current_job() is ctx
        return [ctx.id, ctx.queue, list(ctx.tags), ctx.attempt, ctx.crashes, ctx.token, ctx.deadline, ctx.cancelled]

    @app.task(name="tells", tags=["a", "b"], queue="mail")
    def tells(ctx: JobContext) -> list[Any]:
        return facts(ctx)

    @app.task(name="atells", tags=["a", "b"], queue="mail")
    async def atells(ctx: JobContext) -> list[Any]:
        return facts(ctx)

    work(app)
    job = (tells if kind == "thread" else atells).enqueue()
    id, queue, tags, attempt, crashes, token, deadline, cancelled = job.result(WAIT_S)
    assert (id, queue, tags, attempt, crashes, deadline) == (job.id, "mail", ["a", "b"], 1, 0, None)
    assert token > 0 and not cancelled
    with pytest.raises(NotRunning):
        current_job()


def test_saved_state_reaches_the_next_attempt(app: Raftwork, work: Any) -> None:
    @app.task(name="saves")
    def saves(ctx: JobContext) -> Any:
        if ctx.state is None:
            ctx.save({"page": 7})
            raise Snooze("0s")
        return ctx.state

    work(app)
    assert saves.enqueue().result(WAIT_S) == {"page": 7}


class Slow:
    """Stands before the disk of a lane: what is saved is stored when the test says so, or fails."""

    def __init__(self, lane: Any, error: Exception | None = None) -> None:
        self._settle = lane.source.settle
        self._error = error
        self.entered = threading.Event()
        self.go_on = threading.Event()
        lane.source.settle = self

    def __call__(self, run: Any) -> None:
        self.entered.set()
        if self._error is not None:
            raise self._error
        assert self.go_on.wait(WAIT_S)
        self._settle(run)


def test_asave_waits_for_the_disk_and_the_loop_goes_on(app: Raftwork, work: Any) -> None:
    steps: list[str] = []

    @app.task(name="saves")
    async def saves(ctx: JobContext) -> None:
        await ctx.asave({"page": 7})
        steps.append("saved")

    @app.task(name="other")
    async def other() -> None:
        steps.append("other")

    slow = Slow(work(app)._lanes[0])
    job = saves.enqueue()
    assert slow.entered.wait(WAIT_S)
    other.enqueue().result(WAIT_S)
    assert steps == ["other"], "the loop ran another job, and the first still waits"
    slow.go_on.set()
    job.result(WAIT_S)
    assert steps == ["other", "saved"]


@pytest.mark.parametrize("kind", ["thread", "async"])
def test_a_state_that_is_not_stored_is_an_error_of_the_job(app: Raftwork, work: Any, kind: str) -> None:
    @app.task(name="saves", retry=1)
    def saves(ctx: JobContext) -> None:
        ctx.save(1)

    @app.task(name="asaves", retry=1)
    async def asaves(ctx: JobContext) -> None:
        await ctx.asave(1)

    for lane in work(app)._lanes:
        Slow(lane, TimedOut("some results are not stored yet"))
    error = _error_of((saves if kind == "thread" else asaves).enqueue())
    assert error.type == "raftwork.errors.TimedOut"


def test_progress_is_held_back_and_the_last_is_written(app: Raftwork, work: Any) -> None:
    written: list[bytes] = []

    @app.task(name="steps")
    def steps(ctx: JobContext) -> float:
        started = time.monotonic()
        for done in range(10_000):
            ctx.progress(done, 10_000)
        ctx.progress(10_000, 10_000, "all")
        return time.monotonic() - started

    worker = work(app)
    source = worker._lanes[0].source
    fetcher = source.current

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(fetcher, name)

        def progress(self, item: bytes) -> None:
            written.append(item)
            fetcher.progress(item)

    source._fetcher = Counting()
    job = steps.enqueue()
    took = job.result(WAIT_S)
    progress = job.info().progress
    assert progress is not None and (progress.done, progress.total, progress.note) == (10_000, 10_000, "all")
    assert 1 <= len(written) <= 2 + took / PROGRESS_PERIOD_S


def test_the_last_log_lines_are_stored_with_a_failure(app: Raftwork, work: Any) -> None:
    logger = logging.getLogger("shop")

    @app.task(name="logs", retry=1)
    def logs(ctx: JobContext) -> None:
        for number in range(LOG_LINES_MAX + 10):
            logger.warning("line %d of %s", number, "x" * 10)
        logger.warning("bad %d", "format")
        logger.warning("long " + "y" * 10_000)
        logger.debug("not enabled")
        raise ValueError("after the log")

    @app.task(name="silent", retry=1)
    def silent() -> None:
        raise ValueError

    old, logging.raiseExceptions = logging.raiseExceptions, False
    try:
        work(app)
        error = _error_of(logs.enqueue())
    finally:
        logging.raiseExceptions = old
    assert "ValueError: after the log\n\nLast log lines of the job:\n" in error.traceback
    assert f"shop: line {LOG_LINES_MAX + 9} of" in error.traceback and "shop: line 0 of" not in error.traceback
    assert "cannot be formatted" in error.traceback and "not enabled" not in error.traceback
    assert len(max(error.traceback.splitlines(), key=len)) < LINE_CHARS_MAX + 40
    assert "Last log lines" not in _error_of(silent.enqueue()).traceback, "each job has its own lines"


def test_capturing_changes_nothing_for_the_program(app: Raftwork, work: Any) -> None:
    before = logging.getLogRecordFactory(), list(logging.getLogger().handlers)

    @app.task(name="noop")
    def noop() -> None: ...

    worker = work(app)
    assert logging.getLogger().handlers == before[1]
    worker.stop()
    assert logging.getLogRecordFactory() is before[0]


@pytest.mark.parametrize("kind", ["thread", "async"])
def test_contextvars_of_one_job_are_not_seen_by_the_next(app: Raftwork, work: Any, kind: str) -> None:
    def paint(name: str) -> str:
        seen = color.get()
        color.set(name)
        return seen

    async def apaint(name: str) -> str:
        return paint(name)

    task: Any = app.task(name="paint")(paint) if kind == "thread" else app.task(name="apaint")(apaint)
    work(app, threads=1, concurrency=1)
    assert [task.enqueue(name).result(WAIT_S) for name in ("red", "green", "blue")] == ["none"] * 3


def test_listeners_hear_every_step(app: Raftwork, work: Any) -> None:
    heard: list[tuple[str, dict[str, Any]]] = []
    stopped = threading.Event()

    def listen(event: events.Event) -> None:
        heard.append((event.name, event.fields))
        if event.name == "worker.stopped":
            stopped.set()
        if event.name == "job.started" and event.fields["function"] == "rude":
            raise KeyboardInterrupt("from a listener")

    @app.task(name="fine")
    def fine() -> int:
        return 1

    @app.task(name="fails", retry=1)
    async def fails() -> None:
        raise ValueError("no")

    @app.task(name="rude")
    def rude() -> int:
        return 2

    unsubscribe = events.subscribe(listen)
    try:
        worker = work(app)
        fine.enqueue().result(WAIT_S)
        _error_of(fails.enqueue())
        assert rude.enqueue().result(WAIT_S) == 2, "a listener cannot break a job"
        worker.stop()
        assert stopped.is_set()
    finally:
        unsubscribe()
    names = [name for name, _ in heard if name.startswith("job.") and name != "job.enqueued"]
    assert names == ["job.started", "job.succeeded", "job.started", "job.failed", "job.started", "job.succeeded"]
    assert [name for name, _ in heard if name.startswith("worker.")] == [
        "worker.started", "worker.draining", "worker.stopped",
    ]  # fmt: skip
    failed = next(fields for name, fields in heard if name == "job.failed")
    assert failed["error"].message == "no" and failed["attempt"] == 1 and failed["seconds"] >= 0


def _error_of(job: Any) -> Any:
    job._door.job_wait(job._id, WAIT_S)
    return job.info().error
