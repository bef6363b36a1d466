"""One running job as the worker sees it: what was claimed, what it was told, what it said meanwhile."""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Callable
from typing import Protocol

from raftwork.context import StopFlag
from raftwork.storage.base import ClaimedJob
from raftwork.worker.guard import ThreadGuard
from raftwork.worker.logs import Ring
from raftwork.worker.timekeeper import Entry, Timekeeper

__all__ = ["Cause", "Channel", "PROGRESS_PERIOD_S", "Run"]

PROGRESS_PERIOD_S = 0.5
"""Progress of one job is written at most this often. What comes in between is held back; the last is always written."""


class Cause(enum.IntEnum):
    """Why a running job shall end before it is done. A later, larger one overrides."""

    CANCEL = 1
    """Somebody cancelled it. It ends as cancelled."""
    TIMEOUT = 2
    """Its time is over. It counts as a failed attempt."""
    LIMIT = 3
    """Its process takes more than it may. It counts as a failed attempt."""
    SHUTDOWN = 4
    """The worker stops. It is released, and the attempt is not spent."""
    LOST = 5
    """The lease is gone. Whatever it answers, nobody listens."""


REASONS = {
    Cause.CANCEL: "cancelled while it ran",
    Cause.TIMEOUT: "its time is over",
    Cause.LIMIT: "it takes more than it may",
    Cause.SHUTDOWN: "the worker stops",
    Cause.LOST: "the lease was lost",
}


_first_use = threading.Lock()


class Channel(Protocol):
    """Where a running job's progress, state and log lines go."""

    def write(self, run: Run, progress: bytes | None, state: bytes | None) -> None:
        """Write progress or state of a job. Returns at once."""

    def settle(self, run: Run) -> None:
        """Return when the state written so far is stored."""

    def line(self, run: Run, line: str) -> None:
        """One line was logged."""


class Run(StopFlag):
    """One job between its claim and its report. It is the stop flag of its context, and its link to the storage."""

    __slots__ = (
        "cause",
        "channel",
        "claim",
        "deadline_entry",
        "exceeded",
        "guard",
        "lines",
        "on_stop",
        "progress",
        "progress_entry",
        "progress_lock",
        "started_at",
        "timekeeper",
        "written_at",
    )

    deadline_entry: Entry
    exceeded: str
    """Which limit, for `Cause.LIMIT`."""
    guard: ThreadGuard
    progress: bytes | None
    """Progress that is held back."""
    progress_entry: Entry | None
    written_at: float

    def __init__(self, claim: ClaimedJob, channel: Channel, timekeeper: Timekeeper) -> None:
        self.reason = None
        self.lost = False
        self.claim = claim
        self.channel = channel
        self.timekeeper = timekeeper
        self.cause: Cause | None = None
        self.on_stop: Callable[[Cause], None] | None = None
        self.lines: Ring | None = None
        self.started_at = 0.0
        """When it started, on the monotonic clock; 0 when nobody wants to know."""
        self.progress_lock: threading.Lock | None = None
        # The rest is set on first use: most jobs have no time-out and tell no progress, and this is their hot path.

    def stop(self, cause: Cause) -> None:
        """Tell the job to end. What that means depends on where it runs: see `on_stop` of the executors."""
        if self.cause is not None and self.cause >= cause:
            return
        self.cause = cause
        if cause is Cause.LOST:
            self.lose()
        else:
            self.cancel(REASONS[cause])
        if self.on_stop is not None:
            self.on_stop(cause)

    def log(self, line: str) -> None:
        """Keep one line of the job's log; the oldest go when there are too many."""
        self.ring().append(line)
        self.channel.line(self, line)

    def ring(self) -> Ring:
        """The lines of the job; made when the first is logged, or asked for."""
        if self.lines is None:
            with _first_use:
                if self.lines is None:
                    self.lines = Ring()
        return self.lines

    def send(self, progress: bytes | None, state: bytes | None) -> None:
        """Take what the job says: state is handed on at once, progress now or a little later."""
        if state is not None:
            self.channel.write(self, None, state)
        if progress is not None:
            self._tell(progress)

    def settle(self) -> None:
        """Return when the state of the job is stored."""
        self.channel.settle(self)

    def flush(self) -> None:
        """Write what is held back: the job has ended."""
        if self.progress_lock is None:
            return
        with self.progress_lock:
            if self.progress_entry is not None:
                self.progress_entry.cancel()
            self._write_held_back()

    def start_deadline(self, seconds: float, guard: ThreadGuard) -> None:
        """Stop the job after this time, and interrupt the thread it runs on."""
        self.guard = guard
        self.deadline_entry = self.timekeeper.after(seconds, self._time_out)

    def clear_deadline(self) -> None:
        """The function has ended in time."""
        self.deadline_entry.cancel()

    def _time_out(self) -> None:
        self.stop(Cause.TIMEOUT)
        self.guard.interrupt()

    def _tell(self, progress: bytes) -> None:
        with self._lock():
            self.progress = progress
            wait = self.written_at + PROGRESS_PERIOD_S - time.monotonic()
            if wait <= 0:
                self._write_held_back()
            elif self.progress_entry is None:
                self.progress_entry = self.timekeeper.after(wait, self._period_over)

    def _period_over(self) -> None:
        with self._lock():
            self._write_held_back()

    def _lock(self) -> threading.Lock:
        if self.progress_lock is None:
            with _first_use:
                if self.progress_lock is None:
                    self.progress = None
                    self.progress_entry = None
                    self.written_at = 0.0
                    self.progress_lock = threading.Lock()
        return self.progress_lock

    def _write_held_back(self) -> None:
        self.progress_entry = None
        if self.progress is not None:
            self.written_at = time.monotonic()
            progress, self.progress = self.progress, None
            self.channel.write(self, progress, None)
