"""Measurements that `raftwork bench`, `raftwork doctor` and benches/ share. Each returns plain numbers of one round."""

from __future__ import annotations

import os
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raftwork.app import Raftwork
from raftwork.worker import Worker

__all__ = [
    "bulk_rate",
    "call_seconds",
    "flow_seconds",
    "fresh_directory",
    "noop_app",
    "percentile",
    "run_rate",
    "sqlite_seconds",
    "sync_seconds",
    "thread_rate",
]

SYNC_BYTES = 4_096
ZERO_FILLED_BYTES = 8 << 20


@contextmanager
def fresh_directory(place: Path) -> Generator[Path]:
    """An empty directory below `place`, removed at the end. Not in /tmp, which may be memory and not a disk."""
    with tempfile.TemporaryDirectory(prefix=".raftwork-bench-", dir=place) as name:
        yield Path(name)


def percentile(values: list[float], share: float) -> float:
    """The value below which this share of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def sync_seconds(place: Path, count: int) -> list[float]:
    """How long each write of 4 KiB with fdatasync takes, within a file that was filled with zeros before."""
    taken = []
    with tempfile.NamedTemporaryFile(prefix=".raftwork-sync-", dir=place) as file:
        descriptor = file.fileno()
        os.write(descriptor, bytes(ZERO_FILLED_BYTES))
        os.fsync(descriptor)
        block = os.urandom(SYNC_BYTES)
        for number in range(count):
            began = time.perf_counter()
            os.pwrite(descriptor, block, number * SYNC_BYTES % ZERO_FILLED_BYTES)
            os.fdatasync(descriptor)
            taken.append(time.perf_counter() - began)
    return taken


def sqlite_seconds(place: Path, count: int) -> list[float]:
    """How long each insert of a row of 256 bytes takes in SQLite with WAL and synchronous FULL."""
    taken = []
    with tempfile.TemporaryDirectory(prefix=".raftwork-sqlite-", dir=place) as name:
        connection = sqlite3.connect(Path(name) / "rows.db", isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, body BLOB)")
            body = os.urandom(256)
            for _ in range(count):
                began = time.perf_counter()
                connection.execute("INSERT INTO rows (body) VALUES (?)", (body,))
                taken.append(time.perf_counter() - began)
        finally:
            connection.close()
    return taken


def noop(number: int) -> None:
    """A job that does nothing."""


async def noop_async(number: int) -> None:
    """A coroutine job that does nothing."""


def noop_app(directory: Path) -> tuple[Raftwork, Any, Any]:
    """An application on this directory, with a task that does nothing and a coroutine that does nothing."""
    app = Raftwork("bench", storage=f"raft:///{directory.absolute()}")
    plain = app.task(queue="bench", name="bench.noop")(noop)
    coroutine = app.task(queue="bench", name="bench.noop_async")(noop_async)
    app.open()
    return app, plain, coroutine


def call_seconds(call: Callable[[int], object], count: int) -> list[float]:
    """How long each of `count` calls takes, one after the other."""
    taken = []
    for number in range(count):
        began = time.perf_counter()
        call(number)
        taken.append(time.perf_counter() - began)
    return taken


def thread_rate(call: Callable[[int], object], threads: int, each: int) -> float:
    """Calls a second, by `threads` threads that each call `each` times."""
    gate = threading.Barrier(threads + 1)

    def work() -> None:
        gate.wait()
        for number in range(each):
            call(number)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    gate.wait()
    began = time.perf_counter()
    for worker in workers:
        worker.join()
    return threads * each / (time.perf_counter() - began)


def bulk_rate(app: Raftwork, task: Any, jobs: int, batch: int = 1_000) -> float:
    """Jobs a second stored by `enqueue_many` with `batch` jobs a call."""
    began = time.perf_counter()
    for start in range(0, jobs, batch):
        app.enqueue_many(task.s(number) for number in range(start, start + batch))
    return jobs / (time.perf_counter() - began)


def run_rate(app: Raftwork, task: Any, jobs: int, *, threads: int = 8, concurrency: int = 100) -> float:
    """Jobs a second that one worker finishes, from its start to the last job, with `jobs` waiting."""
    handles = []
    for start in range(0, jobs, 1_000):
        handles += app.enqueue_many(task.s(number) for number in range(start, min(jobs, start + 1_000)))
    began = time.perf_counter()
    with Worker(app, queues=["bench"], threads=threads, concurrency=concurrency):
        handles[-1].result(120)
        wait_until_empty(app)
        return jobs / (time.perf_counter() - began)


def flow_seconds(app: Raftwork, task: Any, jobs: int) -> float:
    """Seconds that one worker needs for a job, `jobs` that wait for it, and one that waits for all of those."""
    first = task.enqueue(0)
    follower = task.using(after=first)
    handles = app.enqueue_many(follower.s(number) for number in range(jobs))
    last = task.using(after=handles).enqueue(0)
    began = time.perf_counter()
    with Worker(app, queues=["bench"]):
        last.result(120)
        return time.perf_counter() - began


def wait_until_empty(app: Raftwork) -> None:
    """Return when no job waits or runs any more."""
    pause = threading.Event()
    while any(app.counts().get(state, 0) for state in ("awaiting", "enqueued", "processing", "scheduled", "retrying")):
        pause.wait(0.002)
