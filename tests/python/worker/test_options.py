"""What a worker is told: a value that cannot be is refused before anything starts."""

from __future__ import annotations

from typing import Any

import pytest

from raftwork.app import Raftwork
from raftwork.errors import ConfigError, InvalidName, RaftworkError
from raftwork.worker import Worker


def noop() -> None: ...


@pytest.mark.parametrize(
    ("option", "value", "kind", "words"),
    [
        ("queues", "", InvalidName, "empty"),
        ("queues", [""], InvalidName, "empty"),
        ("queues", {"": 1}, InvalidName, "empty"),
        ("queues", "x" * 256, InvalidName, "255"),
        ("queues", [], ConfigError, "no queue"),
        ("queues", 5, ConfigError, "queues=5"),
        ("queues", [5], ConfigError, "5 is not the name"),
        ("queues", "mail:0", ConfigError, "from 1 to 10,000"),
        ("queues", "mail:x", ConfigError, "NAME:NUMBER"),
        ("queues", {"mail": True}, ConfigError, "True"),
        *(("prefetch", value, ConfigError, "from 0 to 10,000") for value in (-1, 10_001, "x", True, 2.5)),
        *(("weights", {"default": value}, ConfigError, "from 1 to 1,000,000") for value in (0, -1, "x", 10**9, None)),
        ("weights", {"nobody": 1}, ConfigError, "nobody"),
        *(("labels", value, ConfigError, "labels") for value in (5, {"a": 1}, {1: "a"}, ["a"])),
        ("labels", {"functions:0": "x"}, ConfigError, "functions:0"),
        *((name, 0, ConfigError, name) for name in ("threads", "concurrency", "processes")),
        ("drain_timeout", 5, RaftworkError, "drain_timeout"),
        ("kill_grace", None, RaftworkError, "kill_grace"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_value_that_cannot_be_is_refused(app: Raftwork, option: str, value: Any, kind: Any, words: str) -> None:
    app.task(name="noop")(noop)
    with pytest.raises(kind, match=words):
        Worker(app, **{option: value}).start()
    assert app.workers == []


def test_values_at_their_limits_are_taken(app: Raftwork, work: Any) -> None:
    app.task(name="noop")(noop)
    options: Any = {"prefetch": 10_000, "weights": {"default": 1_000_000}, "labels": {"rack": ""}, "strict": True}
    worker = work(app, ["default", "mail:3"], **options)
    assert worker.running == 0
    assert {session.labels["rack"] for session in app.workers} == {""}
