"""Every verb that asks the storage has a twin for event loops, with `a` in front and the same parameters."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest

from raftwork import (
    Batch,
    Bulk,
    Chain,
    Job,
    JobContext,
    Lock,
    Raftwork,
    ReadWriteLock,
    Task,
)
from raftwork.operators import NamedQueue, Queues

OTHER_NAMES = {(Batch, "wait"): "await_finished"}
"""Twins that are older than the rule."""
PROPERTIES = {
    (Raftwork, "workers"): "aworkers",
    (Job, "state"): "ainfo",
    (Raftwork, "queues"): "",
    (Raftwork, "schedules"): "",
}
"""Properties that ask, and what a coroutine awaits in their place; nothing for those that only hold verbs."""

NOTHING = "asks nothing"
SCOPE = "async with app.running(...) opens and closes without blocking"
FREE: dict[type, dict[str, str]] = {
    Raftwork: {
        **dict.fromkeys(
            ("task", "find_task", "setting", "job", "batch", "bulk", "running", "subscribe", "outbox"), NOTHING
        ),
        **dict.fromkeys(("lock", "semaphore", "rwlock", "cron", "every"), NOTHING),
        **dict.fromkeys(("put_out_of_reach", "standing_in"), "for processes that have no storage, and for tests"),
        **dict.fromkeys(("open", "close"), SCOPE),
        "storage_to_open": NOTHING,
        **dict.fromkeys(
            ("job_info", "job_limits", "job_flow", "job_logs", "job_cancel", "job_retry", "job_delete"),
            "behind a verb of Job, which has the twin",
        ),
        "job_wait": "behind Job.result; its twin is job_await",
        "job_await": "it is one",
        "aworkers": "it is one, of a property",
        "put_planned": "behind a verb of Schedules",
        "orphaned": "behind a verb of Schedules",
    },
    Job: {},
    Batch: {"await_finished": "it is one"},
    Chain: {},
    Bulk: {},
    Task: dict.fromkeys(("s", "using", "migrate", "migrated", "plan"), NOTHING),
    Queues: {},
    NamedQueue: {},
    Lock: {"check": NOTHING},
    ReadWriteLock: dict.fromkeys(("read", "write"), NOTHING),
    JobContext: {
        **dict.fromkeys(("check_cancelled", "log", "track"), NOTHING),
        "progress": "never waits: it is sent later",
    },
}
"""Verbs without a twin, and why they need none."""


def verbs(cls: type) -> Iterator[str]:
    """Its public methods, without twins."""
    names = {name for name, _ in inspect.getmembers(cls, inspect.isfunction) if not name.startswith("_")}
    twins = {f"a{name}" for name in names}
    yield from sorted(names - twins)


@pytest.mark.parametrize("cls", FREE, ids=lambda cls: cls.__name__)
def test_every_verb_has_a_twin(cls: type) -> None:
    for name in verbs(cls):
        if name in FREE[cls]:
            continue
        twin = OTHER_NAMES.get((cls, name), f"a{name}")
        assert hasattr(cls, twin), f"{cls.__name__}.{name} has no {twin}; write one, or say in FREE why it needs none"
        assert awaited(getattr(cls, twin)), f"{cls.__name__}.{twin} cannot be awaited"
        assert parameters(getattr(cls, name)) == parameters(getattr(cls, twin)), f"{cls.__name__}.{twin}"


@pytest.mark.parametrize("cls", FREE, ids=lambda cls: cls.__name__)
def test_what_needs_no_twin_is_there_and_has_none(cls: type) -> None:
    for name in FREE[cls]:
        assert name in set(verbs(cls)), f"{cls.__name__}.{name}"
        assert not hasattr(cls, f"a{name}"), f"{cls.__name__}.{name} has a twin"


def test_properties_that_ask_have_something_to_await() -> None:
    for (cls, name), twin in PROPERTIES.items():
        assert isinstance(inspect.getattr_static(cls, name), property)
        assert not twin or awaited(getattr(cls, twin))


def awaited(function: Any) -> bool:
    """Whether its answer is awaited, or gone through with `async for`."""
    return inspect.iscoroutinefunction(function) or "AsyncIterator" in str(function.__annotations__["return"])


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    found = inspect.signature(function).parameters.values()
    return [(one.name, one.kind, None if one.default is one.empty else one.default) for one in found]
