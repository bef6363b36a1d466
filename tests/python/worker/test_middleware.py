"""Code of the application around enqueueing, runs and workers, and parameters that a worker fills in."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from raftwork import Cancel, ConfigError, EnqueueCall, InvalidTask, JobContext, Raftwork, Retry, Snooze, depends
from raftwork.testing import harness
from raftwork.worker import Worker
from worker import held_jobs
from worker.finals import final

WAIT_S = 30
color: contextvars.ContextVar[str] = contextvars.ContextVar("color", default="none")


# Around enqueueing


def test_middleware_sees_each_enqueue_in_order(app: Raftwork) -> None:
    seen: list[Any] = []

    @app.middleware.enqueue
    def outer(call: EnqueueCall) -> Iterator[None]:
        seen.append(("outer", call.args))
        yield
        seen.append(("outer", "stored", app.counts()["enqueued"]))

    @app.middleware.enqueue
    def inner(call: EnqueueCall) -> Iterator[None]:
        seen.append(("inner", call.function, call.queue, call.priority, call.tags, call.kwargs))
        yield
        seen.append(("inner", "stored"))

    @app.task(name="mail", queue="mails", tags=["a"], priority=3)
    def mail(user: int, *, template: str = "x") -> None: ...

    mail.enqueue(7, template="vip")
    assert seen == [
        ("outer", (7,)),
        ("inner", "mail", "mails", 3, ("a",), {"template": "vip"}),
        ("inner", "stored"),
        ("outer", "stored", 1),
    ]
    seen.clear()
    app.enqueue_many(mail.s(user) for user in range(3))
    assert [entry for entry in seen if entry[0] == "outer"] == [
        *(("outer", (user,)) for user in range(3)),
        *[("outer", "stored", 4)] * 3,
    ]


@pytest.mark.parametrize("verb", ["enqueue", "aenqueue", "many", "amany", "nowait"])
def test_an_exception_refuses_the_enqueue(app: Raftwork, verb: str) -> None:
    @app.middleware.enqueue
    def refuse(call: EnqueueCall) -> Iterator[None]:
        if call.args == (13,):
            raise PermissionError("not 13")
        yield

    @app.task(name="mail")
    def mail(user: int) -> None: ...

    def store(*users: int) -> None:
        if verb == "enqueue":
            mail.enqueue(users[-1])
        elif verb == "nowait":
            mail.using(wait=False).enqueue(users[-1])
        elif verb == "aenqueue":
            asyncio.run(mail.aenqueue(users[-1]))  # type: ignore[arg-type]
        elif verb == "many":
            app.enqueue_many(map(mail.s, users))
        else:
            asyncio.run(app.aenqueue_many(map(mail.s, users)))  # type: ignore[arg-type]

    with pytest.raises(PermissionError, match="not 13"):
        store(12, 13)
    assert app.counts()["enqueued"] == 0, "of a write nothing is stored"
    store(12)


def test_arguments_cannot_be_changed_and_errors_cannot_be_swallowed(app: Raftwork) -> None:
    seen: list[BaseException] = []

    @app.middleware.enqueue
    def meddles(call: EnqueueCall) -> Iterator[None]:
        call.args[0].append("more")
        try:
            yield
        except Exception as error:
            seen.append(error)

    @app.task(name="takes")
    def takes(items: list[str]) -> None: ...

    job = takes.enqueue(["a"])
    assert job.info().args == [["a"]]
    app.close()
    with pytest.raises(Exception, match="closed") as raised:
        takes.enqueue(["a"])
    assert seen == [raised.value]


def test_async_middleware_is_around_aenqueue_only(app: Raftwork) -> None:
    seen: list[str] = []

    @app.middleware.enqueue
    async def look_up(call: EnqueueCall) -> AsyncIterator[None]:
        await asyncio.sleep(0)
        seen.append("before")
        yield
        seen.append("after")

    @app.task(name="mail")
    def mail() -> None: ...

    with pytest.raises(InvalidTask, match=r"look_up is async.*aenqueue"):
        mail.enqueue()
    with pytest.raises(InvalidTask):
        app.enqueue_many([mail.s()])
    assert app.counts()["enqueued"] == 0
    asyncio.run(mail.aenqueue())  # type: ignore[arg-type]
    assert seen == ["before", "after"]


# Around runs


@pytest.mark.parametrize("kind", ["thread", "async"])
def test_middleware_is_around_each_run(app: Raftwork, work: Any, kind: str) -> None:
    seen: list[Any] = []

    @app.middleware.run
    def outer(job: JobContext) -> Iterator[None]:
        color.set("red")
        seen.append(("outer", job.attempt))
        try:
            yield
        except ValueError as error:
            seen.append(("outer", str(error)))  # Swallowed, it would be a success.

    @app.middleware.run
    def inner(job: JobContext) -> Iterator[None]:
        seen.append(("inner", job.function))
        yield
        seen.append(("inner", "done"))

    @app.middleware.run
    async def only_coroutines(job: JobContext) -> AsyncIterator[None]:
        await asyncio.sleep(0)
        seen.append("async")
        yield

    def body(ctx: JobContext) -> str:
        if ctx.attempt == 1:
            raise ValueError("first")
        return color.get()

    @app.task(name="thread", retry=Retry(2, base="0s"), timeout="1m")
    def plain(ctx: JobContext) -> str:
        return body(ctx)

    @app.task(name="async", retry=Retry(2, base="0s"), timeout="1m")
    async def coroutine(ctx: JobContext) -> str:
        return body(ctx)

    work(app)
    assert (plain if kind == "thread" else coroutine).enqueue().result(WAIT_S) == "red"
    own = ["async"] if kind == "async" else []
    assert seen == [
        ("outer", 1), ("inner", kind), *own, ("outer", "first"),
        ("outer", 2), ("inner", kind), *own, ("inner", "done"),
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["thread", "async"])
@pytest.mark.parametrize("place", ["before", "after"])
def test_an_exception_of_middleware_is_the_jobs_failure(app: Raftwork, work: Any, kind: str, place: str) -> None:
    ran: list[str] = []

    @app.middleware.run
    def refuses(job: JobContext) -> Iterator[None]:
        if place == "before":
            raise PermissionError("no")
        yield
        raise PermissionError("no")

    @app.task(name="thread", retry=1)
    def plain() -> None:
        ran.append("plain")

    @app.task(name="async", retry=1)
    async def coroutine() -> None:
        ran.append("coroutine")

    work(app)
    info = final((plain if kind == "thread" else coroutine).enqueue())
    assert info.state == "failed" and info.error.type == "PermissionError" and info.attempt == 1
    assert "in refuses" in info.error.traceback
    assert len(ran) == (place == "after")


def test_middleware_may_answer_with_an_outcome(app: Raftwork, work: Any) -> None:
    snoozed: list[int] = []

    @app.middleware.run
    def throttle(job: JobContext) -> Iterator[None]:
        if not snoozed:
            snoozed.append(1)
            raise Snooze("0s")
        if job.tags == ("unwanted",):
            raise Cancel("unwanted")
        yield

    @app.task(name="job")
    def job() -> int:
        return 1

    work(app)
    assert job.enqueue().result(WAIT_S) == 1 and snoozed
    info = final(job.using(tags=["unwanted"]).enqueue())
    assert (info.state, info.reason) == ("cancelled", "unwanted")


# Around workers


def test_middleware_is_around_a_worker(app: Raftwork) -> None:
    seen: list[Any] = []

    @app.middleware.worker
    def first() -> Iterator[None]:
        seen.append("first")
        yield
        seen.append("first ends")

    @app.middleware.worker
    async def on_the_loop() -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        seen.append(loop)
        yield
        assert asyncio.get_running_loop() is loop
        seen.append("loop ends")

    @app.task(name="plain")
    def plain() -> None:
        seen.append("plain")

    @app.task(name="coroutine")
    async def coroutine() -> None:
        seen.append(asyncio.get_running_loop())

    with Worker(app, threads=1, concurrency=1):
        plain.enqueue().result(WAIT_S)
        coroutine.enqueue().result(WAIT_S)
    loop = seen[1]
    assert seen == ["first", loop, "plain", loop, "loop ends", "first ends"]


@pytest.mark.parametrize("kind", ["thread", "async"])
def test_a_worker_whose_middleware_fails_does_not_start(app: Raftwork, kind: str) -> None:
    seen: list[str] = []

    @app.middleware.worker
    def first() -> Iterator[None]:
        yield
        seen.append("ended")

    def fails() -> Iterator[None]:
        raise ConnectionError("no database")
        yield

    async def afails() -> AsyncIterator[None]:
        raise ConnectionError("no database")
        yield

    app.middleware.worker(fails) if kind == "thread" else app.middleware.worker(afails)  # type: ignore[func-returns-value]

    @app.task(name="coroutine")
    async def coroutine() -> None: ...

    worker = Worker(app, concurrency=1)
    with pytest.raises(ConnectionError, match="no database"):
        worker.start()
    worker.stop()
    assert seen == ["ended"], "what had begun has ended"


def test_what_fails_at_the_end_of_a_worker_is_logged(app: Raftwork, caplog: pytest.LogCaptureFixture) -> None:
    @app.middleware.worker
    def fails() -> Iterator[None]:
        yield
        raise ConnectionError("gone")

    @app.task(name="plain")
    def plain() -> None: ...

    with Worker(app, threads=1):
        plain.enqueue().result(WAIT_S)
    assert "ConnectionError: gone" in caplog.text


def test_async_middleware_of_a_worker_on_the_loop_of_the_program(app: Raftwork) -> None:
    seen: list[Any] = []

    @app.middleware.worker
    async def on_the_loop() -> AsyncIterator[None]:
        seen.append(asyncio.get_running_loop())
        yield
        seen.append("ends")

    @app.task(name="coroutine")
    async def coroutine() -> None: ...

    async def main() -> None:
        with pytest.raises(ConfigError, match="async with"):
            Worker(app, concurrency=1, loop=asyncio.get_running_loop()).start()
        async with app.running(workers=True, concurrency=1):
            await (await coroutine.aenqueue()).aresult(WAIT_S)
            assert seen == [asyncio.get_running_loop()]

    asyncio.run(main())
    assert seen[1:] == ["ends"]


@pytest.mark.crash
def test_children_run_middleware_and_have_values_of_their_own(work: Any) -> None:
    app = held_jobs.app.open()
    try:
        work(app, processes=1)
        assert held_jobs.happened == ["worker starts"], "the worker itself has one, too"
        db, within, happened = held_jobs.works.enqueue("a").result(WAIT_S)
        assert (db, within) == (["a"], "session 1")
        assert happened == ["worker starts", "job starts", "connects", "session begins"]
        db, _, happened = held_jobs.works.enqueue("b").result(WAIT_S)
        assert db == ["a", "b"], "one connection for all jobs of the process"
        assert happened[4:] == ["session ends", "job ends", "job starts", "session begins"]
        info = final(held_jobs.works.using(tags=["refused"]).enqueue("c"))
        assert info.error is not None and info.error.type == "PermissionError"
    finally:
        app.close()
        held_jobs.happened.clear()


# Dependencies


class Made:
    """A factory that counts what it made and ended."""

    def __init__(self) -> None:
        self.made = 0
        self.ended = 0
        self.errors: list[str] = []
        self.lock = threading.Lock()

    def sync(self) -> Iterator[int]:
        with self.lock:
            self.made += 1
        try:
            yield self.made
        except ValueError as error:
            self.errors.append(str(error))
        finally:
            self.ended += 1

    async def later(self) -> AsyncIterator[int]:
        await asyncio.sleep(0)
        for value in self.sync():
            yield value


@pytest.mark.parametrize("kind", ["thread", "async"])
def test_a_value_of_a_job_lives_as_long_as_its_run(app: Raftwork, work: Any, kind: str) -> None:
    made = Made()

    def plain(n: int, *, a: int = depends(made.sync), b: int = depends(made.sync)) -> list[int]:
        if n < 0:
            raise ValueError("negative")
        return [n, a, b, made.ended]

    async def coroutine(n: int, *, a: int = depends(made.later), b: int = depends(made.later)) -> list[int]:
        return plain(n, a=a, b=b)

    task: Any = app.task(name="job", retry=1)(plain if kind == "thread" else coroutine)
    work(app, threads=1, concurrency=1)
    assert [task.enqueue(n).result(WAIT_S) for n in (5, 6)] == [[5, 1, 1, 0], [6, 2, 2, 1]]
    info = final(task.enqueue(-1))
    assert info.error.type == "ValueError" and info.kwargs == {} and info.args == [-1]
    assert made.ended == 3
    if kind == "thread":
        assert made.errors == ["negative"], "it sees the exception, and cannot swallow it"


@pytest.mark.parametrize("kind", ["thread", "async"])
def test_a_value_of_a_worker_is_made_once_and_ends_with_it(app: Raftwork, kind: str) -> None:
    made = Made()

    async def coroutine(db: int = depends(made.later, scope="worker")) -> int:
        return db

    def plain(db: int = depends(made.sync, scope="worker")) -> int:
        return db

    task: Any = app.task(name="job")(plain if kind == "thread" else coroutine)
    with Worker(app, threads=4, concurrency=20):
        jobs = app.enqueue_many(task.s() for _ in range(20))
        assert {job.result(WAIT_S) for job in jobs} == {1} and made.ended == 0
    assert (made.made, made.ended) == (1, 1)


def test_plain_factories_and_the_context(app: Raftwork, work: Any) -> None:
    def number(ctx: JobContext) -> int:
        return ctx.attempt

    async def text() -> str:
        return "text"

    @app.task(name="job")
    async def job(ctx: JobContext, n: int = depends(number), s: str = depends(text), d: Any = depends(dict)) -> Any:
        return [n, s, d]

    work(app)
    assert job.enqueue().result(WAIT_S) == [1, "text", {}]


def test_what_is_filled_in_is_no_argument(app: Raftwork) -> None:
    @app.task(name="job", unique="{n}")
    def job(n: int, *, db: int = depends(int)) -> list[int]:
        return [n, db]

    assert [parameter.name for parameter in job.parameters] == ["n"]
    with pytest.raises(TypeError, match="db"):
        job.enqueue(7, db=8)
    with pytest.raises(TypeError, match="only a worker fills in db"):
        job(7)
    assert job(7, db=8) == [7, 8]
    with harness(app, mode="inline"):
        assert job.enqueue(7).result() == [7, 0]


def test_dependencies_that_cannot_be(app: Raftwork) -> None:
    async def later() -> int:
        return 1

    def needs(x: int) -> int:
        return x

    def of_the_job(ctx: JobContext) -> int:
        return 1

    for call in (
        lambda: depends(7),  # type: ignore[call-overload]
        lambda: depends(needs),
        lambda: depends(of_the_job, scope="worker"),
        lambda: depends(int, scope="forever"),  # type: ignore[call-overload]
    ):
        with pytest.raises(InvalidTask, match="RW101 depends"):
            call()

    def plain(*, x: int = depends(later)) -> None: ...
    def between(x: int = depends(int), y: int = 0) -> None: ...
    def before_rest(x: int = depends(int), *rest: int) -> None: ...
    def positional(x: int = depends(int), /) -> None: ...

    for function in (plain, between, before_rest, positional):
        with pytest.raises(InvalidTask, match=function.__name__):
            app.task(name=function.__name__)(function)


@pytest.mark.parametrize("place", ["enqueue", "run", "worker"])
def test_middleware_that_cannot_be(app: Raftwork, place: str) -> None:
    def plain(job: Any) -> None: ...
    async def coroutine(job: Any) -> None: ...
    def two(a: Any, b: Any) -> Iterator[None]:
        yield

    for function in (plain, coroutine, two, 7, print):
        with pytest.raises(InvalidTask, match="middleware"):
            getattr(app.middleware, place)(function)
    register: Any = getattr(app.middleware, place)

    def one(job: Any) -> Iterator[None]:
        yield

    if place == "worker":
        with pytest.raises(InvalidTask, match="takes 1 parameters, not 0"):
            register(one)
    else:
        assert register(one) is one
