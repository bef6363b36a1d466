"""The storage contract: what every place where jobs live must do, and the records that travel through it.

Rules that hold for every verb
* A write that returns is durable as far as `capabilities.durable` says, and every later read of this object sees it.
* A write happens as a whole or not at all, at one point of the one order in which all writes happen.
* `NotCommitted`, `Overloaded` and every `TaskError` mean that it did not and will not happen. `OutcomeUnknown` means
  that it may; enqueue is safe to repeat with the same ids, all else is repeated by the storage itself.
* Reads never block writes. How fresh they are says a `Reading`; the answer says which state it is of.
* Values inside arguments, results and saved state are opaque bytes here; `raftwork.serde` makes and reads them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from raftwork.errors import InvalidOption, RaftworkError
from raftwork.job_info import JobInfo
from raftwork.limits import Carried, JobLimits
from raftwork.reading import SESSION, Counts, Reading, Rows
from raftwork.storage.changes import ChangeStorage
from raftwork.storage.fetching import Fetcher
from raftwork.storage.flows import BatchRow, BatchStorage, Flow, FlowRow
from raftwork.storage.lines import LinesStanding, LinesStorage, RunLines
from raftwork.storage.records import (
    ERROR_BYTES_MAX,
    TRACEBACK_BYTES_MAX,
    Accepted,
    Change,
    ClaimedJob,
    Clash,
    Clause,
    DueSchedules,
    ErrorRow,
    Firing,
    FunctionInfo,
    JobPage,
    JobSpec,
    LockKind,
    LockRow,
    NewJob,
    PutAnswer,
    QueueInfo,
    QueueLimit,
    ScheduleRow,
    SessionInfo,
    SlotJob,
    decode_claimed,
    pack_error,
    pack_meta,
    pack_progress,
    read_meta,
    result_cancelled,
    result_crashed,
    result_failed,
    result_released,
    result_retry,
    result_snoozed,
    result_succeeded,
)

__all__ = [
    "ERROR_BYTES_MAX",
    "TRACEBACK_BYTES_MAX",
    "Accepted",
    "BatchRow",
    "Capabilities",
    "Change",
    "ClaimedJob",
    "Clause",
    "Clash",
    "DueSchedules",
    "ErrorRow",
    "Fetcher",
    "Firing",
    "Flow",
    "FlowRow",
    "FunctionInfo",
    "JobPage",
    "JobSpec",
    "LinesStanding",
    "LockKind",
    "LockRow",
    "NewJob",
    "PutAnswer",
    "QueueInfo",
    "QueueLimit",
    "RunLines",
    "ScheduleRow",
    "SessionInfo",
    "SlotJob",
    "Storage",
    "StorageLock",
    "decode_claimed",
    "pack_error",
    "pack_meta",
    "pack_progress",
    "read_meta",
    "result_cancelled",
    "result_crashed",
    "result_failed",
    "result_released",
    "result_retry",
    "result_snoozed",
    "result_succeeded",
]


class StorageLock(Protocol):
    """One try to hold one lock, in a session of this process. Used once: acquired, then released."""

    def acquire(self, timeout: float | None) -> int:
        """Wait for the lock, in the order of asking; answers its token. 0 tries once.

        Raises:
            TimedOut: others held it all the time; it is not waited for any more.
            LockMismatch: it is held as another kind, or as a semaphore with another number of permits.
            SessionExpired: the session ended while it was waited for. Another try begins anew.
        """
        ...

    async def aacquire(self, timeout: float | None) -> int:
        """`acquire` for a running event loop. A cancelled wait holds nothing."""
        ...

    def release(self) -> None:
        """Give it back. `LockLost` if it was lost before."""
        ...

    async def arelease(self) -> None:
        """`release` for a running event loop."""
        ...

    def is_lost(self) -> bool:
        """Whether the session ended, or was silent for two thirds of its time to live, while the lock was held."""
        ...

    def wait_lost(self, timeout: float | None) -> bool:
        """Wait until it is lost. False: it was not, or it was released."""
        ...

    async def await_lost(self, timeout: float | None) -> bool:
        """`wait_lost` for a running event loop."""
        ...


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a storage can do beyond the contract. A caller asks here instead of trying."""

    durable: bool
    """Stored jobs survive the end of this process."""
    shared: bool
    """Other processes see the same jobs."""
    replicated: bool = False
    """Several nodes have every stored job, and the others go on when one ends."""
    manual_clock: bool = False
    """`advance` moves its clock, and nothing else does."""


class Storage(BatchStorage, ChangeStorage, LinesStorage, ABC):
    """A place where jobs live. Opened lazily by the application; safe for many threads."""

    capabilities: Capabilities

    # Life

    @abstractmethod
    def open(self) -> None:
        """Open now what would be opened on first use. Harmless when open."""

    @abstractmethod
    def close(self, timeout: float | None = 10.0) -> None:
        """Finish what is under way, within the time-out, and let go of everything. Harmless when closed."""

    @abstractmethod
    def health(self) -> dict[str, Any]:
        """How the storage is: at least `status`, `role`, `durability`."""

    def note(self, what: str, about: str) -> None:
        """Keep for the audit that this process did something to many jobs. Nothing, where there are no members.

        Args:
            what: such as `jobs.retry`, at most 255 bytes.
            about: which, and how many; at most 1,024 bytes.

        Raises:
            AccessDenied: it may not `operate`.
        """

    def metrics(self) -> dict[str, float]:
        """What the node behind this storage counts, by name and labels; see `docs/reference/metrics.md`.

        Raises:
            InvalidOption: the storage has no node that counts.
        """
        raise InvalidOption(f"{self!r} has no node that counts.")

    def serve_health(self, address: str) -> str:
        """Answer `/livez` and `/readyz` of this process over HTTP at `host:port`; answers where.

        Raises:
            ConfigError: it cannot listen there.
            InvalidOption: the storage needs no such thing.
        """
        raise InvalidOption(f"{self!r} has nothing to probe.")

    @abstractmethod
    def new_ids(self, count: int) -> list[bytes]:
        """Fresh job ids (UUID version 7), each greater than all before."""

    # Enqueue

    @abstractmethod
    def enqueue(self, jobs: Sequence[NewJob]) -> list[Clash]:
        """Store all jobs or none, in one write. Empty answer: all were created.

        Raises:
            UniqueConflict: a job with `on_conflict` 2 met its key taken; nothing was stored.
        """

    @abstractmethod
    async def aenqueue(self, jobs: Sequence[NewJob]) -> list[Clash]:
        """`enqueue` for a running event loop. Cancelling leaves the outcome unknown."""

    @abstractmethod
    def start_enqueue(self, jobs: Sequence[NewJob], failed: Callable[[BaseException], None]) -> None:
        """Begin to store and return at once. `failed` is called later, on some thread, if it was refused.

        Waits only when very many have no answer yet.

        Raises:
            Overloaded: that took too long. Nothing was begun.
        """

    @abstractmethod
    async def astart_enqueue(self, jobs: Sequence[NewJob], failed: Callable[[BaseException], None]) -> None:
        """`start_enqueue` for a running event loop, which goes on where this waits."""

    # Sessions and leases

    @abstractmethod
    def open_session(self, kind: str, *, ttl_ms: int = 15_000, labels: Mapping[str, str] | None = None) -> int:
        """A session without heartbeats behind it: for tests and tools. Workers use `fetcher`."""

    @abstractmethod
    def close_session(self, session: int) -> int:
        """End a session; its leases are released without spending an attempt. Answers their number."""

    @abstractmethod
    def claim(
        self,
        session: int,
        queues: Sequence[tuple[str, int]],
        functions: Sequence[str],
        max: int = 1,
        *,
        strict: bool = False,
    ) -> list[ClaimedJob]:
        """Lease up to `max` jobs of these functions: higher priority first, then in the order of becoming enqueued.

        Queues are (name, weight); `strict` empties them in the given order, otherwise they share by weight.
        """

    @abstractmethod
    def finish(self, results: Sequence[bytes]) -> list[Accepted]:
        """Report results (see `result_*`). One with a stale token changes nothing."""

    @abstractmethod
    def progress(self, items: Sequence[bytes]) -> list[Accepted]:
        """Store progress and state (see `pack_progress`). One with a stale token changes nothing."""

    @abstractmethod
    def fetcher(
        self,
        queues: Sequence[tuple[str, int]],
        functions: Sequence[str],
        *,
        strict: bool = False,
        prefetch: int = 1,
        labels: Mapping[str, str] | None = None,
    ) -> Fetcher:
        """Open a worker's source of jobs."""

    # Locks

    @abstractmethod
    def lock(self, name: str, ttl_ms: int | None = None, kind: LockKind = "lock", permits: int = 1) -> StorageLock:
        """A try to hold a lock; nothing is asked yet. `ttl_ms` is that of the owning session; None: this process's.

        `permits` is 1 for all kinds but a semaphore.
        """

    @abstractmethod
    def locks(self) -> list[LockRow]:
        """All holders of locks, by name and token."""

    # Schedules. `raftwork.cron` knows what their definitions mean; the storage compares and sets.

    @abstractmethod
    def put_schedule(
        self,
        name: str,
        spec: JobSpec,
        args: bytes,
        definition: bytes,
        next_ms: int | None,
        *,
        overlap: int = 0,
        generation: int | None = None,
        limits: Carried = None,
    ) -> PutAnswer:
        """Store a schedule, or put it in place of the one of this name; a pause stays.

        Args:
            generation: how new the code is that defines it. None: no code does, and the number grows by itself.
            limits: those of each of its jobs.

        Raises:
            Overloaded: there are too many.
        """

    @abstractmethod
    def fire_schedules(self, firings: Sequence[Firing]) -> list[list[bool] | RaftworkError | None]:
        """Store the jobs of schedules and set their next slots: all at once under way, each whole or not at all.

        Answers for each firing in turn: for each of its jobs whether it was stored; not, if the overlap with an
        earlier one does not allow it. None: generation or next slot are no longer these, or it was paused, and nothing
        changed. An error: it was refused, or nobody knows.
        """

    @abstractmethod
    def move_schedule(self, name: str, generation: int, slot_ms: int, next_ms: int | None) -> bool:
        """Set the next slot without a job, if generation and next slot are still these."""

    @abstractmethod
    def trigger_schedule(self, name: str, job: bytes, slot_ms: int | None = None) -> bool:
        """Store one job of a schedule now, unless its id is in memory, also while it is paused; with a slot or without.
        False: there is no schedule of this name."""

    @abstractmethod
    def pause_schedule(self, name: str, reason: str = "") -> bool:
        """Fire no more until resumed. False: there is none of this name."""

    @abstractmethod
    def resume_schedule(self, name: str) -> bool:
        """Fire again. False: there is none of this name."""

    @abstractmethod
    def delete_schedule(self, name: str) -> bool:
        """Forget a schedule; its jobs stay. False: there is none of this name."""

    @abstractmethod
    def schedules(self) -> list[ScheduleRow]:
        """All schedules, by name."""

    @abstractmethod
    def schedule(self, name: str) -> ScheduleRow | None:
        """One schedule."""

    @abstractmethod
    def due_schedules(self, limit: int, after: tuple[int, str] | None = None) -> DueSchedules:
        """The schedules whose slot has come, as the node at hand knows. Its time goes on with writes and slots.

        Oldest first, and by name where slots are the same; large ones make a page shorter than `limit`.

        Args:
            limit: rows at most.
            after: a slot and a name, behind which to go on.

        Raises:
            InvalidOption: the node at hand is of a version that only knows the first page.
        """

    @abstractmethod
    def now_ms(self) -> int:
        """The time of the storage, brought up to date by a write that changes nothing else."""

    # Operators

    @abstractmethod
    def pause_queue(self, queue: str, until_ms: int | None = None, reason: str = "") -> None:
        """Hand out nothing from this queue until resumed, or until a time."""

    @abstractmethod
    def resume_queue(self, queue: str) -> None:
        """Hand out again. Harmless when not paused."""

    @abstractmethod
    def limit_queue(self, queue: str, limit: int | None) -> None:
        """Run at most so many of its jobs at once, from now on; those that run go on. None: as many as there are."""

    # Waiting

    @abstractmethod
    def wait(self, job: bytes, timeout: float | None = None) -> JobInfo:
        """Return when the job is final. Woken, never polling.

        Raises:
            TimedOut: it is not final yet.
            JobNotFound: there is no such job.
        """

    @abstractmethod
    async def await_final(self, job: bytes, timeout: float | None = None) -> JobInfo:
        """`wait` for a running event loop."""

    # Reads

    @abstractmethod
    def counts(self, reading: Reading = SESSION) -> Counts:
        """Jobs by state, and totals derived from transitions.

        Raises:
            TooStale: the state at hand could be older than `reading` allows. So do all reads.
            TimedOut: `linearizable`, and no majority was heard. So do all reads.
        """

    @abstractmethod
    def queues(self, reading: Reading = SESSION) -> Rows[QueueInfo]:
        """All queues, by name."""

    @abstractmethod
    def queue_limits(self, reading: Reading = SESSION) -> Rows[QueueLimit]:
        """How many jobs of each queue may run at once, by name, and how many limits hold back."""

    @abstractmethod
    def job_limits(self, job: bytes, reading: Reading = SESSION) -> JobLimits | None:
        """The limits of a job and how they stand. None: it has none, is final or not there."""

    @abstractmethod
    def job(self, job: bytes, reading: Reading = SESSION) -> JobInfo | None:
        """One job with everything known about it, finished ones included while their retention lasts."""

    @abstractmethod
    def jobs(
        self,
        clauses: Sequence[Clause] = (),
        cursor: bytes | None = None,
        limit: int = 100,
        reading: Reading = SESSION,
    ) -> JobPage:
        """A page of the jobs for which every clause holds, newest first."""

    @abstractmethod
    def sessions(self, reading: Reading = SESSION) -> Rows[SessionInfo]:
        """Connected processes."""

    @abstractmethod
    def functions(self, reading: Reading = SESSION) -> Rows[FunctionInfo]:
        """Functions that have jobs."""

    @abstractmethod
    def errors(self, limit: int = 100, reading: Reading = SESSION) -> Rows[ErrorRow]:
        """What runs ended with, by fingerprint and function, the newest first. 1,000 groups are remembered.

        Raises:
            InvalidOption: the limit is above 1,000.
        """

    @abstractmethod
    def totals(self, reading: Reading = SESSION) -> dict[str, Any]:
        """Sizes of the state: jobs, specs, sessions, applied index, clock, memory."""

    @abstractmethod
    def due(self, queues: Sequence[str], functions: Sequence[str]) -> int:
        """How many jobs a claim could give now."""

    # Time

    def advance(self, ms: int) -> None:
        """Move the manual clock of a test storage and do what becomes due."""
        raise NotImplementedError(f"{type(self).__name__} has no manual clock; see capabilities.manual_clock.")
