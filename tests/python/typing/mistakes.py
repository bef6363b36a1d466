"""Mistakes that every type checker must report, one to each marked line, and no others anywhere."""

from __future__ import annotations

from collections.abc import Iterator

from raftwork import EnqueueCall, Job, JobContext, Raftwork, Secret, depends
from raftwork.testing import harness

app = Raftwork("shop", "memory://")


@app.task
def bare(user_id: int, *, template: str = "default") -> str:
    return template * user_id


@app.task(queue="mail")
def configured(user_id: int, *, template: str = "default") -> str:
    return template * user_id


@app.task
async def coroutine(url: str) -> bytes:
    return url.encode()


@app.task(queue="reports")
def with_context(ctx: JobContext, tenant: str) -> int:
    return len(tenant) + ctx.attempt


def connection() -> Iterator[bytes]:
    yield b""


def no_middleware(call: EnqueueCall) -> int:
    return 1


@app.task
def with_dependency(order: int, *, db: str = depends(connection)) -> None:  # mistake: the factory makes bytes
    ...


with_dependency.enqueue("seven")  # mistake: wrong type
app.middleware.enqueue(no_middleware)  # mistake: no generator


def steps(ctx: JobContext) -> None:
    ctx.step("bare", bare.fn.__name__.count, 7)  # mistake: wrong type of a step's argument
    ctx.step("title", "x".replace, "a")  # mistake: missing argument of a step


bare.enqueue("seven")  # mistake: wrong type
bare.enqueue(7, tmplate="vip")  # mistake: unknown keyword
bare.enqueue()  # mistake: missing argument
bare.enqueue(7, "vip")  # mistake: extra positional
bare_result: Job[int] = bare.enqueue(7)  # mistake: wrong result type
bare.using(quue="mail").enqueue(7)  # mistake: unknown option

configured.enqueue("seven")  # mistake: wrong type
configured.enqueue(7, tmplate="vip")  # mistake: unknown keyword
configured.enqueue()  # mistake: missing argument
configured.enqueue(7, "vip")  # mistake: extra positional
configured_result: int = configured.enqueue(7).result()  # mistake: wrong result type
configured.using(priority=5, quue="mail").enqueue(7)  # mistake: unknown option

coroutine.enqueue(7)  # mistake: wrong type
coroutine.using(delay="5m").enqueue("x", "y")  # mistake: extra positional
coroutine_result: Job[str] = coroutine.enqueue("x")  # mistake: wrong result type

with_context.enqueue(7)  # mistake: wrong type
with_context.enqueue(tenent="acme")  # mistake: unknown keyword
with_context.s()  # mistake: missing argument
with_context.enqueue("acme", "extra")  # mistake: extra positional

bare.using(after="job").enqueue(7)  # mistake: no job
bare.using(after=bare.enqueue(7), on="error").enqueue(7)  # mistake: unknown end


@app.task
def spend(token: Secret[str]) -> None:
    print(token)


spend.enqueue("t")  # mistake: a plain value for a Secret
spend.enqueue(Secret(5))  # mistake: a Secret of another type

bare.using(priority="high")  # mistake: wrong type of an option
bare.using(delay=5)  # mistake: wrong type of an option
bare.using(executor="process")  # mistake: an option of the decorator only
bare.enqueue(7, delay="5m")  # mistake: an option among the arguments
bare("seven")  # mistake: wrong type in a plain call


with harness(app, mode="eager") as eager:  # mistake: no such mode
    eager.drain(1)  # mistake: a queue is a name
    eager.assert_enqueued("bare")  # mistake: a name in place of a task
    eager.assert_enqueued(bare, within=5)  # mistake: a length of time without a unit
    eager.advance(600)  # mistake: a length of time without a unit


async def asynchronous() -> None:
    await coroutine.aenqueue(7)  # mistake: wrong type
    await with_context.aenqueue("acme", month="x")  # mistake: unknown keyword
    wrong: str = await (await coroutine.aenqueue("x")).aresult()  # mistake: wrong result type
    print(wrong)


@app.task(quue="mail")  # mistake: unknown option of the decorator
def misconfigured(user_id: int) -> None:
    print(user_id)
