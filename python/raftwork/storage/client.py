"""Every verb of the storage contract over the compiled client. `raft` and `memory` only say how to open it.

A verb is one MessagePack command (an array that begins with its number) and one reply `[status, index, payload]`;
refusals arrive as exceptions. A question is the same without a write, answered as `[as_of_index, payload]`.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import socket
import threading
import uuid
import weakref
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import msgspec

from raftwork import _core
from raftwork.errors import JobNotFound, NotRunning, OutcomeUnknown, ParentMissing, RaftworkError, TimedOut
from raftwork.job_info import JobInfo
from raftwork.limits import Carried, JobLimits
from raftwork.reading import SESSION, AsOf, Counts, Reading, Rows
from raftwork.storage import core_log
from raftwork.storage.base import (
    Accepted,
    ClaimedJob,
    Clash,
    Clause,
    DueSchedules,
    ErrorRow,
    Fetcher,
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
    Storage,
    StorageLock,
)
from raftwork.storage.client_changes import ClientChanges
from raftwork.storage.client_flows import ClientFlows, is_short
from raftwork.storage.client_lines import ClientLines
from raftwork.storage.completions import Completions
from raftwork.storage.locks import ClientLock
from raftwork.storage.records import EXTRA_LIMITS, enqueue_command

__all__ = ["ClientStorage"]

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode
_decode_claimed = msgspec.msgpack.Decoder(tuple[int, int, list[ClaimedJob]]).decode
_Raw = msgspec.Raw

T = TypeVar("T")

_NO_CLASHES: list[Clash] = []
NOTE = 9
"""The order that notes what was done to jobs."""


class ClientStorage(ClientFlows, ClientChanges, ClientLines, Storage):
    """A storage behind `_core.Client`. Opened on first use; in a forked child, opened again there."""

    def __init__(self, submit_timeout_ms: int = 30_000) -> None:
        self._timeout: float | None = submit_timeout_ms / 1000
        self._client: _core.Client | None = None
        self._completions: Completions | None = None
        self._lock = threading.Lock()
        self._closed = False
        _STORAGES.add(self)

    @abstractmethod
    def _connect(self) -> _core.Client:
        """Open the compiled client."""

    # Life

    def open(self) -> None:
        self._open()

    def _open(self) -> _core.Client:
        with self._lock:
            if self._closed:
                raise NotRunning(f"{self!r} is closed. Open another one, or use the application with app.open().")
            if self._client is None:
                core_log.start()
                client = self._connect()
                self._completions = Completions(client)
                self._client = client
            return self._client

    def close(self, timeout: float | None = 10.0) -> None:
        with self._lock:
            client, completions = self._client, self._completions
            self._client = self._completions = None
            self._closed = True
        try:
            if completions is not None:
                completions.close(timeout)
        finally:
            if client is not None:
                client.close(timeout)

    def _after_fork(self) -> None:
        """The child has none of the parent's threads, so it leaves the parent's client alone and opens its own."""
        self._lock = threading.Lock()
        if self._client is not None and self._reopens_in_child:
            _LEFT_TO_PARENT.append(self._client)
            self._client = self._completions = None

    _reopens_in_child = True

    def health(self) -> dict[str, Any]:
        client = self._client or self._open()
        found: dict[str, Any] = _decode(client.health())
        if "role" in found:
            found["raft_role"] = found["role"]
        found["role"] = client.role()
        certificate = client.certificate()
        if certificate is not None:
            found["client_certificate_expires_ms"], alarm = certificate
            found["alarms"] = [*found.get("alarms", ()), *([] if alarm is None else [alarm])]
        found.setdefault("durability", "fsync" if self.capabilities.durable else "none")
        found.setdefault("status", "alarm" if found.get("alarms") else "ok")
        return found

    def serve_health(self, address: str) -> str:
        return (self._client or self._open()).serve_health(address)

    def metrics(self) -> dict[str, float]:
        lines = self.metrics_text().splitlines()
        samples = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in samples}

    def metrics_text(self) -> str:
        """The same as the text that Prometheus reads, with what each number means."""
        return (self._client or self._open()).metrics().decode()

    def order(self, *order: Any) -> Any:
        """Give an order to the cluster: its number and what it needs, see `raftwork cluster`.

        Raises:
            NotCommitted: not here or not now, and why.
            InvalidOption: the order makes no sense.
        """
        client = self._client or self._open()
        return _decode(client.order(_encode(order), self._timeout))

    def new_ids(self, count: int) -> list[bytes]:
        return _core.new_ids(count)

    # Enqueue

    def enqueue(self, jobs: Sequence[NewJob]) -> list[Clash]:
        command = enqueue_command(jobs)
        try:
            reply = self._reply(command)
        except ParentMissing:
            reply = self._reply(command)  # See `_change`: a parent may go to the archive just then.
        return _clashes(_decode(reply)[2])

    async def aenqueue(self, jobs: Sequence[NewJob]) -> list[Clash]:
        completions, command = self._completions_of(), enqueue_command(jobs)
        try:
            reply = await completions.future(lambda client: client.start(command), self._timeout, _unknown)
        except ParentMissing:
            reply = await completions.future(lambda client: client.start(command), self._timeout, _unknown)
        return _clashes(_decode(reply)[2])

    def start_enqueue(self, jobs: Sequence[NewJob], failed: Callable[[BaseException], None]) -> None:
        completions, command = self._completions_of(), enqueue_command(jobs)

        def again(error: BaseException) -> None:
            if not isinstance(error, ParentMissing):
                return failed(error)
            try:
                completions.start(command, failed, again=True)
            except RaftworkError as refused:
                failed(refused)

        completions.start(command, again)

    async def astart_enqueue(self, jobs: Sequence[NewJob], failed: Callable[[BaseException], None]) -> None:
        completions = self._completions_of()
        if not completions.has_room():
            await asyncio.to_thread(completions.wait_for_room)
        self.start_enqueue(jobs, failed)

    # Sessions and leases

    def open_session(self, kind: str, *, ttl_ms: int = 15_000, labels: Mapping[str, str] | None = None) -> int:
        named = sorted((labels or {}).items())
        session: int = self._submit((1, ttl_ms, kind, socket.gethostname(), os.getpid(), named))
        return session

    def close_session(self, session: int) -> int:
        released: int = self._submit((2, session))
        return released

    def claim(
        self,
        session: int,
        queues: Sequence[tuple[str, int]],
        functions: Sequence[str],
        max: int = 1,
        *,
        strict: bool = False,
    ) -> list[ClaimedJob]:
        return _decode_claimed(self._reply(_encode((5, session, queues, strict, functions, max))))[2]

    def finish(self, results: Sequence[bytes]) -> list[Accepted]:
        return [Accepted(code) for code in self._submit((6, [_Raw(result) for result in results]))]

    def progress(self, items: Sequence[bytes]) -> list[Accepted]:
        return [Accepted(code) for code in self._submit((7, [_Raw(item) for item in items]))]

    def fetcher(
        self,
        queues: Sequence[tuple[str, int]],
        functions: Sequence[str],
        *,
        strict: bool = False,
        prefetch: int = 1,
        labels: Mapping[str, str] | None = None,
    ) -> Fetcher:
        wish = {
            "queues": queues,
            "strict": strict,
            "functions": functions,
            "prefetch": prefetch,
            "labels": labels or {},
        }
        return (self._client or self._open()).fetcher(_encode(wish))

    # Locks

    def lock(self, name: str, ttl_ms: int | None = None, kind: LockKind = "lock", permits: int = 1) -> StorageLock:
        client = self._client or self._open()
        return ClientLock(client.lock(name, ttl_ms, kind, permits), self._completions_of, self._timeout)

    def locks(self) -> list[LockRow]:
        rows: list[LockRow] = []
        after: tuple[str, int] | None = None
        while True:
            page, after = self._view((60, after, 1_000), SESSION)[1]
            rows += [LockRow(*row) for row in page]
            if after is None:
                return rows

    # Schedules

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
        source = "api" if generation is None else "code"
        order = (33, name, generation, source, _Raw(spec.packed), args, overlap, definition, next_ms)
        return PutAnswer(self._submit(order if limits is None else (*order, {EXTRA_LIMITS: limits})))

    def fire_schedules(self, firings: Sequence[Firing]) -> list[list[bool] | RaftworkError | None]:
        commands = [_encode((34, *firing)) for firing in firings]
        answers = self._completions_of().all(commands, self._timeout, _unknown)
        return [_fired(answer) if isinstance(answer, bytes) else answer for answer in answers]

    def move_schedule(self, name: str, generation: int, slot_ms: int, next_ms: int | None) -> bool:
        return bool(self._submit((38, name, generation, slot_ms, next_ms)) == 0)

    def trigger_schedule(self, name: str, job: bytes, slot_ms: int | None = None) -> bool:
        return bool(self._submit((37, name, job) if slot_ms is None else (37, name, job, slot_ms)) == 0)

    def pause_schedule(self, name: str, reason: str = "") -> bool:
        return bool(self._submit((36, name, reason)) != 1)

    def resume_schedule(self, name: str) -> bool:
        return bool(self._submit((36, name, None)) != 1)

    def delete_schedule(self, name: str) -> bool:
        return bool(self._submit((35, name)) == 0)

    def schedules(self) -> list[ScheduleRow]:
        rows: list[ScheduleRow] = []
        # A page ends early where its rows are large, so only an empty one is the last.
        while page := self._view((31, rows[-1].name if rows else None, 1_000), SESSION)[1]:
            rows += [ScheduleRow(*row) for row in page]
        return rows

    def schedule(self, name: str) -> ScheduleRow | None:
        row = self._view((32, name), SESSION)[1]
        return None if row is None else ScheduleRow(*row)

    def due_schedules(self, limit: int, after: tuple[int, str] | None = None) -> DueSchedules:
        # Without a place the question is as all nodes know it.
        rows, now_ms, next_ms = self._view((33, limit) if after is None else (33, limit, after), SESSION)[1]
        return DueSchedules([ScheduleRow(*row) for row in rows], now_ms, next_ms)

    def now_ms(self) -> int:
        # A move of a schedule that there is not: it changes nothing, but every write brings the time along.
        self._submit((38, "-", 0, 0, None))
        return self.due_schedules(1).now_ms

    # Operators

    def pause_queue(self, queue: str, until_ms: int | None = None, reason: str = "") -> None:
        self._submit((11, queue, until_ms, reason))

    def resume_queue(self, queue: str) -> None:
        self._submit((12, queue))

    def limit_queue(self, queue: str, limit: int | None) -> None:
        self._submit((50, queue, limit))

    # Waiting

    def wait(self, job: bytes, timeout: float | None = None) -> JobInfo:
        try:
            return JobInfo.unpack((self._client or self._open()).wait(job, timeout))
        except TimedOut:
            if not is_short(timeout):
                raise
            return self._final(job)

    async def await_final(self, job: bytes, timeout: float | None = None) -> JobInfo:
        completions = self._completions_of()
        try:
            return JobInfo.unpack(await completions.future(lambda client: client.start_wait(job), timeout, lambda e: e))
        except TimedOut:
            if not is_short(timeout):
                raise
            return await asyncio.to_thread(self._final, job)

    def _final(self, job: bytes) -> JobInfo:
        """The job if it is final now: for a time-out that is shorter than the way to the node and back."""
        info = self.job(job)
        if info is None:
            raise JobNotFound(f"No job has the id {uuid.UUID(bytes=job)}.", uuid.UUID(bytes=job))
        if not info.state.final:
            raise TimedOut(f"The job {info.id} is {info.state.value}.")
        return info

    # Reads

    def counts(self, reading: Reading = SESSION) -> Counts:
        as_of, found = self._view((1,), reading)
        counts = Counts(found)
        counts.as_of = as_of
        return counts

    def queues(self, reading: Reading = SESSION) -> Rows[QueueInfo]:
        as_of, found = self._view((2,), reading)
        return _rows(as_of, (QueueInfo(*row) for row in found))

    def queue_limits(self, reading: Reading = SESSION) -> Rows[QueueLimit]:
        as_of, found = self._view((51,), reading)
        return _rows(as_of, (QueueLimit(*row) for row in found))

    def job_limits(self, job: bytes, reading: Reading = SESSION) -> JobLimits | None:
        answer = self._view((50, job), reading)[1]
        return None if answer is None else JobLimits.of(answer)

    def job(self, job: bytes, reading: Reading = SESSION) -> JobInfo | None:
        as_of, detail = self._view((3, job), reading)
        return None if detail is None else JobInfo.from_map(detail, as_of)

    def jobs(
        self,
        clauses: Sequence[Clause] = (),
        cursor: bytes | None = None,
        limit: int = 100,
        reading: Reading = SESSION,
    ) -> JobPage:
        as_of, (rows, following, scanned, complete) = self._view((4, clauses, cursor, limit), reading)
        return JobPage([JobInfo.from_map(row, as_of) for row in rows], following, scanned, complete, as_of)

    def sessions(self, reading: Reading = SESSION) -> Rows[SessionInfo]:
        as_of, found = self._view((5,), reading)
        rows = (
            SessionInfo(session, kind, host, pid, dict(labels), opened_ms, leases)
            for session, kind, host, pid, labels, opened_ms, leases in found
        )
        return _rows(as_of, rows)

    def functions(self, reading: Reading = SESSION) -> Rows[FunctionInfo]:
        as_of, found = self._view((6,), reading)
        return _rows(as_of, (FunctionInfo(*row[:5]) for row in found))

    def errors(self, limit: int = 100, reading: Reading = SESSION) -> Rows[ErrorRow]:
        as_of, (_, found) = self._view((70, limit), reading)
        return _rows(as_of, (ErrorRow(*row) for row in found))

    def totals(self, reading: Reading = SESSION) -> dict[str, Any]:
        found: dict[str, Any] = self._view((7,), reading)[1]
        return found

    def due(self, queues: Sequence[str], functions: Sequence[str]) -> int:
        number: int = self._view((8, queues, functions), SESSION)[1]
        return number

    def fresh(self, timeout: float | None = None) -> None:
        """Return when reads here have everything that was answered anywhere before this call.

        Args:
            timeout: seconds; None waits as long as it takes.

        Raises:
            TimedOut: no majority of the cluster was heard in time.
        """
        (self._client or self._open()).fresh(timeout)

    # Inside

    def _reply(self, command: bytes) -> bytes:
        client = self._client or self._open()
        try:
            return client.submit(command, self._timeout)
        except TimedOut as error:
            raise _unknown(error) from error

    def _submit(self, command: tuple[Any, ...]) -> Any:
        return _decode(self._reply(_encode(command)))[2]

    def _view(self, question: tuple[Any, ...], reading: Reading) -> tuple[AsOf, Any]:
        client = self._client or self._open()
        answer = client.view(_encode(question), reading.consistency, reading.staleness_ms_max, self._timeout)
        index, staleness_ms, payload = _decode(answer)
        return AsOf(index, None if staleness_ms is None else timedelta(milliseconds=staleness_ms)), payload

    def _completions_of(self) -> Completions:
        if self._client is None:
            self._open()
        completions = self._completions
        if completions is None:
            raise NotRunning(f"{self!r} was closed meanwhile.")
        return completions


def _rows(as_of: AsOf, items: Iterable[T]) -> Rows[T]:
    rows = Rows(items)
    rows.as_of = as_of
    return rows


def _clashes(payload: list[Any] | None) -> list[Clash]:
    return _NO_CLASHES if payload is None else [Clash(*row) for row in payload]


def _fired(reply: bytes) -> list[bool] | None:
    stale, codes = _decode(reply)[2]
    return None if stale else [code == 0 for code in codes]


def _unknown(error: TimedOut) -> OutcomeUnknown:
    return OutcomeUnknown(f"No answer in time, so it is not known whether the write happened. {error.message}")


_STORAGES: weakref.WeakSet[ClientStorage] = weakref.WeakSet()
_LEFT_TO_PARENT: list[_core.Client] = []
"""Clients of the parent, kept in a forked child so that nothing of them is torn down there."""


def _in_forked_child() -> None:
    for storage in list(_STORAGES):
        storage._after_fork()


def _at_exit() -> None:
    for storage in list(_STORAGES):
        # Best effort: what is acknowledged is on disk already; this only lets the next owner start at once.
        with contextlib.suppress(Exception):
            storage.close(2.0)
    core_log.stop(1.0)


os.register_at_fork(after_in_child=_in_forked_child)
atexit.register(_at_exit)
