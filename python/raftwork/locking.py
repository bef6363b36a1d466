"""What an application says about locks: `app.lock`, `app.semaphore`, `app.rwlock`, `app.locks`."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod

from raftwork.durations import Duration
from raftwork.lock import Lock, LockInfo, ReadWriteLock
from raftwork.reentrant import Holdings, ReentrantLock
from raftwork.storage.base import Storage

__all__ = ["Locking"]


class Locking(ABC):
    """The part of an application that makes locks and lists them."""

    def __init__(self) -> None:
        super().__init__()
        self._holdings: Holdings = {}

    @property
    @abstractmethod
    def storage(self) -> Storage:
        """Where the locks are."""

    def lock(
        self, name: str, ttl: Duration | None = None, *, timeout: float | None = None, reentrant: bool = False
    ) -> Lock:
        """A lock that one owner in the whole cluster holds at a time, with a fencing token. Asks nothing yet.

        Args:
            name: whoever uses the same name in the same storage wants the same lock.
            ttl: how long after the last sign of life of this process others may have it, from `"500ms"` to `"1h"`.
                Default: `session_ttl`.
            timeout: how many seconds `with` waits for it; None waits as long as it takes, 0 tries once.
            reentrant: the owner is not this object but the running asyncio task, else the thread. It may take the lock
                again, by any object made so, and has the same token; the lock is free when it was released as often.

        Raises:
            InvalidName: the name cannot be one.
            InvalidOption: the time to live or the time-out is out of range.
        """
        if reentrant:
            return ReentrantLock(lambda: self.storage, name, ttl, timeout, self._holdings)
        return Lock(lambda: self.storage, name, ttl, timeout)

    def semaphore(self, name: str, permits: int, ttl: Duration | None = None, *, timeout: float | None = None) -> Lock:
        """One permit of a semaphore: so many owners in the whole cluster hold one at a time, each with its own token.

        Args:
            name: whoever uses the same name in the same storage wants a permit of the same semaphore.
            permits: how many there are, from 1 to 1,000. As long as somebody holds one, another number is refused.
            ttl, timeout: as for `lock`.

        Raises:
            InvalidName: the name cannot be one.
            InvalidOption: the permits, the time to live or the time-out are out of range.
        """
        return Lock(lambda: self.storage, name, ttl, timeout, kind="semaphore", permits=permits)

    def rwlock(self, name: str, ttl: Duration | None = None, *, timeout: float | None = None) -> ReadWriteLock:
        """A lock that many hold to read or one holds to write: `.read()` and `.write()` give the objects for `with`.

        They take turns in the order of asking: a reader that comes after a waiting writer waits behind it.

        Args:
            name, ttl, timeout: as for `lock`.

        Raises:
            InvalidName: the name cannot be one.
            InvalidOption: the time to live or the time-out is out of range.
        """
        return ReadWriteLock(lambda: self.storage, name, ttl, timeout)

    def locks(self) -> list[LockInfo]:
        """Who holds which lock now, by name and token."""
        return [LockInfo.of(row) for row in self.storage.locks()]

    async def alocks(self) -> list[LockInfo]:
        """`locks` for a running event loop."""
        return await asyncio.to_thread(self.locks)
