"""A harness in tests that are coroutines."""

from __future__ import annotations

import asyncio
import threading

import pytest

from raftwork import JobContext, Raftwork
from raftwork.testing import Harness, HarnessMisused, RunawayJobs


def test_coroutines_run_on_this_loop_and_functions_on_a_thread(app: Raftwork, h: Harness) -> None:
    seen: list[object] = []

    @app.task(name="coroutine")
    async def coroutine() -> None:
        seen.append(asyncio.get_running_loop())
        await plain.aenqueue()

    @app.task(name="plain")
    def plain() -> None:
        seen.append(threading.get_ident())
        asyncio.run(asyncio.sleep(0))

    async def test() -> None:
        await coroutine.aenqueue()
        h.assert_enqueued(coroutine)
        assert await h.adrain() == 2
        assert seen[0] is asyncio.get_running_loop() and seen[1] != threading.get_ident()
        assert h.counts() == {"succeeded": 2}

    asyncio.run(test())


def test_the_loop_goes_on_meanwhile(app: Raftwork, h: Harness) -> None:
    async def test() -> None:
        turn = asyncio.Event()

        @app.task(name="t")
        async def t() -> None:
            await turn.wait()

        await t.aenqueue()
        drain = asyncio.create_task(h.adrain())
        asyncio.get_running_loop().call_soon(turn.set)
        assert await drain == 1

    asyncio.run(test())


def test_draining_would_block_the_loop(h: Harness) -> None:
    async def test() -> None:
        with pytest.raises(HarnessMisused, match=r"await h\.adrain\(\)"):
            h.drain()

    asyncio.run(test())


def test_an_error_comes_out(app: Raftwork, h: Harness) -> None:
    @app.task(name="t")
    async def t() -> None:
        raise ZeroDivisionError("here")

    async def test() -> None:
        await t.aenqueue()
        with pytest.raises(ZeroDivisionError, match="here"):
            await h.adrain()
        assert h.counts() == {"retrying": 1}

    asyncio.run(test())


@pytest.mark.parametrize("swallows", [False, True])
def test_a_cancelled_drain_ends_and_gives_the_job_back(app: Raftwork, h: Harness, swallows: bool) -> None:
    async def test() -> None:
        running = asyncio.Event()

        @app.task(name="t")
        async def t() -> None:
            running.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if not swallows:
                    raise

        await t.aenqueue()
        drain = asyncio.create_task(h.adrain())
        await running.wait()
        drain.cancel()
        with pytest.raises(asyncio.CancelledError):
            await drain

    asyncio.run(test())
    assert h.counts() == ({"succeeded": 1} if swallows else {"enqueued": 1})


def test_a_job_that_waits_for_another_is_told(app: Raftwork, h: Harness) -> None:
    @app.task(name="child")
    async def child() -> None: ...

    @app.task(name="parent")
    async def parent() -> None:
        await (await child.aenqueue()).aresult(timeout=5)

    async def test() -> None:
        await parent.aenqueue()
        with pytest.raises(TimeoutError, match="nothing runs while one waits"):
            await h.adrain()

    asyncio.run(test())


def test_jobs_without_an_end_and_crashes(app: Raftwork, h: Harness) -> None:
    runs = []

    @app.task(name="again")
    async def again(ctx: JobContext) -> None:
        runs.append(ctx.crashes)
        await again.aenqueue()

    async def test() -> None:
        await again.aenqueue()
        h.crash_worker()
        with pytest.raises(RunawayJobs):
            await h.adrain(max_jobs=5)

    asyncio.run(test())
    assert sorted(runs) == [0, 0, 0, 0, 1]
