"""Tells the listeners of `raftwork.events` about jobs and schedules. Nothing is built for an event nobody listens to.

`job.started` and `job.succeeded` come with every job, so of them only the parts are noted; fields are made when read.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from raftwork import clock, events
from raftwork.errors import RemoteError
from raftwork.events import Event, failed, listeners, tell
from raftwork.storage.base import Firing, ScheduleRow
from raftwork.worker.ending import Code, Ending
from raftwork.worker.failure import Failure
from raftwork.worker.run import Run

__all__ = ["ended", "fired", "lost", "missed", "orphaned", "started", "succeeded"]


def started(run: Run) -> None:
    """The function of a job is about to be called."""
    run.started_at = now = clock.monotonic()
    if hearing := listeners.get("job.started"):
        claim = run.claim
        parts = (claim.id, claim.function, claim.queue, claim.attempt, now, claim.enqueued_ms)
        event = Event("job.started", parts, _started_fields)
        # As `tell` does it: one call less for each job.
        for listener in hearing:
            try:
                listener(event)
            except BaseException:
                failed(event)


def succeeded(run: Run) -> None:
    """The function of a job has returned. Its report is on its way."""
    if hearing := listeners.get("job.succeeded"):
        claim = run.claim
        parts = (claim.id, claim.function, claim.queue, claim.attempt, run.started_at, clock.monotonic())
        event = Event("job.succeeded", parts, _succeeded_fields)
        for listener in hearing:
            try:
                listener(event)
            except BaseException:
                failed(event)


def ended(run: Run, ending: Ending) -> None:
    """A job was decided about. Its report is on its way."""
    if not events.listening():
        return
    if ending.code is Code.SUCCEEDED:
        succeeded(run)
        return
    who = _who(run)
    ran = {"attempt": run.claim.attempt, "seconds": _seconds(run.started_at, clock.monotonic())}
    match ending.code:
        case Code.RETRY:
            delay = ending.delay_ms / 1000
            _emit("job.retrying", **who, **ran, error=_error(ending.failure), delay_seconds=delay)
        case Code.FAILED | Code.CRASHED:
            _emit("job.failed", **who, **ran, error=_error(ending.failure))
        case Code.SNOOZE:
            _emit("job.snoozed", **who, delay_seconds=ending.delay_ms / 1000, reason=ending.reason)
        case Code.CANCELLED:
            _emit("job.cancelled", **who, reason=ending.reason or run.reason or "")
        case Code.RELEASE:
            pass  # It starts again elsewhere: to its owner nothing has happened yet.


def lost(run: Run) -> None:
    """The lease of a job was lost while it ran."""
    if events.listening():
        _emit("job.lost", **_who(run))


def fired(firing: Firing, stored: Sequence[bool]) -> None:
    """A schedule fired. Of some slots there may be no job, as an earlier one still runs."""
    if not events.listening():
        return
    for name, here in (("schedule.fired", True), ("schedule.skipped", False)):
        slots = [job.slot_ms for job, was_stored in zip(firing.jobs, stored, strict=True) if was_stored is here]
        if slots:
            why = {} if here else {"reason": "overlap"}
            _emit(name, schedule=firing.name, slot=clock.from_ms(slots[-1]), count=len(slots), **why)


def missed(firing: Firing) -> None:
    """A schedule skips all slots that came while nobody fired it."""
    if events.listening():
        _emit("schedule.skipped", schedule=firing.name, slot=clock.from_ms(firing.slot_ms), count=None, reason="missed")


def orphaned(row: ScheduleRow) -> None:
    """A schedule of code is stored, and the code does not define it any more."""
    if events.listening():
        _emit("schedule.orphaned", schedule=row.name, function=row.function)


def _started_fields(
    id: bytes, function: str, queue: str, attempt: int, started_at: float, enqueued_ms: int
) -> dict[str, Any]:
    waited_ms = max(0, clock.ms_at(started_at) - enqueued_ms)  # The clock of another machine may be ahead.
    who = {"id": uuid.UUID(bytes=id), "function": function, "queue": queue}
    return {**who, "attempt": attempt, "waited_seconds": waited_ms / 1000}


def _succeeded_fields(
    id: bytes, function: str, queue: str, attempt: int, started_at: float, ended_at: float
) -> dict[str, Any]:
    who = {"id": uuid.UUID(bytes=id), "function": function, "queue": queue}
    return {**who, "attempt": attempt, "seconds": _seconds(started_at, ended_at)}


def _who(run: Run) -> dict[str, Any]:
    return {"id": uuid.UUID(bytes=run.claim.id), "function": run.claim.function, "queue": run.claim.queue}


def _error(failure: Failure | None) -> RemoteError | None:
    return RemoteError(failure.type, failure.message, failure.traceback) if failure is not None else None


def _seconds(started_at: float, ended_at: float) -> float:
    return ended_at - started_at if started_at else 0.0  # Nobody listened when it started.


def _emit(name: str, **fields: Any) -> None:
    # Also KeyboardInterrupt is survived: a listener must not end the thread that runs jobs.
    if hearing := listeners.get(name):
        tell(Event(name, fields), hearing, BaseException)
