"""Correct use of the typed API. Each type checker must accept every line and reveal exactly these types."""

from __future__ import annotations

from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

from raftwork import Job, JobContext, Raftwork, Retry, Signature, Task, Unique

app = Raftwork("shop", "memory://")


@app.task
def bare(user_id: int, *, template: str = "default") -> str:
    return template * user_id


@app.task(queue="mail", retry=Retry(8, backoff="exponential", jitter=0.2), timeout="2m", unique="args", tags=["crm"])
def configured(user_id: int, *, template: str = "default") -> str:
    return template * user_id


@app.task
async def coroutine(url: str) -> bytes:
    return url.encode()


@app.task(executor="process", expires=timedelta(hours=1))
def with_context(ctx: JobContext, tenant: str, month: str = "last") -> list[int]:
    ctx.progress(1, 10)
    return [len(tenant), len(month), ctx.attempt]


@app.task(unique=Unique("user:{user}", window="10m", on_conflict="replace"))
async def coroutine_with_context(ctx: JobContext, user: int) -> None:
    ctx.check_cancelled()


@app.task
def variadic(first: int, /, *rest: int, flag: bool = False, **names: str) -> float:
    return float(first + sum(rest))


def plain_use() -> None:
    assert_type(bare.enqueue(7), Job[str])
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


async def use_in_coroutines() -> None:
    assert_type(await coroutine.aenqueue("x"), Job[bytes])
    assert_type(await (await coroutine.aenqueue("x")).aresult(30), bytes)
    assert_type(await with_context.using(queue="slow").aenqueue("acme"), Job[list[int]])
    await coroutine("x")
    async with app.running(workers={"mail": 4}):
        assert_type(await app.aenqueue_many([bare.s(1)]), list[Job[str]])


def takes_task(task: Task[..., bytes]) -> Job[bytes]:
    return task.enqueue("x")


def pass_tasks_on() -> Any:
    return takes_task(coroutine)


def coroutine_type() -> Coroutine[Any, Any, None]:
    return use_in_coroutines()
