"""Remembered steps of a job: done once, whatever happens to its runs (J3, J14)."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import msgspec
import pytest
from msgspec.msgpack import Ext

from raftwork import (
    InvalidName,
    JobContext,
    LeaseLost,
    PayloadTooLarge,
    Retry,
    Secret,
    SecretRefused,
    SerializationError,
    Snooze,
    StepError,
    TimedOut,
    serde,
)
from raftwork.app import Raftwork
from raftwork.context import StopFlag
from raftwork.job_info import JobState
from raftwork.saved import split
from raftwork.storage.base import ClaimedJob

WAIT_S = 30


class Disk:
    """Where saved state goes. `broken` is what waiting for it raises."""

    def __init__(self) -> None:
        self.stored: bytes | None = None
        self.broken: Exception | None = None

    def send(self, progress: bytes | None, state: bytes | None) -> None:
        self.stored = state

    def settle(self) -> None:
        if self.broken is not None:
            raise self.broken


@pytest.fixture
def disk() -> Disk:
    return Disk()


def run(disk: Disk, stop: StopFlag | None = None) -> JobContext:
    """The context of the next run of one job."""
    job = ClaimedJob(b"i" * 16, 9, "shop.f", "mail", b"", 2, 1, 0, 0, 0, 0, None, 10, 3, (), b"", disk.stored)
    return JobContext(job, disk, stop or StopFlag())


class Calls:
    """A function that counts."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, value: Any = None) -> Any:
        self.count += 1
        return value

    async def later(self, value: Any = None) -> Any:
        await asyncio.sleep(0)
        return self(value)


def test_a_step_is_done_once(disk: Disk) -> None:
    calls = Calls()
    assert run(disk).step("pay", calls, (1, {"cents"})) == (1, {"cents"})
    assert run(disk).step("pay", calls, "other arguments") == (1, {"cents"}), "types come back exactly"
    assert run(disk).step("nothing", calls) is None and run(disk).step("nothing", calls) is None
    assert calls.count == 2


def test_steps_and_state_live_side_by_side(disk: Disk) -> None:
    disk.stored = serde.encode({"page": 7})  # As it was saved when there were no steps.
    ctx = run(disk)
    assert ctx.step("pay", int) == 0 and ctx.state == {"page": 7}
    ctx.save({"page": 8})
    assert ctx.step("mail", str) == ""
    again = run(disk)
    assert again.state == {"page": 8}
    assert (again.step("pay", Calls(), 1), again.step("mail", Calls(), 1)) == (0, "")
    assert list(split(disk.stored)[1]) == ["pay", "mail"]


def test_without_steps_the_bytes_are_those_of_the_state_alone(disk: Disk) -> None:
    run(disk).save({"page": 7})
    assert disk.stored == serde.encode({"page": 7})


def test_a_step_that_raises_is_not_remembered(disk: Disk) -> None:
    ctx = run(disk)
    with pytest.raises(ZeroDivisionError):
        ctx.step("divide", lambda: 1 // 0)
    assert disk.stored is None
    assert ctx.step("divide", lambda: 1) == 1, "in the same run, too"


@pytest.mark.parametrize("kind", ["step", "astep"])
def test_a_name_is_used_once_in_a_run(disk: Disk, kind: str) -> None:
    calls = Calls()

    def do(ctx: JobContext) -> Any:
        return ctx.step("pay", calls) if kind == "step" else asyncio.run(ctx.astep("pay", calls.later))

    ctx = run(disk)
    do(ctx)
    again = run(disk)
    do(again)
    for context in (ctx, again):
        with pytest.raises(StepError, match=r"RW407 The step 'pay' was used in this run already"):
            do(context)
    assert calls.count == 1


def test_a_name_that_is_under_way_is_taken(disk: Disk) -> None:
    ctx = run(disk)
    with pytest.raises(StepError):
        ctx.step("outer", lambda: ctx.step("outer", int))
    assert ctx.step("outer", lambda: ctx.step("inner", int)) == 0, "steps may contain others"


def test_threads_of_a_job_lose_no_step(disk: Disk) -> None:
    ctx = run(disk)
    threads = [threading.Thread(target=ctx.step, args=(f"page:{n}", int, n)) for n in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert sorted(split(disk.stored)[1]) == sorted(f"page:{n}" for n in range(30))


def test_coroutines_of_a_job_lose_no_step(disk: Disk) -> None:
    calls = Calls()

    async def main() -> list[int]:
        ctx = run(disk)
        return await asyncio.gather(*(ctx.astep(f"page:{n}", calls.later, n) for n in range(30)))

    assert asyncio.run(main()) == list(range(30))
    assert asyncio.run(main()) == list(range(30)) and calls.count == 30


@pytest.mark.parametrize("name", ["", "x" * 256, "a\nb", 7, None])
def test_names_that_cannot_be(disk: Disk, name: Any) -> None:
    calls = Calls()
    with pytest.raises(InvalidName, match="The step"):
        run(disk).step(name, calls)
    assert calls.count == 0


def test_results_that_cannot_travel(disk: Disk) -> None:
    with pytest.raises(SerializationError, match="step 'pay'"):
        run(disk).step("pay", object)
    with pytest.raises(PayloadTooLarge, match="step 'pay'"):
        run(disk).step("pay", lambda: b"x" * serde.STATE_BYTES_MAX)
    with pytest.raises(SecretRefused):
        run(disk).step("pay", lambda: Secret("x"))
    assert disk.stored is None


def test_all_steps_and_the_state_share_one_limit(disk: Disk) -> None:
    ctx = run(disk)
    ctx.step("first", lambda: b"x" * 40_000)
    with pytest.raises(PayloadTooLarge, match=r"result of step 'second'.*2 steps.*65,536"):
        ctx.step("second", lambda: b"x" * 40_000)
    with pytest.raises(PayloadTooLarge, match="With the state"):
        ctx.save(b"x" * 40_000)
    assert ctx.state is None and list(split(disk.stored)[1]) == ["first"]
    ctx.step("second", lambda: b"x" * 20_000)


def test_a_lost_lease_runs_no_step_and_remembers_none(disk: Disk) -> None:
    stop, calls = StopFlag(), Calls()
    ctx = run(disk, stop)
    with pytest.raises(LeaseLost):
        ctx.step("pay", stop.lose)
    assert disk.stored is None
    with pytest.raises(LeaseLost):
        ctx.step("mail", calls)
    with pytest.raises(LeaseLost):
        asyncio.run(ctx.astep("mail", calls.later))
    assert calls.count == 0


def test_a_step_that_is_not_stored_is_an_error(disk: Disk) -> None:
    disk.broken = TimedOut("some results are not stored yet")
    ctx = run(disk)
    with pytest.raises(TimedOut):
        ctx.step("pay", int)
    with pytest.raises(TimedOut):
        asyncio.run(ctx.astep("mail", asyncio.sleep, 0))
    disk.broken = None
    assert ctx.step("pay", lambda: 1) == 1


def test_each_kind_of_function_has_its_verb(disk: Disk) -> None:
    ctx, calls = run(disk), Calls()

    async def coroutine() -> None:
        with pytest.raises(StepError, match=r"await ctx\.astep\('pay'"):
            ctx.step("pay", int)
        with pytest.raises(StepError, match=r"asyncio\.to_thread"):
            await ctx.astep("pay", int)

    with pytest.raises(StepError, match=r"await ctx\.astep\('pay'"):
        ctx.step("pay", calls.later)
    asyncio.run(coroutine())
    assert disk.stored is None and calls.count == 0


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x90", msgspec.msgpack.encode([None, [1]]), b"\x92\xc0\x81\x01\x01"])
def test_damaged_steps_are_an_error(disk: Disk, body: bytes) -> None:
    disk.stored = msgspec.msgpack.encode(Ext(34, body))
    with pytest.raises(SerializationError, match="saved steps"):
        run(disk).step("pay", int)


@pytest.mark.parametrize("kind", ["thread", "async"])
def test_a_retry_and_a_snooze_find_the_steps(app: Raftwork, work: Any, kind: str) -> None:
    calls = Calls()

    @app.task(name="pays", retry=Retry(3, base="0s"))
    def pays(ctx: JobContext) -> list[Any]:
        ctx.save(ctx.attempt)
        paid = ctx.step("pay", calls, 500)
        return ends(ctx, paid)

    @app.task(name="apays", retry=Retry(3, base="0s"))
    async def apays(ctx: JobContext) -> list[Any]:
        await ctx.asave(ctx.attempt)
        paid = await ctx.astep("pay", calls.later, 500)
        return ends(ctx, paid)

    snoozed: list[int] = []

    def ends(ctx: JobContext, paid: int) -> list[Any]:
        if ctx.attempt == 1 and not snoozed:
            snoozed.append(1)
            raise Snooze("0s")
        if ctx.attempt == 1:
            raise ValueError
        return [paid, ctx.state]

    work(app)
    job = (pays if kind == "thread" else apays).enqueue()
    assert job.result(WAIT_S) == [500, 2]
    assert calls.count == 1


def test_a_job_that_is_run_again_by_hand_keeps_what_it_did(app: Raftwork, work: Any) -> None:
    calls = Calls()
    fail = [True]

    @app.task(name="pays", retry=1)
    def pays(ctx: JobContext) -> Any:
        paid = ctx.step("pay", calls, 500)
        if fail:
            raise ValueError
        return paid

    work(app)
    job = pays.enqueue()
    app.job_wait(job.id.bytes, WAIT_S)
    assert job.state is JobState.FAILED and job.info().steps == ["pay"]
    fail.clear()
    job.retry()
    assert job.result(WAIT_S) == 500 and calls.count == 1
