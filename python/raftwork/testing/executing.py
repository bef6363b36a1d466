"""Runs one claimed job in this process, by the worker's own `Runner`, and keeps the exception that it raised.

* A function runs on the calling thread: what the test has opened there, such as a transaction, is the job's too.
* A coroutine function runs on one loop that all of them share, as in a worker, or on the loop that runs here.
* What a worker has open while it works is opened before the first job and ended by `end_worker`: see `holding`.
* Where a loop runs on the calling thread and is not to be used, the job runs on another thread meanwhile.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import msgspec

from raftwork.app import Raftwork
from raftwork.storage.base import ClaimedJob, Storage, pack_progress
from raftwork.testing.holding import Holding, NotStarted
from raftwork.worker.binding import Binding
from raftwork.worker.ending import RELEASED, report
from raftwork.worker.held import AsyncHeld, Held
from raftwork.worker.leases import Board
from raftwork.worker.run import Cause, Run
from raftwork.worker.runner import Runner
from raftwork.worker.timekeeper import Timekeeper

__all__ = ["Executor", "loop_runs_here"]

T = TypeVar("T")

_encode = msgspec.msgpack.Encoder().encode


class Executor:
    """Runs jobs. Also the channel of what they say meanwhile."""

    def __init__(self, storage: Storage, app: Raftwork) -> None:
        self._storage = storage
        self._app = app
        self._board = Board()
        self._timekeeper = Timekeeper()
        self._loop: asyncio.Runner | None = None
        self._loop_free = threading.Lock()
        self._errors: dict[bytes, BaseException] = {}
        self.holding = Holding(lambda: app.middleware.of_worker)
        """What a worker has open."""

    def end_worker(self) -> None:
        """End what is around the worker, and the loop, with what coroutines left running on it."""
        loop, self._loop = self._loop, None
        if loop is not None:
            _off_loop(lambda: _end_loop(loop, self.holding.aclose()))
        self.holding.close()

    def close(self) -> None:
        """Let go of the rest."""
        self._timekeeper.close()

    def run(self, job: ClaimedJob) -> bytes | None:
        """Run a job; answers its report, None when nobody wants to hear it."""
        if loop_runs_here():
            return _off_loop(lambda: self.run(job))
        try:
            held = self.holding.open()
            if self._app.tasks[job.function].executor == "async":
                return self._on_shared_loop(lambda: self._acall(job))
            return self._runner(job, held).run(_encode(job))
        except NotStarted as error:
            return self._give_back(job, error)

    async def arun(self, job: ClaimedJob) -> bytes | None:
        """`run` for a running event loop, which goes on meanwhile."""
        try:
            held = await asyncio.to_thread(self.holding.open)
            if self._app.tasks[job.function].executor == "async":
                # A task of its own: what cancels the job must not cancel the test.
                return await asyncio.create_task(self._acall(job), context=contextvars.copy_context())
            return await asyncio.to_thread(self._runner(job, held).run, _encode(job))
        except NotStarted as error:
            return self._give_back(job, error)

    async def _acall(self, job: ClaimedJob) -> bytes | None:
        return await self._runner(job, await self.holding.aopen()).arun(_encode(job))

    def _give_back(self, job: ClaimedJob, error: NotStarted) -> bytes:
        self._errors[job.id] = error
        return report(job, RELEASED)

    def error_of(self, job: bytes) -> BaseException | None:
        """What the last run of a job raised. Told once."""
        return self._errors.pop(job, None)

    def cancel(self, job: bytes) -> None:
        """Tell a running job that somebody cancelled it."""
        for run in self._board.all():
            if run.claim.id == job:
                self._board.stop(run.claim.token, Cause.CANCEL)

    def write(self, run: Run, progress: bytes | None, state: bytes | None) -> None:
        """Store progress or state of a running job."""
        self._storage.progress([pack_progress(run.claim.id, run.claim.token, progress, state)])

    def settle(self, run: Run) -> None:
        """Its state is stored already."""

    def line(self, run: Run, line: str) -> None:
        """Log lines stay here; the last of them are stored with a failure."""

    def _runner(self, job: ClaimedJob, held: Held | AsyncHeld) -> Runner:
        bindings = {job.function: Binding(self._app.tasks[job.function], held)}
        return _Recorder(self._errors, bindings, self._board, self, self._timekeeper, self._app.codecs)

    def _on_shared_loop(self, job: Callable[[], Coroutine[Any, Any, bytes | None]]) -> bytes | None:
        context = contextvars.copy_context()
        if not self._loop_free.acquire(blocking=False):
            # A coroutine on it waits for this job, or another thread uses it.
            with asyncio.Runner(loop_factory=asyncio.new_event_loop) as other:
                return other.run(self._on_own_loop(job), context=context)
        try:
            if self._loop is None:
                # With a factory it leaves the loop of this thread alone, which is the test's business.
                self._loop = asyncio.Runner(loop_factory=asyncio.new_event_loop)
            return self._loop.run(job(), context=context)
        finally:
            self._loop_free.release()

    async def _on_own_loop(self, job: Callable[[], Coroutine[Any, Any, bytes | None]]) -> bytes | None:
        async with self.holding.on_this_loop():
            return await job()


class _Recorder(Runner):
    """A runner that keeps exceptions."""

    def __init__(self, errors: dict[bytes, BaseException], *parts: Any) -> None:
        super().__init__(*parts)
        self._errors = errors

    def raised(self, run: Run, error: BaseException) -> None:
        self._errors[run.claim.id] = error


def _end_loop(loop: asyncio.Runner, last: Coroutine[Any, Any, None]) -> None:
    with loop:
        loop.run(last)


def _off_loop(call: Callable[[], T]) -> T:
    """Call it on a thread where no event loop runs: this one, if it can be."""
    if not loop_runs_here():
        return call()
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(contextvars.copy_context().run, call).result()


def loop_runs_here() -> bool:
    """Whether an event loop runs on this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
