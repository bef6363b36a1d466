"""Enqueueings whose outcome nobody knows: which jobs to look up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from raftwork import OutcomeUnknown, Raftwork, chain
from raftwork.storage.base import Clash, NewJob

WRITE_JOBS = 1_000


@pytest.fixture
def app() -> Iterator[Raftwork]:
    """Jobs in memory."""
    app = Raftwork("test", "memory://")
    yield app
    app.close()


def add(left: int, right: int = 0) -> int:
    return left + right


def many(app: Raftwork, task: Any) -> None:
    app.enqueue_many(task.s(number) for number in range(WRITE_JOBS + 7))


def amany(app: Raftwork, task: Any) -> None:
    asyncio.run(app.aenqueue_many([task.s(number) for number in range(WRITE_JOBS + 7)]))


def one(app: Raftwork, task: Any) -> None:
    task.enqueue(1)


def steps(app: Raftwork, task: Any) -> None:
    chain(task.s(1), task).enqueue()


@pytest.mark.parametrize("way", [one, steps, many, amany])
def test_the_note_names_the_jobs_of_the_write(
    app: Raftwork, monkeypatch: pytest.MonkeyPatch, way: Callable[[Raftwork, Any], None]
) -> None:
    writes: list[Sequence[NewJob]] = []

    def enqueue(jobs: Sequence[NewJob]) -> list[Clash]:
        writes.append(jobs)
        if len(writes) == 1 and len(jobs) == WRITE_JOBS:
            return []
        raise OutcomeUnknown("no answer")

    async def aenqueue(jobs: Sequence[NewJob]) -> list[Clash]:
        return enqueue(jobs)

    monkeypatch.setattr(app.storage, "enqueue", enqueue)
    monkeypatch.setattr(app.storage, "aenqueue", aenqueue)
    with pytest.raises(OutcomeUnknown) as told:
        way(app, app.task(name="add")(add))
    (note,) = told.value.__notes__
    last = app.job(writes[-1][-1].id).id
    assert str(last) in note
    if way in (many, amany):
        assert len(writes[-1]) == 7 and f"{app.job(writes[-1][0].id).id} to {last}" in note
