"""What a running job knows about itself and can say about itself.

A task whose first parameter is annotated `JobContext` gets it; any code below can ask `current_job()`. The worker
makes it and stays reachable through two small objects: a `ContextLink` that takes what the job says, and a `StopFlag`
that tells it to stop.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import threading
import uuid
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sized
from datetime import datetime
from typing import Any, Final, ParamSpec, Protocol, TypeVar, cast

from raftwork import clock, serde
from raftwork.codecs import PLAIN, Codecs, Kind
from raftwork.errors import LeaseLost, NotRunning, StepError
from raftwork.options import check_name
from raftwork.outcomes import Cancel
from raftwork.saved import Saved
from raftwork.storage.base import ClaimedJob

__all__ = ["ContextLink", "JobContext", "StopFlag", "activate", "current_job", "current_link"]

P = ParamSpec("P")
T = TypeVar("T")

_NO_SCHEDULE: Final = (None, None)
_first_use = threading.Lock()
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

    __slots__ = ("_codecs", "_job", "_link", "_saved", "_started_ms", "_stop")

    def __init__(self, job: ClaimedJob, link: ContextLink, stop: StopFlag, codecs: Codecs = PLAIN) -> None:
        self._job = job
        self._codecs = codecs
        self._link = link
        self._stop = stop
        # Read for the deadline only.
        self._started_ms = 0 if job.timeout_ms is None else clock.now_ms()
        self._saved: Saved | None = None
        """Made on first use: most jobs save nothing."""

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
    def batch(self) -> uuid.UUID | None:
        """The batch that it belongs to: `with app.batch(ctx.batch):` adds other jobs to it."""
        batch = self._job.extras.get(2) if self._job.extras else None
        return None if batch is None else uuid.UUID(bytes=batch)

    @property
    def schedule(self) -> str | None:
        """The name of the recurring schedule that it comes from; None if it comes from none."""
        return self._source[0]

    @property
    def slot(self) -> datetime | None:
        """The instant that its schedule means by it, in UTC, however late it runs: the same in every attempt.

        None if it comes from no schedule, or somebody triggered it. `ctx.slot.astimezone(zone)` gives the local time.

        Example:
            >>> day = ctx.slot.astimezone(ZoneInfo("Europe/Berlin")).date()
        """
        slot = self._source[1]
        return None if slot is None else clock.from_ms(slot)

    @property
    def _source(self) -> tuple[str | None, int | None]:
        return self._job.extras.get(3, _NO_SCHEDULE) if self._job.extras else _NO_SCHEDULE

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
        packed = self._encode([done, total, note], "progress")
        self._link.send(self._codecs.seal(self._job.id, Kind.PROGRESS, packed), None)

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
        packed = self._notes().state
        return None if packed is None else serde.decode(packed, what="state")

    def save(self, state: Any) -> None:
        """Keep a value (at most 64 KiB encoded) for the next attempt, so that it can go on where this one stopped.

        When this returns, the value is stored, as durably as the job itself. A coroutine must not block its event loop,
        so there the value is only on its way, for some milliseconds: `await ctx.asave(state)` waits for it.

        Raises:
            SerializationError, PayloadTooLarge: it cannot travel, or is larger than that.
            SecretRefused: there is a Secret in it, and no encryption key.
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

    def step(self, name: str, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function and remember its result under a name, so that a retry gets the result without the call.

        When this returns, the result is stored, as durably as the job itself. A function that raises is not remembered.
        A worker that dies between the end of the call and the storing repeats it: let the function be safe to repeat,
        or pass `ctx.token` on.

        Args:
            name: finds the result again in the next attempt. Each step of a run has its own.
            fn: a plain function. Its arguments are not stored; its result is, with all other steps and the saved state
                at most 64 KiB encoded.

        Raises:
            StepError: the name was used in this run already, or this is a coroutine: `await ctx.astep(...)`.
            InvalidName: the name cannot be one.
            SerializationError, PayloadTooLarge, SecretRefused: the result cannot travel. The function was called.
            LeaseLost: another worker has the job. Before the call, or after it: then the result is not remembered.
            StorageError: the result was not stored, or not within 10 seconds.

        Example:
            >>> paid = ctx.step("pay", provider.pay, order, cents=500)
        """
        if _on_event_loop():
            raise StepError(f"The step {name!r} would block the event loop. Write: await ctx.astep({name!r}, ...).")
        if inspect.iscoroutinefunction(fn):
            raise StepError(f"The step {name!r} is a coroutine function. Write: await ctx.astep({name!r}, ...).")
        saved, remembered = self._begin_step(name)
        if remembered is not None:
            return cast(T, serde.decode(remembered, what=f"step {name!r}"))
        stored = False
        try:
            result = fn(*args, **kwargs)
            self._keep_step(saved, name, result)
            self._link.settle()
            self._check_lease()
            stored = True
        finally:
            saved.end(name, stored)
        return result

    async def astep(self, name: str, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """`step` for coroutines: awaits what the function gives. The event loop goes on while the result is stored.

        Example:
            >>> page = await ctx.astep("fetch", client.get, url)
            >>> size = await ctx.astep("measure", asyncio.to_thread, measure, page)
        """
        saved, remembered = self._begin_step(name)
        if remembered is not None:
            return cast(T, serde.decode(remembered, what=f"step {name!r}"))
        stored = False
        try:
            given = fn(*args, **kwargs)
            if not inspect.isawaitable(given):
                raise StepError(
                    f"The step {name!r} is no coroutine. Write: ctx.astep({name!r}, asyncio.to_thread, fn)."
                )
            result = await given
            self._keep_step(saved, name, result)
            await asyncio.to_thread(self._link.settle)
            self._check_lease()
            stored = True
        finally:
            saved.end(name, stored)
        return result

    def _begin_step(self, name: str) -> tuple[Saved, bytes | None]:
        check_name(name, "The step")
        self._check_lease()
        saved = self._notes()
        return saved, saved.begin(name)

    def _keep_step(self, saved: Saved, name: str, result: object) -> None:
        packed = self._encode(result, f"step {name!r}")
        self._check_lease()
        saved.put(name, packed, self._send_saved)

    def _hand_over(self, state: Any) -> None:
        packed = self._encode(state, "state")
        self._check_lease()
        self._notes().put_state(packed, self._send_saved)

    def _send_saved(self, packed: bytes) -> None:
        self._link.send(None, self._codecs.seal(self._job.id, Kind.STATE, packed))

    def _notes(self) -> Saved:
        if self._saved is None:
            with _first_use:
                if self._saved is None:
                    self._saved = Saved(self._job.state)
        return self._saved

    def _encode(self, value: Any, what: str) -> bytes:
        return serde.encode(value, what=what, bytes_max=serde.STATE_BYTES_MAX, secrets=self._codecs.takes_secrets)

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


def current_link() -> ContextLink | None:
    """How the job that runs here reaches the storage; None outside of jobs. For workers."""
    context = _current.get(None)
    return None if context is None else context._link


def activate(context: JobContext) -> None:
    """Make this the current job of the code that runs in this `contextvars` context. For workers."""
    _current.set(context)
