"""How long from the call of enqueue until the job's first line runs, on an idle worker.

    python benches/latency.py [--place DIR] [--rounds 5]

Both ends read CLOCK_MONOTONIC, which all processes of a machine share. The next job is sent after the one before has
ended and the worker is idle again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from table import Figure, at_most, render

from raftwork import Raftwork
from raftwork.cli import measure
from raftwork.worker import Worker

JOBS = 500
IDLE_SECONDS = 0.003
DELAYED = 50
DELAY_MS = 20


def now_ns() -> int:
    """The job: tells when it started."""
    return time.monotonic_ns()


def application(directory: Path) -> tuple[Raftwork, object]:
    """The same application in both processes."""
    app = Raftwork("latency", storage=f"raft:///{directory.absolute()}")
    return app, app.task(queue="bench", name="bench.now")(now_ns)


@contextmanager
def other_process(directory: Path) -> Iterator[None]:
    """A worker process that is attached."""
    command = [sys.executable, __file__, "--serve", str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdin is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.stdin.close()
            process.wait(30)


def serve(directory: Path) -> None:
    """What the other process does until its input ends."""
    app, _ = application(directory)
    with Worker(app, queues=["bench"], threads=2):
        print("ready", flush=True)
        sys.stdin.read()
    app.close()


def start_ms(task: object, count: int) -> list[float]:
    """Milliseconds from call to start, of jobs sent one at a time."""
    pause = threading.Event()
    taken = []
    for _ in range(count):
        pause.wait(IDLE_SECONDS)
        began = time.monotonic_ns()
        started = task.enqueue().result(30)  # type: ignore[attr-defined]
        taken.append((started - began) / 1e6)
    return taken


def late_ms(task: object, count: int) -> list[float]:
    """Milliseconds from the moment at which a delayed job is due to its start; the time of the call counts as late."""
    taken = []
    for _ in range(count):
        due = time.monotonic_ns() + DELAY_MS * 1_000_000
        started = task.using(delay=f"{DELAY_MS}ms").enqueue().result(30)  # type: ignore[attr-defined]
        taken.append((started - due) / 1e6)
    return taken


def figures(place: Path, rounds: int) -> list[Figure]:
    """Measure all rounds."""
    same = Figure("enqueue to start, same process, p50", "ms", "0.7 at most", at_most(0.7))
    same_tail = Figure("enqueue to start, same process, p99", "ms", "5 at most", at_most(5))
    other = Figure("enqueue to start, other process, p50", "ms", "1 at most", at_most(1))
    other_tail = Figure("enqueue to start, other process, p99", "ms", "5 at most", at_most(5))
    late = Figure(f"start of a job delayed by {DELAY_MS} ms, after it is due, p99", "ms", "50 at most", at_most(50))
    for _ in range(rounds):
        with measure.fresh_directory(place) as directory:
            app, task = application(directory / "data")
            app.open()
            try:
                with Worker(app, queues=["bench"], threads=2):
                    start_ms(task, 50)
                    taken = start_ms(task, JOBS)
                    late.values.append(measure.percentile(late_ms(task, DELAYED), 0.99))
                same.values.append(measure.percentile(taken, 0.5))
                same_tail.values.append(measure.percentile(taken, 0.99))
                with other_process(directory / "data"):
                    start_ms(task, 50)
                    taken = start_ms(task, JOBS)
                other.values.append(measure.percentile(taken, 0.5))
                other_tail.values.append(measure.percentile(taken, 0.99))
            finally:
                app.close()
    return [same, same_tail, other, other_tail, late]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--place", type=Path, default=Path())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve is not None:
        serve(given.serve)
    else:
        print(render(figures(given.place, given.rounds)))
