"""What a worker has open while it works, for the jobs of a harness: middleware around it, and values of scope "worker".

| for                                 | opened                            | ended                                     |
|-------------------------------------|-----------------------------------|-------------------------------------------|
| plain things                        | before the first job              | at the end of the harness                 |
| async ones on the harness's loop    | before the first coroutine job    | at the end of the harness                 |
| async ones on a loop of the test    | before its first coroutine job    | with the outermost `adrain` on that loop  |

A loop of the test is not the harness's to run, so nothing of it can wait for the end of the harness.

When a worker dies it ends nothing, and the next job finds a new one. What the dead one had open is let go at the end.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager

from raftwork.around import Around
from raftwork.worker.held import AsyncHeld, Held

__all__ = ["Holding", "NotStarted"]


class NotStarted(Exception):
    """A worker would not have started, so that its job did not run. `error` says why."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


class Holding:
    """What is open.

    Args:
        around: answers the middleware of workers.
    """

    def __init__(self, around: Callable[[], Iterable[Around]]) -> None:
        self._around = around
        self._lock = threading.Lock()
        self._plain: Held | None = None
        self._loops: dict[asyncio.AbstractEventLoop, AsyncHeld] = {}
        self._users: Counter[asyncio.AbstractEventLoop] = Counter()
        self._dead: list[Held | AsyncHeld] = []

    def open(self) -> Held:
        """What plain functions share, opened on first use.

        Raises:
            NotStarted: middleware raised.
        """
        with self._lock:
            if self._plain is None:
                held = Held()
                try:
                    held.open(self._around())
                except Exception as error:
                    raise NotStarted(error) from None
                self._plain = held
            return self._plain

    async def aopen(self) -> AsyncHeld:
        """What coroutines share on the running loop, opened on first use. Raises as `open`."""
        loop = asyncio.get_running_loop()
        held = self._loops.get(loop)
        if held is None:
            held = AsyncHeld(self._around())
            try:
                await held.open()
            except Exception as error:
                raise NotStarted(error) from None
            self._loops[loop] = held
        return held

    @asynccontextmanager
    async def on_this_loop(self) -> AsyncGenerator[None, None]:
        """Around all that runs on a loop: the last one that leaves ends what is open there."""
        loop = asyncio.get_running_loop()
        self._users[loop] += 1
        try:
            yield
        finally:
            self._users[loop] -= 1
            if not self._users[loop]:
                del self._users[loop]
                await self.aclose()

    def die(self) -> None:
        """The worker is gone: nothing is ended, and nothing is open."""
        with self._lock:
            self._dead += [*self._loops.values(), *([self._plain] if self._plain is not None else [])]
            self._plain = None
            self._loops.clear()

    async def aclose(self) -> None:
        """End what is open on the running loop."""
        held = self._loops.pop(asyncio.get_running_loop(), None)
        if held is not None:
            await held.close()

    def close(self) -> None:
        """End what plain functions share, and let go of what dead workers had."""
        with self._lock:
            held, self._plain = self._plain, None
            self._dead.clear()
        if held is not None:
            held.close()
