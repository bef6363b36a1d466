"""The storage contract: what every place where jobs live must do, and the records that travel through it.

Rules that hold for every verb
* A write that returns is durable as far as `capabilities.durable` says, and every later read of this object sees it.
* A write happens as a whole or not at all, at one point of the one order in which all writes happen.
* `NotCommitted`, `Overloaded` and every `TaskError` mean that it did not and will not happen. `OutcomeUnknown` means
  that it may; enqueue is safe to repeat with the same ids, everything else is repeated by the storage itself.
* Reads are local and never block writes.
* Values inside arguments, results and saved state are opaque bytes here; `raftwork.serde` makes and reads them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from raftwork.job import JobInfo
from raftwork.storage.records import (
    ERROR_BYTES_MAX,
    Accepted,
    Change,
    ClaimedJob,
    Clash,
    Clause,
    FunctionInfo,
    JobPage,
    JobSpec,
    NewJob,
    QueueInfo,
    SessionInfo,
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
    "Accepted",
    "Capabilities",
    "Change",
    "ClaimedJob",
    "Clause",
    "Clash",
    "Fetcher",
    "FunctionInfo",
    "JobPage",
    "JobSpec",
    "NewJob",
    "QueueInfo",
    "SessionInfo",
    "Storage",
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


class Fetcher(Protocol):
    """One worker's source of jobs: a session of its own, with heartbeats, prefetch and batched reports behind it.

    Jobs and results are bytes, so that a process executor can pass them on unread: see `decode_claimed` and `result_*`.
    """

    def next(self, timeout: float | None) -> bytes | None:
        """The next job, or None after the time-out. Waits without polling."""
        ...

    def next_many(self, max: int, timeout: float | None) -> list[bytes]:
        """Up to `max` jobs; waits for the first only."""
        ...

    def finish(self, result: bytes) -> None:
        """Report one result. Queued and sent in batches; waits only when too many are under way."""
        ...

    def finish_and_next(self, result: bytes, timeout: float | None) -> bytes | None:
        """`finish` and `next` in one call."""
        ...

    def progress(self, item: bytes) -> None:
        """Send what `pack_progress` made. Of several for one job only the newest may be stored."""
        ...

    def flush(self, timeout: float | None) -> None:
        """Return when everything reported so far is stored."""
        ...

    def events(self, timeout: float | None) -> list[tuple[str, bytes, int]]:
        """What happened to held jobs: `("cancel" | "lost", job id, token)`, or `("session_lost", b"", 0)`."""
        ...

    def fd(self) -> int:
        """A descriptor that is readable when `next_many` would give something, after it gave less than was asked."""
        ...

    def pause(self) -> None:
        """Claim nothing more and give prefetched jobs back, without spending an attempt."""
        ...

    def resume(self) -> None:
        """Claim again after `pause`."""

    def fenced(self) -> bool:
        """Whether no heartbeat was confirmed for two thirds of the session's life: run nothing, report nothing."""
        ...

    def session(self) -> int:
        """The id of this worker's session."""
        ...

    def close(self, timeout: float | None) -> None:
        """Send what is queued and end the session; jobs still held are released."""
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


class Storage(ABC):
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
        """Begin to store and return at once. `failed` is called later, on some thread, if it was refused."""

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

    # Operators

    @abstractmethod
    def cancel(self, jobs: Sequence[bytes], reason: str = "") -> list[Change]:
        """Waiting jobs become `cancelled`; running ones are told."""

    @abstractmethod
    def requeue(self, jobs: Sequence[bytes]) -> list[Change]:
        """Final jobs start again with fresh attempts; scheduled and retrying ones become due now."""

    @abstractmethod
    def delete(self, jobs: Sequence[bytes]) -> list[Change]:
        """Forget jobs that are not running."""

    @abstractmethod
    def pause_queue(self, queue: str, until_ms: int | None = None, reason: str = "") -> None:
        """Hand out nothing from this queue until resumed, or until a time."""

    @abstractmethod
    def resume_queue(self, queue: str) -> None:
        """Hand out again. Harmless when not paused."""

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
    def counts(self) -> dict[str, int]:
        """Jobs by state, and totals derived from transitions."""

    @abstractmethod
    def queues(self) -> list[QueueInfo]:
        """All queues, by name."""

    @abstractmethod
    def job(self, job: bytes) -> JobInfo | None:
        """One job with everything known about it, finished ones included while their retention lasts."""

    @abstractmethod
    def jobs(self, clauses: Sequence[Clause] = (), cursor: bytes | None = None, limit: int = 100) -> JobPage:
        """A page of the jobs for which every clause holds, newest first."""

    @abstractmethod
    def sessions(self) -> list[SessionInfo]:
        """Connected processes."""

    @abstractmethod
    def functions(self) -> list[FunctionInfo]:
        """Functions that have jobs."""

    @abstractmethod
    def totals(self) -> dict[str, Any]:
        """Sizes of the state: jobs, specs, sessions, applied index, clock, memory."""

    @abstractmethod
    def due(self, queues: Sequence[str], functions: Sequence[str]) -> int:
        """How many jobs a claim could give now."""

    # Time

    def advance(self, ms: int) -> None:
        """Move the manual clock of a test storage and do what becomes due."""
        raise NotImplementedError(f"{type(self).__name__} has no manual clock; see capabilities.manual_clock.")
