"""`raftwork demo`: what happens in which order.

1. An owner process opens a fresh data directory; two worker processes and this one attach to it.
2. This process enqueues one job per file and writes each acknowledged id to a file that it fsyncs.
3. When a quarter is done, SIGKILL to a worker, and another takes its place. When half is done, SIGKILL to the owner.
   Enqueuing goes on meanwhile.
4. When all that was acknowledged is done, the two files are compared: `ledger`. Results of a sample are computed again.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any

import click

from raftwork import clock
from raftwork.cli.demo import files
from raftwork.cli.demo.crew import Crew
from raftwork.cli.demo.ledger import Acknowledged, Reader
from raftwork.cli.demo.report import Report, print_report, verify
from raftwork.cli.demo.view import PlainView, Snapshot, View, view_for
from raftwork.cli.output import show
from raftwork.cli.selection import matching
from raftwork.cli.target import common

__all__ = ["demo"]

# The demo ends within a minute, also on a machine that is busy with something else: then it takes fewer files.
ENQUEUE_SECONDS_MAX = 28.0
SECONDS_MAX = 42.0
SETTLE_SECONDS_MAX = 3.0
REMOVE_SECONDS_MAX = 5.0
TICK_SECONDS = 0.1
# Jobs acknowledged at once, and how far enqueuing stays ahead of the workers, so that it is still going on when
# processes are killed. A small directory takes a tenth of its files for both.
BATCH = 30
AHEAD = 150
# When this share of the files is done, or so many seconds have passed.
KILL_WORKER_AT = (0.25, 12.0)
KILL_OWNER_AT = (0.5, 20.0)


@click.command()
@click.argument("directory", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--limit", type=click.IntRange(1), help="Take only the first files.")
@click.option("--keep", is_flag=True, help="Keep the data directory and the ledger.")
@common
def demo(directory: Path | None, limit: int | None, keep: bool, as_json: bool) -> int:
    """Run jobs over the files below DIRECTORY (Python's own library by default), and kill two processes on the way.

    Ends with a ledger that is kept outside of raftwork. Exits 0 when nothing was lost, 1 otherwise.
    """
    chosen = files.find(directory)[:limit]
    place = Path(tempfile.mkdtemp(prefix="raftwork-demo-"))
    view: View = PlainView(sys.stderr) if as_json else view_for(sys.stdout)
    try:
        with _term_as_interrupt():
            report = Demo(chosen, place, view).run()
    finally:
        if not keep:
            _remove(place)
    show(report.fields(), as_json, lambda: print_report(report, place if keep else None))
    return 0 if report.good else 1


def _remove(place: Path) -> None:
    """Remove the directory, also while a process that was just told to end still makes a file in it."""
    pause = threading.Event()
    until = clock.monotonic() + REMOVE_SECONDS_MAX
    shutil.rmtree(place, ignore_errors=True)
    while place.exists() and clock.monotonic() < until:
        pause.wait(TICK_SECONDS)
        shutil.rmtree(place, ignore_errors=True)


@contextmanager
def _term_as_interrupt() -> Generator[None]:
    """SIGTERM ends the demo as Ctrl-C does: with all processes and files cleaned up."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)


class Demo:
    """One run."""

    def __init__(self, chosen: list[Path], place: Path, view: View) -> None:
        self._files = chosen
        self._view = view
        self._acknowledged = Acknowledged(place / "acknowledged.txt")
        self._path_of: dict[str, Path] = {}
        self._executions = Reader(place / "executions.txt")
        self._environment = {
            "RAFTWORK_STORAGE": f"raft:///{place / 'data'}",
            "RAFTWORK_DEMO_LEDGER": str(place / "executions.txt"),
        }
        self._stop = threading.Event()
        self._progress = threading.Event()
        self._enqueue_error: BaseException | None = None
        self._began = clock.monotonic()
        self._enqueued_all = False

    def run(self) -> Report:
        """Everything, in order."""
        os.environ.update(self._environment)
        # Imported here: the application reads its storage from the environment, as in any process.
        from raftwork.cli.demo.jobs import app, inspect_file

        self._view.start()
        try:
            with Crew(self._environment, self._view.event) as crew:
                self._start(crew)
                app.open()
                enqueuer = threading.Thread(target=self._enqueue, args=(app, inspect_file), name="enqueue")
                enqueuer.start()
                try:
                    self._watch(crew)
                finally:
                    self._stop.set()
                    self._progress.set()
                    enqueuer.join()
                try:
                    return self._settle(app, crew)
                finally:
                    app.close()
        finally:
            self._acknowledged.close()
            self._view.stop()
            for name in self._environment:
                os.environ.pop(name, None)

    def _start(self, crew: Crew) -> None:
        owner = crew.start("owner")
        crew.wait_ready(owner)
        for worker in (crew.start("worker"), crew.start("worker")):
            crew.wait_ready(worker)

    def _enqueue(self, app: Any, task: Any) -> None:
        """One job per file, a few at a time, ahead of the workers. Runs on its own thread."""
        at_once, ahead = (max(1, min(most, len(self._files) // 10)) for most in (BATCH, AHEAD))
        try:
            left = iter(self._files)
            while self._seconds() < ENQUEUE_SECONDS_MAX and (batch := list(islice(left, at_once))):
                began = clock.monotonic()
                ids = [str(job.id) for job in app.enqueue_many(task.s(str(path)) for path in batch)]
                self._path_of.update(zip(ids, batch, strict=True))
                self._acknowledged.add(ids)
                if clock.monotonic() - began > 0.1:
                    self._view.event(f"{len(ids)} jobs were acknowledged after {clock.monotonic() - began:.2f} s")
                while len(self._acknowledged.ids) - len(self._executions.done) > ahead and not self._stop.is_set():
                    self._progress.wait()
                    self._progress.clear()
                if self._stop.is_set():
                    return
        except BaseException as error:  # Told to the main thread, which ends the demo.
            self._enqueue_error = error
        finally:
            self._enqueued_all = True

    def _seconds(self) -> float:
        """Seconds since the demo began."""
        return clock.monotonic() - self._began

    def _all_done(self) -> bool:
        return self._enqueued_all and self._executions.done >= self._acknowledged.ids

    def _watch(self, crew: Crew) -> None:
        """Follow the ledger until every file is done, and kill on the way."""
        pending = [(KILL_WORKER_AT, self._kill_worker), (KILL_OWNER_AT, self._kill_owner)]
        tick = threading.Event()
        while not self._all_done() and self._seconds() < SECONDS_MAX:
            self._executions.read()
            self._progress.set()
            self._view.update(self._snapshot(), crew.members)
            if self._enqueue_error is not None:
                self._view.event(f"enqueuing failed: {self._enqueue_error}")
                return
            share = len(self._executions.done) / len(self._files)
            if pending and (share >= pending[0][0][0] or self._seconds() >= pending[0][0][1]):
                pending.pop(0)[1](crew)
            for member in crew.ended():
                member.state = f"ended with status {member.process.returncode}"
                self._view.event(f"{member.role} {member.pid} {member.state}")
            tick.wait(TICK_SECONDS)

    def _kill_worker(self, crew: Crew) -> None:
        crew.kill(crew.first("worker"))
        crew.start("worker")

    def _kill_owner(self, crew: Crew) -> None:
        crew.kill(crew.first("owner"))

    def _snapshot(self) -> Snapshot:
        runs = self._executions.runs
        started = sum(len(of_job) for of_job in runs.values())
        done = sum(run.done for of_job in runs.values() for run in of_job)
        twice = sum(len(of_job) > 1 for of_job in runs.values())
        acknowledged = len(self._acknowledged.ids)
        return Snapshot(len(self._files), acknowledged, len(self._executions.done), started - done, twice)

    def _settle(self, app: Any, crew: Crew) -> Report:
        """Wait until raftwork agrees with the ledger that all is done, then compare."""
        unfinished = self._wait_all(app)
        self._executions.read()
        self._view.update(self._snapshot(), crew.members)
        acknowledged = self._acknowledged.ids
        lost = (acknowledged - self._executions.done) | unfinished
        sample = random.Random(0).sample(sorted(acknowledged - lost), min(50, len(acknowledged - lost)))
        twice: Counter[str] = self._executions.repeated(crew.killed)
        return Report(
            files=len(self._files),
            acknowledged=len(acknowledged),
            finished=len(acknowledged & self._executions.done),
            lost=len(lost),
            twice=twice,
            verified=verify(app, {job: self._path_of[job] for job in sample}),
            sampled=len(sample),
            killed=crew.killed,
            error=None if self._enqueue_error is None else str(self._enqueue_error),
        )

    def _wait_all(self, app: Any) -> set[str]:
        """The acknowledged jobs that have not succeeded in time, as raftwork says."""
        tick = threading.Event()
        missing = set(self._acknowledged.ids)
        while True:
            missing -= {str(info.id) for info in matching(app.storage, [("state", "=", ["succeeded"])])}
            if not missing or self._seconds() > SECONDS_MAX + SETTLE_SECONDS_MAX:
                return missing
            tick.wait(TICK_SECONDS)
