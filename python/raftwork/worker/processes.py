"""The executor of tasks with `executor="process"`: one child process for each slot, with a thread of ours beside it.

* A child is a fresh interpreter (never a fork: this process has threads), imports the application by name, and runs one
  job at a time. What a job breaks in its process, it breaks for itself.
* A child that dies is a crash of the job that it ran, told with the signal or exit status, and is replaced.
* A child that takes more than its job may is killed at once, see `worker.limits`.
* A time-out is first raised inside the child; when the child does not answer within the grace time it is killed.
  A cancelled job is told, and killed after the grace time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from raftwork import events
from raftwork.codecs import PLAIN, Codecs
from raftwork.errors import RaftworkError
from raftwork.retry import Retry
from raftwork.storage.base import ClaimedJob, decode_claimed, result_released
from raftwork.worker import announce
from raftwork.worker.decide import after_kill
from raftwork.worker.ending import ending_of, report
from raftwork.worker.fetcher import Source
from raftwork.worker.leases import Board
from raftwork.worker.limits import Limits, Watch
from raftwork.worker.pipe import Pipe, PipeClosed
from raftwork.worker.run import Cause, Run
from raftwork.worker.threads import ThreadLane
from raftwork.worker.timekeeper import Entry, Timekeeper

__all__ = ["Child", "ChildUnusable", "ProcessLane", "ProcessOptions"]

logger = logging.getLogger("raftwork.worker")

START_TIMEOUT_S = 60.0
EXIT_TIMEOUT_S = 2.0
RESTART_WAITS_S = (0.0, 0.2, 1.0, 5.0, 15.0)
EXIT_POLL_MS = 500


class ChildUnusable(Exception):
    """The child cannot import the application."""


class Child:
    """One child process and our end of its pipe.

    Raises:
        OSError: the system has no process, socket or descriptor left. Nothing of it is left behind.
    """

    def __init__(self, target: str, log_level: str | None) -> None:
        with contextlib.ExitStack() as undo:
            ours, theirs = socket.socketpair()
            undo.callback(ours.close)
            with theirs:
                descriptor = theirs.fileno()
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "raftwork.worker.child", str(descriptor)],
                    pass_fds=(descriptor,),
                    stdin=subprocess.DEVNULL,
                )
            undo.callback(self.process.wait)
            undo.callback(self.process.kill)
            # A child that forked may be dead while its own child keeps the pipe open: so watch the process as well.
            self._pidfd = os.pidfd_open(self.process.pid) if hasattr(os, "pidfd_open") else None
            undo.pop_all()
        self.pipe = Pipe(ours)
        self._poll = select.poll()
        self._poll.register(ours, select.POLLIN)
        if self._pidfd is not None:
            self._poll.register(self._pidfd, select.POLLIN)
        self._send_load(target, log_level)

    def wait_ready(self) -> None:
        """Wait until it has imported the application. Raises ChildUnusable."""
        try:
            answer = self.receive(START_TIMEOUT_S)
        except PipeClosed:
            raise ChildUnusable(f"a child process ended while it started: {self.how_it_ended()}") from None
        if answer[0] != "ready":
            raise ChildUnusable(f"a child process cannot import the application: {answer[1]}: {answer[2]}\n{answer[3]}")

    def receive(self, timeout: float | None = None) -> list[Any]:
        """The next message. Raises PipeClosed when the child has died, or after the time-out."""
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            ready = self._poll.poll(EXIT_POLL_MS if self._pidfd is None or until is not None else None)
            if any(descriptor == self.pipe.fileno() for descriptor, _ in ready):
                return self.pipe.receive()
            if ready or (self._pidfd is None and self.process.poll() is not None):
                raise PipeClosed
            if until is not None and time.monotonic() > until:
                raise PipeClosed(f"no answer within {timeout} s")

    def kill(self) -> None:
        """End it now."""
        self.process.kill()

    def how_it_ended(self) -> str:
        """Wait for the end of a child that is as good as dead, and put it in words."""
        try:
            status = self.process.wait(EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        if status >= 0:
            return f"process {self.process.pid} exited with status {status}"
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = "unknown"
        return f"process {self.process.pid} was killed by signal {-status} ({name})"

    def dismiss(self) -> None:
        """Ask it to end when it is idle."""
        try:
            self.pipe.send("exit")
        except PipeClosed:
            pass  # It has ended.

    def close(self) -> None:
        """Wait for its end; kill it when it does not come."""
        self.dismiss()
        try:
            self.process.wait(EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.pipe.close()
        if self._pidfd is not None:
            os.close(self._pidfd)

    def _send_load(self, target: str, log_level: str | None) -> None:
        try:
            self.pipe.send("load", target, sys.path, log_level)
        except PipeClosed:
            pass  # It died already; whoever waits for it will find out.


@dataclass(frozen=True, slots=True)
class ProcessOptions:
    """What the slots of one process lane share."""

    target: str
    """Where the children find the application, as `module:attribute`."""
    grace_s: float
    """How long a job may take to end after it was told to."""
    policy: Callable[[ClaimedJob], Retry]
    timekeeper: Timekeeper
    codecs: Codecs = PLAIN
    limits: Mapping[str, Limits] = field(default_factory=dict)
    """Of the functions that have any."""
    jobs_per_child: int | None = None
    """After so many jobs a child is replaced by a new one."""
    log_level: str | None = None
    """From which level on children log, as `set_up_logging` does; None: as the application says."""


class ProcessLane(ThreadLane):
    """Runs jobs in child processes."""

    def __init__(self, name: str, slots: int, source: Source, board: Board, options: ProcessOptions) -> None:
        super().__init__(name, slots, source, board, run=_never)
        self._options = options
        self._slots: list[_Slot] = []
        self._slots_lock = threading.Lock()

    def stop_claiming(self) -> None:
        """Start no more jobs; children that are still importing the application are not waited for."""
        super().stop_claiming()
        for slot in self._all():
            slot.give_up_start()

    def release_rest(self) -> int:
        """Kill the children that still run a job; only then is it given back, so that it never runs twice at once."""
        left = len(self.board.runs)
        for slot in self._all():
            slot.kill()
        self.drain(time.monotonic() + EXIT_TIMEOUT_S)
        super().release_rest()
        return left

    def close(self) -> None:
        """End the session, then the children."""
        super().close()
        slots = self._all()
        for slot in slots:
            slot.dismiss()
        for slot in slots:
            slot.close()

    def pids(self) -> list[int]:
        """The ids of the child processes that run now."""
        return [child.process.pid for slot in self._all() if (child := slot.child) is not None]

    def _all(self) -> list[_Slot]:
        with self._slots_lock:
            return list(self._slots)

    def _executor(self) -> Callable[[bytes], bytes | None]:
        slot = _Slot(self)
        with self._slots_lock:
            self._slots.append(slot)
        slot.fill()
        return slot.run

    @property
    def options(self) -> ProcessOptions:
        """What the slots share."""
        return self._options


def _never(raw: bytes) -> bytes | None:
    raise AssertionError("each slot of a process lane has its own executor")


class _Slot:
    """One place for a child process. Used by one thread; closed, and told to kill, by others."""

    def __init__(self, lane: ProcessLane) -> None:
        self._lane = lane
        self._options = lane.options
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._running: Run | None = None
        self._served = 0
        """Jobs of the child so far."""
        self._ready = False
        self.child: Child | None = None

    def fill(self) -> None:
        """Start a child and wait until it can work; tries again, later and later, until the lane stops."""
        turn = 0
        while True:
            try:
                child = self._start()
                if child is not None:
                    child.wait_ready()
                    self._ready, self._served = True, 0
                return
            except Exception as error:  # Whatever it is: without a child the slot would take jobs that it cannot run.
                self._drop()
                if self._lane.stopping:
                    return
                wait = RESTART_WAITS_S[min(turn, len(RESTART_WAITS_S) - 1)]
                what = error if isinstance(error, ChildUnusable) else f"a child process does not start: {error!r}"
                logger.error("%s: %s. It is started again in %.1f s.", self._lane.name, what, wait)
                turn += 1
                self._closing.wait(wait)

    def run(self, raw: bytes) -> bytes | None:
        """Run one job in the child, and report how it ended."""
        claim = decode_claimed(raw)
        child = self.child
        if child is None:
            return result_released(claim.id, claim.token)  # The lane is stopping.
        run = Run(claim, self._lane.source, self._options.timekeeper)
        run.on_stop = lambda cause: self._stop(run, child, cause)
        deadline = self._start_deadline(run, child)
        self._running = run
        watch = self._start_watch(run, child)
        board = self._lane.board
        board.runs[claim.token] = run
        if board.early:
            board.tell_early(run)  # The child is told before it gets the job, and does not begin it.
        if events.listening():
            announce.started(run)
        try:
            child.pipe.send("job", raw)
            done = self._converse(run, child)
        except PipeClosed:
            self._bury(run, child)
            return None
        finally:
            with self._lock:
                self._running = None
            if watch is not None:
                watch.end()
            if deadline is not None:
                deadline.cancel()
        self._served += 1
        if not board.take(run) or not done:
            done = b""
        elif events.listening():
            announce.ended(run, ending_of(done, self._options.codecs))
        if self._served == self._options.jobs_per_child:
            self._renew(done)
            return None
        return done or None

    def give_up_start(self) -> None:
        """Kill the child if it has not imported the application yet."""
        with self._lock:
            if self.child is not None and not self._ready:
                self.child.kill()

    def kill(self) -> None:
        """Kill the child if it runs a job, which its own thread then reports."""
        child = self.child
        if child is not None and self._running is not None:
            child.kill()

    def dismiss(self) -> None:
        """Ask the child to end, and start no other."""
        with self._lock:
            self._closing.set()
            child = self.child
        if child is not None:
            child.dismiss()

    def close(self) -> None:
        """End the child."""
        self.dismiss()
        self._drop()

    def _start(self) -> Child | None:
        with self._lock:
            if self._lane.stopping or self._closing.is_set():
                return None
            self.child = Child(self._options.target, self._options.log_level)
            return self.child

    def _drop(self) -> None:
        with self._lock:
            child, self.child, self._ready = self.child, None, False
        if child is not None:
            child.close()

    def _converse(self, run: Run, child: Child) -> bytes:
        while True:
            match child.receive():
                case ["done", bytes() as done]:
                    return done
                case ["write", progress, state]:
                    problem = self._store(run, progress, state)
                    if state is not None:
                        child.pipe.send("saved", problem)
                case ["line", str() as line]:
                    run.log(line)
                case other:
                    raise PipeClosed(f"the child sent {other[:1]}")

    def _store(self, run: Run, progress: bytes | None, state: bytes | None) -> list[str] | None:
        """Store what the job says. A failure is for the job to hear; this thread must go on listening to the child."""
        try:
            self._lane.source.write(run, progress, state)
            if state is not None:
                self._lane.source.settle(run)
        except RaftworkError as error:
            return [type(error).__name__, error.message]
        return None

    def _start_deadline(self, run: Run, child: Child) -> Entry | None:
        # The child raises the time-out by itself; this is for one that cannot.
        if run.claim.timeout_ms is None:
            return None
        limit = run.claim.timeout_ms / 1000 + self._options.grace_s
        return self._options.timekeeper.after(limit, lambda: self._time_out(run, child))

    def _start_watch(self, run: Run, child: Child) -> Watch | None:
        limits = self._options.limits.get(run.claim.function)
        if limits is None:
            return None
        pid, timekeeper = child.process.pid, self._options.timekeeper
        return Watch(pid, limits, lambda words: self._exceed(run, child, words), timekeeper)

    def _exceed(self, run: Run, child: Child, words: str) -> None:
        logger.warning("%s: a job of %s is ended. %s", self._lane.name, run.claim.function, words)
        run.exceeded = words
        run.on_stop = None
        run.stop(Cause.LIMIT)
        self._kill(run, child)

    def _renew(self, done: bytes) -> None:
        # Reported first: a new child takes a while, and somebody may wait for the result.
        if done:
            self._lane.source.finish(done)
        self._drop()
        self.fill()

    def _time_out(self, run: Run, child: Child) -> None:
        run.on_stop = None
        run.stop(Cause.TIMEOUT)
        self._kill(run, child)

    def _stop(self, run: Run, child: Child, cause: Cause) -> None:
        try:
            # With the token: when this arrives the child may run the next job, which is innocent.
            child.pipe.send("stop", run.claim.token, int(cause))
        except PipeClosed:
            return
        self._options.timekeeper.after(self._options.grace_s, lambda: self._kill(run, child))

    def _kill(self, run: Run, child: Child) -> None:
        with self._lock:
            if self._running is run:  # The next job in this child is innocent.
                child.kill()

    def _bury(self, run: Run, child: Child) -> None:
        how = child.how_it_ended()
        self._drop()
        ending = after_kill(run, how, self._options.policy(run.claim))
        if run.cause is None:
            logger.error("%s: the %s while it ran %s.", self._lane.name, how, run.claim.function)
        if self._lane.board.take(run):
            # At once: a new child takes a while, and others may run the job meanwhile.
            self._lane.source.finish(report(run.claim, ending, self._options.codecs))
            announce.ended(run, ending)
        self.fill()
