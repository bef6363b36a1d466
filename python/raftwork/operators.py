"""What operators ask and change: queues, workers, and jobs by their ids."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from raftwork import clock, durations, options
from raftwork.errors import InvalidName, JobNotFound, WrongState
from raftwork.job import Job
from raftwork.storage.base import Change, QueueInfo, SessionInfo, Storage

__all__ = ["BulkAnswer", "Queue", "Queues", "WorkerInfo"]

CHANGE_JOBS_MAX = 1_000
"""Jobs of one change; more are sent in several."""


@dataclass(frozen=True, slots=True)
class Queue:
    """One queue at one moment. Totals count since the storage was made."""

    name: str
    enqueued: int
    processing: int
    scheduled: int
    retrying: int
    paused: bool
    paused_until: datetime | None
    reason: str
    oldest_enqueued_at: datetime | None
    total_in: int
    total_succeeded: int
    total_failed: int

    @classmethod
    def of(cls, info: QueueInfo) -> Queue:
        """From the storage's figures."""
        return cls(
            name=info.name,
            enqueued=info.enqueued,
            processing=info.processing,
            scheduled=info.scheduled,
            retrying=info.retrying,
            paused=info.paused,
            paused_until=None if info.paused_until_ms is None else clock.from_ms(info.paused_until_ms),
            reason=info.reason or "",
            oldest_enqueued_at=None if info.oldest_enqueued_ms is None else clock.from_ms(info.oldest_enqueued_ms),
            total_in=info.total_in,
            total_succeeded=info.total_succeeded,
            total_failed=info.total_failed,
        )


class Queues:
    """The queues of an application: iterate for figures, pause and resume by name."""

    __slots__ = ("_storage",)

    def __init__(self, storage: Callable[[], Storage]) -> None:
        self._storage = storage

    def __iter__(self) -> Iterator[Queue]:
        """All queues that ever had a job or were paused, by name."""
        return map(Queue.of, self._storage().queues())

    def pause(self, name: str, *, until: datetime | durations.Duration | None = None, reason: str = "") -> None:
        """Hand out nothing from this queue. Running jobs go on; new ones may be enqueued.

        Args:
            until: resume by itself at this time, or after this duration. None: until `resume`.
            reason: shown to those who wonder.
        """
        if until is None:
            until_ms = None
        elif isinstance(until, datetime):
            until_ms = durations.instant_ms(until, "until")
        else:
            until_ms = clock.now_ms() + durations.duration_ms(until, "until")
        self._storage().pause_queue(options.check_name(name, "The queue"), until_ms, reason)

    def resume(self, name: str) -> None:
        """Hand out again. Harmless when not paused."""
        self._storage().resume_queue(options.check_name(name, "The queue"))


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """One connected worker. A process may hold several sessions, one for each lane of its worker."""

    session: int
    host: str
    pid: int
    labels: dict[str, str]
    opened_at: datetime
    running: int

    @classmethod
    def of(cls, info: SessionInfo) -> WorkerInfo:
        """From the storage's session."""
        return cls(info.session, info.host, info.pid, info.labels, clock.from_ms(info.opened_ms), info.leases)


class BulkAnswer(NamedTuple):
    """What became of a number of jobs."""

    matched: int
    """Jobs that exist."""
    changed: int
    """Jobs that were changed, or whose worker was told."""
    skipped: int
    """Jobs whose state did not allow it."""
    codes: tuple[Change, ...]
    """The answer for each id, in the order given."""


def changed(verb: Callable[..., list[Change]], ids: Iterable[Any], *args: Any) -> BulkAnswer:
    """Apply a verb of the storage to jobs, 1,000 at a time."""
    packed = [id_of(one) for one in ids]
    codes: list[Change] = []
    for start in range(0, len(packed), CHANGE_JOBS_MAX):
        codes += verb(packed[start : start + CHANGE_JOBS_MAX], *args)
    done = sum(code in (Change.DONE, Change.TOLD) for code in codes)
    unknown = codes.count(Change.UNKNOWN)
    return BulkAnswer(len(codes) - unknown, done, len(codes) - unknown - done, tuple(codes))


def change_one(code: Change, job: bytes) -> Change:
    """The answer for a single job, where there being none is an error."""
    if code is Change.UNKNOWN:
        raise not_found(job)
    if code is Change.RUNNING:
        raise WrongState(f"Job {uuid.UUID(bytes=job)} runs now. Cancel it first.", uuid.UUID(bytes=job))
    return code


def not_found(job: bytes) -> JobNotFound:
    """The error for an id that nobody knows."""
    id = uuid.UUID(bytes=job)
    return JobNotFound(f"There is no job {id}: it was deleted, its retention ended, or it was never stored.", id)


def id_of(job: object) -> bytes:
    """The 16 bytes of a job id, from whatever names a job."""
    if isinstance(job, Job):
        return job.id.bytes
    if isinstance(job, uuid.UUID):
        return job.bytes
    if isinstance(job, bytes) and len(job) == 16:
        return job
    if isinstance(job, str):
        try:
            return uuid.UUID(job).bytes
        except ValueError:
            pass  # Answered below, with the other things that are no id.
    raise InvalidName(f"{job!r:.100} is not a job id. Give a UUID, its text, or a Job.")
