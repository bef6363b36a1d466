"""What becomes of a job: its result, its error, its retries, its own wishes."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
import threading
from typing import Any

import pytest

from raftwork import serde
from raftwork.app import Raftwork
from raftwork.context import JobContext
from raftwork.errors import JobFailed
from raftwork.outcomes import Cancel, Discard, RetryAfter, Snooze
from raftwork.retry import Retry
from raftwork.storage.base import ERROR_BYTES_MAX, JobSpec, NewJob
from worker.finals import final

WAIT_S = 20


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


def raise_chain() -> None:
    error: Exception = ValueError(0)
    for number in range(1, 1_000):
        follower = ValueError(number)
        follower.__cause__ = error
        error = follower
    raise error


def recurse() -> None:
    recurse()


def fill_memory() -> None:
    bytearray(1 << 62)


RAISERS: dict[str, Any] = {
    "ValueError": lambda: int("x"),
    "KeyboardInterrupt": lambda: exec("raise KeyboardInterrupt"),
    "SystemExit": lambda: sys.exit(7),
    "BaseException": lambda: exec("raise BaseException('bare')"),
    "StopIteration": lambda: next(iter(())),
    "GeneratorExit": lambda: exec("raise GeneratorExit"),
    "MemoryError": fill_memory,
    "RecursionError": recurse,
    "Unprintable": lambda: exec("raise error", {"error": Unprintable()}),
    "long message": lambda: exec("raise ValueError('x' * 50_000_000)"),
    "long chain": raise_chain,
    "cancelled itself": lambda: exec("import asyncio; raise asyncio.CancelledError"),
}


@pytest.mark.parametrize("kind", ["thread", "async"])
def test_the_worker_survives_every_exception(app: Raftwork, work: Any, kind: str) -> None:
    @app.task(name="raises", retry=1)
    def raises(name: str) -> None:
        RAISERS[name]()

    @app.task(name="araises", retry=1)
    async def araises(name: str) -> None:
        RAISERS[name]()

    @app.task(name="fine")
    def fine() -> int:
        return 7

    @app.task(name="afine")
    async def afine() -> int:
        return 7

    work(app, threads=1, concurrency=1)
    task, after = (raises, fine) if kind == "thread" else (araises, afine)
    for name in RAISERS:
        info = final(task.enqueue(name))
        assert info.state == "failed", name
        assert info.error is not None and info.error.type, name
        parts = (info.error.type, info.error.message, info.error.traceback)
        assert sum(len(part.encode()) for part in parts) <= ERROR_BYTES_MAX, name
        assert after.enqueue().result(WAIT_S) == 7, f"the worker is gone after {name}"


@pytest.mark.parametrize("kind", ["thread", "async"])
def test_a_result_that_cannot_be_stored_fails_without_a_retry(app: Raftwork, work: Any, kind: str) -> None:
    calls = []

    def results(name: str) -> Any:
        calls.append(name)
        return {"object": object(), "large": b"x" * (serde.RESULT_BYTES_MAX + 1), "lock": threading.Lock()}[name]

    async def aresults(name: str) -> Any:
        return results(name)

    task = app.task(name="results")(results) if kind == "thread" else app.task(name="aresults")(aresults)
    work(app)
    for name, error in (("object", "SerializationError"), ("large", "PayloadTooLarge"), ("lock", "SerializationError")):
        info = final(task.enqueue(name))
        assert (info.state, info.attempt) == ("failed", 1)
        assert info.error is not None and info.error.type.endswith(error), info.error
    assert len(calls) == 3


@dataclasses.dataclass
class Gone:
    """A class that the worker will not have."""

    number: int


@pytest.mark.parametrize(
    ("packed", "words"),
    [
        (b"\xc1", "cannot be read"),
        (b"\x93\x01", "cannot be read"),
        (b"\x01", "not in the form"),
        (serde.encode_args((Gone(1),), {}).replace(b"Gone", b"Lost"), "Lost"),
    ],
)
def test_arguments_that_cannot_be_read_fail_clearly(app: Raftwork, work: Any, packed: bytes, words: str) -> None:
    @app.task(name="takes")
    def takes(value: object) -> None: ...

    id = app.storage.new_ids(1)[0]
    app.storage.enqueue([NewJob(id, JobSpec("takes", max_attempts=1), packed)])
    work(app)
    info = final(app.job(id))
    assert info.state == "failed" and info.error is not None
    assert info.error.type.endswith("SerializationError") and words in info.error.message


def test_wrong_arguments_of_an_older_version_are_an_ordinary_failure(app: Raftwork, work: Any) -> None:
    @app.task(name="takes")
    def takes(value: object) -> None: ...

    id = app.storage.new_ids(1)[0]
    app.storage.enqueue([NewJob(id, JobSpec("takes", max_attempts=1), serde.encode_args((1, 2), {}))])
    work(app)
    error = final(app.job(id)).error
    assert error is not None and error.type == "TypeError"


def test_only_jobs_of_known_functions_are_claimed(app: Raftwork, work: Any) -> None:
    @app.task(name="known")
    def known() -> None: ...

    strange = app.storage.new_ids(1)[0]
    app.storage.enqueue([NewJob(strange, JobSpec("strange"), serde.encode_args((), {}))])
    work(app)
    known.enqueue().result(WAIT_S)
    info = app.job(strange).info()
    assert (info.state, info.attempt) == ("enqueued", 0)


def test_retries_wait_for_their_time_and_end(still: Raftwork, work: Any) -> None:
    runs: list[int] = []
    ran = threading.Semaphore(0)

    @still.task(name="fails", retry=Retry(3, backoff=["10s", "1m"], jitter=0.0))
    def fails(ctx: JobContext) -> None:
        runs.append(ctx.attempt)
        ran.release()
        raise ValueError(f"attempt {ctx.attempt}")

    work(still)
    job = fails.enqueue()
    for wait_ms in (10_000, 60_000):
        assert ran.acquire(timeout=WAIT_S)
        wait_for_state(still, job, "retrying")
        still.storage.advance(wait_ms - 1)
        assert job.info().state == "retrying", "J9: not before its time"
        still.storage.advance(1)
    info = final(job)
    assert (info.state, info.attempt, runs) == ("failed", 3, [1, 2, 3])
    assert info.error is not None and info.error.message == "attempt 3"
    with pytest.raises(JobFailed):
        job.result()


def wait_for_state(app: Raftwork, job: Any, state: str) -> None:
    """Reports travel in batches: ask until one has arrived. Bounded."""
    for _ in range(4_000):
        if job.info().state == state:
            return
        threading.Event().wait(0.005)
    raise AssertionError(f"{job.info().state} is not {state}")


def test_a_policy_can_refuse_to_retry(app: Raftwork, work: Any) -> None:
    @app.task(name="fails", retry=Retry(5, unless=(ValueError,)))
    def fails() -> None:
        raise ValueError

    work(app)
    info = final(fails.enqueue())
    assert (info.state, info.attempt) == ("failed", 1)


@pytest.mark.parametrize("way", ["raise", "return"])
@pytest.mark.parametrize("kind", ["thread", "async"])
def test_a_job_may_answer_instead_of_returning(still: Raftwork, work: Any, way: str, kind: str) -> None:
    answers = {
        "snooze": lambda: Snooze("10s", reason="waits for the bank"),
        "cancel": lambda: Cancel("not needed"),
        "discard": lambda: Discard("never works"),
        "retry": lambda: RetryAfter("30s", "busy"),
    }
    attempts: list[int] = []

    def body(attempt: int, name: str) -> Any:
        attempts.append(attempt)
        if len(attempts) > 1:
            return "done"
        answer = answers[name]()
        if way == "raise":
            raise answer
        return answer

    @still.task(name="answers")
    def answering(ctx: JobContext, name: str) -> Any:
        return body(ctx.attempt, name)

    @still.task(name="aanswers")
    async def aanswering(ctx: JobContext, name: str) -> Any:
        return body(ctx.attempt, name)

    work(still)
    task = answering if kind == "thread" else aanswering
    info = final(task.enqueue("cancel"))
    assert (info.state, info.reason) == ("cancelled", "not needed")
    attempts.clear()
    info = final(task.enqueue("discard"))
    assert info.state == "failed" and info.error is not None and info.error.message == "never works"
    for name, state, wait_ms, second in (("snooze", "scheduled", 10_000, 1), ("retry", "retrying", 30_000, 2)):
        attempts.clear()
        job = task.enqueue(name)
        wait_for_state(still, job, state)
        assert job.info().reason == ("waits for the bank" if name == "snooze" else None)
        still.storage.advance(wait_ms)
        assert job.result(WAIT_S) == "done"
        assert job.info().reason is None
        assert attempts == [1, second], name


def test_a_coroutine_may_raise_stop_iteration(app: Raftwork, work: Any) -> None:
    @app.task(name="stops", retry=1)
    async def stops() -> None:
        await asyncio.sleep(0)
        raise StopIteration

    work(app)
    error = final(stops.enqueue()).error
    assert error is not None and error.type == "RuntimeError"
