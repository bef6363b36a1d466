"""How jobs run in a harness: by the worker's own steps, in virtual time, with errors where the test sees them."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import signal
import threading
import time
import traceback
from typing import Any

import pytest

from raftwork import Cancel, Discard, JobContext, JobFailed, JobState, Raftwork, Retry, RetryAfter, Snooze
from raftwork.errors import InvalidOption, TaskNotRegistered
from raftwork.storage.base import JobSpec, NewJob
from raftwork.testing import Harness, HarnessMisused, RunawayJobs, harness

place: contextvars.ContextVar[str] = contextvars.ContextVar("place", default="nowhere")


def test_an_error_comes_out_with_its_traceback_after_it_is_stored(app: Raftwork, h: Harness) -> None:
    app.task(name="shop.fails", retry=3)(fails).enqueue(7)
    with pytest.raises(KeyError, match="no user 7") as raised:
        h.drain()
    shown = "".join(traceback.format_exception(raised.value))
    assert "in deep_inside" in shown and 'raise KeyError(f"no user {user}")' in shown
    assert "In the job fails(7), attempt 1 of 3." in shown
    (info,) = h.jobs()
    assert info.state is JobState.RETRYING and info.error is not None and info.error.type == "KeyError"
    assert "deep_inside" in info.error.traceback and "runner.py" not in info.error.traceback


def test_an_error_ends_the_drain_and_the_next_goes_on(app: Raftwork, h: Harness) -> None:
    failing, fine = app.task(name="fails", retry=1)(fails), app.task(name="fine")(noop)
    fine.enqueue()
    failing.enqueue(1)
    fine.enqueue()
    with pytest.raises(KeyError):
        h.drain()
    assert h.counts() == {"enqueued": 1, "succeeded": 1, "failed": 1}
    assert h.drain() == 1


def test_errors_may_be_only_stored(app: Raftwork) -> None:
    task = app.task(name="fails", retry=1)(fails)
    with harness(app, raise_errors=False) as h:
        job = task.enqueue(1)
        assert h.drain() == 1
        with pytest.raises(JobFailed):
            job.result()
        task.enqueue(2)
        with pytest.raises(KeyError):
            h.drain(raise_errors=True)


def test_retries_come_after_their_delays(app: Raftwork, h: Harness) -> None:
    attempts = []

    @app.task(name="t", retry=Retry(3, backoff="fixed", base="10m", jitter=0))
    def t(ctx: JobContext) -> None:
        attempts.append(ctx.attempt)
        if ctx.attempt < 3:
            raise ConnectionError

    t.enqueue()
    assert h.drain(raise_errors=False) == 1
    h.assert_enqueued(t, within="10m")
    h.assert_not_enqueued(t, within="9m59s")
    h.advance("9m59s")
    assert h.drain() == 0
    h.advance("1s")
    assert h.drain(raise_errors=False) == 1
    h.advance("1h")
    assert h.drain() == 1
    assert attempts == [1, 2, 3] and h.counts() == {"succeeded": 1}


def test_delays_and_expiry_follow_the_virtual_time(app: Raftwork, h: Harness) -> None:
    task = app.task(name="t")(noop)
    task.using(delay="10m").enqueue()
    task.using(expires="5m").enqueue()
    assert h.counts() == {"scheduled": 1, "enqueued": 1}
    h.advance("10m")
    assert h.drain() == 1
    assert h.counts() == {"succeeded": 1, "cancelled": 1}


def test_answers_of_a_job_are_no_errors(app: Raftwork, h: Harness) -> None:
    @app.task(name="t")
    def t(way: str, raised: bool) -> object:
        answer = {"s": Snooze("1m"), "r": RetryAfter("1m", "busy"), "c": Cancel("old"), "d": Discard("bad")}[way]
        if raised:
            raise answer
        return answer

    for way in "srcd":
        t.enqueue(way, True)
        t.enqueue(way, False)
    assert h.drain() == 8
    assert h.counts() == {"scheduled": 2, "retrying": 2, "failed": 2, "cancelled": 2}


def test_a_job_that_snoozes_for_no_time_runs_again(app: Raftwork, h: Harness) -> None:
    runs = []

    @app.task(name="t")
    def t() -> object:
        runs.append(1)
        return Snooze("0s") if len(runs) < 3 else None

    t.enqueue()
    assert h.drain() == 3


def test_jobs_that_jobs_enqueue_run_too(app: Raftwork, h: Harness) -> None:
    @app.task(name="count", queue="a")
    def count(left: int) -> None:
        if left:
            count.using(queue="ab"[left % 2]).enqueue(left - 1)

    count.enqueue(5)
    assert h.drain("a") == 1, "the next one is in another queue"
    assert h.drain() == 5


def test_jobs_without_an_end_are_bounded(app: Raftwork) -> None:
    @app.task(name="again")
    def again() -> None:
        again.enqueue()

    with harness(app, max_jobs=50) as h:
        again.enqueue()
        with pytest.raises(RunawayJobs, match="50 runs of jobs did not come to an end"):
            h.drain()
        assert h.counts() == {"succeeded": 50, "enqueued": 1}
        with pytest.raises(RunawayJobs, match=r"^RW602 7 runs"):
            h.drain(raise_errors=False, max_jobs=7)
        with pytest.raises(InvalidOption):
            h.drain(max_jobs=0)


def test_as_many_jobs_as_allowed_are_no_error(app: Raftwork, h: Harness) -> None:
    task = app.task(name="t")(noop)
    app.enqueue_many([task.s() for _ in range(5)])
    assert h.drain(max_jobs=5) == 5


def test_a_paused_queue_waits(app: Raftwork, h: Harness) -> None:
    app.task(name="t", queue="mail")(noop).enqueue()
    app.queues.pause("mail")
    assert h.drain() == 0
    app.queues.resume("mail")
    assert h.drain() == 1


def test_more_queues_than_a_claim_may_name_are_drained(app: Raftwork, h: Harness) -> None:
    task = app.task(name="t")(noop)
    assert h.drain() == 0
    app.enqueue_many([task.using(queue=f"q{number}").s() for number in range(1_100)])
    assert h.drain(max_jobs=1_100) == 1_100


def test_jobs_of_an_unknown_task_stay_and_are_told(app: Raftwork, h: Harness) -> None:
    known = app.task(name="known")(noop)
    known.enqueue()
    put_stranger(app)
    with pytest.raises(TaskNotRegistered, match=r"'gone' waits in queue 'default'.*no such task"):
        h.drain()
    assert h.counts() == {"enqueued": 1, "succeeded": 1}
    assert h.drain(raise_errors=False) == 0
    assert h.drain("mail") == 0, "its queue is not asked for"


def test_a_task_that_a_job_imports_is_known(app: Raftwork, h: Harness) -> None:
    @app.task(name="imports")
    def imports() -> None:
        app.task(name="late", queue="late")(noop).enqueue()

    imports.enqueue()
    assert h.drain() == 2


def test_the_steps_are_those_of_a_worker(app: Raftwork, h: Harness, caplog: pytest.LogCaptureFixture) -> None:
    @app.task(name="t", retry=2)
    def t(ctx: JobContext) -> int:
        ctx.progress(1, 2, "half")
        if ctx.attempt == 1:
            ctx.save({"page": 7})
            logging.getLogger("shop").warning("about to fail")
            raise ConnectionError
        return ctx.state["page"]

    job = t.enqueue()
    h.drain(raise_errors=False)
    info = job.info()
    assert info.progress is not None and info.progress.note == "half"
    assert info.error is not None and "about to fail" in info.error.traceback
    h.advance("1h")
    h.drain()
    assert job.result() == 7


def test_a_job_may_cancel_itself(app: Raftwork, h: Harness) -> None:
    @app.task(name="t")
    def t(ctx: JobContext) -> None:
        app.job(ctx.id).cancel()
        ctx.check_cancelled()
        raise AssertionError("not reached")

    @app.task(name="at")
    async def at(ctx: JobContext) -> None:
        app.job(ctx.id).cancel()
        await asyncio.sleep(60)

    t.enqueue()
    at.enqueue()
    h.drain()
    assert h.counts() == {"cancelled": 2}


def test_a_time_out_counts_real_time(app: Raftwork, h: Harness) -> None:
    @app.task(name="t", timeout="50ms")
    def t() -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            pass

    @app.task(name="at", timeout="50ms")
    async def at() -> None:
        await asyncio.sleep(60)

    for task in (t, at):
        task.enqueue()
        with pytest.raises(TimeoutError, match="longer than its timeout of 50ms"):
            h.drain()
    assert h.counts() == {"retrying": 2}


def test_functions_run_on_this_thread_in_a_context_of_their_own(app: Raftwork, h: Harness) -> None:
    seen: list[object] = []

    @app.task(name="t", executor="process")
    def t() -> None:
        seen.extend([threading.get_ident(), place.get()])
        place.set("job")

    place.set("test")
    t.enqueue()
    h.drain()
    assert seen == [threading.get_ident(), "test"] and place.get() == "test"


def test_coroutines_share_a_loop_that_is_not_the_tests(app: Raftwork, h: Harness) -> None:
    loops: list[object] = []
    ended = []

    async def background() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    @app.task(name="t")
    async def t() -> None:
        loops.append(asyncio.get_running_loop())
        task = asyncio.create_task(background())
        await asyncio.sleep(0)
        tasks.append(task)

    tasks: list[asyncio.Task[None]] = []
    own = asyncio.new_event_loop()
    asyncio.set_event_loop(own)
    try:
        t.enqueue()
        t.enqueue()
        h.drain()
        assert asyncio.get_event_loop() is own
    finally:
        asyncio.set_event_loop(None)
        own.close()
    assert loops[0] is loops[1] is not own
    assert not ended
    h.__exit__(None, None, None)
    assert ended == [True, True]


@pytest.mark.parametrize("error", [KeyboardInterrupt, pytest.fail.Exception])
def test_what_is_about_the_test_always_comes_out(app: Raftwork, h: Harness, error: type[BaseException]) -> None:
    @app.task(name="t")
    def t() -> None:
        raise error

    t.enqueue()
    with pytest.raises(error):
        h.drain(raise_errors=False)


def test_ctrl_c_ends_a_drain_that_runs_a_coroutine(app: Raftwork, h: Harness) -> None:
    @app.task(name="t")
    async def t() -> None:
        signal.raise_signal(signal.SIGINT)
        await asyncio.Event().wait()

    t.enqueue()
    with pytest.raises(KeyboardInterrupt):
        h.drain()
    assert h.counts() == {"enqueued": 1}


def test_a_job_that_exits_has_failed(app: Raftwork, h: Harness) -> None:
    app.task(name="t")(leave).enqueue()
    assert h.drain(raise_errors=False) == 1
    assert h.counts() == {"retrying": 1}


def test_draining_inside_of_a_job_is_refused(app: Raftwork, h: Harness) -> None:
    @app.task(name="t")
    def t() -> None:
        h.drain()

    t.enqueue()
    with pytest.raises(HarnessMisused, match="inside of a job"):
        h.drain()


def test_a_crash_runs_the_job_again_without_spending_an_attempt(app: Raftwork, h: Harness) -> None:
    seen = []

    @app.task(name="t", retry=1)
    def t(ctx: JobContext) -> None:
        seen.append((ctx.attempt, ctx.crashes))

    t.enqueue()
    h.crash_worker()
    assert h.drain() == 2
    assert seen == [(1, 0), (1, 1)]
    t.enqueue()
    h.crash_worker(2, after_run=False)
    assert h.drain() == 3
    assert seen[2:] == [(1, 2)]
    assert h.counts() == {"succeeded": 2} and app.workers == []


def test_an_error_before_a_crash_is_not_heard_of(app: Raftwork, h: Harness) -> None:
    @app.task(name="t")
    def t(ctx: JobContext) -> None:
        if not ctx.crashes:
            raise ZeroDivisionError

    t.enqueue()
    h.crash_worker()
    assert h.drain() == 2


def test_a_job_that_crashes_too_often_fails(app: Raftwork, h: Harness) -> None:
    task = app.task(name="t", max_crashes=2)(noop)
    task.enqueue()
    h.crash_worker(2)
    with pytest.raises(JobFailed, match="2 crashes"):
        h.drain()
    task.enqueue()
    h.crash_worker(2)
    assert h.drain(raise_errors=False) == 2
    assert h.counts() == {"failed": 2}


def test_a_silent_crash_is_noticed_when_the_lease_ends(app: Raftwork, h: Harness) -> None:
    task = app.task(name="t")(noop)
    task.enqueue()
    h.crash_worker(silent=True)
    assert h.drain() == 1
    assert h.drain() == 0 and h.counts() == {"processing": 1}
    h.advance("14s")
    assert h.drain() == 0 and h.counts() == {"processing": 1}
    h.advance("1h")
    (info,) = h.jobs()
    assert info.crashes == 1 and (h.now - info.enqueued_at).total_seconds() == 3_599  # type: ignore[operator]
    assert h.drain() == 1 and h.counts() == {"succeeded": 1}


def test_faults_are_checked(h: Harness) -> None:
    with pytest.raises(InvalidOption):
        h.crash_worker(0)


def put_stranger(app: Raftwork) -> None:
    """Store a job of a task that nobody has registered."""
    storage = app.storage
    storage.enqueue([NewJob(storage.new_ids(1)[0], JobSpec("gone"), b"\x92\x90\x80")])


def noop(value: object = None) -> None:
    """A task that does nothing."""


def leave() -> None:
    """A task that ends its process, or thinks so."""
    raise SystemExit(1)


def fails(user: int) -> None:
    """A task whose error comes from further inside."""
    deep_inside(user)


def deep_inside(user: int) -> Any:
    """Where the error is."""
    raise KeyError(f"no user {user}")
