"""Locks over the compiled client: one try to hold one lock."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from raftwork import _core
from raftwork.errors import TimedOut
from raftwork.storage.completions import Completions

__all__ = ["ClientLock"]

_decode = msgspec.msgpack.Decoder().decode


class ClientLock:
    """A `StorageLock` in a session of the client."""

    __slots__ = ("_completions", "_inner", "_submit_timeout")

    def __init__(self, inner: _core.Lock, completions: Callable[[], Completions], submit_timeout: float | None) -> None:
        self._inner = inner
        self._completions = completions
        self._submit_timeout = submit_timeout

    def acquire(self, timeout: float | None) -> int:
        if timeout == 0:
            return self._inner.acquire(False, self._submit_timeout)
        return self._inner.acquire(True, timeout)

    async def aacquire(self, timeout: float | None) -> int:
        waits = timeout != 0
        wait = timeout if waits else self._submit_timeout
        try:
            reply = await self._completions().future(
                lambda _: self._inner.start_acquire(waits), wait, lambda late: late
            )
            (token,) = _decode(reply)
            if token is None:
                raise TimedOut("Somebody else holds the lock.")
        except BaseException:
            self._inner.give_up()
            raise
        taken: int = token
        return taken

    def release(self) -> None:
        self._inner.release(self._submit_timeout)

    async def arelease(self) -> None:
        await self._completions().future(lambda _: self._inner.start_release(), self._submit_timeout, lambda late: late)

    def is_lost(self) -> bool:
        standing = self._inner.standing()
        return standing is not None and standing[1]

    def wait_lost(self, timeout: float | None) -> bool:
        return self._inner.wait_lost(timeout)

    async def await_lost(self, timeout: float | None) -> bool:
        try:
            await self._completions().future(lambda _: self._inner.start_wait_lost(), timeout, lambda late: late)
        except TimedOut:
            return False
        return self.is_lost()
