"""What a job costs in the log, what middleware, events and tags cost, and how very many start that are due together.

    python benches/job_model.py [--place DIR] [--rounds 5]

Entries of the log are counted by the index of the state before and after, while jobs come, run and end. Lateness is
measured with the wall clock, which the node and the worker share.
"""

from __future__ import annotations

import argparse
import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import harmonic_mean

from table import Figure, at_least, at_most, render

from raftwork import JobContext, Raftwork
from raftwork.cli import measure
from raftwork.events import Event
from raftwork.worker import Worker

RUN_JOBS = 30_000
TURNS = 5
"""Runs of each kind in a round."""
DUE_JOBS = 100_000
AHEAD_S = 5.0
TALKERS = 1_000
TALKED_S = 4.0
TELL_EVERY_S = 0.05


def entries_per_job(directory: Path, batch: int) -> float:
    """Log entries for each job, enqueued so many a call by 32 threads while a worker runs them."""
    app, noop, _ = measure.noop_app(directory)

    def enqueue(number: int) -> None:
        app.enqueue_many(noop.s(number) for _ in range(batch))

    calls = RUN_JOBS // batch // 32
    try:
        with Worker(app, queues=["bench"], threads=8):
            enqueue(0)  # warm
            wait_for_end(app)
            before = app.health()["applied"]
            measure.thread_rate(enqueue, 32, calls)
            wait_for_end(app)
            return float(app.health()["applied"] - before) / (calls * 32 * batch)
    finally:
        app.close()


def wait_for_end(app: Raftwork) -> None:
    """Until nothing waits or runs."""
    pause = threading.Event()
    while any(app.counts().get(state, 0) for state in ("scheduled", "enqueued", "processing")):
        pause.wait(0.01)


def starts_of_due(directory: Path, jobs: int) -> tuple[float, float]:
    """Jobs that are all due at one moment: seconds from it to the first start, and to the last. Negative: early."""
    app = Raftwork("bench", storage=f"raft:///{directory.absolute()}")
    starts: list[float] = []
    ended = threading.Event()

    def note() -> None:
        starts.append(time.time())
        if len(starts) >= jobs:
            ended.set()

    task = app.task(queue="bench", name="bench.note", retry=1)(note)
    app.open()
    try:
        with Worker(app, queues=["bench"], threads=8):
            due = datetime.now(UTC) + timedelta(seconds=AHEAD_S)
            later = task.using(run_at=due)
            for _ in range(jobs // 1_000):
                app.enqueue_many(later.s() for _ in range(1_000))
            assert datetime.now(UTC) < due, "they were not stored before they were due"
            assert ended.wait(120), f"{len(starts)} of {jobs} jobs started"
    finally:
        app.close()
    return min(starts) - due.timestamp(), max(starts) - due.timestamp()


def entries_of_progress(directory: Path) -> float:
    """Log entries a second while very many jobs run that each tell their progress twenty times a second."""
    app = Raftwork("bench", storage=f"raft:///{directory.absolute()}")
    talking = threading.Semaphore(0)
    over = threading.Event()

    async def talk(ctx: JobContext) -> None:
        talking.release()
        told = 0
        while not over.is_set():
            told += 1
            ctx.progress(told, note="pages")
            await asyncio.sleep(TELL_EVERY_S)

    task = app.task(queue="bench", name="bench.talk", retry=1)(talk)
    app.open()
    try:
        jobs = app.enqueue_many(task.s() for _ in range(TALKERS))
        with Worker(app, queues=["bench"], concurrency=TALKERS):
            assert all(talking.acquire(timeout=60) for _ in range(TALKERS)), "not all of them started"
            before, began = app.health()["applied"], time.monotonic()
            over.wait(TALKED_S)
            entries, seconds = app.health()["applied"] - before, time.monotonic() - began
            over.set()
            wait_for_end(app)
        assert (jobs[-1].info().progress or (0,))[0], "nothing was told"
        return float(entries / seconds)
    finally:
        app.close()


def watched(directory: Path, *, extras: bool) -> float:
    """Jobs a second that one worker process runs, from its start, all of them waiting.

    With extras: a middleware around runs, a listener that counts all events by their name, and three tags.
    """
    app, noop, _ = measure.noop_app(directory)
    seen: Counter[str] = Counter()
    stop: Callable[[], object] = bool

    def count(event: Event) -> None:
        seen[event.name] += 1

    if extras:

        @app.middleware.run
        def around(job: JobContext) -> Iterator[None]:
            yield

        stop = app.subscribe(count)
        noop = noop.using(tags=["bench", "watched", "three"])
    try:
        measure.run_rate(app, noop, 2_000)  # warm
        return measure.run_rate(app, noop, RUN_JOBS)
    finally:
        app.close()
        stop()  # Listeners belong to the process: the next round would have it too.
        assert not extras or seen["job.succeeded"] >= RUN_JOBS


def compared(directory: Path) -> tuple[float, float]:
    """The bare rate, and in per cent of it that with extras, over runs that take turns: one lasts half a second."""
    rates: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(TURNS):
        for extras in (turn % 2 == 1, turn % 2 == 0):
            rates[extras].append(watched(directory / f"{extras}-{turn}", extras=extras))
    bare = harmonic_mean(rates[False])
    return bare, 100 * harmonic_mean(rates[True]) / bare


def figures(place: Path, rounds: int) -> list[Figure]:
    """Measure all rounds."""
    single = Figure("log entries for each job, enqueued one by one, from enqueue to its end", "x")
    batched = Figure("log entries for each job, enqueued 50 a call", "x", "0.2 at most", at_most(0.2))
    told = Figure(f"{TALKERS:,} running jobs tell progress, 20 times a second each: log entries", "/s")
    bare = Figure("no-op jobs run, one process, 8 threads, bare", "jobs/s")
    ratio = Figure("the same with middleware, a listener to events and tags / bare", "%", "85", at_least(85.0))
    many = f"{DUE_JOBS:,} jobs due in the same moment"
    first = Figure(f"{many}: first start after it", "ms", "50 at most", at_most(50))
    early = Figure(f"{many}: first start, not before it", "ms", "0", at_least(0))
    last = Figure(f"{many}: last start after it", "s", "10 at most", at_most(10))
    for _ in range(rounds):
        with measure.fresh_directory(place) as directory:
            single.values.append(entries_per_job(directory / "single", 1))
            batched.values.append(entries_per_job(directory / "batched", 50))
            told.values.append(entries_of_progress(directory / "progress"))
            rate, share = compared(directory)
            bare.values.append(rate)
            ratio.values.append(share)
            begun, over = starts_of_due(directory / "due", DUE_JOBS)
            first.values.append(begun * 1e3)
            early.values.append(begun * 1e3)
            last.values.append(over)
    return [single, batched, told, bare, ratio, early, first, last]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--place", type=Path, default=Path())
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    print(render(figures(given.place, given.rounds)))
