"""Locks: at most so many holders in the whole cluster, with a fencing token that makes even a late write harmless.

    with app.lock("invoice:42") as lock:
        write_invoice(42, token=lock.token)    the database refuses a token that is lower than one it has seen

`app.semaphore` and `app.rwlock` give the same objects for locks that several may hold.

A lock belongs to the session of its process, not to a clock: it is free when it is released, when the process ends, or
when the process was silent for longer than the session's time to live. A process that cannot make itself heard counts
its locks as lost after two thirds of that time, before anybody else can have them: `lock.lost`.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any

from raftwork import clock, events, options
from raftwork.durations import Duration, duration_ms
from raftwork.errors import (
    InvalidOption,
    LockHeld,
    LockLost,
    LockNotHeld,
    LockTimeout,
    SessionExpired,
    StorageError,
    TimedOut,
)
from raftwork.storage.base import LockKind, LockRow, Storage, StorageLock

__all__ = ["PERMITS_MAX", "Holding", "Lock", "LockInfo", "Lost", "ReadWriteLock"]


TTL_MS_MIN = 500
TTL_MS_MAX = 3_600_000
"""Times to live of sessions, and so of locks."""
PERMITS_MAX = 1_000
"""Holders of one semaphore, and readers of one lock, at a time."""

_NOUNS: dict[LockKind, str] = {
    "lock": "lock",
    "semaphore": "semaphore",
    "read": "read-write lock",
    "write": "read-write lock",
}


@dataclass(frozen=True, slots=True)
class LockInfo:
    """One holder of one lock, at one moment."""

    name: str
    kind: LockKind
    """What it holds: the lock, a permit of the semaphore, or the read-write lock to read or to write."""
    permits: int
    """How many may hold the like at once: 1 unless it is a semaphore or a reader."""
    token: int
    host: str
    pid: int
    session: int
    since: datetime
    waiters: int
    """Owners that wait for it."""

    @classmethod
    def of(cls, row: LockRow) -> LockInfo:
        """From the storage's row."""
        since = clock.from_ms(row.since_ms)
        return cls(row.name, row.kind, row.permits, row.token, row.host, row.pid, row.session, since, row.waiters)


class Lost:
    """Set when the lock was lost: its session was silent for too long, or has ended. Not set by a release."""

    __slots__ = ("_held", "_tell")

    def __init__(self, held: Callable[[], StorageLock | None], tell: Callable[[], None]) -> None:
        self._held = held
        self._tell = tell

    def is_set(self) -> bool:
        """Whether it is lost now. Looks at the clock: also right after this process was stopped for a while."""
        held = self._held()
        return self._seen(held is not None and held.is_lost())

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is lost. False: not within `timeout` seconds (None: for ever), or the lock was released."""
        held = self._held()
        return self._seen(held is not None and held.wait_lost(_seconds(timeout)))

    async def await_set(self, timeout: float | None = None) -> bool:
        """`wait` for a running event loop."""
        held = self._held()
        return self._seen(held is not None and await held.await_lost(_seconds(timeout)))

    def _seen(self, lost: bool) -> bool:
        if lost:
            self._tell()
        return lost

    def __repr__(self) -> str:
        return f"<Lost {'set' if self.is_set() else 'not set'}>"


class Holding:
    """How one owner stands: it waits (no token yet), or holds the lock so many times over."""

    __slots__ = ("_told_lost", "count", "current", "lost", "name", "owner", "token")

    def __init__(self, name: str, owner: object = None) -> None:
        self.name = name
        self.owner = owner
        self._told_lost = False
        self.current: StorageLock | None = None
        self.token: int | None = None
        self.count = 0
        self.lost = Lost(lambda: self.current, lambda: self.tell_lost(self.token))

    def begin(self, current: StorageLock) -> None:
        """Wait for it."""
        self.current, self.token, self.count = current, None, 1

    def acquired(self, token: int, began: float) -> int:
        """Hold it."""
        self.token, self._told_lost = token, False
        events.emit("lock.acquired", lock=self.name, token=token, waited_seconds=time.monotonic() - began)
        return token

    def tell_lost(self, token: int | None) -> None:
        """Told once of each holding, by whoever finds it first."""
        if token is not None and not self._told_lost:
            self._told_lost = True
            events.emit("lock.lost", lock=self.name, token=token)

    def end(self) -> None:
        """Neither wait for it nor hold it."""
        self.current, self.token, self.count = None, None, 0

    @property
    def is_lost(self) -> bool:
        """Whether it was held, and is lost."""
        return self.token is not None and self.lost.is_set()


class Lock:
    """One lock by its name, made by `app.lock`; or one permit of a semaphore, or a read-write lock to read or to write.
    Two objects are two owners, also in one process.

    Use it with `with` or `async with`, or call `acquire` and `release` (`aacquire`, `arelease`). One object holds its
    lock once at a time, unless it was made with `reentrant=True`. Who waits gets it in the order of asking.
    """

    def __init__(
        self,
        storage: Callable[[], Storage],
        name: str,
        ttl: Duration | None = None,
        timeout: float | None = None,
        *,
        kind: LockKind = "lock",
        permits: int = 1,
    ) -> None:
        self._timeout = _seconds(timeout)
        self.name = options.check_name(name, f"The {_NOUNS[kind]}")
        """The name that all processes share."""
        self.kind: LockKind = kind
        """What it is held as."""
        self._permits = _check_permits(permits)
        self._storage = storage
        self._ttl_ms = None if ttl is None else duration_ms(ttl, "ttl", least_ms=TTL_MS_MIN, most_ms=TTL_MS_MAX)
        self._guard = threading.Lock()
        self._own = Holding(self.name)

    def acquire(self, timeout: float | None = None) -> int:
        """Wait for the lock and hold it; answers the token.

        Args:
            timeout: seconds; None waits as long as it takes, 0 tries once.

        Raises:
            LockTimeout: others held it all the time. This object waits no more.
            LockHeld: this object holds it already, or waits for it on another thread.
            LockMismatch: it is held as another kind of lock, or as a semaphore with another number of permits.
            StorageError: the storage did not do it; the message says why.
        """
        until = _until(timeout)
        (holding, waiting), began = self._begin(), time.monotonic()
        try:
            while True:
                try:
                    return holding.acquired(waiting.acquire(_left(until)), began)
                except SessionExpired:
                    # Silent for too long while it waited: it waits again, in a new session.
                    if _left(until) == 0.0:
                        raise self._late(timeout) from None
        except BaseException as error:
            self._end(holding)
            if isinstance(error, TimedOut):
                raise self._late(timeout) from None
            raise

    async def aacquire(self, timeout: float | None = None) -> int:
        """`acquire` for a running event loop. A cancelled wait holds nothing."""
        until = _until(timeout)
        (holding, waiting), began = self._begin(), time.monotonic()
        try:
            while True:
                try:
                    return holding.acquired(await waiting.aacquire(_left(until)), began)
                except SessionExpired:
                    if _left(until) == 0.0:
                        raise self._late(timeout) from None
        except BaseException as error:
            self._end(holding)
            if isinstance(error, TimedOut):
                raise self._late(timeout) from None
            raise

    def release(self) -> None:
        """Give the lock back: the first who waits has it when this returns.

        Raises:
            LockLost: it was lost before this, so others may have worked at the same time.
            LockNotHeld: this object does not hold it: never acquired, or released already.
            StorageError: it is unknown whether it is free. It is not held here any more, and gets free as soon as the
                storage can be reached.
        """
        if (left := self._leave("release")) is not None:
            holding, held, token = left
            with self._telling_release(holding, token):
                held.release()

    async def arelease(self) -> None:
        """`release` for a running event loop."""
        if (left := self._leave("release")) is not None:
            holding, held, token = left
            with self._telling_release(holding, token):
                await held.arelease()

    @property
    def token(self) -> int:
        """The fencing token of this holding: greater than those of all earlier ones, over the life of the cluster.

        Give it along with every write that the lock protects, and let the receiver refuse a lower one than it has seen.
        Several holders of a semaphore, and several readers, have different ones.

        Raises:
            LockNotHeld: this object does not hold the lock.
        """
        token = self._holding().token
        if token is None:
            raise self._not_held("token")
        return token

    @property
    def held(self) -> bool:
        """Whether this object holds the lock now: acquired, not released, and not lost."""
        holding = self._holding()
        return holding.token is not None and not holding.is_lost

    @property
    def lost(self) -> Lost:
        """Set when the lock is lost while this object holds it. See `Lost`."""
        return self._holding().lost

    def check(self) -> None:
        """Raise if the lock is not held any more: for long work between two steps.

        Raises:
            LockLost: it was lost.
            LockNotHeld: it was not acquired, or released.
        """
        holding = self._holding()
        if holding.token is None:
            raise self._not_held("check")
        if holding.is_lost:
            raise self._lost_error("Stop, and acquire it again.")

    def __enter__(self) -> Lock:
        self.acquire(self._timeout)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.release()
            return
        with contextlib.suppress(Exception):  # What the body raised says more.
            self.release()

    async def __aenter__(self) -> Lock:
        await self.aacquire(self._timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            await self.arelease()
            return
        with contextlib.suppress(Exception):
            await self.arelease()

    def __repr__(self) -> str:
        try:
            state = "held" if self.held else "lost" if self.lost.is_set() else "not held"
        except StorageError:
            state = "of another process"
        return f"<Lock {self.name!r} {self.kind} {state}>"

    def _holding(self) -> Holding:
        """How the owner that asks stands."""
        return self._own

    def _begin(self) -> tuple[Holding, StorageLock]:
        with self._guard:
            holding = self._holding()
            if holding.current is not None and not holding.is_lost:
                raise LockHeld(
                    f"This object holds the {self._noun} {self.name!r} already, or waits for it on another thread. "
                    "Release it first, or use another object to wait for it."
                )
            current = self._storage().lock(self.name, self._ttl_ms, self.kind, self._permits)
            holding.begin(current)
            return holding, current

    def _end(self, holding: Holding) -> None:
        holding.end()

    @contextlib.contextmanager
    def _telling_release(self, holding: Holding, token: int) -> Generator[None]:
        try:
            yield
        except LockLost:
            holding.tell_lost(token)
            raise
        events.emit("lock.released", lock=self.name, token=token)

    def _leave(self, what: str) -> tuple[Holding, StorageLock, int] | None:
        """One holding less. The storage's lock and its token, if it was the last."""
        with self._guard:
            holding = self._holding()
            current, token = holding.current, holding.token
            if current is None or token is None:
                raise self._not_held(what)
            holding.count -= 1
            if holding.count > 0:
                return None
            self._end(holding)
            return holding, current, token

    @property
    def _noun(self) -> str:
        return _NOUNS[self.kind]

    def _not_held(self, what: str) -> LockNotHeld:
        return LockNotHeld(
            f"{what}: this object does not hold the {self._noun} {self.name!r}. "
            "Acquire it first, with this same object."
        )

    def _lost_error(self, then: str) -> LockLost:
        return LockLost(f"The {self._noun} {self.name!r} was lost; others may have it now. {then}")

    def _late(self, timeout: float | None) -> LockTimeout:
        within = "at the moment" if timeout == 0 else f"within {timeout:g} s" if timeout is not None else "in time"
        return LockTimeout(
            f"The {self._noun} {self.name!r} is not to be had {within}: others hold it, or were first. Try again later."
        )


class ReadWriteLock:
    """Many readers or one writer, made by `app.rwlock`. Whoever comes after a waiting writer waits behind it."""

    def __init__(
        self, storage: Callable[[], Storage], name: str, ttl: Duration | None = None, timeout: float | None = None
    ) -> None:
        self._make: Callable[[LockKind], Lock] = lambda kind: Lock(storage, name, ttl, timeout, kind=kind)
        self.name = self.read().name
        """The name that all processes share."""

    def read(self) -> Lock:
        """A new owner that wants to read: at most 1,000 at a time, and no writer beside them."""
        return self._make("read")

    def write(self) -> Lock:
        """A new owner that wants to write: alone. Its token is greater than those of all readers before."""
        return self._make("write")

    def __repr__(self) -> str:
        return f"<ReadWriteLock {self.name!r}>"


def _check_permits(permits: Any) -> int:
    if isinstance(permits, bool) or not isinstance(permits, int) or not 1 <= permits <= PERMITS_MAX:
        raise InvalidOption(f"A semaphore of {permits!r}: give a whole number of permits from 1 to {PERMITS_MAX}.")
    return permits


def check_timeout(timeout: Any) -> None:
    """Refuse what is no length of time in seconds."""
    if timeout is None:
        return
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout >= 0:
        raise InvalidOption(
            f"timeout={timeout!r} is not a number of seconds from 0. Give one, or None to wait for ever."
        )


def _seconds(timeout: float | None) -> float | None:
    check_timeout(timeout)
    return timeout


def _until(timeout: float | None) -> float | None:
    check_timeout(timeout)
    return None if timeout is None else time.monotonic() + timeout


def _left(until: float | None) -> float | None:
    return None if until is None else max(0.0, until - time.monotonic())
