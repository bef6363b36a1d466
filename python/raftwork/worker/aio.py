"""The executor of coroutine functions: each job is a task of one event loop.

The loop is a thread of its own, or the running loop of the application (`app.running()`). It watches the descriptor of
the fetcher: readable means that jobs are there, so there is no polling and no thread beside the loop.

Invariants
* At most as many jobs run as there are slots. While all are taken the descriptor is not watched.
* Every job runs in a context (`contextvars`) and a task of its own, with one exception that makes short jobs three
  times as fast: a task whose job ended without ever waiting takes the next job. Nothing can have been bound to it.
"""

from __future__ import annotations

import asyncio
import collections
import contextvars
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Generator
from typing import Any

from raftwork.errors import ConfigError, ForkedProcess, RaftworkError
from raftwork.storage.base import Fetcher
from raftwork.worker.fetcher import Source
from raftwork.worker.held import AsyncHeld
from raftwork.worker.lane import Lane
from raftwork.worker.leases import Board

__all__ = ["AsyncLane"]

logger = logging.getLogger("raftwork.worker")

CLOSE_WAIT_S = 5.0


class AsyncLane(Lane):
    """Runs jobs as tasks of an event loop."""

    _loop: asyncio.AbstractEventLoop
    """An own one is made by `start`: a lane that is never started has none to close."""

    def __init__(
        self,
        name: str,
        slots: int,
        source: Source,
        board: Board,
        run: Callable[[bytes, asyncio.Task[Any] | None], Coroutine[Any, Any, bytes | None]],
        loop: asyncio.AbstractEventLoop | None = None,
        held: AsyncHeld | None = None,
    ) -> None:
        super().__init__(name, slots, source, board)
        self._run = run
        self._held = held if held is not None else AsyncHeld()
        self._own = loop is None
        if loop is not None:
            self._loop = loop
        self._thread: threading.Thread | None = None
        self._ready: collections.deque[bytes] = collections.deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._fetcher: Fetcher | None = None
        self._watched: int | None = None
        self._pump_due = False
        self._idle = threading.Event()
        self._idle.set()
        source.opened = self._opened

    def start(self) -> None:
        """Start the loop, unless it is the application's, enter what is around the worker, and open the source.

        Raises:
            ConfigError: there is async middleware, and the loop cannot run it while this waits for it.
        """
        if self._own:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._run_loop, name=f"raftwork-{self.name}", daemon=True)
            self._thread.start()
        if self._held.around:
            if self._runs_here():
                raise ConfigError(
                    "There is async middleware around workers, and start() would block the loop that runs it. Use "
                    "`async with worker:`, or `async with app.running(workers=True):`."
                )
            asyncio.run_coroutine_threadsafe(self._held.open(), self._loop).result()
        self.source.open()

    def stop_claiming(self) -> None:
        """Start no more jobs, and give back what was claimed ahead."""
        super().stop_claiming()
        self._on_loop(self._pump)

    def drain(self, until: float) -> bool:
        """Wait until every task has ended. Not to be called on the loop itself."""
        return self._idle.wait(max(0.0, until - time.monotonic()))

    def close(self) -> None:
        """End the session, and the loop when it is the lane's own."""
        self._on_loop(self._unwatch)
        super().close()
        self._close_held()
        if self._thread is not None:
            self._on_loop(self._loop.stop)
            self._thread.join(CLOSE_WAIT_S)

    @property
    def _has_loop(self) -> bool:
        return not self._own or self._thread is not None

    def _close_held(self) -> None:
        if self._held.empty or not self._has_loop:
            return
        try:
            closed = asyncio.run_coroutine_threadsafe(self._held.close(), self._loop)
            if not self._runs_here():
                closed.result(CLOSE_WAIT_S)
        except (RuntimeError, TimeoutError):
            logger.warning("%s could not end what is around the worker: its event loop does not run.", self.name)

    def _runs_here(self) -> bool:
        """Whether the loop runs on this thread, which then must not wait for it."""
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._cancel_leftovers()
            self._loop.close()

    def _cancel_leftovers(self) -> None:
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        if left:
            # Bounded: a coroutine that swallows its cancellation must not keep the process.
            self._loop.run_until_complete(asyncio.wait(left, timeout=1.0))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())

    def _on_loop(self, call: Callable[[], object]) -> None:
        if not self._has_loop:
            return
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:
            pass  # The loop is closed: nothing runs on it any more.

    def _opened(self, fetcher: Fetcher) -> None:
        def watch() -> None:
            self._unwatch()
            if self._fetcher is not fetcher:
                self._drop_ready()
            self._fetcher = fetcher
            self._pump()

        self._on_loop(watch)

    # Below: on the loop only.

    def _pump(self) -> None:
        """Start as many jobs as there are free slots; watch for more only while a slot is free."""
        self._pump_due = False
        fetcher = self._fetcher
        if fetcher is None or self.source.current is not fetcher or self.stopping:
            self._unwatch()
            if not self._tasks:
                self._drop_ready()
            return
        free = self.slots - len(self._tasks) - len(self._ready)
        try:
            jobs = fetcher.next_many(free, 0) if free > 0 else []
            if len(jobs) == free:
                self._unwatch()
            else:
                self._watch(fetcher)
        except ForkedProcess:
            self._unwatch()
            return
        except RaftworkError as error:
            self._unwatch()
            self.source.broken(fetcher, error)
            return
        if jobs:
            self._idle.clear()
            self._ready.extend(jobs)
            self._spawn(1)

    def _spawn(self, count: int) -> None:
        for _ in range(count):
            self._tasks.add(self._loop.create_task(self._serve(self._fetcher)))

    async def _serve(self, fetcher: Fetcher | None) -> None:
        """Run jobs that are ready, up to and including the first that waits for something."""
        task = asyncio.current_task()
        waited = False
        try:
            while self._ready and fetcher is not None and not waited:
                job = self._run(self._ready.popleft(), task)
                context = contextvars.copy_context()
                try:
                    future = context.run(job.send, None)
                except StopIteration as stop:
                    report: bytes | None = stop.value
                else:
                    waited = True
                    self._spawn(len(self._ready))
                    report = await _Rest(job, context, future)
                if report is not None:
                    fetcher.finish(report)
        except ForkedProcess:
            return
        except RaftworkError as error:
            if fetcher is not None:
                self.source.broken(fetcher, error)
        finally:
            if task is not None:
                self._tasks.discard(task)
            self._look_again()

    def _look_again(self) -> None:
        if not self._tasks and not self._ready:
            self._idle.set()
        if not self._pump_due:
            self._pump_due = True
            self._loop.call_soon(self._pump)

    def _drop_ready(self) -> None:
        """What was claimed under a lost session is somebody else's now."""
        self._ready.clear()
        if not self._tasks:
            self._idle.set()

    def _watch(self, fetcher: Fetcher) -> None:
        if self._watched is None:
            self._watched = fetcher.fd()
            self._loop.add_reader(self._watched, self._pump)

    def _unwatch(self) -> None:
        if self._watched is not None:
            self._loop.remove_reader(self._watched)
            self._watched = None


class _Rest:
    """Awaits the rest of a coroutine that was started by hand, each step in its own context."""

    __slots__ = ("_context", "_future", "_job")

    def __init__(self, job: Coroutine[Any, Any, bytes | None], context: contextvars.Context, future: Any) -> None:
        self._job = job
        self._context = context
        self._future = future

    def __await__(self) -> Generator[Any, Any, bytes | None]:
        future, self._future = self._future, None
        while True:
            try:
                value = yield future
            except BaseException as error:
                step: Callable[[Any], Any] = self._job.throw
                given: Any = error
            else:
                step, given = self._job.send, value
            try:
                future = self._context.run(step, given)
            except StopIteration as stop:
                result: bytes | None = stop.value
                return result
