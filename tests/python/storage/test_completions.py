"""Writes that nobody waits for: what a bound means, who waits at it, and what becomes of them at the end."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import pytest

from raftwork import Raftwork
from raftwork.errors import OutcomeUnknown, Overloaded
from raftwork.storage import completions as module
from raftwork.storage.completions import Completions
from raftwork.storage.memory import MemoryStorage

WAIT_S = 20


class Mute:
    """A client that answers when it is told to."""

    def __init__(self) -> None:
        self.started: list[bytes] = []
        self.answers: list[tuple[int, bytes]] = []
        self.closed = False
        self._ends = os.pipe()

    def completion_fd(self) -> int:
        return self._ends[0]

    def start(self, command: bytes) -> int:
        self.started.append(command)
        return len(self.started)

    def drain(self) -> list[tuple[int, bytes]]:
        answers, self.answers = self.answers, []
        return answers

    def close(self, timeout: float | None = None) -> None:
        self.closed = True
        for end in self._ends:
            os.close(end)


@pytest.fixture
def mute(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """One, and room for two writes, for which nobody waits longer than a moment."""
    monkeypatch.setattr(module, "UNWATCHED_MAX", 2)
    monkeypatch.setattr(module, "ROOM_WAIT_S", 0.05)
    client = Mute()
    yield client
    if not client.closed:
        client.close()


def test_a_write_that_is_refused_for_want_of_room_is_not_begun(mute: Any) -> None:
    completions, failures = Completions(mute), list[BaseException]()
    completions.start(b"1", failures.append)
    completions.start(b"2", failures.append)
    with pytest.raises(Overloaded):
        completions.start(b"3", failures.append)
    assert mute.started == [b"1", b"2"], "D2: it did not happen and will not happen later"
    mute.answers = [(1, b"yes")]
    completions.start(b"4", failures.append)
    assert mute.started == [b"1", b"2", b"4"] and failures == []


def test_a_second_try_does_not_wait_for_room(mute: Any) -> None:
    """It is begun where answers are taken, which may be an event loop."""
    completions, failures = Completions(mute), list[BaseException]()
    for command in (b"1", b"2"):
        completions.start(command, failures.append)
    completions.start(b"3", failures.append, again=True)
    assert mute.started == [b"1", b"2", b"3"]


def noop() -> None: ...


def test_an_event_loop_goes_on_while_there_is_no_room() -> None:
    with Raftwork("test", "memory://") as app:
        task = app.task(name="noop", wait=False)(noop)
        app.storage.open()
        completions: Any = app.storage._completions  # type: ignore[attr-defined]

        async def enqueue() -> Any:
            completions._unwatched = module.UNWATCHED_MAX
            enqueueing = asyncio.create_task(task.aenqueue())
            for _ in range(10):
                await asyncio.sleep(0)
            assert not enqueueing.done(), "it waits, and this goes on"
            completions._unwatched = 0
            return await asyncio.wait_for(enqueueing, WAIT_S)

        job = asyncio.run(enqueue())
        assert completions._drain_until(lambda: completions._unwatched == 0, WAIT_S)
        assert job.info().state == "enqueued"


def test_the_end_tells_of_writes_without_an_answer_and_closes_the_client(mute: Any) -> None:
    storage, failures = MemoryStorage(), list[BaseException]()
    storage._client, storage._completions = mute, Completions(mute)
    storage._completions.start(b"1", failures.append)
    storage.close(0.01)
    assert [type(failure) for failure in failures] == [OutcomeUnknown], "it may have happened"
    assert mute.closed


def test_the_client_is_closed_whatever_happens_before(mute: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(timeout: float | None) -> None:
        raise ValueError("on purpose")

    storage = MemoryStorage()
    storage._client, storage._completions = mute, Completions(mute)
    monkeypatch.setattr(storage._completions, "close", fail)
    with pytest.raises(ValueError, match="on purpose"):
        storage.close(0.01)
    assert mute.closed
