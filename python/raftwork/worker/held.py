"""What is open while a worker runs: its middleware, and dependencies of scope `"worker"`.

`Held` is for plain functions, one in each process; `AsyncHeld` for coroutine functions, one on each event loop. Both
end what they hold in the reverse order, and log what fails then: the jobs are done.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import threading
from collections.abc import Iterable
from typing import Any

from raftwork.around import Around, aenter, enter
from raftwork.context import JobContext
from raftwork.dependencies import Dependency

__all__ = ["AsyncHeld", "Held", "amake", "make"]

logger = logging.getLogger("raftwork.worker")


class Held:
    """Open things of one process."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._values: dict[Any, Any] = {}
        self._lock = threading.Lock()

    def open(self, around: Iterable[Around]) -> None:
        """Enter what is around the worker; the async ones belong to event loops. Raises what they raise."""
        try:
            for function in around:
                if not inspect.isasyncgenfunction(function):
                    enter(self._stack, function)
        except BaseException:
            self.close()
            raise

    def value(self, dependency: Dependency) -> Any:
        """A value of scope `"worker"`, made on first use."""
        with self._lock:
            if dependency.factory not in self._values:
                self._values[dependency.factory] = make(self._stack, dependency, None)
            return self._values[dependency.factory]

    def close(self) -> None:
        """End all of it."""
        try:
            self._stack.close()
        except Exception:
            logger.exception("What is around the worker failed at its end.")


class AsyncHeld:
    """Open things of one event loop. To be used on it only."""

    def __init__(self, around: Iterable[Around] = ()) -> None:
        self.around = tuple(function for function in around if inspect.isasyncgenfunction(function))
        """The async middleware of the worker."""
        self._stack = contextlib.AsyncExitStack()
        self._values: dict[Any, Any] = {}
        self._lock = asyncio.Lock()

    @property
    def empty(self) -> bool:
        """Whether there is nothing to open, and nothing to end."""
        return not self.around and not self._values

    async def open(self) -> None:
        """Enter what is around the worker. Raises what they raise."""
        try:
            for function in self.around:
                await aenter(self._stack, function)
        except BaseException:
            await self.close()
            raise

    async def value(self, dependency: Dependency) -> Any:
        """A value of scope `"worker"`, made on first use."""
        async with self._lock:
            if dependency.factory not in self._values:
                self._values[dependency.factory] = await amake(self._stack, dependency, None)
            return self._values[dependency.factory]

    async def close(self) -> None:
        """End all of it."""
        try:
            await self._stack.aclose()
        except Exception:
            logger.exception("What is around the worker failed at its end.")


def make(
    stack: contextlib.ExitStack | contextlib.AsyncExitStack, dependency: Dependency, context: JobContext | None
) -> Any:
    """A new value, which ends with the stack."""
    args = (context,) if dependency.takes_context else ()
    return enter(stack, dependency.factory, *args) if dependency.is_generator else dependency.factory(*args)


async def amake(stack: contextlib.AsyncExitStack, dependency: Dependency, context: JobContext | None) -> Any:
    """`make`, also for what is async."""
    if not dependency.is_async:
        return make(stack, dependency, context)
    args = (context,) if dependency.takes_context else ()
    if dependency.is_generator:
        return await aenter(stack, dependency.factory, *args)
    return await dependency.factory(*args)
