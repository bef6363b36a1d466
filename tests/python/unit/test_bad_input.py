"""Bad input is answered by an error of ours, stores nothing, and leaves the application usable.

Each row is a kind of mistake that users make. Names that are allowed and options that are in range are tested beside
those that are not, so that a limit cannot move unseen.
"""

from __future__ import annotations

import asyncio
import functools
import math
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from raftwork import (
    InvalidName,
    InvalidOption,
    InvalidTask,
    JobNotFound,
    NotRunning,
    PayloadTooLarge,
    Raftwork,
    RaftworkError,
    SerializationError,
    Unique,
)
from raftwork.batches import BATCH_BYTES_MAX

from . import shop


@pytest.fixture
def app() -> Iterator[Raftwork]:
    """An application that must have stored nothing when the test ends, and must still store what is right."""
    app = Raftwork("test", "memory://?clock=manual")
    yield app
    if not app._closed:
        assert app.counts()["created"] == 0
        echo = app.task(name="afterwards")(anything)
        assert echo.enqueue(1).state == "enqueued"
        app.close()


def anything(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


def plain(value: Any = None) -> Any:
    return value


# Functions


class Model:
    def method(self) -> None: ...

    def __call__(self) -> None: ...


@pytest.mark.parametrize(
    "thing",
    [lambda: 1, Model, Model(), Model().method, functools.partial(plain), print, "plain", 5, plain(), asyncio.sleep(0)],
    ids=repr,
)
def test_what_is_no_function_of_a_module_is_no_task(app: Raftwork, thing: Any) -> None:
    with pytest.raises(InvalidTask) as caught:
        app.task(thing)
    assert caught.value.code == "RW101"
    if asyncio.iscoroutine(thing):
        thing.close()


def test_a_closure_is_no_task(app: Raftwork) -> None:
    outer = 1

    def closure() -> int:
        return outer

    with pytest.raises(InvalidTask, match="inside a function"):
        app.task(closure)


# Arguments


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((1, 2), {}), ((), {"vlaue": 1}), ((1,), {"value": 1}), ((), {"value": 1, "x": 2})],
)
def test_arguments_that_the_function_would_not_take_are_a_type_error(app: Raftwork, args: Any, kwargs: Any) -> None:
    task = app.task(name="plain")(plain)
    calls: list[Callable[[], Any]] = [
        lambda: task.enqueue(*args, **kwargs),
        lambda: task.s(*args, **kwargs),
        lambda: asyncio.run(task.aenqueue(*args, **kwargs)),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=r"plain\(\)"):
            call()


@pytest.mark.parametrize(
    "value",
    [object(), threading.Lock(), memoryview(b"x"), "\ud800", [0] * 65_537, 1j, ValueError("x"), {"a": [object()]}],
    ids=lambda value: type(value).__name__,
)
def test_arguments_that_cannot_travel_are_named(app: Raftwork, value: Any) -> None:
    task = app.task(name="shop.anything")(anything)
    for call in (lambda: task.enqueue(1, 2, value), lambda: app.enqueue_many([task.s(1, 2, value)])):
        with pytest.raises(SerializationError, match=r"shop.anything: Argument 3") as caught:
            call()
        assert caught.value.path.startswith("args[2]")
        assert caught.value.code == "RW110"
    with pytest.raises(SerializationError, match="user"):
        task.enqueue(user=value)


def test_payloads_are_limited_to_the_byte(app: Raftwork) -> None:
    task = app.task(name="plain")(plain)
    overhead = 3 + 5  # Two arrays and a map, and the header of a long bin.
    with pytest.raises(PayloadTooLarge, match="262,145"):
        task.enqueue(b"x" * (262_145 - overhead))
    job = task.enqueue(b"x" * (262_144 - overhead))
    assert job.info().packed_args is not None
    job.delete()
    app.storage.close()  # What was stored on purpose is not what the fixture counts.
    app.close()


def test_an_empty_batch_is_nothing(app: Raftwork) -> None:
    assert app.enqueue_many([]) == []
    assert asyncio.run(app.aenqueue_many(iter(()))) == []


@pytest.mark.parametrize("item", [None, 5, plain, (1, 2), "shop.add"])
def test_only_calls_can_be_enqueued_in_bulk(app: Raftwork, item: Any) -> None:
    with pytest.raises(InvalidTask, match=r"task\.s"):
        app.enqueue_many([item])


def test_a_batch_is_cut_at_its_limits() -> None:
    with Raftwork("test", "memory://") as app:
        task = app.task(name="plain")(plain)
        assert len(app.enqueue_many(task.s(number) for number in range(2_001))) == 2_001
        large = b"x" * 200_000
        count = BATCH_BYTES_MAX // len(large) + 2
        assert len(app.enqueue_many(task.s(large) for _ in range(count))) == count
        assert app.counts()["enqueued"] == 2_001 + count


# Names

NAMES = ["", "x" * 256, "é" * 128, "a\nb", "NUL\0", "\x7f", "\x85", "\ud800", 5, None, b"mail"]


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_names_that_cannot_be_stored_are_refused(app: Raftwork, name: Any) -> None:
    task = app.task(name="plain")(plain)
    calls: list[Callable[[], Any]] = [
        lambda: task.using(queue=name),
        lambda: app.task(queue=name),
        lambda: task.using(tags=[name]),
        lambda: app.queues.pause(name),
        lambda: app.queues.resume(name),
        lambda: Raftwork(name),
    ]
    if name is not None:
        calls.append(lambda: app.task(name=name)(plain))
    for call in calls:
        with pytest.raises(InvalidName):
            call()


@pytest.mark.parametrize("name", ["x", "x" * 255, "two words", "../x", "<script>", "🎈", "{braces}", "'; DROP TABLE"])
def test_other_names_are_kept_as_they_are(name: str) -> None:
    with Raftwork("test", "memory://") as app:
        task = app.task(name=name, queue=name, tags=[name])(plain)
        info = task.using(unique=lambda *_: name).enqueue(1).info()
        assert (info.function, info.queue, info.tags) == (name, name, (name,))
        assert [queue.name for queue in app.queues] == [name]
        assert [job.id for job in app.jobs()] == [info.id]


# Options

BAD_OPTIONS: list[tuple[str, Any]] = [
    *(("priority", value) for value in (-101, 101, 10**9, True, 1.0, math.nan, "5", None)),
    *(
        ("delay", value)
        for value in (-1, 0, 5, 1.5, math.nan, math.inf, True, "5", "", "-5m", timedelta(-1), timedelta.max)
    ),
    *(("timeout", value) for value in (0, "0s", -1, 5, math.nan, math.inf, True, "soon", timedelta(0), timedelta.max)),
    *(("expires", value) for value in (0, "0s", 5, True, "never", timedelta.max)),
    *(("keep_result", value) for value in (5, None, "-1s", "100000d", timedelta.max)),
    *(("keep_failed", value) for value in (5, None, True)),
    *(("run_at", value) for value in (datetime(2030, 1, 1), "2030-01-01", 1_900_000_000, "5m", True)),
    *(("retry", value) for value in (-1, 0, 10_001, 10**9, True, 2.5, "3", None, [1])),
    *(("max_crashes", value) for value in (-1, 0, 10_001, True, 1.0, "3", None)),
    *(("tags", value) for value in ("crm", 5, None, [str(number) for number in range(33)])),
    *(("unique", value) for value in (5, "", True, "{nobody}", ["args"])),
    *(("wait", value) for value in (0, 1, None, "yes")),
    ("limit", 5),
    *(("after", value) for value in ("job", 5, ["job"])),
    *(("on", value) for value in ("error", None, 1)),
    ("quue", "mail"),
]


@pytest.mark.parametrize(("option", "value"), BAD_OPTIONS, ids=lambda value: repr(value)[:30])
def test_options_out_of_range_are_refused_with_the_range(app: Raftwork, option: str, value: Any) -> None:
    task = app.task(name="plain")(plain)
    for call in (lambda: task.using(**{option: value}), lambda: app.task(name="other", **{option: value})(plain)):
        with pytest.raises(InvalidOption) as caught:
            call()
        assert isinstance(caught.value, ValueError)
        assert caught.value.code == "RW113"
    assert set(app.tasks) == {"plain"}


@pytest.mark.parametrize("value", ["threads", "", None, 5, "async"])
def test_an_executor_that_does_not_exist_or_fit_is_refused(app: Raftwork, value: Any) -> None:
    with pytest.raises(InvalidOption):
        app.task(name="plain", executor=value)(plain)
    assert not app.tasks


GOOD_OPTIONS: list[tuple[str, Any]] = [
    *(("priority", value) for value in (-100, 0, 100)),
    *(("delay", value) for value in (None, "0s", timedelta(0), timedelta(microseconds=1), "3650d")),
    *(("timeout", value) for value in (None, "1ms", "3650d")),
    *(("expires", value) for value in (None, "1ms", timedelta(days=3650))),
    *(("keep_result", value) for value in ("0s", "3650d")),
    *(("run_at", value) for value in (None, datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC))),
    *(("retry", value) for value in (1, 10_000)),
    *(("max_crashes", value) for value in (1, 10_000)),
    *(("tags", value) for value in ([], ("a", "a"), {"x"}, [str(number) for number in range(32)])),
    *(
        ("unique", value)
        for value in (None, "args", "{value}", "constant", Unique(window="1ms"), Unique(on_conflict="raise"))
    ),
]


@pytest.mark.parametrize(("option", "value"), GOOD_OPTIONS, ids=lambda value: repr(value)[:30])
def test_options_at_their_limits_are_stored(option: str, value: Any) -> None:
    with Raftwork("test", "memory://") as app:
        task = app.task(name="plain")(plain)
        assert task.using(**{option: value}).enqueue(1).info().function == "plain"


@pytest.mark.parametrize(
    "options",
    [{"key": 5}, {"key": ""}, {"on_conflict": "ignore"}, {"window": 5}, {"window": "0s"}, {"window": timedelta.max}],
)
def test_unique_checks_its_parts(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption):
        Unique(**options)


def test_two_times_to_be_due_contradict_each_other() -> None:
    with pytest.raises(InvalidOption, match="Give one"):
        shop.add.using(delay="5m", run_at=datetime.now(UTC))


# Ids and filters


@pytest.mark.parametrize("id", ["", "x", "0198", b"short", b"x" * 17, 5, None, 1.5, object()], ids=repr)
def test_what_is_no_id_is_refused(app: Raftwork, id: Any) -> None:
    for call in (lambda: app.job(id), lambda: app.cancel([id]), lambda: app.retry([id]), lambda: app.delete([id])):
        with pytest.raises(InvalidName, match="job id"):
            call()


def test_ids_of_nothing_are_answered(app: Raftwork) -> None:
    stranger = "01890000-0000-7000-8000-000000000000"
    job = app.job(stranger)
    calls: list[Callable[[], Any]] = [job.info, job.refresh, lambda: job.state, job.cancel, job.retry, job.delete]
    calls += [lambda: job.result(1), lambda: asyncio.run(job.aresult(1))]
    for call in calls:
        with pytest.raises(JobNotFound):
            call()
    assert app.cancel([stranger])[:3] == (0, 0, 0)


@pytest.mark.parametrize("text", ["state:", "nothing:x", "state:done", '"', "priority:>high"])
def test_filters_that_cannot_be_read_are_refused_before_anything_is_asked(app: Raftwork, text: str) -> None:
    with pytest.raises(RaftworkError):
        app.jobs(text)


# Life


def test_a_closed_application_says_so_and_can_be_opened_again() -> None:
    app = Raftwork("test", "memory://")
    task = app.task(name="plain")(plain)
    app.close()
    app.close()
    calls: list[Callable[[], Any]] = [task.enqueue, app.counts, app.health, lambda: list(app.queues)]
    calls += [lambda: asyncio.run(task.aenqueue()), lambda: app.enqueue_many([task.s()]), lambda: list(app.jobs())]
    for call in calls:
        with pytest.raises(NotRunning, match=r"app\.open\(\)"):
            call()
    app.open()
    app.open()
    assert task.enqueue().state == "enqueued"
    app.close()


def test_closing_while_others_enqueue_ends_them_with_an_error() -> None:
    app = Raftwork("test", "memory://")
    task = app.task(name="plain")(plain)
    started = threading.Barrier(5)
    ends: list[str] = []

    def enqueue_for_ever() -> None:
        started.wait()
        try:
            while True:
                task.enqueue()
        except BaseException as error:
            ends.append(type(error).__name__)

    threads = [threading.Thread(target=enqueue_for_ever) for _ in range(4)]
    for thread in threads:
        thread.start()
    started.wait()
    app.close()
    for thread in threads:
        thread.join(30)
    assert ends == ["NotRunning"] * 4


def test_many_threads_may_enqueue_at_once() -> None:
    with Raftwork("test", "memory://") as app:
        task = app.task(name="plain")(plain)
        threads = [threading.Thread(target=task.enqueue, args=(number,)) for number in range(200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert app.counts()["enqueued"] == 200


def test_a_cancelled_coroutine_leaves_the_application_usable() -> None:
    with Raftwork("test", "memory://") as app:
        task = app.task(name="plain")(plain)

        async def cancel_at_every_step() -> None:
            for step in range(4):
                for call in (task.aenqueue(1), task.enqueue(1).aresult(5)):
                    running = asyncio.ensure_future(call)
                    for _ in range(step):
                        await asyncio.sleep(0)
                    running.cancel()
                    await asyncio.gather(running, return_exceptions=True)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await task.enqueue(1).aresult()

        asyncio.run(cancel_at_every_step())
        assert task.enqueue(1).state == "enqueued"
