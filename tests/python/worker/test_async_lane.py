"""The lane of coroutines: what its end waits for, and what is left of one that never began."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from raftwork.app import Raftwork
from raftwork.errors import ConfigError, NotCommitted, SessionExpired
from raftwork.worker import Worker, aio, server
from raftwork.worker.aio import AsyncLane
from raftwork.worker.leases import Board

WAIT_S = 20


class Session:
    """A fetcher with some jobs, whose session ends when the first is reported."""

    def __init__(self, jobs: list[bytes]) -> None:
        self.jobs = jobs
        self._ends = os.pipe()

    def fd(self) -> int:
        return self._ends[0]

    def next_many(self, most: int, timeout: float | None) -> list[bytes]:
        jobs, self.jobs = self.jobs[:most], self.jobs[most:]
        return jobs

    def finish(self, result: bytes) -> None:
        raise SessionExpired("gone")

    def end(self) -> None:
        for end in self._ends:
            os.close(end)


class Sessions:
    """A source that opens another session only when it is told to."""

    def __init__(self) -> None:
        self.current: Session | None = None
        self.opened: Callable[[Session], None] = lambda session: None
        self.lost = threading.Event()

    def give(self, session: Session) -> None:
        self.current = session
        self.opened(session)

    def open(self) -> None: ...

    def broken(self, session: Session, why: object) -> None:
        self.current = None
        self.lost.set()

    def retire(self) -> None: ...

    def close(self, timeout: float) -> None: ...


@pytest.fixture
def sessions() -> Iterator[list[Session]]:
    """One with two jobs, and one without."""
    made = [Session([b"1", b"2"]), Session([])]
    yield made
    for session in made:
        session.end()


@pytest.mark.parametrize("how", ["goes on", "stops"])
def test_what_a_lost_session_left_is_not_waited_for(sessions: list[Session], how: str) -> None:
    async def run(raw: bytes, task: Any) -> bytes:
        return raw

    source: Any = Sessions()
    lane = AsyncLane("async", 10, source, Board(), run)
    lane.start()
    source.give(sessions[0])
    assert source.lost.wait(WAIT_S), "the second job was ready then"
    if how == "goes on":
        source.give(sessions[1])
    else:
        lane.stop_claiming()
    assert lane._idle.wait(WAIT_S)
    lane.close()


@pytest.mark.parametrize("why", ["a lane cannot be made", "a lane cannot start"])
def test_a_worker_that_cannot_start_leaves_no_loop_behind(
    app: Raftwork, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    loops: list[asyncio.AbstractEventLoop] = []
    new = asyncio.new_event_loop

    def make() -> asyncio.AbstractEventLoop:
        loops.append(new())
        return loops[-1]

    monkeypatch.setattr(aio.asyncio, "new_event_loop", make)

    @app.task(name="plain")
    def plain() -> None: ...

    @app.task(name="awaits")
    async def awaits() -> None: ...

    if why == "a lane cannot be made":
        monkeypatch.setattr(server, "limits_supported", lambda: False)

        @app.task(name="limited", executor="process", memory="512MB")
        def limited() -> None: ...

        with pytest.raises(ConfigError, match="limits on Linux only"):
            Worker(app, target="shop:app").start()
    else:

        def refuse(*_: Any, **__: Any) -> Any:
            raise NotCommitted("nobody leads")

        monkeypatch.setattr(app.storage, "fetcher", refuse)
        with pytest.raises(NotCommitted):
            Worker(app).start()
    assert all(loop.is_closed() for loop in loops)
