"""Jobs that run as they are enqueued."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from raftwork import JobContext, Raftwork, Retry, SerializationError
from raftwork.testing import Harness, RunawayJobs, harness


@pytest.fixture
def inline(app: Raftwork) -> Iterator[Harness]:
    """The application in a harness that runs jobs at once."""
    with harness(app, mode="inline") as h:
        yield h


def test_a_job_runs_inside_of_enqueue_through_the_codec(app: Raftwork, inline: Harness) -> None:
    @app.task(name="double")
    def double(items: list[int]) -> list[int]:
        items += items
        return items

    given = [3]
    job = double.enqueue(given)
    assert job.result(timeout=0) == [3, 3] and given == [3]
    assert [each.result() for each in app.enqueue_many([double.s([1]), double.s([2])])] == [[1, 1], [2, 2]]
    double.using(wait=False).enqueue([4])
    assert inline.counts() == {"succeeded": 4}
    with pytest.raises(SerializationError):
        double.enqueue([object()])  # type: ignore[list-item]


def test_a_delayed_job_runs_inside_of_advance(app: Raftwork, inline: Harness) -> None:
    @app.task(name="t", retry=Retry(2, backoff="fixed", base="10m", jitter=0))
    def t(ctx: JobContext) -> None:
        if ctx.attempt == 1:
            raise ConnectionError

    t.using(delay="1m").enqueue()
    inline.assert_enqueued(t, within="1m")
    with pytest.raises(ConnectionError):
        inline.advance("1m")
    assert inline.counts() == {"retrying": 1}
    inline.advance("10m")
    assert inline.counts() == {"succeeded": 1}


def test_a_job_inside_of_a_job_has_its_error_raised_outside(app: Raftwork, inline: Harness) -> None:
    seen = []

    @app.task(name="child", retry=1)
    def child(number: int) -> None:
        raise ZeroDivisionError(number)

    @app.task(name="parent")
    def parent() -> None:
        child.enqueue(1)
        seen.append("parent goes on")

    with pytest.raises(ZeroDivisionError):
        parent.enqueue()
    assert seen == ["parent goes on"]
    assert inline.counts() == {"failed": 1, "succeeded": 1}


def test_a_job_can_wait_for_the_one_that_it_enqueues(app: Raftwork, inline: Harness) -> None:
    @app.task(name="child")
    def child() -> int:
        return 20

    @app.task(name="parent")
    def parent() -> int:
        return child.enqueue().result() + 1

    assert parent.enqueue().result() == 21


def test_errors_may_be_only_stored(app: Raftwork) -> None:
    @app.task(name="t", retry=1)
    def t() -> None:
        raise ZeroDivisionError

    with harness(app, mode="inline", raise_errors=False) as h:
        t.enqueue()
        assert h.counts() == {"failed": 1}


@pytest.mark.parametrize("kind", ["chain", "tree", "caught"])
def test_jobs_without_an_end_are_bounded(app: Raftwork, kind: str) -> None:
    @app.task(name="again")
    def again() -> None:
        again.enqueue()
        if kind == "tree":
            again.enqueue()

    @app.task(name="zero", retry=Retry(10_000, backoff="fixed", base="0s", jitter=0))
    def zero() -> None:
        raise ZeroDivisionError

    with harness(app, mode="inline", raise_errors=False, max_jobs=500) as h:
        if kind == "caught":
            with pytest.raises(RunawayJobs, match="500 runs"):
                zero.enqueue()
        else:
            with pytest.raises(RunawayJobs, match="20 jobs enqueued one another"):
                again.enqueue()
            assert h.counts()["succeeded"] == 20


def test_two_applications_run_inside_of_one_another(app: Raftwork) -> None:
    other = Raftwork("other", "memory://")
    seen = []

    @other.task(name="there")
    def there(number: int) -> None:
        seen.append(number)
        if number < 2:
            here.enqueue(number + 1)

    @app.task(name="here")
    def here(number: int) -> None:
        seen.append(number)
        there.enqueue(number + 1)

    with harness(app, mode="inline") as h, harness(other, mode="inline") as o:
        here.enqueue(0)
        assert h.counts() == {"succeeded": 2} and o.counts() == {"succeeded": 2}
    assert seen == [0, 1, 2, 3]


def test_in_a_running_loop_both_kinds_run(app: Raftwork, inline: Harness) -> None:
    @app.task(name="plain")
    def plain() -> int:
        return asyncio.run(one())

    @app.task(name="coroutine")
    async def coroutine() -> int:
        # Enqueued without waiting for it on the loop, which blocks it for a moment, as it does in production.
        return (plain.enqueue()).result() + await (await plain.aenqueue()).aresult()

    async def one() -> int:
        await asyncio.sleep(0)
        return 1

    async def test() -> list[int]:
        return [
            await (await plain.aenqueue()).aresult(),
            plain.enqueue().result(),
            await (await coroutine.aenqueue()).aresult(),
            coroutine.enqueue().result(),
        ]

    assert asyncio.run(test()) == [1, 1, 2, 2]
    assert coroutine.enqueue().result() == 2


def test_a_coroutine_inside_of_a_coroutine_runs_on_another_loop(app: Raftwork, inline: Harness) -> None:
    loops = []

    @app.task(name="inner")
    async def inner() -> None:
        loops.append(asyncio.get_running_loop())

    @app.task(name="outer")
    async def outer() -> None:
        loops.append(asyncio.get_running_loop())
        inner.enqueue()

    outer.enqueue()
    inner.enqueue()
    assert loops[0] is loops[2] is not loops[1]


def test_a_crash_strikes_here_too(app: Raftwork, inline: Harness) -> None:
    runs = []

    @app.task(name="t")
    def t() -> None:
        runs.append(1)

    inline.crash_worker()
    t.enqueue()
    assert len(runs) == 2 and inline.counts() == {"succeeded": 1}


def test_what_is_left_is_drained(app: Raftwork, inline: Harness) -> None:
    runs = []

    @app.task(name="t")
    def t() -> None:
        runs.append(1)

    job = t.enqueue()
    job.retry()
    assert len(runs) == 1
    inline.drain()
    assert len(runs) == 2
