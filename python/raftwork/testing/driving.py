"""Runs the jobs of a harness one after the other, and moves its time; `slots` fires schedules on the way.

    drain, or an enqueue in inline mode ── turn ──┬── claim ── run ── report ── anything to raise?
                                                  └── again, until nothing is due or something is to be raised

* A turn is all that one outermost call causes. In inline mode a job that enqueues runs the other job within the same
  turn, so an error comes out of the outermost call and never out of an `enqueue` inside of another job, where there is
  none in production either.
* An error is raised after the job's report is stored, and ends the turn: what is still due is for the next one.
* Each run has a session of its own, so that a crash costs no other job its lease. What a worker has open while it
  works, they share until one crashes.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass

from raftwork import clock, descriptions
from raftwork.app import Raftwork
from raftwork.codecs import Kind
from raftwork.errors import JobFailed, RunawayJobs, TaskNotRegistered
from raftwork.job import outcome_of
from raftwork.job_info import JobState
from raftwork.outcomes import Outcome
from raftwork.storage.base import ClaimedJob, Clause
from raftwork.testing.executing import Executor, loop_runs_here
from raftwork.testing.holding import NotStarted
from raftwork.testing.slots import Slots
from raftwork.testing.stand_in import HarnessStorage
from raftwork.worker.decide import OWN_FRAMES
from raftwork.worker.ending import Code, ending_of
from raftwork.worker.failure import user_frames
from raftwork.worker.guard import Interrupt

__all__ = ["Crash", "Driver", "TurnOptions"]

DEPTH_MAX = 20
"""Jobs inside of one another in inline mode; the interpreter has frames for more."""

CLAIM_QUEUES_MAX = 1_000
"""Queues that one claim may name."""

_current: contextvars.ContextVar[Turn | None] = contextvars.ContextVar("raftwork_turn", default=None)


@dataclass(frozen=True, slots=True)
class Crash:
    """How a worker dies."""

    after_run: bool
    """When the job is done and not reported yet; otherwise before its function is called."""
    silent: bool
    """Nobody notices until its session lapses."""


@dataclass(frozen=True, slots=True)
class TurnOptions:
    """What one turn may do."""

    jobs_max: int
    raise_errors: bool
    queues: Sequence[str] = ()
    """Only these; empty for all."""


@dataclass(eq=False)
class Turn:
    """What one outermost call causes."""

    driver: Driver
    options: TurnOptions
    outer: Turn | None
    """The turn of another harness inside of which this one began."""
    count: int = 0
    depth: int = 0
    failed: BaseException | None = None
    """What to raise. From then on nothing more runs."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One job, ready to be run."""

    job: ClaimedJob
    session: int
    crash: Crash | None

    @property
    def runs(self) -> bool:
        """Whether its function is called at all."""
        return self.crash is None or self.crash.after_run


class Driver:
    """Claims, runs and reports.

    Args:
        app: whose tasks to run.
        inline: what to run with each enqueue; None for nothing.
    """

    def __init__(self, app: Raftwork, inline: TurnOptions | None) -> None:
        self._app = app
        self._inline = inline
        self._silent: list[tuple[int, int]] = []
        self._now_ms = 0
        self.storage = HarnessStorage(self.run_inline, self._arun_inline, lambda job: self._executor.cancel(job))
        self._executor = Executor(self.storage, app)
        self.slots = Slots(app, self.storage)
        self.crashes: deque[Crash] = deque()
        """One for each of the next runs."""

    def open(self) -> None:
        """Set the virtual time to the present, from which code works out when a job is due."""
        session = self.storage.open_session("client")
        self._now_ms = self.storage.totals()["now_ms"]
        self.storage.close_session(session)
        self._move_to(max(self._now_ms, clock.now_ms()))

    def end_worker(self) -> None:
        """End what is around a worker, while the application still has its storage here."""
        self._executor.end_worker()

    def close(self) -> None:
        """Let go of everything."""
        self._executor.close()
        self.storage.end()

    # Time

    @property
    def now_ms(self) -> int:
        """The virtual time."""
        return self._now_ms

    def advance(self, ms: int, workers: bool) -> None:
        """Move the time, with a stop at each slot of a schedule, which fires, and where the session of a worker that
        died silently lapses. In inline mode, what is due runs at each stop. Without workers, only at the end.
        """
        __tracebackhide__ = True
        end = self._now_ms + ms
        self.slots.begin()
        if self._inline is None:
            while self._step(end, workers):
                pass
            return
        turn = self._turn(self._inline)
        with _entered(turn):
            more = True
            while more:
                more = self._step(end, workers)
                if turn.depth == 1:
                    turn.count = 0  # At each stop as many runs as one enqueue may cause.
                if workers or not more:
                    self._run(turn)
        self._outcome(turn)

    def _step(self, end: int, workers: bool) -> bool:
        """Move the time to the next stop. False: that was the end."""
        slot = self.slots.next_ms() if workers else None
        stops = [end, *(at for at, _ in self._silent), *([] if slot is None else [slot])]
        self._move_to(max(self._now_ms, min(stops)))
        for at, session in sorted(self._silent):
            if at <= self._now_ms:
                self._silent.remove((at, session))
                self.storage.lapse(session)
        at_end = self._now_ms >= end
        if workers or at_end:
            self.slots.fire()
        return not at_end

    def _move_to(self, ms: int) -> None:
        self.storage.advance(ms - self._now_ms)
        self._now_ms = ms

    # Turns

    def inside(self) -> Turn | None:
        """The turn that this code is called from: a job of this harness runs here."""
        turn = _current.get()
        while turn is not None and turn.driver is not self:
            turn = turn.outer
        return turn

    def drive(self, options: TurnOptions) -> int:
        """Run what is due, and what becomes due by that; answers how many runs there were."""
        __tracebackhide__ = True
        turn = self._turn(options)
        with _entered(turn):
            self._run(turn)
        return self._outcome(turn)

    def _run(self, turn: Turn) -> None:
        while (claim := self._claim(turn)) is not None:
            report = self._executor.run(claim.job) if claim.runs else None
            self._end(turn, claim, report)

    async def adrive(self, options: TurnOptions) -> int:
        """`drive` for a running event loop, which goes on meanwhile."""
        __tracebackhide__ = True
        turn = self._turn(options)
        task = asyncio.current_task()
        cancelled_before = task.cancelling() if task is not None else 0
        with _entered(turn):
            async with self._executor.holding.on_this_loop():
                while (claim := self._claim(turn)) is not None:
                    report = await self._executor.arun(claim.job) if claim.runs else None
                    self._end(turn, claim, report)
                    if task is not None and task.cancelling() > cancelled_before:
                        # The job took the blow: whoever cancelled this call waits for its end all the same.
                        turn.failed = asyncio.CancelledError()
        return self._outcome(turn)

    def run_inline(self) -> None:
        """In inline mode, run what is due."""
        if self._inline is not None:
            self.drive(self._inline)

    async def _arun_inline(self) -> None:
        if self._inline is not None:
            await self.adrive(self._inline)

    def _turn(self, options: TurnOptions) -> Turn:
        return self.inside() or Turn(self, options, _current.get())

    def _claim(self, turn: Turn) -> Claim | None:
        if turn.failed is not None:
            return None
        # Asked anew for each: a job may have registered a task, or begun a queue.
        functions = list(self._app.tasks)
        queues = turn.options.queues or self._filled_queues()
        if turn.count >= turn.options.jobs_max or turn.depth > DEPTH_MAX:
            if self.storage.due(queues, functions):
                turn.failed = _runaway(turn)
            return None
        session = self.storage.open_session("worker", ttl_ms=self._app.setting("session_ttl"))
        jobs = self.storage.claim(session, [(queue, 1) for queue in queues], functions)
        if not jobs:
            self.storage.close_session(session)
            return None
        turn.count += 1
        return Claim(jobs[0], session, self.crashes.popleft() if self.crashes else None)

    def _filled_queues(self) -> list[str]:
        filled = [queue.name for queue in self.storage.queues() if queue.enqueued and not queue.paused]
        return filled[:CLAIM_QUEUES_MAX]  # The others are left when these are empty.

    def _end(self, turn: Turn, claim: Claim, report: bytes | None) -> None:
        error = self._executor.error_of(claim.job.id)
        if claim.crash is not None:
            self._crash(turn, claim, claim.crash)
            return
        if report is not None:
            self.storage.finish([report])
            turn.failed = turn.failed or self._to_raise(turn, claim.job, report, error)
        self.storage.close_session(claim.session)

    def _to_raise(
        self, turn: Turn, job: ClaimedJob, report: bytes, error: BaseException | None
    ) -> BaseException | None:
        """What the caller is to get of a run that has ended."""
        if isinstance(error, NotStarted):
            return error.error  # The job was given back.
        ending, codecs = ending_of(report), self._app.codecs
        if ending.code is Code.RELEASE:
            # Only whoever ends the loop has a job released: Ctrl-C, or a cancellation of this very call.
            return asyncio.CancelledError() if loop_runs_here() else KeyboardInterrupt()
        stopped = isinstance(error, Interrupt | asyncio.CancelledError)
        meant = stopped or isinstance(error, Exception | SystemExit | GeneratorExit)
        if error is not None and not meant:
            return error  # Ctrl-C, a time-out of the test or pytest.fail(): about the test, not about the job.
        if not turn.options.raise_errors or ending.code not in (Code.RETRY, Code.FAILED) or isinstance(error, Outcome):
            return None
        if ending.failure is not None and ending.failure.type == "TimeoutError" and (stopped or error is None):
            error = TimeoutError(codecs.open_text(job.id, Kind.MESSAGE, ending.failure.message))
        if error is not None:
            # From the job's own first line on: how it was called here is of no interest.
            error.__traceback__ = user_frames(error.__traceback__, OWN_FRAMES) or error.__traceback__
            args = descriptions.describe_args(codecs.open(job.id, Kind.ARGS, job.args))
            call = f"{job.function.rpartition('.')[2]}({args})"
            error.add_note(f"In the job {call}, attempt {job.attempt} of {job.max_attempts}.")
        return error

    def _crash(self, turn: Turn, claim: Claim, crash: Crash) -> None:
        self._executor.holding.die()
        if crash.silent:
            self._silent.append((self._now_ms + self._app.setting("session_ttl"), claim.session))
            return
        self.storage.lapse(claim.session)
        info = self.storage.job(claim.job.id)
        if turn.options.raise_errors and info is not None and info.state is JobState.FAILED:
            try:
                outcome_of(info.seen_by(self._app.codecs))
            except JobFailed as error:
                turn.failed = error

    def _outcome(self, turn: Turn) -> int:
        """The end of a call. Only the outermost one raises."""
        __tracebackhide__ = True
        if turn.depth == 0:
            if turn.failed is None and turn.options.raise_errors:
                turn.failed = self._unknown(turn)
            if turn.failed is not None:
                raise turn.failed
        return turn.count

    def _unknown(self, turn: Turn) -> TaskNotRegistered | None:
        """What to say about due jobs that no worker of this application would ever take."""
        strangers = [row.function for row in self.storage.functions() if row.function not in self._app.tasks]
        if not strangers:
            return None
        clauses: list[Clause] = [("state", "=", ["enqueued"]), ("function", "=", strangers)]
        if turn.options.queues:
            clauses.append(("queue", "=", turn.options.queues))
        for info in self.storage.jobs(clauses, limit=1).jobs:
            return TaskNotRegistered(
                f"A job of {info.function!r} waits in queue {info.queue!r}, and {self._app!r} has no such task here, "
                "so no worker would take it. Import the module that defines the task."
            )
        return None


@contextlib.contextmanager
def _entered(turn: Turn) -> Generator[None, None, None]:
    token = _current.set(turn)
    turn.depth += 1
    try:
        yield
    finally:
        turn.depth -= 1
        _current.reset(token)


def _runaway(turn: Turn) -> RunawayJobs:
    if turn.depth > DEPTH_MAX:
        return RunawayJobs(
            f"{DEPTH_MAX} jobs enqueued one another, each inside of the one before. Let them end, or use the mode "
            '"queue", where drain() runs one after the other.'
        )
    return RunawayJobs(
        f"{turn.count:,} runs of jobs did not come to an end: more are due. Look at the last ones with jobs(). If so "
        "many are meant, give a larger max_jobs."
    )
