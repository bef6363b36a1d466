"""One job, step by step, from its claim to its report.

    raw claim ── decode ── context ── announce start ── call ── catch ── decide ── report ── announce end

* `run` is for functions and `arun` for coroutine functions; both do the same steps, and neither ever raises.
* They answer the bytes that report how the job ended, or None when nobody wants to hear it: the job was taken off the
  board meanwhile, because its lease is lost or it was released at a shutdown.
* A job without a result, progress or news takes a short way through the same steps: it is the hot path. A listener
  costs it the events and no more.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from raftwork import serde
from raftwork.codecs import PLAIN, Codecs, Kind, is_plain
from raftwork.context import JobContext, activate, current_link
from raftwork.errors import TaskNotRegistered
from raftwork.events import listeners
from raftwork.outcomes import Outcome
from raftwork.storage.base import decode_claimed, result_succeeded
from raftwork.worker import announce
from raftwork.worker.binding import Binding, retry_of
from raftwork.worker.decide import after_error, after_outcome, failed_result, timed_out
from raftwork.worker.ending import Code, Ending, report
from raftwork.worker.guard import ThreadGuard, call_guarded
from raftwork.worker.leases import Board
from raftwork.worker.payloads import Opener
from raftwork.worker.run import Cause, Channel, Run
from raftwork.worker.telling import tell_failure
from raftwork.worker.timekeeper import Timekeeper
from raftwork.worker.versions import Versions

__all__ = ["Runner", "line_sink"]

_copy_context = contextvars.copy_context


def line_sink() -> Callable[[str], None] | None:
    """Where log lines of the job in this context go; None outside of jobs."""
    link = current_link()
    return link.log if isinstance(link, Run) else None


class Runner:
    """Runs jobs for one lane of a worker, or for one child process."""

    def __init__(
        self,
        bindings: Mapping[str, Binding],
        board: Board,
        channel: Channel,
        timekeeper: Timekeeper,
        codecs: Codecs = PLAIN,
    ) -> None:
        self._bindings = bindings
        self.use(codecs)
        self._versions = Versions()
        self._board = board
        self._runs = board.runs
        self._early = board.early
        self._channel = channel
        self._timekeeper = timekeeper

    def use(self, codecs: Codecs) -> None:
        """Read and write payloads so from now on."""
        self._codecs = codecs
        self._opener = Opener(codecs)

    def run(self, raw: bytes) -> bytes | None:
        """Run one claimed job on this thread. Never raises."""
        run = Run(decode_claimed(raw), self._channel, self._timekeeper)
        self._runs[run.claim.token] = run
        try:
            if self._early and run.claim.token in self._early:
                self._hear_early(run)
            # A copy of the context for each job: what one sets with contextvars, the next does not see.
            value = _copy_context().run(self._call, run)
            ending = None if value is None and _plain(run) else self._after_value(run, value)
        except BaseException as error:
            self.raised(run, error)
            ending = after_error(run, error, retry_of(run.claim))
        return self._report(run, ending)

    async def arun(self, raw: bytes, task: asyncio.Task[Any] | None = None) -> bytes | None:
        """Run one claimed job as a task of the event loop, by default the current one. Never raises."""
        run = Run(decode_claimed(raw), self._channel, self._timekeeper)
        self._runs[run.claim.token] = run
        if task is None:
            task = asyncio.current_task()
        try:
            if self._early and run.claim.token in self._early:
                self._hear_early(run)
            binding, context = self._begin(run)
            args, kwargs = binding.arguments(run.claim, context)
            run.on_stop = lambda cause: _cancel(task, run)
            if run.cause is not None:
                _cancel(task, run)  # It was told before there was anything to cancel.
            if run.claim.timeout_ms is None:
                value = await binding.acall(context, args, kwargs)
            else:
                value = await _timed(run, binding.acall(context, args, kwargs))
            ending = None if value is None and _plain(run) else self._after_value(run, value)
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() and not run.cause:
                run.stop(Cause.SHUTDOWN)  # Not by us, so by whoever ends the loop.
            self.raised(run, error)
            ending = after_error(run, error, retry_of(run.claim))
        run.on_stop = None  # The task may take another job, which a late cancellation must not hit.
        return self._report(run, ending)

    def raised(self, run: Run, error: BaseException) -> None:
        """For a subclass that wants the exception itself, of which only a description is stored."""

    def _hear_early(self, run: Run) -> None:
        """Raise what ends a job that was cancelled, or whose lease was lost, before it came here."""
        self._board.tell_early(run)
        if run.cause is not None:
            raise asyncio.CancelledError

    def _call(self, run: Run) -> Any:
        binding, context = self._begin(run)
        args, kwargs = binding.arguments(run.claim, context)
        if run.claim.timeout_ms is None:
            return binding.call(context, args, kwargs)
        guard = ThreadGuard()
        run.start_deadline(run.claim.timeout_ms / 1000, guard)
        try:
            return call_guarded(guard, lambda: binding.call(context, args, kwargs))
        finally:
            run.clear_deadline()

    def _begin(self, run: Run) -> tuple[Binding, JobContext]:
        claim = run.claim
        binding = self._bindings.get(claim.function)
        if binding is None:
            raise TaskNotRegistered(
                f"This worker has no task named {claim.function!r}, although the job was handed to it. "
                "Import the module that defines it before the worker starts."
            )
        if claim.meta != binding.meta:
            self._versions.check(run, binding)
        if claim.state is not None or claim.extras or not is_plain(claim.args):
            self._opener.open(run)
        context = JobContext(run.claim, run, run, self._codecs)
        activate(context)
        if listeners:
            announce.started(run)
        return binding, context

    def _after_value(self, run: Run, value: Any) -> Ending:
        if run.cause is Cause.TIMEOUT:
            return timed_out(run, retry_of(run.claim))
        if isinstance(value, Outcome):
            return after_outcome(run, value, retry_of(run.claim))
        if value is None:
            return Ending(Code.SUCCEEDED)  # Nothing is stored for it, also with keys.
        try:
            packed = serde.encode(value, secrets=self._codecs.takes_secrets)
            return Ending(Code.SUCCEEDED, self._codecs.seal(run.claim.id, Kind.RESULT, packed))
        except BaseException as error:
            self.raised(run, error)
            return failed_result(run, error)

    def _report(self, run: Run, ending: Ending | None) -> bytes | None:
        claim = run.claim
        if ending is not None:
            run.flush()
        if self._runs.pop(claim.token, None) is not run:
            return None
        if ending is None:
            if listeners:
                announce.succeeded(run)
            return result_succeeded(claim.id, claim.token, None)
        if ending.failure is not None:
            tell_failure(claim, ending, self._codecs)
        announce.ended(run, ending)
        return report(claim, ending, self._codecs)


def _plain(run: Run) -> bool:
    """Whether nothing happened while the job ran that its report must wait for."""
    return run.cause is None and run.progress_lock is None


async def _timed(run: Run, job: Awaitable[Any]) -> Any:
    """Await a job and stop it when its time is over."""
    timer = asyncio.get_running_loop().call_later((run.claim.timeout_ms or 0) / 1000, run.stop, Cause.TIMEOUT)
    try:
        return await job
    finally:
        timer.cancel()


def _cancel(task: asyncio.Task[Any] | None, run: Run) -> None:
    def cancel() -> None:
        if run.on_stop is not None and task is not None:
            task.cancel()

    try:
        if task is not None:
            task.get_loop().call_soon_threadsafe(cancel)
    except RuntimeError:
        pass  # The loop is closed, and the task with it.
