"""Correct use of the typed API. Each type checker must accept every line and reveal exactly these types."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Generator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

from raftwork import (
    Batch,
    BatchInfo,
    Bulk,
    BulkAnswer,
    Chain,
    EnqueueCall,
    ErrorGroup,
    Fair,
    FlowInfo,
    Job,
    JobContext,
    JobInfo,
    JobLogs,
    JobState,
    Limit,
    Lock,
    LockInfo,
    Raftwork,
    Rate,
    Retry,
    Schedule,
    Secret,
    Signature,
    Task,
    Unique,
    chain,
    depends,
    events,
)
from raftwork.testing import Harness, harness

app = Raftwork("shop", "memory://")


@app.task
def bare(user_id: int, *, template: str = "default") -> str:
    return template * user_id


@app.task(queue="mail", retry=Retry(8, backoff="exponential", jitter=0.2), timeout="2m", unique="args", tags=["crm"])
def configured(user_id: int, *, template: str = "default") -> str:
    return template * user_id


@app.task(limit=Fair("url"))
async def coroutine(url: str) -> bytes:
    return url.encode()


@app.cron("30 3 * * *", name="nightly", tz="Europe/Berlin", overlap="skip", kwargs={"user_id": 7})
@app.every("15m", args=[7], misfire="run_all", catchup=5, catchup_window="6h", jitter="1m", start=datetime.now(UTC))
@app.task
def recurring(user_id: int) -> str:
    return str(user_id)


@app.task(executor="process", expires=timedelta(hours=1))
def with_context(ctx: JobContext, tenant: str, month: str = "last") -> list[int]:
    ctx.progress(1, 10)
    return [len(tenant), len(month), ctx.attempt]


@app.task(limit=[Limit(2, per="tenant"), Rate(100, "1m", burst=20), Fair(per=["tenant"], name="turns")])
def limited(tenant: str) -> int:
    return len(tenant)


def price(order: int, *, discount: float = 0.0) -> float:
    return order * (1 - discount)


async def fetch(url: str) -> bytes:
    return url.encode()


@app.task
async def with_steps(ctx: JobContext) -> None:
    assert_type(ctx.step("price", price, 7, discount=0.1), float)
    assert_type(await ctx.astep("fetch", fetch, "x"), bytes)
    await ctx.astep("thread", asyncio.to_thread, price, 7)


@app.middleware.enqueue
def around_enqueue(call: EnqueueCall) -> Iterator[None]:
    assert_type(call.tags, tuple[str, ...])
    yield


@app.middleware.run
async def around_run(job: JobContext) -> AsyncIterator[None]:
    yield


@app.middleware.worker
def around_worker() -> Generator[None, None, None]:
    yield


def connection() -> Iterator[bytes]:
    yield b""


async def session(ctx: JobContext) -> AsyncIterator[str]:
    yield ctx.function


async def client() -> int:
    return 1


@app.task
async def with_dependencies(
    order: int,
    *,
    db: bytes = depends(connection, scope="worker"),
    within: str = depends(session),
    number: int = depends(client),
    names: list[str] = depends(list[str]),
) -> str:
    return within * order


@app.task(unique=Unique("user:{user}", window="10m", on_conflict="replace"))
async def coroutine_with_context(ctx: JobContext, user: int) -> None:
    ctx.check_cancelled()


@app.task
def variadic(first: int, /, *rest: int, flag: bool = False, **names: str) -> float:
    return float(first + sum(rest))


def plain_use() -> None:
    assert_type(bare.enqueue(7), Job[str])
    assert_type(recurring.enqueue(7), Job[str])
    assert_type(app.schedules.put("weekly", recurring.s(7), "@weekly", tz="UTC"), Schedule)
    assert_type(app.schedules.preview(every="1h", n=3), list[datetime])
    assert_type(bare.enqueue(7, template="vip").result(timeout=30), str)
    assert_type(configured.using(delay="10m", priority=5).enqueue(user_id=7), Job[str])
    assert_type(configured.using(run_at=datetime.now(UTC), retry=3, unique=None).enqueue(7), Job[str])
    assert_type(coroutine.enqueue("x"), Job[bytes])
    assert_type(with_context.enqueue("acme"), Job[list[int]])
    assert_type(with_context.enqueue("acme", month="2026-10").result(), list[int])
    assert_type(coroutine_with_context.enqueue(1), Job[None])
    assert_type(variadic.enqueue(1, 2, 3, flag=True, name="x"), Job[float])
    assert_type(bare.s(1), Signature[str])
    assert_type(app.enqueue_many(bare.s(user) for user in range(3)), list[Job[str]])
    assert_type(app.enqueue_many([coroutine.s("x")]), list[Job[bytes]])
    bare(7, template="x")
    assert_type(with_dependencies.enqueue(7), Job[str])
    with app.lock("invoice:42", ttl="30s", timeout=1.5) as lock:
        assert_type(lock.token, int)
        assert_type(lock.lost.wait(0), bool)
    assert_type(lock.acquire(timeout=5), int)
    assert_type(app.locks(), list[LockInfo])
    with app.semaphore("gpu", 4, timeout=1) as permit, app.lock("again", reentrant=True) as again:
        assert_type(permit, Lock)
        assert_type(again, Lock)
    with app.rwlock("map").read() as reader, app.rwlock("other").write() as writer:
        assert_type((reader.token, writer.token), tuple[int, int])


@app.task
def spend(token: Secret[str], amount: Secret[int] | None = None) -> Secret[bytes]:
    return Secret(token.reveal().encode())


def use_secrets() -> None:
    assert_type(spend.enqueue(Secret("t"), Secret(5)), Job[Secret[bytes]])
    assert_type(spend.enqueue(Secret("t")).result().reveal(), bytes)


def use_what_operators_use() -> None:
    assert_type(limited.enqueue("acme"), Job[int])
    bulk = app.bulk("state:failed task:bare")
    assert_type(bulk, Bulk)
    assert_type(bulk.count(), int)
    assert_type(bulk.retry(), BulkAnswer)
    assert_type(app.bulk("queue:reports").move("slow").changed, int)
    job = app.job("00000000-0000-7000-8000-000000000000")
    assert_type(job.flow(), FlowInfo)
    assert_type(job.logs(), JobLogs)
    assert_type([*app.errors(5)], list[ErrorGroup])
    assert_type(app.errors()[0].fingerprint, str | None)
    unsubscribe = events.subscribe(lambda event: print(event.name))
    unsubscribe()


async def use_in_coroutines() -> None:
    assert_type(await coroutine.aenqueue("x"), Job[bytes])
    assert_type(await (await coroutine.aenqueue("x")).aresult(30), bytes)
    assert_type(await with_context.using(queue="slow").aenqueue("acme"), Job[list[int]])
    await coroutine("x")
    async with app.running(workers={"mail": 4}):
        assert_type(await app.aenqueue_many([bare.s(1)]), list[Job[str]])
    async with app.lock("invoice:42", timedelta(seconds=30)) as lock:
        assert_type(lock, Lock)
        assert_type(await lock.lost.await_set(0), bool)


def in_a_harness() -> None:
    with harness(app, mode="inline", raise_errors=False, max_jobs=10) as h:
        assert_type(h, Harness)
        assert_type(h.assert_enqueued(bare, 7, template="x", within="1s"), JobInfo)
        h.assert_not_enqueued(with_context, "acme", within=timedelta(seconds=1))
        assert_type(h.drain("mail", "slow", raise_errors=True), int)
        assert_type(h.jobs(coroutine, "failed", JobState.RETRYING), list[JobInfo])
        assert_type(h.jobs("bare"), list[JobInfo])
        assert_type(h.counts(), dict[str, int])
        assert_type(h.now, datetime)
        h.advance("10m")
        h.crash_worker(2, after_run=False, silent=True)


async def in_a_harness_of_coroutines() -> None:
    with harness(app) as h:
        assert_type(await h.adrain("mail", max_jobs=5), int)


def takes_task(task: Task[..., bytes]) -> Job[bytes]:
    return task.enqueue("x")


def pass_tasks_on() -> Any:
    return takes_task(coroutine)


def coroutine_type() -> Coroutine[Any, Any, None]:
    return use_in_coroutines()


def check_flows() -> None:
    first = bare.enqueue(7)
    assert_type(first.output, str)
    after = configured.using(after=[first], on="finish").enqueue(7, template=first.output)
    assert_type(after, Job[str])
    chained = chain(bare.s(7), coroutine)
    assert_type(chained, Chain[bytes])
    assert_type(chained.enqueue(), Job[bytes])
    with app.batch("night", on_success=bare.s(7)) as batch:
        assert_type(batch, Batch)
        bare.using(after=batch).enqueue(7)
    assert_type(batch.wait(1.0), BatchInfo)


async def check_flows_of_coroutines() -> None:
    async with app.batch("night", on_complete=bare.s(7)) as batch:
        await bare.aenqueue(7)
    assert_type(await batch.await_finished(), BatchInfo)
    assert_type(await chain(bare.s(7), coroutine).aenqueue(), Job[bytes])
