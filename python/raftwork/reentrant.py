"""Locks that their owner may take again: `app.lock(name, reentrant=True)`.

The owner is the running asyncio task, else the thread, as with `threading.RLock`; which object it uses makes no
difference. So a function that locks can be called by one that holds the lock. All of it lies in this process: the
cluster knows one holder.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import NamedTuple

from raftwork.durations import Duration
from raftwork.lock import Holding, Lock
from raftwork.storage.base import Storage, StorageLock

__all__ = ["Holdings", "ReentrantLock"]


class Key(NamedTuple):
    """What a holding belongs to."""

    storage: Storage
    name: str
    owner: object


Holdings = dict[object, Holding]
"""What the tasks and threads of this process hold, by `Key`."""


class ReentrantLock(Lock):
    """A lock whose owner may take it again. It is free when it was released as often as it was taken."""

    def __init__(
        self,
        storage: Callable[[], Storage],
        name: str,
        ttl: Duration | None,
        timeout: float | None,
        holdings: Holdings,
    ) -> None:
        super().__init__(storage, name, ttl, timeout)
        self._holdings = holdings

    def acquire(self, timeout: float | None = None) -> int:
        """As `Lock.acquire`; whoever holds it gets the same token again at once.

        Raises:
            LockLost: the owner holds it, and it was lost. Release it as often as it was taken, then begin anew.
        """
        again = self._again()
        return super().acquire(timeout) if again is None else again

    async def aacquire(self, timeout: float | None = None) -> int:
        """`acquire` for a running event loop."""
        again = self._again()
        return await super().aacquire(timeout) if again is None else again

    def _again(self) -> int | None:
        holding = self._holding()
        if holding.token is None:
            return None
        if holding.is_lost:
            raise self._lost_error("Release it as often as it was taken, then acquire it anew.")
        holding.count += 1
        return holding.token

    def _holding(self) -> Holding:
        key = Key(self._storage(), self.name, _owner())
        return self._holdings.get(key) or Holding(self.name, key)

    def _begin(self) -> tuple[Holding, StorageLock]:
        holding, current = super()._begin()
        self._holdings[holding.owner] = holding
        return holding, current

    def _end(self, holding: Holding) -> None:
        # Not by who asks: a coroutine that is thrown away ends outside of its task.
        super()._end(holding)
        self._holdings.pop(holding.owner, None)


def _owner() -> object:
    try:
        task = asyncio.current_task()
    except RuntimeError:  # No event loop runs in this thread.
        task = None
    return task or threading.current_thread()
