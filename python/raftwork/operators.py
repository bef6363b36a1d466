"""What operators ask and change: queues, workers, and jobs by their ids."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from raftwork import clock, durations, known, options
from raftwork.errors import InvalidName, InvalidOption, JobNotFound, WrongState
from raftwork.job import Job
from raftwork.job_info import JobInfo
from raftwork.limits import LIMIT_MAX
from raftwork.reading import Consistency, Reading, Rows, read_as
from raftwork.storage.base import Change, Clause, ErrorRow, JobPage, QueueInfo, QueueLimit, SessionInfo, Storage

__all__ = ["BulkAnswer", "ErrorGroup", "NamedQueue", "Queue", "Queues", "WorkerInfo"]

CHANGE_JOBS_MAX = 1_000
"""Jobs of one change; more are sent in several."""
ERROR_GROUPS_MAX = 1_000
"""Groups of errors that a storage remembers."""


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
    limit: int | None = None
    """How many of its jobs may run at once."""
    held_back: int = 0
    """Enqueued jobs that wait because a limit of theirs has no room now."""

    @classmethod
    def of(cls, info: QueueInfo, limit: QueueLimit | None = None) -> Queue:
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
            limit=None if limit is None else limit.limit,
            held_back=0 if limit is None else limit.held_back,
        )


class NamedQueue:
    """One queue of an application, to change it: what `app.queues["mail"]` gives."""

    __slots__ = ("_queues", "name")

    def __init__(self, queues: Queues, name: str) -> None:
        self._queues = queues
        self.name = name

    def limit(self, n: int | None) -> None:
        """See `Queues.limit`."""
        self._queues.limit(self.name, n)

    def pause(self, *, until: datetime | durations.Duration | None = None, reason: str = "") -> None:
        """See `Queues.pause`."""
        self._queues.pause(self.name, until=until, reason=reason)

    def resume(self) -> None:
        """See `Queues.resume`."""
        self._queues.resume(self.name)

    async def alimit(self, n: int | None) -> None:
        """`limit` for a running event loop."""
        await self._queues.alimit(self.name, n)

    async def apause(self, *, until: datetime | durations.Duration | None = None, reason: str = "") -> None:
        """`pause` for a running event loop."""
        await self._queues.apause(self.name, until=until, reason=reason)

    async def aresume(self) -> None:
        """`resume` for a running event loop."""
        await self._queues.aresume(self.name)


class Queues:
    """The queues of an application: iterate for figures; pause, resume and limit them by name.

    Each verb has a twin with `a` in front for event loops; `await app.queues.aall()` is what iterating gives.
    """

    __slots__ = ("_storage",)

    def __init__(self, storage: Callable[[], Storage]) -> None:
        self._storage = storage

    def __iter__(self) -> Iterator[Queue]:
        """All queues that ever had a job or were paused, by name."""
        return iter(self.all())

    def __getitem__(self, name: str) -> NamedQueue:
        """One queue, to change it. It need not have had a job."""
        return NamedQueue(self, options.check_name(name, "The queue"))

    def all(
        self, *, consistency: Consistency = "session", max_staleness: durations.Duration | None = None
    ) -> Rows[Queue]:
        """The same as a list that says of which state it is.

        Args:
            consistency, max_staleness: as for `Job.info`.
        """
        reading = read_as(consistency, max_staleness)
        found = self._storage().queues(reading)
        limits = {row.name: row for row in self._storage().queue_limits(reading)}
        queues = Rows(Queue.of(info, limits.get(info.name)) for info in found)
        queues.as_of = found.as_of
        return queues

    def pause(self, name: str, *, until: datetime | durations.Duration | None = None, reason: str = "") -> None:
        """Hand out nothing from this queue. Running jobs go on; new ones may be enqueued.

        Args:
            until: resume by itself at this time, or after this duration, counted by the storage's clock: what this
                machine's clock shows does not matter. None: until `resume`.
            reason: shown to those who wonder.
        """
        if until is None:
            until_ms = None
        elif isinstance(until, datetime):
            until_ms = durations.instant_ms(until, "until")
        else:
            span_ms = durations.duration_ms(until, "until")
            until_ms = self._storage().now_ms() + span_ms
        self._storage().pause_queue(options.check_name(name, "The queue"), until_ms, reason)

    def resume(self, name: str) -> None:
        """Hand out again. Harmless when not paused."""
        self._storage().resume_queue(options.check_name(name, "The queue"))

    def limit(self, name: str, n: int | None) -> None:
        """Run at most `n` jobs of this queue at once, in all processes together. Those that run go on.

        Args:
            n: 1 to 1,000,000; None for as many as there are workers.

        Raises:
            InvalidOption: `n` is out of range.
        """
        if n is not None and (isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= LIMIT_MAX):
            raise InvalidOption(
                f"The limit {n!r} of queue {name} is not a whole number from 1 to {LIMIT_MAX:,}. To run none, pause it."
            )
        self._storage().limit_queue(options.check_name(name, "The queue"), n)

    async def aall(
        self, *, consistency: Consistency = "session", max_staleness: durations.Duration | None = None
    ) -> Rows[Queue]:
        """`all` for a running event loop."""
        return await asyncio.to_thread(self.all, consistency=consistency, max_staleness=max_staleness)

    async def apause(self, name: str, *, until: datetime | durations.Duration | None = None, reason: str = "") -> None:
        """`pause` for a running event loop."""
        await asyncio.to_thread(self.pause, name, until=until, reason=reason)

    async def aresume(self, name: str) -> None:
        """`resume` for a running event loop."""
        await asyncio.to_thread(self.resume, name)

    async def alimit(self, name: str, n: int | None) -> None:
        """`limit` for a running event loop."""
        await asyncio.to_thread(self.limit, name, n)


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
        labels = known.own_labels(info.labels)
        return cls(info.session, info.host, info.pid, labels, clock.from_ms(info.opened_ms), info.leases)

    @classmethod
    def connected(cls, storage: Storage) -> list[WorkerInfo]:
        """Those of a storage."""
        return [cls.of(session) for session in storage.sessions() if session.kind == "worker"]


@dataclass(frozen=True, slots=True)
class ErrorGroup:
    """Runs of one task that ended with the same mistake, whatever became of their jobs since."""

    fingerprint: str | None
    """The same for the same mistake; a filter `fingerprint:` finds its jobs. None: it is encrypted."""
    error: str
    """The type of the exception, such as `builtins.ValueError`."""
    function: str
    """The name of the task."""
    runs: int
    failed: int
    """Runs among them after which the job was failed for good; the others were tried again, or waited to be."""
    first_at: datetime
    last_at: datetime
    last_job: uuid.UUID
    """The job of the newest one: its message and traceback are the example."""

    @classmethod
    def of(cls, row: ErrorRow) -> ErrorGroup:
        """From the storage's figures."""
        first, last = clock.from_ms(row.first_ms), clock.from_ms(row.last_ms)
        job = uuid.UUID(bytes=row.last_job)
        return cls(row.fingerprint, row.error, row.function, row.runs, row.failed, first, last, job)


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
    stopped: bool = False
    """Whether it was stopped before all were asked about."""


def changed(verb: Callable[..., list[Change]], ids: Iterable[Any], *args: Any) -> BulkAnswer:
    """Apply a verb of the storage to jobs, 1,000 at a time."""
    packed = [id_of(one) for one in ids]
    codes: list[Change] = []
    for start in range(0, len(packed), CHANGE_JOBS_MAX):
        codes += verb(packed[start : start + CHANGE_JOBS_MAX], *args)
    done = sum(code in (Change.DONE, Change.TOLD) for code in codes)
    unknown = codes.count(Change.UNKNOWN)
    return BulkAnswer(len(codes) - unknown, done, len(codes) - unknown - done, tuple(codes))


def pages(
    ask: Callable[..., JobPage], clauses: Sequence[Clause], limit: int | None, reading: Reading
) -> Iterator[JobInfo]:
    """Jobs for which every clause holds, fetched page by page while somebody goes through them."""
    cursor: bytes | None = None
    left = limit
    while left is None or left > 0:
        page = ask(clauses, cursor, 100 if left is None else min(100, left), reading)
        yield from page.jobs
        left = None if left is None else left - len(page.jobs)
        cursor = page.cursor
        if cursor is None:
            return


async def apages(
    ask: Callable[..., Awaitable[JobPage]], clauses: Sequence[Clause], limit: int | None, reading: Reading
) -> AsyncIterator[JobInfo]:
    """`pages` for a running event loop."""
    cursor: bytes | None = None
    left = limit
    while left is None or left > 0:
        page = await ask(clauses, cursor, 100 if left is None else min(100, left), reading)
        for job in page.jobs:
            yield job
        left = None if left is None else left - len(page.jobs)
        cursor = page.cursor
        if cursor is None:
            return


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
