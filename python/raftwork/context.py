"""What a running job knows about itself and can say about itself.

A task whose first parameter is annotated `JobContext` gets it; any code below can ask `current_job()`. The worker
makes it and stays reachable through two small objects: a `ContextLink` that takes what the job says, and a `StopFlag`
that tells it to stop.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import uuid
from collections.abc import Iterable, Iterator, Sized
from datetime import datetime
from typing import Any, Protocol, TypeVar

from raftwork import clock, serde
from raftwork.errors import LeaseLost, NotRunning
from raftwork.outcomes import Cancel
from raftwork.storage.base import ClaimedJob

__all__ = ["ContextLink", "JobContext", "StopFlag", "activate", "current_job", "deactivate"]

T = TypeVar("T")

_logger = logging.getLogger("raftwork.job")
_current: contextvars.ContextVar[JobContext] = contextvars.ContextVar("raftwork_job")


class ContextLink(Protocol):
    """How a context reaches the storage. Provided by the worker."""

    def send(self, progress: bytes | None, state: bytes | None) -> None:
        """Hand over the newest progress note or the newest saved state. Returns at once; may drop older progress."""
        ...

    def settle(self) -> None:
        """Return when the state handed over so far is stored. Raises a StorageError when it cannot be."""
        ...


class StopFlag:
    """Set once by the worker, read by the job."""

    __slots__ = ("lost", "reason")

    def __init__(self) -> None:
        self.reason: str | None = None
        self.lost = False

    def cancel(self, reason: str) -> None:
        """Ask the job to stop."""
        self.reason = reason

    def lose(self) -> None:
        """The lease is gone: whatever the job still does, its result will not count."""
        self.lost = True
        self.reason = self.reason or "the lease was lost"


class JobContext:
    """The running job."""

    __slots__ = ("_job", "_link", "_started_ms", "_state", "_stop")

    def __init__(self, job: ClaimedJob, link: ContextLink, stop: StopFlag) -> None:
        self._job = job
        self._link = link
        self._stop = stop
        self._started_ms = clock.now_ms()
        self._state = job.state

    @property
    def id(self) -> uuid.UUID:
        """The id of the job: the same in every attempt."""
        return uuid.UUID(bytes=self._job.id)

    @property
    def function(self) -> str:
        """The name of the task."""
        return self._job.function

    @property
    def queue(self) -> str:
        """The queue that it came from."""
        return self._job.queue

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags it was enqueued with."""
        return self._job.tags

    @property
    def attempt(self) -> int:
        """Which run this is, from 1."""
        return self._job.attempt

    @property
    def max_attempts(self) -> int:
        """How many runs it has."""
        return self._job.max_attempts

    @property
    def crashes(self) -> int:
        """How often a worker died while running it."""
        return self._job.crashes

    @property
    def token(self) -> int:
        """The fencing token of this run. Store it with your effects and refuse smaller ones."""
        return self._job.token

    @property
    def deadline(self) -> datetime | None:
        """When the time-out ends this run, in UTC; None without a time-out."""
        if self._job.timeout_ms is None:
            return None
        return clock.from_ms(self._started_ms + self._job.timeout_ms)

    @property
    def cancelled(self) -> bool:
        """Whether the job should stop: cancelled by someone, timed out, or taken from this worker."""
        return self._stop.reason is not None

    def check_cancelled(self) -> None:
        """Leave the job here if it should stop.

        Raises:
            Cancel: it was cancelled. Let it through.
            LeaseLost: another worker has the job; nothing this run reports will count.
        """
        self._check_lease()
        if self._stop.reason is not None:
            raise Cancel(self._stop.reason)

    def progress(self, done: float, total: float | None = None, note: str = "") -> None:
        """Say how far the job is. Costs little, so call it freely; of many in a short time the last is stored."""
        self._link.send(serde.encode([done, total, note], what="progress", bytes_max=serde.STATE_BYTES_MAX), None)

    def track(self, items: Iterable[T], total: int | None = None, note: str = "") -> Iterator[T]:
        """Pass the items through, report progress after each, and stop between two if the job is cancelled."""
        if total is None and isinstance(items, Sized):
            total = len(items)
        for done, item in enumerate(items):
            self.check_cancelled()
            self.progress(done, total, note)
            yield item
        if total is not None:
            self.progress(total, total, note)

    def log(self, message: str, *args: object, level: int = logging.INFO) -> None:
        """Log through the logger `raftwork.job` with the job's id, task and attempt in the record."""
        extra = {"job_id": str(self.id), "task": self.function, "attempt": self.attempt}
        _logger.log(level, message, *args, extra=extra, stacklevel=2)

    @property
    def state(self) -> Any:
        """What this or an earlier attempt saved last, or None."""
        return None if self._state is None else serde.decode(self._state, what="state")

    def save(self, state: Any) -> None:
        """Keep a value (at most 64 KiB encoded) for the next attempt, so that it can go on where this one stopped.

        When this returns, the value is stored, as durably as the job itself. A coroutine must not block its event loop,
        so there the value is only on its way, for some milliseconds: `await ctx.asave(state)` waits for it.

        Raises:
            SerializationError, PayloadTooLarge: it cannot travel, or is larger than that.
            LeaseLost: another worker has the job; nothing this run saves will count.
            StorageError: it was not stored, or not within 10 seconds; the message says why.
        """
        self._hand_over(state)
        if not _on_event_loop():
            self._link.settle()
            self._check_lease()

    async def asave(self, state: Any) -> None:
        """`save` for coroutines: the value is stored when this returns, and the event loop goes on meanwhile.

        Example:
            >>> await ctx.asave({"page": 7})
        """
        self._hand_over(state)
        await asyncio.to_thread(self._link.settle)
        self._check_lease()

    def _hand_over(self, state: Any) -> None:
        packed = serde.encode(state, what="state", bytes_max=serde.STATE_BYTES_MAX)
        self._check_lease()
        self._link.send(None, packed)
        self._state = packed

    def _check_lease(self) -> None:
        if self._stop.lost:
            raise LeaseLost(f"The lease of job {self.id} was lost; another worker may run it.", self.id)

    def __repr__(self) -> str:
        return f"<JobContext {self.function} {self.id} attempt {self.attempt}>"


def _on_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def current_job() -> JobContext:
    """The job that this code runs in.

    Raises:
        NotRunning: no job is running here, for example in a plain call of the function.
    """
    try:
        return _current.get()
    except LookupError:
        raise NotRunning("No job is running here. current_job() works only inside a job that a worker runs.") from None


def activate(context: JobContext) -> contextvars.Token[JobContext]:
    """Make this the current job of the running thread or coroutine. For workers."""
    return _current.set(context)


def deactivate(token: contextvars.Token[JobContext]) -> None:
    """Undo `activate`."""
    _current.reset(token)
