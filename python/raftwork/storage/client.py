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
import time
import uuid
import weakref
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from raftwork import _core
from raftwork.errors import JobNotFound, NotRunning, OutcomeUnknown, TimedOut
from raftwork.job import JobInfo
from raftwork.storage import core_log
from raftwork.storage.base import (
    Accepted,
    Change,
    ClaimedJob,
    Clash,
    Clause,
    Fetcher,
    FunctionInfo,
    JobPage,
    JobSpec,
    NewJob,
    QueueInfo,
    SessionInfo,
    Storage,
)
from raftwork.storage.completions import Completions

__all__ = ["ClientStorage"]

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode
_decode_claimed = msgspec.msgpack.Decoder(tuple[int, int, list[ClaimedJob]]).decode
_Raw = msgspec.Raw

_NO_CLASHES: list[Clash] = []


class ClientStorage(Storage):
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
        if completions is not None:
            completions.close(timeout)
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
        found.setdefault("durability", "fsync" if self.capabilities.durable else "none")
        found.setdefault("status", "alarm" if found.get("alarms") else "ok")
        return found

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
        client = self._client or self._open()
        try:
            reply = client.submit(enqueue_command(jobs), self._timeout)
        except TimedOut as error:
            raise _unknown(error) from error
        return _clashes(_decode(reply)[2])

    async def aenqueue(self, jobs: Sequence[NewJob]) -> list[Clash]:
        completions = self._completions_of()
        reply = await completions.future(lambda client: client.start(enqueue_command(jobs)), self._timeout, _unknown)
        return _clashes(_decode(reply)[2])

    def start_enqueue(self, jobs: Sequence[NewJob], failed: Callable[[BaseException], None]) -> None:
        self._completions_of().start(enqueue_command(jobs), failed)

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

    # Operators

    def cancel(self, jobs: Sequence[bytes], reason: str = "") -> list[Change]:
        return [Change(code) for code in self._submit((8, jobs, reason))]

    def requeue(self, jobs: Sequence[bytes]) -> list[Change]:
        return self._change(9, jobs)

    def delete(self, jobs: Sequence[bytes]) -> list[Change]:
        return self._change(10, jobs)

    def _change(self, operation: int, jobs: Sequence[bytes]) -> list[Change]:
        """Do something with jobs that may be in the archive.

        A node looks there before it writes, and a job may go there between the two. Nothing was done to a job that is
        answered as unknown; asked once more, the node finds it.
        """
        answers = [Change(code) for code in self._submit((operation, jobs))]
        places = [place for place, answer in enumerate(answers) if answer is Change.UNKNOWN]
        if places:
            again = self._submit((operation, [jobs[place] for place in places]))
            for place, code in zip(places, again, strict=True):
                answers[place] = Change(code)
        return answers

    def pause_queue(self, queue: str, until_ms: int | None = None, reason: str = "") -> None:
        self._submit((11, queue, until_ms, reason))

    def resume_queue(self, queue: str) -> None:
        self._submit((12, queue))

    # Waiting

    def wait(self, job: bytes, timeout: float | None = None) -> JobInfo:
        try:
            return JobInfo.unpack((self._client or self._open()).wait(job, timeout))
        except TimedOut:
            if not _is_short(timeout):
                raise
            return self._final(job)

    async def await_final(self, job: bytes, timeout: float | None = None) -> JobInfo:
        completions = self._completions_of()
        try:
            return JobInfo.unpack(await completions.future(lambda client: client.start_wait(job), timeout, lambda e: e))
        except TimedOut:
            if not _is_short(timeout):
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

    def counts(self) -> dict[str, int]:
        found: dict[str, int] = self._view((1,))
        return found

    def queues(self) -> list[QueueInfo]:
        return [QueueInfo(*row) for row in self._view((2,))]

    def job(self, job: bytes) -> JobInfo | None:
        detail = self._view((3, job))
        return None if detail is None else JobInfo.from_map(detail)

    def jobs(self, clauses: Sequence[Clause] = (), cursor: bytes | None = None, limit: int = 100) -> JobPage:
        rows, following, scanned, complete = self._view((4, clauses, cursor, limit))
        return JobPage([JobInfo.from_map(row) for row in rows], following, scanned, complete)

    def sessions(self) -> list[SessionInfo]:
        return [
            SessionInfo(session, kind, host, pid, dict(labels), opened_ms, leases)
            for session, kind, host, pid, labels, opened_ms, leases in self._view((5,))
        ]

    def functions(self) -> list[FunctionInfo]:
        return [FunctionInfo(*row[:5]) for row in self._view((6,))]

    def totals(self) -> dict[str, Any]:
        found: dict[str, Any] = self._view((7,))
        return found

    def due(self, queues: Sequence[str], functions: Sequence[str]) -> int:
        number: int = self._view((8, queues, functions))
        return number

    def fresh(self, timeout: float | None = None) -> None:
        """Return when reads here have everything that was answered anywhere before this call.

        Args:
            timeout: seconds; None waits as long as it takes.

        Raises:
            TimedOut: no majority of the cluster was heard in time.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                return (self._client or self._open()).fresh(timeout)
            except TimedOut:
                # The node itself gives up after some seconds; this caller may have more patience.
                timeout = None if until is None else until - time.monotonic()
                if timeout is not None and timeout <= 0:
                    raise

    # Inside

    def _reply(self, command: bytes) -> bytes:
        client = self._client or self._open()
        try:
            return client.submit(command, self._timeout)
        except TimedOut as error:
            raise _unknown(error) from error

    def _submit(self, command: tuple[Any, ...]) -> Any:
        return _decode(self._reply(_encode(command)))[2]

    def _view(self, question: tuple[Any, ...]) -> Any:
        return _decode((self._client or self._open()).view(_encode(question)))[1]

    def _completions_of(self) -> Completions:
        if self._client is None:
            self._open()
        completions = self._completions
        if completions is None:
            raise NotRunning(f"{self!r} was closed meanwhile.")
        return completions


def enqueue_command(jobs: Sequence[NewJob]) -> bytes:
    """The command that stores these jobs. Specifications are already packed; each distinct one is sent once."""
    if len(jobs) == 1:
        job = jobs[0]
        row = _encode((job.id, 0, job.args, job.delay_ms, job.run_at_ms, job.unique_key))
        return b"".join((b"\x93\x04\x91", job.spec.packed, b"\x91", row))
    places: dict[JobSpec, int] = {}
    last: JobSpec | None = None
    place = 0
    rows = []
    for id, spec, args, delay_ms, run_at_ms, unique_key in jobs:
        if spec is not last:  # Comparing specifications costs more than all the rest; neighbours mostly share one.
            place = places.setdefault(spec, len(places))
            last = spec
        rows.append((id, place, args, delay_ms, run_at_ms, unique_key))
    return _encode((4, [_Raw(spec.packed) for spec in places], rows))


def _is_short(timeout: float | None) -> bool:
    """Whether a wait may be over before a node that is far away could answer."""
    return timeout is not None and timeout < 1.0


def _clashes(payload: list[Any] | None) -> list[Clash]:
    return _NO_CLASHES if payload is None else [Clash(*row) for row in payload]


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
