"""The worker of one process: starts the lanes, and ends them in order.

    Worker
      ├─ lane "thread"      fetcher (session, heartbeats: Rust) ── N threads: next, run, finish_and_next
      ├─ lane "async"       fetcher ── one event loop: watches the fetcher's descriptor, one task for each job
      ├─ lane "process"     fetcher ── N threads, each with one child process
      ├─ lane "thread-mail" ... a lane more for each queue with a number of its own
      ├─ raftwork-leases-*  one thread for each lane: hears of cancelled jobs and lost leases
      ├─ raftwork-timekeeper one thread, from the first time-out or held-back progress on
      └─ raftwork-schedules one thread, that fires recurring schedules

A stop has three steps: claim nothing more and give back what was claimed ahead; let running jobs end until the drain
time is over; then tell the rest to end and release it, so that another worker runs it again without a spent attempt.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import queue
import threading
import time
import uuid
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from raftwork import events
from raftwork.durations import Duration, duration_ms
from raftwork.errors import ConfigError
from raftwork.job import Job
from raftwork.known import labels_of
from raftwork.operators import id_of
from raftwork.worker.aio import AsyncLane
from raftwork.worker.binding import bindings_of, retry_of
from raftwork.worker.fetcher import Source, SourceOptions
from raftwork.worker.held import AsyncHeld, Held
from raftwork.worker.lane import Lane
from raftwork.worker.leases import Board
from raftwork.worker.limits import supported as limits_supported
from raftwork.worker.logs import Capture, check_level
from raftwork.worker.plan import (
    SLOTS_MAX,
    Kind,
    LanePlan,
    QueueChoice,
    check_labels,
    check_slots,
    check_whole,
    default_processes,
    plan_lanes,
    read_queues,
)
from raftwork.worker.processes import ProcessLane, ProcessOptions
from raftwork.worker.runner import Runner, line_sink
from raftwork.worker.scheduler import Scheduler
from raftwork.worker.signals import StopSignals
from raftwork.worker.target import is_loading, target_of
from raftwork.worker.threads import ThreadLane
from raftwork.worker.timekeeper import Timekeeper

if TYPE_CHECKING:
    from raftwork.app import Raftwork

__all__ = ["Worker"]

logger = logging.getLogger("raftwork.worker")

JOBS_PER_CHILD_MAX = 1_000_000
UNWIND_S = 1.0
"""How long jobs have to end after a worker that stops has told them to."""


class _State(enum.Enum):
    NEW = "new"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"


class Worker:
    """Runs the jobs of an application in this process.

    Args:
        app: whose tasks to run. Only jobs of tasks that are registered when the worker starts are claimed.
        queues: which queues to serve: names, `"mail:4"` or `{"mail": 4}` for a number of jobs at once of their own.
            Default: the queues of the tasks, and `default`.
        threads: plain functions at once.
        concurrency: coroutine functions at once.
        processes: child processes for tasks with `executor="process"`. Default: one for each processor.
        jobs_per_child: replace a child process after so many jobs, for code that leaks. Default: never.
        log_level: from which level on child processes log to standard error, such as `"INFO"`. Default: what the
            application sets up when it is imported.
        prefetch: 0 claims only what a free slot waits for. Otherwise jobs are claimed ahead, as many as are likely to
            start within milliseconds. Default: 0 for child processes.
        strict: serve queues in the given order, each only when those before are empty. Default: share by weight.
        weights: shares of queues without a number of their own, 1 if not named.
        drain_timeout: how long running jobs may go on after a stop.
        kill_grace: how long a job in a child process may go on after it was told to end.
        labels: shown with this worker's session.
        target: `module:attribute` of the application for child processes. Default: found by itself.
        loop: run coroutines on this event loop instead of an own one. It must run until the worker has stopped.

    Example:
        >>> with Worker(app, threads=4):
        ...     serve_forever()
    """

    def __init__(
        self,
        app: Raftwork,
        queues: QueueChoice = None,
        *,
        threads: int = 8,
        concurrency: int = 100,
        processes: int | None = None,
        jobs_per_child: int | None = None,
        log_level: str | None = None,
        prefetch: int | None = None,
        strict: bool = False,
        weights: Mapping[str, int] | None = None,
        drain_timeout: Duration = "30s",
        kill_grace: Duration = "5s",
        labels: Mapping[str, str] | None = None,
        target: str | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._app = app
        self._queues = queues
        self._slots: dict[Kind, int] = {
            "thread": check_slots(threads, "threads"),
            "async": check_slots(concurrency, "concurrency"),
            "process": check_slots(default_processes() if processes is None else processes, "processes"),
        }
        self._prefetch = None if prefetch is None else check_whole(prefetch, "prefetch", 0, SLOTS_MAX)
        self._jobs_per_child = (
            None if jobs_per_child is None else check_whole(jobs_per_child, "jobs_per_child", 1, JOBS_PER_CHILD_MAX)
        )
        self._log_level = None if log_level is None else check_level(log_level)
        self._strict = bool(strict)
        self._weights = dict(weights or {})
        self._drain_s = duration_ms(drain_timeout, "drain_timeout") / 1000
        self._grace_s = duration_ms(kill_grace, "kill_grace") / 1000
        self._labels = check_labels(labels or {})
        self._target = target
        self._loop = loop
        self._lanes: list[Lane] = []
        self._timekeeper = Timekeeper()
        self._scheduler = Scheduler(app)
        self._held = Held()
        self._capture = Capture(line_sink)
        self._state = _State.NEW
        self._lock = threading.Lock()
        self._asked: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._hurried: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._stopped = threading.Event()

    @property
    def running(self) -> int:
        """How many jobs run now."""
        return sum(len(lane.board.runs) for lane in self._lanes)

    def log_lines(self, job: uuid.UUID | str | bytes | Job[Any]) -> list[str]:
        """The last lines, 500 at most, that a job has logged so far; empty if it does not run on this worker.

        `job.logs()` gives them in every process.

        Raises:
            InvalidName: it is no job id.
        """
        identity = id_of(job)
        runs = (run for lane in self._lanes for run in lane.board.all())
        return next((list(run.lines or ()) for run in runs if run.claim.id == identity), [])

    def start(self) -> Worker:
        """Open the storage and begin to run jobs; returns at once.

        Raises:
            ConfigError: there is nothing to run, or the worker was started before.
            StorageError: the storage cannot be opened.
        """
        if is_loading():
            raise ConfigError(
                "Importing the application started a worker. Child processes import it too, so each would start "
                'workers of its own. Put the start under `if __name__ == "__main__":`.'
            )
        with self._lock:
            if self._state is not _State.NEW:
                raise ConfigError("A worker is started once. Make another one.")
            self._state = _State.RUNNING
        self._capture.install()
        started: list[Lane] = []
        try:
            plans = self._plans()
            self._held.open(self._app.middleware.of_worker)
            self._lanes = [self._lane(plan) for plan in plans]
            for lane in self._lanes:
                started.append(lane)
                lane.start()
        except BaseException:
            for lane in started:
                lane.stop_claiming()
                lane.close()
            self._end()
            raise
        self._scheduler.start()
        events.emit("worker.started", queues=self._served(), functions=sorted(bindings_of(self._app)))
        return self

    def pause(self) -> None:
        """Start no more jobs until `resume`: running ones go on, and those claimed ahead are given back.

        For this worker only. `app.queues.pause(name)` stops a queue for all workers.
        """
        for lane in self._lanes:
            lane.source.pause()

    def resume(self) -> None:
        """Start jobs again after `pause`. Harmless otherwise."""
        with self._lock:
            if self._state is not _State.RUNNING:
                return
        for lane in self._lanes:
            lane.source.resume()

    def stop(self, timeout: Duration | None = None) -> None:
        """Stop in order, see the head of this module; returns when it is done. Harmless when stopped.

        Args:
            timeout: how long running jobs may go on. Default: the worker's `drain_timeout`.
        """
        seconds = self._drain_s if timeout is None else duration_ms(timeout, "timeout") / 1000
        with self._lock:
            first = self._state is _State.RUNNING
            if first:
                self._state = _State.STOPPING
            elif self._state is _State.NEW:
                return
        if not first:
            self._stopped.wait()
            return
        try:
            self._stop_lanes(seconds)
        finally:
            self._end()

    async def astop(self, timeout: Duration | None = None) -> None:
        """`stop` for a running event loop, which goes on meanwhile: its coroutine jobs must be able to end."""
        await asyncio.get_running_loop().run_in_executor(None, self.stop, timeout)

    def hurry(self) -> None:
        """Cut a stop short: the time to drain is over now."""
        self._hurried.put(None)

    def run(self) -> int:
        """Work until SIGTERM or SIGINT (see `worker.signals`); for a process that is nothing but a worker.

        Returns the exit status: 0 after an orderly stop, 128 and the signal's number when it was cut short.
        """

        with StopSignals(lambda: self._asked.put(None), self.hurry) as signals:
            self.start()
            self._asked.get()
            self.stop()
            cut_short = signals.received > 1 and signals.last is not None
            return 128 + signals.last if cut_short and signals.last is not None else 0

    def __enter__(self) -> Worker:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Worker:
        await asyncio.get_running_loop().run_in_executor(None, self.start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.astop()

    def _plans(self) -> list[LanePlan]:
        bindings = bindings_of(self._app)
        if not bindings:
            raise ConfigError("No task is registered, so there is nothing to run. Import the modules that define them.")
        queues = read_queues(self._queues, bindings)
        return plan_lanes(queues, bindings, self._weights, self._slots)

    def _lane(self, plan: LanePlan) -> Lane:
        aheld = AsyncHeld(self._app.middleware.of_worker)
        held = aheld if plan.kind == "async" else self._held
        bindings = {name: binding for name, binding in bindings_of(self._app, held).items() if name in plan.functions}
        board = Board()
        labels = labels_of(plan.functions, {**self._labels, "lane": plan.name})
        options = SourceOptions(plan.queues, plan.functions, self._strict, self._prefetch_of(plan), labels)
        source = Source(self._app.storage, options, board, plan.name)
        runner = Runner(bindings, board, source, self._timekeeper, self._app.codecs)
        if plan.kind == "async":
            return AsyncLane(plan.name, plan.slots, source, board, runner.arun, self._loop, aheld)
        if plan.kind == "process":
            target = self._target or target_of(self._app)
            limits = {name: binding.limits for name, binding in bindings.items() if any(binding.limits)}
            if limits and not limits_supported():
                names = ", ".join(sorted(limits))
                raise ConfigError(f"{names}: memory and cpu are limits on Linux only; here is no /proc. Leave them.")
            shared = ProcessOptions(
                target,
                self._grace_s,
                retry_of,
                self._timekeeper,
                self._app.codecs,
                limits,
                self._jobs_per_child,
                self._log_level,
            )
            return ProcessLane(plan.name, plan.slots, source, board, shared)
        return ThreadLane(plan.name, plan.slots, source, board, runner.run)

    def _prefetch_of(self, plan: LanePlan) -> int:
        if self._prefetch is not None:
            return self._prefetch
        # The core claims ahead as much as is likely to start within milliseconds; jobs that are worth a process are
        # long, so one that waits for a busy child would better be free for another worker.
        return 0 if plan.kind == "process" else 1

    def _served(self) -> list[str]:
        return sorted(read_queues(self._queues, bindings_of(self._app)))

    def _stop_lanes(self, seconds: float) -> None:
        self._scheduler.stop()
        for lane in self._lanes:
            lane.stop_claiming()
        events.emit("worker.draining", running=self.running)
        released = 0
        if not self._drain(seconds, self._hurried):
            for lane in self._lanes:
                lane.stop_running()
            if not self._drain(UNWIND_S, queue.SimpleQueue()):
                released = sum(lane.release_rest() for lane in self._lanes)
                logger.warning("%d jobs did not end in time and were given back.", released)
        for lane in self._lanes:
            lane.close()
        events.emit("worker.stopped", released=released)

    def _drain(self, seconds: float, wake: queue.SimpleQueue[None]) -> bool:
        """Wait until nothing runs, the time is over, or something is put into `wake`. True when nothing runs."""
        until = time.monotonic() + seconds
        drained: list[bool] = []

        def wait() -> None:
            left = [lane for lane in self._lanes if not lane.drain(until)]
            drained.append(not left)
            wake.put(None)

        # On a thread of its own, so that a second signal need not wait for the first to be done.
        threading.Thread(target=wait, name="raftwork-drain", daemon=True).start()
        wake.get()
        return drained == [True]

    def _end(self) -> None:
        self._scheduler.close()
        self._timekeeper.close()
        self._held.close()
        self._capture.remove()
        self._state = _State.STOPPED
        self._stopped.set()
