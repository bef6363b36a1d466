"""Every option has an effect, whichever way a job is stored, or is refused where it is given. None is ignored."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, get_overloads

import pytest

from raftwork import ConfigError, InvalidOption, Job, JobInfo, Limit, Raftwork, Retry, Task
from raftwork.options import OPTIONS, OPTIONS_OF_CALLS, OPTIONS_OF_TASK
from raftwork.storage.base import ClaimedJob, NewJob, pack_error, result_cancelled, result_failed, result_succeeded
from raftwork.worker.binding import bindings_of, retry_of

FAR = datetime(2100, 1, 1, tzinfo=UTC)


def plain(value: int = 0) -> int:
    return value


@pytest.fixture
def app() -> Iterator[Raftwork]:
    """An application whose time stands still."""
    with Raftwork("test", "memory://?clock=manual") as app:
        yield app


def by_enqueue(app: Raftwork, task: Any) -> Job[Any]:
    return task.enqueue(1)  # type: ignore[no-any-return]


def by_aenqueue(app: Raftwork, task: Any) -> Job[Any]:
    return asyncio.run(task.aenqueue(1))


def by_enqueue_many(app: Raftwork, task: Any) -> Job[Any]:
    return app.enqueue_many([task.s(1)])[0]


def by_aenqueue_many(app: Raftwork, task: Any) -> Job[Any]:
    return asyncio.run(app.aenqueue_many([task.s(1)]))[0]


WAYS = [by_enqueue, by_aenqueue, by_enqueue_many, by_aenqueue_many]
Store = Callable[[], "Job[Any]"]
See = Callable[[Raftwork, Store], Any]


def told(get: Callable[[JobInfo], Any]) -> See:
    """What the stored job says."""
    return lambda app, store: get(store().info())


def claimed(get: Callable[[ClaimedJob], Any]) -> See:
    """What the worker is told."""
    return lambda app, store: get(_claim(app, store))


def _claim(app: Raftwork, store: Store) -> ClaimedJob:
    store()
    (job,) = app.storage.claim(app.storage.open_session("worker"), [("default", 1)], ["plain"])
    return job


def two_calls(app: Raftwork, store: Store) -> int:
    """How many jobs two equal calls make."""
    return len({store(), store()})


class Effect(NamedTuple):
    """What an option changes."""

    value: Any
    see: See
    expected: Any


EFFECTS: dict[str, Effect] = {
    "queue": Effect("mail", told(lambda info: info.queue), "mail"),
    "priority": Effect(7, told(lambda info: info.priority), 7),
    "delay": Effect("5m", told(lambda info: info.run_at and info.run_at - info.created_at), timedelta(minutes=5)),
    "run_at": Effect(FAR, told(lambda info: info.run_at), FAR),
    "expires": Effect(
        "1h", told(lambda info: info.expires_at and info.expires_at - info.created_at), timedelta(hours=1)
    ),
    "retry": Effect(Retry(3, backoff="fixed"), claimed(retry_of), Retry(3, backoff="fixed")),
    "timeout": Effect("2s", claimed(lambda job: job.timeout_ms), 2_000),
    "max_crashes": Effect(9, claimed(lambda job: job.max_crashes), 9),
    "unique": Effect("args", two_calls, 1),
    "limit": Effect(
        Limit(2, name="shared"),
        lambda app, store: (limits := store().limits()) and (limits.limits[0].key, limits.limits[0].n),
        ("shared", 2),
    ),
    "tags": Effect(["a", "b"], told(lambda info: info.tags), ("a", "b")),
}
KEPT: list[tuple[str, Callable[[ClaimedJob], bytes]]] = [
    ("keep_result", lambda job: result_succeeded(job.id, job.token, None)),
    ("keep_failed", lambda job: result_failed(job.id, job.token, pack_error("ValueError", "no"))),
    ("keep_failed", lambda job: result_cancelled(job.id, job.token, "not wanted")),
]
"""What is kept by which option."""


def test_no_option_is_left_out() -> None:
    assert {*EFFECTS, *(option for option, _ in KEPT), "wait", *OPTIONS_OF_TASK, *OPTIONS_OF_CALLS} == set(OPTIONS)


def test_the_signatures_that_are_spelled_out_name_every_option() -> None:
    def named(function: Any) -> list[str]:
        parameters = inspect.signature(function).parameters.values()
        return [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]

    # A connection is no option of a job: it says where `enqueue` writes it.
    assert named(Task.using) == [*(option for option in OPTIONS if option not in OPTIONS_OF_TASK), "connection"]
    assert named(get_overloads(Raftwork.task)[-1]) == [
        "name",
        *(option for option in OPTIONS if option not in OPTIONS_OF_CALLS),
    ]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("given", ["decorator", "using"])
@pytest.mark.parametrize("option", EFFECTS)
def test_an_option_changes_the_job(option: str, given: str, way: Any) -> None:
    value, see, expected = EFFECTS[option]

    def outcome(options: dict[str, Any]) -> Any:
        with Raftwork("test", "memory://?clock=manual") as app:
            at_decorator = options if given == "decorator" else {}
            task = app.task(name="plain", **at_decorator)(plain)
            task = task.using(**options) if given == "using" else task
            return see(app, lambda: way(app, task))

    assert outcome({}) != expected, "the test sees no difference"
    assert outcome({option: value}) == expected


@pytest.mark.parametrize("given", ["decorator", "using"])
@pytest.mark.parametrize(("option", "report"), KEPT, ids=["succeeded", "failed", "cancelled"])
def test_a_final_job_is_kept_as_long_as_its_task_says(tmp_path: Path, option: str, report: Any, given: str) -> None:
    options: Any = {option: "7h"}
    with Raftwork("test", f"raft:///{tmp_path}/jobs", keep_result="1h", keep_failed="2h") as app:
        task = app.task(name="plain", **options if given == "decorator" else {})(plain)
        job = _claim(app, (task.using(**options) if given == "using" else task).enqueue)
        app.storage.finish([report(job)])
        # Nobody is told when a job leaves memory for the archive, so ask until it did.
        until = time.monotonic() + 30
        while not (info := app.job(job.id).info()).archived:
            assert time.monotonic() < until, "the job stays in memory"
        assert info.keep_until is not None and info.finished_at is not None
        assert info.keep_until - info.finished_at == timedelta(hours=7)


@pytest.mark.parametrize("way", [by_enqueue, by_aenqueue])
@pytest.mark.parametrize("given", ["decorator", "using"])
def test_without_wait_nobody_waits(app: Raftwork, given: str, way: Any) -> None:
    started: list[NewJob] = []
    app.storage.start_enqueue = lambda jobs, failed: started.extend(jobs)  # type: ignore[method-assign]
    task: Any = app.task(name="plain", **{"wait": False} if given == "decorator" else {})(plain)
    task = task.using(wait=False) if given == "using" else task
    job = way(app, task)
    assert [job.id.bytes] == [new.id for new in started], "it was handed over, and not stored by this call"


@pytest.mark.parametrize("way", [by_enqueue_many, by_aenqueue_many])
def test_many_are_waited_for_whatever_their_task_says(app: Raftwork, way: Any) -> None:
    assert way(app, app.task(name="plain", wait=False)(plain)).info().function == "plain"


def test_the_executor_is_a_matter_of_the_decorator(app: Raftwork) -> None:
    task: Any = app.task(name="plain", executor="process")(plain)
    assert bindings_of(app)["plain"].kind == "process"
    assert task.using(priority=1).executor == "process", "a copy runs where the original does"
    for value in ("process", "thread", "async", "nonsense", None):
        with pytest.raises(ConfigError, match=r"@app.task\(executor=\.\.\.\)") as caught:
            task.using(executor=value)
        assert "plain" in str(caught.value) and "queue, priority" in str(caught.value)
        assert "wait" in str(caught.value) and str(caught.value).count("executor") == 2, "not among those to use"


def test_a_name_is_a_matter_of_the_decorator(app: Raftwork) -> None:
    task: Any = app.task(name="plain")(plain)
    with pytest.raises(InvalidOption, match="name is not an option"):
        task.using(name="other")


@pytest.mark.parametrize("option", OPTIONS)
def test_no_option_is_an_argument(app: Raftwork, option: str) -> None:
    task: Any = app.task(name="plain")(plain)
    for call in (task.enqueue, task.s):
        with pytest.raises(TypeError, match=option):
            call(1, **{option: None})
    with pytest.raises(TypeError, match=option):
        asyncio.run(task.aenqueue(1, **{option: None}))
    assert app.counts()["enqueued"] == 0
