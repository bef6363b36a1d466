"""The demo itself: the parts joined, and what each key does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path

from raftwork import clock
from raftwork.app import Raftwork
from raftwork.cli.demo.chart import Chart
from raftwork.cli.demo.code import CODE, write_code
from raftwork.cli.demo.crew import Crew
from raftwork.cli.demo.failures import Group, group
from raftwork.cli.demo.jobs import BROKEN, send_welcome, settle_invoice
from raftwork.cli.demo.keys import KEYS, Script
from raftwork.cli.demo.ledger import Ledger
from raftwork.cli.demo.report import Report, reason_of, totals, unexplained
from raftwork.cli.demo.stream import JOBS_MAX, Stream
from raftwork.cli.demo.view import Snapshot, View
from raftwork.errors import StorageError
from raftwork.storage.connect import connect

__all__ = ["Demo"]

TICK_S = 0.1
ASK_S = 0.25
MORE_JOBS = 10_000
BROKEN_JOBS = 36
# The last jobs have so long to end after `q`.
DRAIN_S = 12.0
LIVE = ("enqueued", "processing", "scheduled", "retrying")


class Demo:
    """One run.

    Args:
        place: an empty directory for everything that the demo writes.
        view: where to show it.
        script: keys that are pressed by themselves, before those of a person.
        poll: waits up to so many seconds for a key of a person; None where there is nobody.
        stopped: set when somebody wants the demo to end at once.
    """

    def __init__(
        self,
        place: Path,
        view: View,
        script: Script,
        poll: Callable[[float], str | None] | None,
        stopped: threading.Event,
    ) -> None:
        self._view = view
        self._script = script
        self._poll = poll
        self._stopped = stopped
        self._broken = place / BROKEN
        self._invoices = count(1)
        self._expected_failures = 0
        self._began = clock.monotonic()
        self._first_done_after: float | None = None
        self._groups: list[Group] = []
        self._live: int | None = None
        self._lost = 0
        self._failure: Exception | None = None
        self._chart = Chart()
        self._pause = threading.Event()
        self._ledger = Ledger(place)
        self._crew = Crew(place, self._ledger.executions_path, view.event)
        # Not by settings: those of the directory in which the demo is started are about another cluster.
        self._app = Raftwork("demo", connect(self._crew.cluster.url))
        self._stream = Stream(self._app, send_welcome, self._ledger, self._crew.answered)
        self._asker = threading.Thread(target=self._ask, name="demo-ask", daemon=True)

    def run(self) -> Report:
        """From the first node to the ledger."""
        self._view.start()
        try:
            with self._crew:
                self._view.event(f"started: {', '.join(f'{n.name} pid {n.pid}' for n in self._crew.nodes)}, 2 workers")
                self._stream.start()
                self._asker.start()
                try:
                    self._loop()
                    self._stream.stop()
                    self._settle()
                    return self._report()
                finally:
                    # First, as it ends calls that still wait.
                    self._pause.set()
                    self._app.close(0.5)
                    self._stream.stop()
                    self._asker.join()
        finally:
            self._ledger.close()
            self._view.stop()

    def _loop(self) -> None:
        """Show, and do what the keys say, until one of them is `q`."""
        while self._error() is None:
            self._show()
            key = self._next_key()
            if key == "q":
                return
            if key is not None and key in KEYS:
                self._press(key)

    def _next_key(self) -> str | None:
        key = self._script.poll(self._busy())
        if key is None and self._script.over and self._poll is None:
            return "q"
        if self._poll is None:
            self._pause.wait(TICK_S)
            return key
        pressed = self._poll(0 if key else TICK_S)
        return pressed if pressed == "q" else key or pressed

    def _busy(self) -> bool:
        """The effect of the last key is not to be seen yet."""
        failed = sum(group.jobs for group in self._groups)
        return (
            not self._crew.ready
            or self._first_done_after is None
            or self._stream.asked > 0
            or self._crew.busy
            or failed != self._expected_failures
        )

    def _press(self, key: str) -> None:
        self._chart.mark(key)
        {"e": self._more, "k": self._kill, "b": self._bring_back, "f": self._break, "r": self._mend, "c": self._code}[
            key
        ]()

    def _more(self) -> None:
        if len(self._ledger.acknowledged) + self._stream.asked + MORE_JOBS > JOBS_MAX:
            self._view.event(f"{JOBS_MAX:,} jobs are enough for one demo")
        else:
            self._view.event(f"+{MORE_JOBS:,} jobs")
            self._stream.more(MORE_JOBS)

    def _kill(self) -> None:
        down = self._crew.down()
        if down is not None:
            self._view.event(f"{down.name} is down: without another one nothing could be written. [b] brings it back")
        elif self._crew.busy or not self._crew.ready:
            self._view.event("not now: one of three may die, and not all three are there yet")
        else:
            self._crew.kill_leader()

    def _bring_back(self) -> None:
        if self._crew.down() is None:
            self._view.event("all three nodes run")
        else:
            self._crew.bring_back()

    def _break(self) -> None:
        self._broken.touch()
        self._expected_failures += BROKEN_JOBS
        self._view.event(f"{BROKEN_JOBS} invoices that cannot be settled")
        self._stream.put([settle_invoice.s(next(self._invoices)) for _ in range(BROKEN_JOBS)])

    def _mend(self) -> None:
        if not self._groups:
            self._view.event("nothing has failed")
            return
        self._broken.unlink(missing_ok=True)
        self._expected_failures = 0
        answer = self._app.retry([job.id for job in self._app.jobs("state:failed")])
        self._view.event(f"mended, and {answer.changed} failed jobs run again")

    def _code(self) -> None:
        self._view.code(CODE, write_code(Path.cwd()))

    def _show(self) -> None:
        if self._stopped.is_set():
            raise KeyboardInterrupt
        self._ledger.read()
        self._crew.look_after()
        ledger = self._ledger
        if self._first_done_after is None and ledger.done:
            self._first_done_after = clock.monotonic() - self._began
            self._view.event(f"the first job is done, {self._first_done_after:.1f} s after the start")
        self._chart.take(len(ledger.done) + len(ledger.failed))
        now = Snapshot(
            accepted=len(ledger.acknowledged),
            done=len(ledger.done),
            failed=len(ledger.failed),
            running=len(ledger.running),
            lost=self._lost,
            twice=ledger.twice,
        )
        self._view.update(now, self._crew.nodes, self._groups, self._chart, self._poll is not None)

    def _ask(self) -> None:
        """Ask the cluster how much it has to do and what failed, a few times a second. On its own thread: it may wait.

        What was acknowledged before the question and is not finished after the answer must be among what the cluster
        has to do; otherwise it is lost.
        """
        while not self._pause.wait(ASK_S):
            try:
                before = self._ledger.unfinished()
                counts = self._app.counts()
                self._ledger.read()
                self._live = sum(counts.get(state, 0) for state in LIVE)
                self._lost = max(0, len(before & self._ledger.unfinished()) - self._live)
                if self._expected_failures or self._groups:
                    self._groups = group(self._app.jobs("state:failed"))
            except StorageError:
                continue  # No member could answer in time; the next one will.
            except Exception as error:  # Told by the demo, which ends with it.
                self._failure = error
                return

    def _settle(self) -> None:
        """Wait until the cluster has nothing more to do; what has no end in the ledger then is lost."""
        self._live = None
        until = clock.monotonic() + DRAIN_S
        while clock.monotonic() < until:
            self._show()
            if (self._idle() or self._error() is not None) and not self._ledger.unfinished():
                break
            self._pause.wait(TICK_S)
        self._ledger.read()
        self._show()

    def _error(self) -> BaseException | None:
        """What stands in the way of going on."""
        return self._stream.error or self._failure

    def _idle(self) -> bool:
        """The cluster has nothing to do, as far as it has been asked since the last job was enqueued."""
        return self._live == 0

    def _report(self) -> Report:
        error = self._error()
        return Report(
            **totals(self._ledger),
            failures=self._groups,
            twice=self._ledger.repeated(lambda run, after: reason_of(self._crew, run, after)),
            unexplained=unexplained(self._ledger, self._crew, self._began),
            killed=self._crew.kills,
            returned=self._crew.returns,
            first_done_after=self._first_done_after,
            peak=self._chart.peak,
            error=None if error is None else f"{type(error).__name__}: {error}",
        )
