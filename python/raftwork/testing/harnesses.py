"""An application in a test: its jobs in memory, a time that the test moves, and nothing that runs by itself.

    with harness(app) as h:
        sign_up("a@b")                                   enqueues, as in production
        h.assert_enqueued(send_welcome, user_id=1)
        h.drain()                                        runs it as a worker would

The application's own storage is neither opened nor asked, and is there again afterwards, as it was.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, TypeAlias

from raftwork import clock
from raftwork.app import Raftwork
from raftwork.durations import Duration, duration_ms
from raftwork.errors import HarnessMisused, InvalidOption
from raftwork.job_info import JobInfo, JobState
from raftwork.storage.base import Clause
from raftwork.task import Task
from raftwork.testing.driving import Crash, Driver, TurnOptions
from raftwork.testing.executing import loop_runs_here
from raftwork.testing.matching import Expected, listed
from raftwork.worker.logs import Capture
from raftwork.worker.runner import line_sink

__all__ = ["JOBS_MAX", "Harness", "Mode", "harness"]

Mode: TypeAlias = Literal["queue", "inline"]
"""When jobs run: with `drain`, or as soon as they are enqueued."""

JOBS_MAX = 1_000
"""Runs of jobs in one `drain` unless more are asked for."""

PAGE_JOBS = 500

_active: weakref.WeakSet[Raftwork] = weakref.WeakSet()
_active_lock = threading.Lock()


def harness(app: Raftwork, *, mode: Mode = "queue", raise_errors: bool = True, max_jobs: int = JOBS_MAX) -> Harness:
    """Put an application into a harness for the length of a `with` block, also inside of a coroutine.

    Arguments and results are encoded and decoded as in production, so what cannot travel fails in the test too.

    Args:
        app: whose jobs. Whatever its storage is, it gets it back afterwards.
        mode: `"queue"` runs jobs when the test says `drain`; `"inline"` runs them at once, inside of `enqueue`, and
            delayed ones inside of `advance`.
        raise_errors: whether an exception of a job comes out of `drain`, or in inline mode of `enqueue`, once the job
            is stored as retrying or failed.
        max_jobs: runs of jobs in one `drain` or outermost `enqueue`, after which `RunawayJobs` is raised.

    Raises:
        InvalidOption: there is no such mode, or no job may run.

    Example:
        >>> with harness(app) as h:
        ...     send_welcome.enqueue(7)
        ...     h.drain()
    """
    if mode not in ("queue", "inline"):
        raise InvalidOption(f'mode={mode!r} is neither "queue" nor "inline".')
    return Harness(app, mode, TurnOptions(_check_count(max_jobs, "max_jobs"), raise_errors))


class Harness:
    """What `harness(app)` gives: usable once, with `with`."""

    def __init__(self, app: Raftwork, mode: Mode, options: TurnOptions) -> None:
        self.app = app
        """The application."""
        self.mode: Mode = mode
        """When jobs run."""
        self._options = options
        self._driver = Driver(app, options if mode == "inline" else None)
        self._stack = ExitStack()

    def __enter__(self) -> Harness:
        with _active_lock:
            if self.app in _active:
                raise HarnessMisused(
                    f"{self.app!r} is in a harness already, and a second one would hide the jobs of the first. Use the "
                    "one that is there, or end it before."
                )
            _active.add(self.app)
        with ExitStack() as stack:
            stack.callback(_active.discard, self.app)
            stack.callback(self._driver.close)
            self._driver.open()
            stack.enter_context(self.app.standing_in(self._driver.storage))
            self._driver.slots.put()
            capture = Capture(line_sink)
            capture.install()
            stack.callback(capture.remove)
            stack.callback(self._driver.end_worker)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    # Running

    def drain(self, *queues: str, raise_errors: bool | None = None, max_jobs: int | None = None) -> int:
        """Run all jobs that are due, and those that they enqueue, one by one; answers how many runs there were.

        Functions run on this thread, coroutine functions on an event loop that all of them share. What is due later
        waits for `advance`.

        Args:
            queues: only these; all by default.
            raise_errors, max_jobs: for this call, instead of those of the harness.

        Raises:
            Whatever a job raised, with its traceback, after it was stored; what is still due is left for the next call.
                `Snooze` and its relatives are answers and no errors. A job that used up its crashes is `JobFailed`, one
                that ran too long `TimeoutError`.
            RunawayJobs: more than `max_jobs` runs.
            TaskNotRegistered: a job is due whose task the application does not know, so that no worker would take it.
            HarnessMisused: called inside of a job or of a running event loop.
        """
        __tracebackhide__ = True
        if loop_runs_here():
            raise HarnessMisused("drain() would block the event loop that runs here. Use: await h.adrain()")
        return self._driver.drive(self._turn(queues, raise_errors, max_jobs))

    async def adrain(self, *queues: str, raise_errors: bool | None = None, max_jobs: int | None = None) -> int:
        """`drain` for a running event loop: coroutine functions run on it, functions on a thread, as in a worker."""
        __tracebackhide__ = True
        return await self._driver.adrive(self._turn(queues, raise_errors, max_jobs))

    def advance(self, duration: Duration, *, workers: bool = True) -> None:
        """Move the time of the storage: schedules, delays, retries, expiry, pauses, leases. Python's own clock goes on.

        Recurring schedules fire at each slot on the way, those of `@app.cron` and `@app.every` and those that were put;
        `drain` runs their jobs. In inline mode, what is due runs at each slot and at the end.

        Args:
            duration: how far.
            workers: False: nobody works meanwhile. What the schedules missed is decided at the end, as `misfire` says.

        Raises:
            InvalidOption: it is no duration, or a schedule of code cannot be stored.
            RunawayJobs: schedules fired at more than 10,000 instants, up to which the time has moved.
            Whatever a job raised, in inline mode. The time has moved all the way, and schedules have fired.

        Example:
            >>> h.advance("1d")
            ... h.assert_enqueued(nightly)
        """
        __tracebackhide__ = True
        self._driver.advance(duration_ms(duration, "duration"), workers)

    @property
    def now(self) -> datetime:
        """The time of the storage, in UTC. A harness begins at the present."""
        return clock.from_ms(self._driver.now_ms)

    def crash_worker(self, times: int = 1, *, after_run: bool = True, silent: bool = False) -> None:
        """Let the worker die that runs the next job. The job counts a crash, spends no attempt, and is due again.

        Args:
            times: as many of the next runs, one after the other.
            after_run: True for the worst moment: the function has returned, and nobody has heard of it yet, so what it
                did is done again. False: before the function is called.
            silent: nobody notices, as when a whole machine is gone: the job stays `processing` until `advance` has
                gone past `session_ttl`.

        Example:
            >>> h.crash_worker()
            >>> h.drain()  # runs the job twice
        """
        self._driver.crashes.extend([Crash(after_run, silent)] * _check_count(times, "times"))

    # Looking

    def jobs(self, task: Task[..., Any] | str | None = None, *states: JobState | str) -> list[JobInfo]:
        """The jobs that there are, oldest first, with their arguments, results and attempts.

        Args:
            task: only those of this task, or of the task with this name.
            states: only those in one of these states.
        """
        clauses: list[Clause] = []
        if task is not None:
            clauses.append(("function", "=", [task.name if isinstance(task, Task) else self.app.find_task(task).name]))
        if states:
            clauses.append(("state", "=", [str(JobState(state)) for state in states]))
        storage = self._driver.storage
        page = storage.jobs(clauses, limit=PAGE_JOBS)
        rows = page.jobs
        while page.cursor is not None:
            page = storage.jobs(clauses, page.cursor, PAGE_JOBS)
            rows += page.jobs
        # A list leaves out arguments and results.
        found = [info for row in reversed(rows) if (info := storage.job(row.id.bytes)) is not None]
        return [info.seen_by(self.app.codecs) for info in found]

    def counts(self) -> dict[str, int]:
        """How many jobs are in which state; states without a job are left out."""
        counts = self._driver.storage.counts()
        return {str(state): counts[state] for state in JobState if counts[state]}

    def assert_enqueued(
        self, task: Task[..., Any], /, *args: Any, within: Duration | None = None, **kwargs: Any
    ) -> JobInfo:
        """A job of this task waits, for now or for later; answers the oldest such job.

        Args:
            task: whose job.
            args, kwargs: arguments that it must have, however they were passed. Others may be anything.
            within: it must be due at most this long from now.

        Raises:
            AssertionError: there is none; the message lists the jobs of the task.
            TypeError: the task has no such argument.
        """
        __tracebackhide__ = True
        expected, found = self._find(task, args, kwargs, within)
        for info in found:
            return info
        jobs = self.jobs(task)
        there = f"Jobs of this task:\n{listed(jobs, self.now)}" if jobs else f"It has no job at all. {self._others()}"
        raise AssertionError(f"No job waits that is {expected.text}. {there}")

    def assert_not_enqueued(
        self, task: Task[..., Any], /, *args: Any, within: Duration | None = None, **kwargs: Any
    ) -> None:
        """No job of this task waits that `assert_enqueued` would accept.

        Raises:
            AssertionError: there is one; the message lists all of them.
            TypeError: the task has no such argument.
        """
        __tracebackhide__ = True
        expected, found = self._find(task, args, kwargs, within)
        if found:
            raise AssertionError(f"No job should wait that is {expected.text}, but:\n{listed(found, self.now)}")

    def _find(
        self, task: Task[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], within: Duration | None
    ) -> tuple[Expected, Sequence[JobInfo]]:
        expected = Expected(task, args, kwargs, None if within is None else duration_ms(within, "within"))
        now = self.now
        return expected, [info for info in self.jobs(task) if expected.fits(info, now)]

    def _others(self) -> str:
        names = sorted({row.function for row in self._driver.storage.functions()})
        return f"There are jobs of {', '.join(names)}." if names else "No job was enqueued."

    def _turn(self, queues: Sequence[str], raise_errors: bool | None, max_jobs: int | None) -> TurnOptions:
        if self._driver.inside() is not None:
            raise HarnessMisused("drain() was called inside of a job that this harness runs. It runs the rest anyway.")
        own = self._options
        return TurnOptions(
            own.jobs_max if max_jobs is None else _check_count(max_jobs, "max_jobs"),
            own.raise_errors if raise_errors is None else raise_errors,
            queues,
        )

    def __repr__(self) -> str:
        return f"<Harness of {self.app!r}>"


def _check_count(value: int, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidOption(f"{what}={value!r} is not a whole number from 1.")
    return value
