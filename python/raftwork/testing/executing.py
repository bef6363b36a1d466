"""Runs one claimed job in this process, by the worker's own `Runner`, and keeps the exception that it raised.

* A function runs on the calling thread: what the test has opened there, such as a transaction, is the job's too.
* A coroutine function runs on one loop that all of them share, as in a worker, or on the loop that runs here.
* Where a loop runs on the calling thread and is not to be used, the job runs on another thread meanwhile.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from raftwork.codecs import Codecs
from raftwork.storage.base import ClaimedJob, Storage, pack_progress
from raftwork.worker.binding import Binding
from raftwork.worker.leases import Board
from raftwork.worker.run import Cause, Run
from raftwork.worker.runner import Runner
from raftwork.worker.timekeeper import Timekeeper

__all__ = ["Executor", "loop_runs_here"]

_encode = msgspec.msgpack.Encoder().encode


class Executor:
    """Runs jobs. Also the channel of what they say meanwhile."""

    def __init__(self, storage: Storage, codecs: Codecs) -> None:
        self._storage = storage
        self._codecs = codecs
        self._board = Board()
        self._timekeeper = Timekeeper()
        self._loop: asyncio.Runner | None = None
        self._loop_free = threading.Lock()
        self._errors: dict[bytes, BaseException] = {}

    def close(self) -> None:
        """End the loop, and what coroutines left running on it."""
        if self._loop is not None:
            self._loop.close()
        self._timekeeper.close()

    def run(self, bindings: Mapping[str, Binding], job: ClaimedJob) -> bytes | None:
        """Run a job; answers its report, None when nobody wants to hear it."""
        if loop_runs_here():
            context = contextvars.copy_context()
            with ThreadPoolExecutor(1) as pool:
                return pool.submit(context.run, self.run, bindings, job).result()
        runner = self._runner(bindings)
        if bindings[job.function].kind == "async":
            return self._on_shared_loop(runner.arun(_encode(job)))
        return runner.run(_encode(job))

    async def arun(self, bindings: Mapping[str, Binding], job: ClaimedJob) -> bytes | None:
        """`run` for a running event loop, which goes on meanwhile."""
        runner = self._runner(bindings)
        if bindings[job.function].kind == "async":
            # A task of its own: what cancels the job must not cancel the test.
            return await asyncio.create_task(runner.arun(_encode(job)), context=contextvars.copy_context())
        return await asyncio.to_thread(runner.run, _encode(job))

    def error_of(self, job: bytes) -> BaseException | None:
        """What the last run of a job raised. Told once."""
        return self._errors.pop(job, None)

    def cancel(self, job: bytes) -> None:
        """Tell a running job that somebody cancelled it."""
        run = self._board.runs.get(job)
        if run is not None:
            self._board.stop(job, run.claim.token, Cause.CANCEL)

    def write(self, run: Run, progress: bytes | None, state: bytes | None) -> None:
        """Store progress or state of a running job."""
        self._storage.progress([pack_progress(run.claim.id, run.claim.token, progress, state)])

    def settle(self, run: Run) -> None:
        """Its state is stored already."""

    def line(self, run: Run, line: str) -> None:
        """Log lines stay here; the last of them are stored with a failure."""

    def _runner(self, bindings: Mapping[str, Binding]) -> Runner:
        return _Recorder(self._errors, bindings, self._board, self, self._timekeeper, self._codecs)

    def _on_shared_loop(self, job: Coroutine[Any, Any, bytes | None]) -> bytes | None:
        context = contextvars.copy_context()
        if not self._loop_free.acquire(blocking=False):
            # A coroutine on it waits for this job, or another thread uses it.
            with asyncio.Runner(loop_factory=asyncio.new_event_loop) as other:
                return other.run(job, context=context)
        try:
            if self._loop is None:
                # With a factory it leaves the loop of this thread alone, which is the test's business.
                self._loop = asyncio.Runner(loop_factory=asyncio.new_event_loop)
            return self._loop.run(job, context=context)
        finally:
            self._loop_free.release()


class _Recorder(Runner):
    """A runner that keeps exceptions."""

    def __init__(self, errors: dict[bytes, BaseException], *parts: Any) -> None:
        super().__init__(*parts)
        self._errors = errors

    def raised(self, run: Run, error: BaseException) -> None:
        self._errors[run.claim.id] = error


def loop_runs_here() -> bool:
    """Whether an event loop runs on this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
