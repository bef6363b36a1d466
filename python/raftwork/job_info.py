"""A job at one moment: its state, and everything known about it.

awaiting ─► scheduled ─► enqueued ─► processing ─► succeeded
                ▲            ▲       │  │  └─────► failed      (attempts or crashes used up)
                └── snooze ──┼───────┘  └────────► retrying ─► enqueued
                             └── requeue of a final job        cancelled from any state
"""

from __future__ import annotations

import enum
import functools
import uuid
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from raftwork import clock, descriptions, saved, serde
from raftwork.codecs import PLAIN, SEALED_TEXT, Codecs, Kind
from raftwork.errors import PayloadError, RemoteError, SerializationError
from raftwork.reading import NOWHERE, AsOf
from raftwork.remote_error import FINGERPRINT_HEADING

__all__ = ["LOG_HEADING", "Attempt", "JobInfo", "JobState", "Progress", "version_of"]

LOG_HEADING = "\nLast log lines of the job:\n"
"""Between the traceback of an error and the lines that the job logged."""


class JobState(enum.StrEnum):
    """Where a job is. The same words in Python, on the command line and in the documentation."""

    AWAITING = "awaiting"
    SCHEDULED = "scheduled"
    ENQUEUED = "enqueued"
    PROCESSING = "processing"
    RETRYING = "retrying"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether the job leaves this state only by an explicit requeue."""
        return self in _FINAL


_FINAL = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})


class Progress(NamedTuple):
    """How far a job says it is."""

    done: float
    total: float | None
    note: str


class Attempt(NamedTuple):
    """One run of a job that has ended."""

    attempt: int
    started_at: datetime
    ended_at: datetime | None
    outcome: str
    error: RemoteError | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobInfo:
    """A job at one moment. Times are aware and in UTC.

    In answers of `app.jobs(...)` the arguments, result and attempts are left out; ask `app.job(id).info()` for them.
    """

    id: uuid.UUID
    function: str
    queue: str
    state: JobState
    priority: int
    attempt: int
    crashes: int
    max_attempts: int
    max_crashes: int
    generation: int
    created_at: datetime
    run_at: datetime | None
    enqueued_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    tags: tuple[str, ...]
    unique_key: str | None
    progress: Progress | None
    error: RemoteError | None
    reason: str | None
    """Why it was cancelled, failed without an error, or waits after a `Snooze`."""
    cancel_requested: bool
    archived: bool
    timeout_ms: int | None = None
    expires_at: datetime | None = None
    keep_until: datetime | None = None
    session: int | None = None
    token: int | None = None
    schedule: str | None = None
    """The recurring schedule that it comes from."""
    slot: datetime | None = None
    """The instant that the schedule means by it, whenever it runs; None if somebody triggered it beside its slots."""
    attempts: tuple[Attempt, ...] = ()
    packed_args: bytes | None = field(default=None, repr=False)
    packed_result: bytes | None = field(default=None, repr=False)
    packed_state: bytes | None = field(default=None, repr=False)
    packed_progress: bytes | None = field(default=None, repr=False)
    meta: bytes = field(default=b"", repr=False)
    batch: uuid.UUID | None = None
    """The batch that it belongs to."""
    in_flow: bool | None = None
    """Whether `Job.flow` has something to tell: it has parents or a batch, or others wait for it.

    None: lists, and nodes of an older version, do not say.
    """
    as_of_index: int = field(default=0, compare=False)
    """The entry of the log that the state ends with which this is of; 0 where that is not told."""
    staleness: timedelta | None = field(default=None, compare=False)
    """Whatever happened to the job so long ago is told. None: nobody knows."""
    codecs: Codecs = field(default=PLAIN, compare=False, repr=False)
    """What reads the packed parts, which are as they are stored."""

    @property
    def args(self) -> list[Any]:
        """The positional arguments. Raises SerializationError when this process lacks one of their classes."""
        return [] if self.packed_args is None else serde.decode_args(self._open(Kind.ARGS, self.packed_args))[0]

    @property
    def kwargs(self) -> dict[str, Any]:
        """The keyword arguments. Raises SerializationError when this process lacks one of their classes."""
        return {} if self.packed_args is None else serde.decode_args(self._open(Kind.ARGS, self.packed_args))[1]

    @property
    def result(self) -> Any:
        """What the job returned; None until then."""
        return None if self.packed_result is None else serde.decode(self._open(Kind.RESULT, self.packed_result))

    @property
    def version(self) -> int:
        """The version of the task whose arguments these are, as `@app.task(version=...)` says."""
        return version_of(self.meta)

    @property
    def log_lines(self) -> list[str]:
        """The last lines that the job logged before it failed last; they are part of its traceback, too."""
        _, heading, text = ("" if self.error is None else self.error.traceback).rpartition(LOG_HEADING)
        text = text.rpartition(FINGERPRINT_HEADING)[0] or text
        return [line.removeprefix("  ") for line in text.splitlines()] if heading else []

    @property
    def steps(self) -> list[str]:
        """The names of the steps whose results are remembered, in the order in which they were done."""
        return list(saved.split(self.packed_state and self._open(Kind.STATE, self.packed_state))[1])

    @property
    def call(self) -> str:
        """The call as text, such as `send_welcome(7, template='vip')`, also when a class of it is not at hand."""
        shown = self._text(Kind.ARGS, self.packed_args)
        return f"{self.function.rpartition('.')[2]}({'...' if shown is None else shown})"

    @property
    def result_text(self) -> str | None:
        """The result as text, also when a class of it is not at hand; None when there is none."""
        return self._text(Kind.RESULT, self.packed_result)

    def seen_by(self, codecs: Codecs) -> JobInfo:
        """The same, read with these codecs."""
        if not codecs.encrypts and not self._has_sealed_texts():
            return self  # Without keys all codecs read the same.
        job = self.id.bytes
        return replace(
            self,
            codecs=codecs,
            progress=_progress(job, self.packed_progress, codecs),
            error=_clear(job, self.error, codecs),
            reason=None if self.reason is None else codecs.open_text(job, Kind.REASON, self.reason),
            attempts=tuple(run._replace(error=_clear(job, run.error, codecs)) for run in self.attempts),
        )

    def _has_sealed_texts(self) -> bool:
        errors = [self.error, *(run.error for run in self.attempts)]
        texts = [self.reason or "", *(error.message for error in errors if error is not None)]
        return any(text.startswith(SEALED_TEXT) for text in texts)

    def _open(self, kind: Kind, stored: bytes) -> bytes:
        return self.codecs.open(self.id.bytes, kind, stored)

    def _text(self, kind: Kind, stored: bytes | None) -> str | None:
        if stored is None:
            return None
        try:
            packed = self._open(kind, stored)
        except PayloadError as error:
            return f"<{error.message}>"
        return descriptions.describe_args(packed) if kind is Kind.ARGS else descriptions.describe(packed)

    @classmethod
    def unpack(cls, detail: bytes) -> JobInfo:
        """Read the storage's answer about one job."""
        return cls.from_map(msgspec.msgpack.decode(detail))

    @classmethod
    def from_map(cls, detail: dict[str, Any], as_of: AsOf = NOWHERE) -> JobInfo:
        """Read the storage's answer about one job, decoded already. Fields that a list leaves out may be missing."""
        get = detail.get
        return cls(
            id=uuid.UUID(bytes=detail["id"]),
            function=detail["function"],
            queue=detail["queue"],
            state=JobState(detail["state"]),
            priority=detail["priority"],
            attempt=detail["attempt"],
            crashes=detail["crashes"],
            max_attempts=detail["max_attempts"],
            max_crashes=detail["max_crashes"],
            generation=get("generation", 0),
            created_at=clock.from_ms(detail["created_ms"]),
            run_at=_instant(get("run_at_ms")),
            enqueued_at=_instant(get("enqueued_ms")),
            started_at=_instant(get("started_ms")),
            finished_at=_instant(get("finished_ms")),
            tags=tuple(get("tags") or ()),
            unique_key=get("unique_key"),
            progress=_progress(detail["id"], get("progress"), PLAIN),
            error=_error(get("error")),
            reason=get("reason"),
            cancel_requested=bool(get("cancel_requested")),
            archived=bool(get("archived")),
            timeout_ms=get("timeout_ms"),
            expires_at=_instant(get("expires_ms")),
            keep_until=_instant(get("keep_until_ms")),
            session=get("session"),
            token=get("token"),
            schedule=get("schedule"),
            slot=_instant(get("slot")),
            attempts=tuple(_attempt(*values) for values in get("attempts") or ()),
            packed_args=get("args"),
            packed_result=get("result"),
            packed_state=get("state_saved"),
            packed_progress=get("progress"),
            meta=get("meta") or b"",
            batch=uuid.UUID(bytes=batch) if (batch := get("batch")) else None,
            in_flow=get("in_flow"),
            as_of_index=as_of.index,
            staleness=as_of.staleness,
        )


@functools.lru_cache(maxsize=4_096)
def version_of(meta: bytes) -> int:
    """The version of the task that is written in a job's `meta`; 1 if none is."""
    try:
        version = msgspec.msgpack.decode(meta)["version"]
    except (msgspec.DecodeError, KeyError, TypeError, UnicodeDecodeError):
        return 1
    return version if isinstance(version, int) else 1


def _instant(ms: int | None) -> datetime | None:
    return None if ms is None else clock.from_ms(ms)


def _error(values: list[str] | None) -> RemoteError | None:
    return None if values is None else RemoteError(*values)


def _clear(job: bytes, error: RemoteError | None, codecs: Codecs) -> RemoteError | None:
    if error is None:
        return None
    message = codecs.open_text(job, Kind.MESSAGE, error.message)
    return RemoteError(error.type, message, codecs.open_text(job, Kind.TRACEBACK, error.traceback))


def _progress(job: bytes, stored: bytes | None, codecs: Codecs) -> Progress | None:
    if stored is None:
        return None
    try:
        return Progress(*serde.decode(codecs.open(job, Kind.PROGRESS, stored), what="progress"))
    except (SerializationError, PayloadError, TypeError):
        return None  # A note that this process cannot read must not hide the job.


def _attempt(attempt: int, started_ms: int, ended_ms: int | None, outcome: str, error: list[str] | None) -> Attempt:
    return Attempt(attempt, clock.from_ms(started_ms), _instant(ended_ms), outcome, _error(error))
