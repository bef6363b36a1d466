"""What travels between the application, the worker and a storage, and its wire form: MessagePack arrays by position.

What only workers read travels as `meta`, opaque to the storage: a MessagePack map with `retry` (the list of
`Retry.pack`) and `version` (of the task; left out if it is 1). A key that a worker does not know is ignored.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

from raftwork.job_info import JobInfo
from raftwork.limits import Carried
from raftwork.reading import NOWHERE, AsOf
from raftwork.retry import Retry
from raftwork.storage.flows import Flow

__all__ = [
    "ERROR_BYTES_MAX",
    "EXTRA_LIMITS",
    "TRACEBACK_BYTES_MAX",
    "Accepted",
    "Change",
    "ClaimedJob",
    "Clause",
    "Clash",
    "DueSchedules",
    "Firing",
    "FunctionInfo",
    "JobPage",
    "JobSpec",
    "LockKind",
    "LockRow",
    "NewJob",
    "PutAnswer",
    "QueueInfo",
    "ErrorRow",
    "QueueLimit",
    "ScheduleRow",
    "SessionInfo",
    "SlotJob",
    "decode_claimed",
    "enqueue_command",
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

ERROR_BYTES_MAX = 64 << 10
"""Encoded bytes of one stored error; `pack_error` cuts to it."""

TRACEBACK_BYTES_MAX = 47 << 10
"""Bytes of its traceback."""

Clause: TypeAlias = tuple[str, str, Sequence[Any]]
"""One condition of a job query: field, operator, alternatives. `raftwork.filters` makes them from text."""

EXTRA_LIMITS = 3
"""The number of limits in the map of what few jobs have."""

_encode = msgspec.msgpack.Encoder().encode


# What goes in ---------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1_024)
def pack_meta(retry: Retry, version: int = 1) -> bytes:
    """The bytes of `JobSpec.meta`."""
    values: dict[str, Any] = {"retry": retry.pack()}
    if version != 1:
        values["version"] = version
    return _encode(values)


@lru_cache(maxsize=4_096)
def read_meta(meta: bytes) -> Retry:
    """What `pack_meta` wrote. Jobs of one task share their bytes, so the answer is remembered."""
    values = msgspec.msgpack.decode(meta) if meta else {}
    return Retry.unpack(values["retry"]) if "retry" in values else Retry()


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What jobs of one task with the same options share. Stored once for all of them."""

    function: str
    queue: str = "default"
    priority: int = 0
    """-100 to 100; higher first."""
    max_attempts: int = 10
    max_crashes: int = 3
    """Crashes with which the job fails; counted apart from attempts."""
    timeout_ms: int | None = None
    keep_result_ms: int = 86_400_000
    keep_failed_ms: int = 14 * 86_400_000
    tags: tuple[str, ...] = ()
    on_conflict: Literal[0, 1, 2] = 0
    """0 keep the existing job, 1 replace it, 2 refuse."""
    unique_window_ms: int | None = None
    """How long a unique key stays taken; None: until its job is final."""
    expires_ms: int | None = None
    """A job that did not start this long after it was created is cancelled, reason `expired`."""
    crash_delay_ms: int = 0
    meta: bytes = b""
    packed: bytes = field(init=False, repr=False, compare=False)
    """The wire form, made once."""

    def __post_init__(self) -> None:
        object.__setattr__(
            self,
            "packed",
            _encode(
                (
                    self.function,
                    self.queue,
                    self.priority,
                    self.max_attempts,
                    self.max_crashes,
                    self.timeout_ms,
                    self.keep_result_ms,
                    self.keep_failed_ms,
                    self.tags,
                    self.on_conflict,
                    self.unique_window_ms,
                    self.expires_ms,
                    self.crash_delay_ms,
                    self.meta,
                )
            ),
        )


class NewJob(NamedTuple):
    """One job to store. `run_at_ms` wins over `delay_ms`; the past means now."""

    id: bytes
    spec: JobSpec
    args: bytes
    delay_ms: int = 0
    run_at_ms: int | None = None
    unique_key: str | None = None
    flow: Flow | None = None
    """Its parents and its batch."""
    limits: Carried = None


def enqueue_command(jobs: Sequence[NewJob]) -> bytes:
    """The command that stores these jobs. Specifications are already packed; each distinct one is sent once."""
    if len(jobs) == 1:
        job = jobs[0]
        row = _encode(_row(job, 0))
        return b"".join((b"\x93\x04\x91", job.spec.packed, b"\x91", row))
    places: dict[JobSpec, int] = {}
    last: JobSpec | None = None
    place = 0
    rows = []
    for job in jobs:
        spec = job.spec
        if spec is not last:  # Comparing specifications costs more than all the rest; neighbours mostly share one.
            place = places.setdefault(spec, len(places))
            last = spec
        rows.append(_row(job, place))
    return _encode((4, [msgspec.Raw(spec.packed) for spec in places], rows))


def _row(job: NewJob, place: int) -> tuple[Any, ...]:
    """A job in a command. What few have is in a map behind the rest."""
    id, _, args, delay_ms, run_at_ms, unique_key, flow, limits = job
    if flow is None and limits is None:
        return (id, place, args, delay_ms, run_at_ms, unique_key)
    extras = {} if flow is None else flow.wire()
    if limits is not None:
        extras[EXTRA_LIMITS] = limits
    return (id, place, args, delay_ms, run_at_ms, unique_key, extras)


class SlotJob(NamedTuple):
    """One job of a schedule that fires. `run_at_ms` None: at once."""

    id: bytes
    slot_ms: int
    run_at_ms: int | None = None


class Firing(NamedTuple):
    """The use of a slot: of a schedule that had this generation and this next slot when it was decided."""

    name: str
    generation: int
    slot_ms: int
    next_ms: int | None
    """The slot that follows."""
    jobs: Sequence[SlotJob]
    """Oldest slot first."""


class Clash(NamedTuple):
    """Why a job of a batch was not simply created."""

    position: int
    """Its place in the batch, from 0."""
    outcome: int
    """1 this id was stored before, 2 the unique key is taken by `existing`, 3 `existing` was replaced."""
    existing: bytes


# What comes out -------------------------------------------------------------------------------------------------------


class ClaimedJob(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A job leased to this worker, and all that is needed to run it."""

    id: bytes
    token: int
    """The fencing token: strictly increasing over all leases of the storage."""
    function: str
    queue: str
    args: bytes
    attempt: int
    """1 for the first run."""
    crashes: int
    priority: int
    created_ms: int
    enqueued_ms: int
    claimed_ms: int
    timeout_ms: int | None
    max_attempts: int
    max_crashes: int
    tags: tuple[str, ...]
    meta: bytes
    state: bytes | None
    """What the previous attempt saved."""
    extras: dict[int, Any] | None = None
    """What few jobs have. In a flow: 1 the results of its parents, `[position, parent, result or nil]` each, and 2 its
    batch. From a schedule: 3 its name and the slot in milliseconds, `[name, slot or nil]`."""

    def __repr__(self) -> str:
        # Arguments and state may hold what must not be shown.
        return f"<ClaimedJob {self.function} {self.id.hex()}>"


decode_claimed: Callable[[bytes], ClaimedJob] = msgspec.msgpack.Decoder(ClaimedJob).decode
"""Read what `Fetcher.next` gave."""


class Accepted(enum.IntEnum):
    """What became of one reported result."""

    ACCEPTED = 0
    LEASE_LOST = 1
    """The token is stale; nothing changed."""
    UNKNOWN = 2


class Change(enum.IntEnum):
    """What became of one job that an operator named."""

    DONE = 0
    TOLD = 1
    """It is running; its worker is told."""
    UNKNOWN = 2
    ALREADY = 3
    """Cancel: it is final. Requeue: it waits or runs. Move and priority: it is final, or is as asked already."""
    RUNNING = 4
    """A running job cannot be deleted, moved or given another priority."""
    CONFLICT = 5
    """Requeue: another job holds its unique key."""


class QueueInfo(NamedTuple):
    """One queue: what waits in it, and what went through it."""

    name: str
    enqueued: int
    processing: int
    scheduled: int
    retrying: int
    paused: bool
    paused_until_ms: int | None
    reason: str
    oldest_enqueued_ms: int | None
    total_in: int
    total_succeeded: int
    total_failed: int


class QueueLimit(NamedTuple):
    """How many jobs of one queue may run at once."""

    name: str
    limit: int | None
    held_back: int
    """Jobs that wait because a limit of theirs has no room now."""


class ErrorRow(NamedTuple):
    """Runs that ended with the same error."""

    fingerprint: str | None
    error: str
    """The type of the exception."""
    function: str
    runs: int
    failed: int
    """Runs among them after which the job was failed for good."""
    first_ms: int
    last_ms: int
    last_job: bytes


class SessionInfo(NamedTuple):
    """One connected process."""

    session: int
    kind: str
    """`client` or `worker`."""
    host: str
    pid: int
    labels: dict[str, str]
    opened_ms: int
    leases: int


class PutAnswer(enum.IntEnum):
    """What became of a schedule that was put."""

    STORED = 0
    OLDER = 1
    """Newer code defines it; nothing changed."""
    SAME = 2
    """It was stored just so, and goes on as it was."""


class ScheduleRow(NamedTuple):
    """One recurring schedule."""

    name: str
    generation: int
    source: str
    """`code` or `api`."""
    paused: str | None
    """Why, if it is paused."""
    next_ms: int | None
    """The slot that it fires next. None: it has ended."""
    last_slot_ms: int | None
    last_job: bytes | None
    fired: int
    skipped: int
    overlap: int
    """0 allow, 1 skip, 2 queue one, 3 replace."""
    function: str
    queue: str
    args: bytes
    definition: bytes
    """What schedulers read; opaque to the storage."""


class DueSchedules(NamedTuple):
    """What a scheduler asks for, at one moment of the storage's clock."""

    rows: list[ScheduleRow]
    """Those that are not paused and whose slot has come, oldest first."""
    now_ms: int
    next_ms: int | None
    """When the next one's slot comes."""


LockKind: TypeAlias = Literal["lock", "semaphore", "read", "write"]
"""What is asked of a lock: the lock, one permit of a semaphore, or a read-write lock to read or to write."""


class LockRow(NamedTuple):
    """One holder of a lock."""

    name: str
    kind: LockKind
    permits: int
    session: int
    session_kind: str
    host: str
    pid: int
    token: int
    since_ms: int
    waiters: int


class FunctionInfo(NamedTuple):
    """One function: what waits and runs now, and what went through it since the storage was made."""

    function: str
    enqueued: int
    processing: int
    total_succeeded: int
    """Times that a job of it succeeded. A job that was run again may count again."""
    total_failed: int


class JobPage(NamedTuple):
    """One page of a query, newest job first."""

    jobs: list[JobInfo]
    cursor: bytes | None
    """Give it to the next call; None when there is nothing more."""
    scanned: int
    complete: bool
    """False when the bound of the scan was reached before the page was full."""
    as_of: AsOf = NOWHERE
    """The state that the page is of."""


# What a worker reports ------------------------------------------------------------------------------------------------


def result_succeeded(job: bytes, token: int, result: bytes | None) -> bytes:
    """The job returned."""
    return _encode((job, token, 0, result))


def result_retry(job: bytes, token: int, delay_ms: int, error: bytes) -> bytes:
    """The attempt failed; run it again after the delay. Fails the job when no attempt is left."""
    return _encode((job, token, 1, delay_ms, error))


def result_failed(job: bytes, token: int, error: bytes) -> bytes:
    """The job failed for good."""
    return _encode((job, token, 2, error))


def result_snoozed(job: bytes, token: int, delay_ms: int, reason: str = "") -> bytes:
    """Not now; no attempt is spent. The reason is kept until the next run."""
    return _encode((job, token, 3, delay_ms, reason) if reason else (job, token, 3, delay_ms))


def result_released(job: bytes, token: int) -> bytes:
    """Given back unfinished, for example by a worker that stops; no attempt is spent."""
    return _encode((job, token, 4))


def result_cancelled(job: bytes, token: int, reason: str) -> bytes:
    """The job stopped because it is not wanted any more."""
    return _encode((job, token, 5, reason))


def result_crashed(job: bytes, token: int, error: bytes) -> bytes:
    """What ran the job died. Counted as a crash; no attempt is spent."""
    return _encode((job, token, 6, error))


def pack_error(kind: str, message: str, traceback: str = "") -> bytes:
    """The wire form of an error, cut to `ERROR_BYTES_MAX`: the middle of a long message or traceback goes first."""
    kind, message, traceback = _cut(kind, 1_024), _cut(message, 16 << 10), _cut(traceback, TRACEBACK_BYTES_MAX)
    return _encode((kind, message, traceback))


def pack_progress(job: bytes, token: int, progress: bytes | None, state: bytes | None) -> bytes:
    """One item for `Fetcher.progress`: the newest progress note, the newest saved state, or both."""
    return _encode((job, token, progress, state))


def _cut(text: str, bytes_max: int) -> str:
    """The text within a number of UTF-8 bytes; lone surrogates are escaped, since the wire carries UTF-8 only."""
    raw = text.encode("utf-8", "backslashreplace")
    if len(raw) > bytes_max:
        mark = b" ... "
        head = (bytes_max - len(mark)) // 2
        raw = raw[:head] + mark + raw[head + len(mark) - bytes_max :]
    return raw.decode("utf-8", "ignore")
