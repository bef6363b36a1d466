"""A lane whose sessions end: who is told, what is left behind, and how soon the next one opens."""

from __future__ import annotations

import queue
import threading
from typing import Any

import pytest

from raftwork import events
from raftwork.errors import AccessDenied, NotCommitted, NotRunning
from raftwork.storage.base import Storage
from raftwork.worker import fetcher as module
from raftwork.worker.fetcher import REOPEN_WAITS_S, SESSION_S_LEAST, Source, SourceOptions
from raftwork.worker.leases import Board
from raftwork.worker.run import Cause
from worker.claims import claim, run_on

WAIT_S = 20


class Session:
    """A fetcher of which only the end matters."""

    def __init__(self) -> None:
        self.news: queue.SimpleQueue[list[tuple[str, bytes, int]]] = queue.SimpleQueue()
        self.closed = False

    def events(self, timeout: float | None) -> list[tuple[str, bytes, int]]:
        return self.news.get()

    def pause(self) -> None: ...

    def close(self, timeout: float | None) -> None:
        self.closed = True
        self.news.put([])


class Sessions:
    """A storage that opens them, and may refuse to."""

    def __init__(self) -> None:
        self.opened: list[Session] = []
        self.refusals = 0

    def fetcher(self, *_: Any, **__: Any) -> Session:
        if self.refusals:
            self.refusals -= 1
            raise NotCommitted("nobody leads")
        self.opened.append(Session())
        return self.opened[-1]


class Waits(threading.Event):
    """Is not waited for, but keeps the times."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds.append(timeout)
        return self.is_set()


def source_of(sessions: Sessions, board: Board | None = None) -> Source:
    storage: Storage = sessions  # type: ignore[assignment]
    source = Source(storage, SourceOptions([("default", 1)], ["f"]), board or Board(), "thread")
    source.open()
    return source


def listener_of(source: Source) -> threading.Thread:
    assert source._listener is not None
    return source._listener._thread


def test_the_listener_of_a_session_ends_with_it() -> None:
    sessions = Sessions()
    source = source_of(sessions)
    first = listener_of(source)
    source.broken(source.get(), AccessDenied("not this queue"))  # type: ignore[arg-type]
    assert source.get() is sessions.opened[1]
    first.join(WAIT_S)
    assert not first.is_alive(), "nobody asks an ended session for news"
    second = listener_of(source)
    source.close(1)
    second.join(WAIT_S)
    assert not second.is_alive()


def test_who_says_late_that_a_session_is_lost_does_not_hit_the_jobs_of_the_next() -> None:
    """Lanes and listener hear of the same end, each on a thread of its own."""
    sessions, board, told = Sessions(), Board(), []
    stop = events.subscribe(lambda event: told.append(event.fields) if event.name == "worker.session_lost" else None)
    source = source_of(sessions, board)
    first, listener = source.get(), listener_of(source)
    assert first is not None
    sessions.opened[0].close = lambda timeout: None  # type: ignore[method-assign]  # Its listener hears nothing of it.
    old = run_on(board, claim("f", 1, token=1))
    source.broken(first, "a lane found out")
    assert old.cause is Cause.LOST
    assert source.get() is sessions.opened[1]
    new = run_on(board, claim("f", 1, token=2))
    sessions.opened[0].news.put([("session_lost", b"", 0)])
    listener.join(WAIT_S)
    assert not listener.is_alive()
    assert new.cause is None and board.all() == [new]
    stop()
    assert told == [{"lane": "thread", "running": 1}], "once, with the jobs that ran"
    source.close(1)


def test_a_session_that_is_lost_while_the_lane_ends_takes_its_jobs_and_is_closed() -> None:
    sessions, board = Sessions(), Board()
    source = source_of(sessions, board)
    fetcher = source.get()
    run = run_on(board, claim("f"))
    source.retire()
    sessions.opened[0].news.put([("session_lost", b"", 0)])
    listener_of(source).join(WAIT_S)
    assert run.cause is Cause.LOST and board.runs == {}
    assert source.current is fetcher, "what the session still holds is given back at the end"
    source.close(1)
    assert len(sessions.opened) == 1 and sessions.opened[0].closed


def test_a_session_that_opens_when_none_is_wanted_any_more_leaves_nobody_behind() -> None:
    class Late(Sessions):
        def fetcher(self, *_: Any, **__: Any) -> Session:
            if self.opened:
                source.close(1)
            return super().fetcher()

    sessions = Late()
    source = source_of(sessions)
    source.broken(source.get(), NotRunning("gone"))  # type: ignore[arg-type]
    assert source.get() is None, "it is closed"
    for thread in threading.enumerate():
        if thread.name == "raftwork-reopen-thread":
            thread.join(WAIT_S)
    last = listener_of(source)
    last.join(WAIT_S)
    assert len(sessions.opened) == 2 and not last.is_alive()


def test_sessions_that_are_soon_over_are_opened_later_and_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is two entries of the log, and a worker whose claims are refused has no use for any."""
    now = 1_000.0
    monkeypatch.setattr(module.clock, "monotonic", lambda: now)
    sessions = Sessions()
    source = source_of(sessions)
    source._closed = waits = Waits()

    def lose() -> None:
        source.broken(source.get(), AccessDenied("not this queue"))  # type: ignore[arg-type]
        assert source.get() is sessions.opened[-1]

    for _ in range(9):
        lose()
    assert waits.seconds == [*REOPEN_WAITS_S, *[REOPEN_WAITS_S[-1]] * 2]
    assert waits.seconds[0] == 0, "the first is opened at once: mostly the session was lost, and work waits"
    waits.seconds.clear()
    now += SESSION_S_LEAST
    lose()
    sessions.refusals = 2
    lose()
    assert waits.seconds == [0, *REOPEN_WAITS_S[1:4]], "a good session begins it again; a refused one counts as well"
    source.close(1)
