"""Flows: jobs that wait for jobs, chains that pass results on, and batches that finish together."""

from __future__ import annotations

import asyncio
import contextvars
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar, cast, overload

from raftwork import clock
from raftwork.errors import AccessDenied, InvalidOption, InvalidTask, WrongState
from raftwork.flow_info import FlowInfo
from raftwork.job import Job
from raftwork.options import On, check_name
from raftwork.reading import SESSION, Reading
from raftwork.storage.base import Storage
from raftwork.storage.flows import BatchRow, batch_not_found
from raftwork.task import Signature, Task

__all__ = ["Batch", "BatchInfo", "Callback", "Chain", "batch_for", "batch_of", "call_of", "chain"]

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

Step = Signature[R] | Task[..., R]
"""A job of a chain."""
CHAIN_MAX = 1_000
"""Jobs of one chain: it is stored in one write."""

Callback = Signature[Any] | Task[..., Any] | None
"""A job that waits for a batch: a call made by `task.s(...)`, or a task that needs no arguments."""

_current: contextvars.ContextVar[Batch | None] = contextvars.ContextVar("raftwork_batch", default=None)
"""The batch whose `with` block runs."""


class BatchDoor(Protocol):
    """What a batch needs from its application."""

    @property
    def storage(self) -> Storage:
        """Where the jobs are."""
        ...

    def job_flow(self, job: bytes, reading: Reading) -> FlowInfo:
        """The flow around one job or batch."""
        ...


@dataclass(frozen=True, slots=True)
class BatchInfo:
    """A batch at one moment. Times are aware and in UTC."""

    id: uuid.UUID
    name: str
    state: str
    """`open` until it is sealed, `sealed` until no member is pending, then `succeeded`, `failed` or `cancelled`."""
    outer: uuid.UUID | None
    """The batch that it is a member of."""
    opened_at: datetime
    finished_at: datetime | None
    total: int
    """Members: jobs, and batches inside of it."""
    pending: int
    succeeded: int
    failed: int
    cancelled: int

    @property
    def finished(self) -> bool:
        """Whether it has finished. A member that is requeued begins it again."""
        return self.finished_at is not None

    @classmethod
    def of(cls, row: BatchRow) -> BatchInfo:
        """The same out of a storage's answer."""
        return cls(
            id=uuid.UUID(bytes=row.id),
            name=row.name,
            state=row.state,
            outer=None if row.outer is None else uuid.UUID(bytes=row.outer),
            opened_at=clock.from_ms(row.opened_ms),
            finished_at=None if row.finished_ms is None else clock.from_ms(row.finished_ms),
            total=row.total,
            pending=row.pending,
            succeeded=row.succeeded,
            failed=row.failed,
            cancelled=row.cancelled,
        )


class Batch:
    """Jobs that finish together, made by `app.batch(...)`.

    A `with` block opens a new batch, puts the jobs that are enqueued inside into it, and seals it at the end; an error
    that leaves the block cancels it, so that nobody takes a half-made batch for a whole one. For a batch that exists
    already the block only adds jobs. `async with` is the same in coroutines.

    Example:
        >>> with app.batch("month-end", on_success=send_report.s("acme")) as batch:
        ...     for tenant in tenants:
        ...         build_report.enqueue(tenant)
        >>> batch.wait(timeout=600).succeeded
    """

    def __init__(
        self,
        door: BatchDoor,
        id: bytes,
        name: str | None,
        on_success: Callback = None,
        on_failure: Callback = None,
        on_complete: Callback = None,
    ) -> None:
        self._door = door
        self._id = id
        self._name = None if name is None else check_name(name, "The name of the batch")
        """None: it exists already."""
        callbacks: dict[On, Callback] = {"success": on_success, "failure": on_failure, "finish": on_complete}
        self._callbacks: dict[On, Signature[Any]] = {
            on: call_of(call) for on, call in callbacks.items() if call is not None
        }
        self._opens = name is not None
        self._before: list[contextvars.Token[Batch | None]] = []
        self._seals: list[bool] = []
        """For each block that runs: whether it opened the batch, and so ends it."""

    @property
    def id(self) -> uuid.UUID:
        """What `app.batch(id)` and the command line take."""
        return uuid.UUID(bytes=self._id)

    def open(self) -> Self:
        """Store a new batch and its callbacks, which wait for it. A `with` block does this.

        A batch whose callbacks cannot be stored is cancelled.

        Raises:
            WrongState: it was opened before, or the batch around it takes no members any more.
            And for its callbacks as `Task.enqueue`.
        """
        if not self._opens:
            raise WrongState(f"The batch {self.id} was opened before. Add jobs with `with app.batch(id):`.")
        outer = batch_of(self._door)
        self._door.storage.open_batch(self._id, self._name or "", outer)
        self._opens = False
        try:
            with _inside(None):  # Callbacks are no members: what a batch waits for cannot wait for it.
                for on, call in self._callbacks.items():
                    call.task.using(after=self, on=on).enqueue(*call.args, **call.kwargs)
        except BaseException as error:
            self._give_up(error, "while its callbacks were stored")
            raise
        return self

    async def aopen(self) -> Self:
        """`open` for a running event loop."""
        return await asyncio.to_thread(self.open)

    def info(self) -> BatchInfo:
        """Everything known about it now.

        Raises:
            BatchNotFound: it was never opened, or was forgotten, 14 days after it finished.
        """
        row = self._door.storage.batch(self._id)
        if row is None:
            raise batch_not_found(self._id)
        return BatchInfo.of(row)

    async def ainfo(self) -> BatchInfo:
        """`info` for a running event loop."""
        return await asyncio.to_thread(self.info)

    def flow(self) -> FlowInfo:
        """How many jobs wait for it."""
        return self._door.job_flow(self._id, SESSION)

    async def aflow(self) -> FlowInfo:
        """`flow` for a running event loop."""
        return await asyncio.to_thread(self.flow)

    def seal(self) -> bool:
        """From now on it finishes when no member is pending. False: it was sealed before.

        Raises:
            BatchNotFound: there is no such batch.
        """
        return self._known(self._door.storage.seal_batch(self._id))

    async def aseal(self) -> bool:
        """`seal` for a running event loop."""
        return await asyncio.to_thread(self.seal)

    def cancel(self, reason: str = "") -> bool:
        """Cancel its members, also those of batches inside of it: waiting ones at once, running ones are told.

        False: it is over, or was cancelled before.

        Raises:
            BatchNotFound: there is no such batch.
        """
        return self._known(self._door.storage.cancel_batch(self._id, reason))

    async def acancel(self, reason: str = "") -> bool:
        """`cancel` for a running event loop."""
        return await asyncio.to_thread(self.cancel, reason)

    def _known(self, changed: bool | None) -> bool:
        if changed is None:
            raise batch_not_found(self._id)
        return changed

    def wait(self, timeout: float | None = None) -> BatchInfo:
        """Wait until it has finished, however, and tell how it went. Woken by the storage, never polling.

        Args:
            timeout: seconds to wait; None waits as long as it takes.

        Raises:
            TimedOut: members are pending, or it is not sealed.
            BatchNotFound: there is no such batch.
        """
        return BatchInfo.of(self._door.storage.wait_batch(self._id, timeout))

    async def await_finished(self, timeout: float | None = None) -> BatchInfo:
        """`wait` for a running event loop."""
        return BatchInfo.of(await self._door.storage.await_batch(self._id, timeout))

    def __enter__(self) -> Self:
        opened = self._opens
        if opened:
            self.open()
        self._enter(opened)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._leave():
            self._end(error)

    async def __aenter__(self) -> Self:
        # Short writes, each one entry of the log: off the loop, in the context that knows the batch around this one.
        opened = self._opens
        if opened:
            await _off_loop(self.open)
        self._enter(opened)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._leave():
            await _off_loop(lambda: self._end(error))

    def _enter(self, opened: bool) -> None:
        self._before.append(_current.set(self))
        self._seals.append(opened)

    def _leave(self) -> bool:
        _current.reset(self._before.pop())
        return self._seals.pop()

    def _end(self, error: BaseException | None) -> None:
        if error is None:
            self.seal()
        else:
            self._give_up(error, "inside of the `with` block")

    def _give_up(self, error: BaseException, where: str) -> None:
        try:
            self.cancel(f"{type(error).__name__} {where}"[:200])
        except AccessDenied as denied:  # Who enqueues need not operate, and what went wrong first matters more.
            error.add_note(f"The batch {self.id} stays open, with its members: {denied}")

    def __repr__(self) -> str:
        return f"<Batch {self.id}>" if self._name is None else f"<Batch {self._name!r} {self.id}>"


def batch_for(
    door: BatchDoor, name: str | uuid.UUID, on_success: Callback, on_failure: Callback, on_complete: Callback
) -> Batch:
    """For `Raftwork.batch`."""
    if isinstance(name, uuid.UUID):
        if any(call is not None for call in (on_success, on_failure, on_complete)):
            raise InvalidOption(
                "Callbacks are given to a batch when it is opened. Write task.using(after=batch) instead."
            )
        return Batch(door, name.bytes, None)
    return Batch(door, door.storage.new_ids(1)[0], name, on_success, on_failure, on_complete)


def batch_of(door: object) -> bytes | None:
    """The batch of the application whose `with` block runs."""
    batch = _current.get()
    return batch._id if batch is not None and batch._door is door else None


@contextmanager
def _inside(batch: Batch | None) -> Generator[None, None, None]:
    token = _current.set(batch)
    try:
        yield
    finally:
        _current.reset(token)


def call_of(call: Any) -> Signature[Any]:
    """A call that is complete, of a signature or of a task without arguments.

    Raises:
        InvalidTask: it is neither.
        TypeError: an argument is missing.
    """
    if isinstance(call, Task):
        call = call.s()
    if not isinstance(call, Signature):
        raise InvalidTask(f"{call!r:.100} is not a call of a task. Write task.s(arguments).")
    return call.complete()


async def _off_loop(act: Callable[[], Any]) -> None:
    await asyncio.to_thread(act)


class Chain(Generic[R_co]):
    """Jobs of which each gets the result of the one before as its first argument. Made by `chain(...)`."""

    __slots__ = ("steps",)

    def __init__(self, steps: tuple[Signature[Any], ...]) -> None:
        self.steps = steps

    def enqueue(self) -> Job[R_co]:
        """Store all of them, in one write, and answer the last: its result is that of the chain.

        Raises:
            As `Task.enqueue`.
        """
        return cast(Job[R_co], self.steps[0].task.enqueuer.put_chain(self.steps))

    async def aenqueue(self) -> Job[R_co]:
        """`enqueue` for a running event loop."""
        return cast(Job[R_co], await self.steps[0].task.enqueuer.aput_chain(self.steps))

    def __repr__(self) -> str:
        return f"chain({', '.join(map(repr, self.steps))})"


@overload
def chain(first: Step[R], /) -> Chain[R]: ...
@overload
def chain(first: Step[Any], second: Step[R], /) -> Chain[R]: ...
@overload
def chain(first: Step[Any], second: Step[Any], third: Step[R], /) -> Chain[R]: ...
@overload
def chain(first: Step[Any], second: Step[Any], third: Step[Any], fourth: Step[R], /) -> Chain[R]: ...
@overload
def chain(first: Step[Any], /, *others: Step[Any]) -> Chain[Any]: ...
def chain(first: Step[Any], /, *others: Step[Any]) -> Chain[Any]:
    """Several jobs, one after the other: each gets the result of the one before as its first argument.

    Args:
        first: a call made by `task.s(...)`, or a task that needs no arguments.
        others: calls without their first argument, or tasks that need no other one. Type checkers want the task itself
            where nothing but the result is passed.

    Options such as queue or delay are those of each task; a delay counts from the end of the job before. If one fails,
    those behind it are cancelled; `retry()` of the failed one lets them wait again.

    Raises:
        InvalidTask: something is no call of a task, or there are more than 1,000.
        TypeError: a task does not accept its arguments together with a result.

    Example:
        >>> chain(fetch.s("https://..."), parse, store.s(table="pages")).enqueue().result(timeout=60)
    """
    if len(others) >= CHAIN_MAX:
        raise InvalidTask(f"The chain has {1 + len(others):,} jobs, and one write takes {CHAIN_MAX:,}. Cut it.")
    return Chain((call_of(first), *map(_follower, others)))


def _follower(step: Any) -> Signature[Any]:
    if isinstance(step, Task):
        step = step.s()
    if not isinstance(step, Signature):
        raise InvalidTask(f"{step!r:.100} is not a call of a task. Write task.s(arguments), or the task itself.")
    step.task.check(None, *step.args, **step.kwargs)
    return step
