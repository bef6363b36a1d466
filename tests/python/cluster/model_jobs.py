"""The application whose jobs depend on each other: its tasks, and what each of them writes down outside of the cluster.

A line of the ledger is one JSON object, written at once, whose `what` says what it is:

| what      | by whom | when                                                                             |
|-----------|---------|----------------------------------------------------------------------------------|
| `asks`    | both    | before jobs are asked for: `jobs` of them at most                                |
| `stored`  | both    | they were acknowledged                                                           |
| `flow`    | client  | a batch was sealed, or a job of another shape stored: what must become of it     |
| `again`   | client  | the failed member of a batch is to be retried; `acknowledged` says whether it is |
| `begins`  | worker  | a run begins, under this token                                                   |
| `ends`    | worker  | its function is done, and nobody has heard of it yet                             |
| `gave_up` | worker  | a session of the process is over, or may be, and its jobs were given back        |
| `held`    | worker  | a lock was held `since` one moment `until` another, its release was acknowledged |

Times are nanoseconds of CLOCK_MONOTONIC, which all processes of this machine share.
"""

from __future__ import annotations

import os
import random
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from cluster.parts import TTL_MS
from raftwork import JobContext, Limit, Raftwork, Rate, Retry
from raftwork.lock import Lock

QUEUE = "model"
LIMIT = 2
"""Members with the same key that may run at once."""
RATE, WINDOW_MS = 5, 1_000
"""Starts of `paced` in a window."""
PERMITS = 2
CATCHUP = 1_000
SLOT_MS = 1_000
RUN_S = 0.02
"""The longest time that a job only takes up."""
LOCK_S = 20.0

FOLDER = Path(os.environ.get("LAB_FOLDER", "."))
LEDGER = FOLDER / "model-ledger"

RETRY = Retry(10_000, backoff="fixed", base="200ms", jitter=0)
"""No job fails for good but the one that is meant to: reads and locks of a job fail while nobody leads."""

_chance = random.Random()


def write(what: str, **words: Any) -> None:
    """One line of the ledger."""
    line = msgspec.json.encode({"what": what, "at": time.monotonic_ns(), **words}) + b"\n"
    place = os.open(LEDGER, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(place, line)
    finally:
        os.close(place)


def mended(tag: str) -> Path:
    """A file that is there when the member of this batch that fails is to fail no more."""
    return FOLDER / f"mended-{tag}"


app = Raftwork(
    "model",
    f"raftwork://{os.environ.get('LAB_NODES', '127.0.0.1:1')}",
    queue=QUEUE,
    max_crashes=10_000,
    session_ttl=f"{TTL_MS}ms",
    submit_timeout="15s",
)


@contextmanager
def noted(ctx: JobContext, **words: Any) -> Iterator[None]:
    """Around what a job does."""
    job = {"job": str(ctx.id), "token": ctx.token}
    counts = {"attempt": ctx.attempt, "crashes": ctx.crashes, "pid": os.getpid()}
    write("begins", **job, task=ctx.function, **counts, **words)
    yield
    write("ends", **job)


def take_time() -> None:
    """Be a job that takes a while."""
    time.sleep(_chance.random() * RUN_S)


def asked(jobs: int, ask: Callable[[], Any]) -> Any:
    """Ask for jobs, with a line before and one after."""
    number = str(uuid.uuid4())
    write("asks", number=number, jobs=jobs)
    answer = ask()
    write("stored", number=number, jobs=jobs)
    return answer


@app.task(name="model.member", retry=RETRY, limit=Limit(LIMIT, per="key"))
def member(ctx: JobContext, tag: str, key: int, more: int) -> int:
    """A member of a batch that adds others while it runs. One of three first attempts fails."""
    with noted(ctx, tag=tag, key=key):
        take_time()
        if ctx.attempt == 1 and _chance.random() < 0.3:
            raise ValueError("the first attempt")
        # A run that is repeated adds a job again, which counts as any other; each adds one fewer, so there is an end.
        if more and ctx.batch is not None:
            with app.batch(ctx.batch):
                asked(1, lambda: member.enqueue(tag, key, more - 1))
    return key


@app.task(name="model.breaking", retry=1)
def breaking(ctx: JobContext, tag: str) -> None:
    """A member that fails for good, until somebody has mended what it needs."""
    with noted(ctx, tag=tag):
        if not mended(tag).exists():
            raise ValueError("not mended")


@app.task(name="model.called", retry=RETRY)
def called(ctx: JobContext, tag: str, on: str) -> None:
    """The callback of a batch."""
    with noted(ctx, tag=tag, on=on):
        pass


@app.task(name="model.first", retry=RETRY)
def first(ctx: JobContext, tag: str, number: int) -> int:
    """The first job of a chain, and one of those whose results are gathered."""
    with noted(ctx, tag=tag, place=0):
        take_time()
        return number


@app.task(name="model.plus", retry=RETRY)
def plus(ctx: JobContext, number: int, tag: str, place: int, wanted: int) -> int:
    """A later job of a chain."""
    with noted(ctx, tag=tag, place=place, got=number, wanted=wanted):
        return number + 1


@app.task(name="model.gathered", retry=RETRY)
def gathered(ctx: JobContext, tag: str, numbers: list[int], wanted: list[int]) -> None:
    """What follows all jobs whose results it takes."""
    with noted(ctx, tag=tag, place=1, got=numbers, wanted=wanted):
        pass


@app.task(name="model.paced", retry=RETRY, limit=Rate(RATE, f"{WINDOW_MS}ms", window="sliding"))
def paced(ctx: JobContext, tag: str) -> None:
    """One of those of which only so many start in a second."""
    with noted(ctx, tag=tag):
        pass


@app.task(name="model.guarded", retry=RETRY)
def guarded(ctx: JobContext, tag: str) -> None:
    """Takes a permit of a semaphore, and then a lock. Each job does both in this order, so none waits for ever."""
    with noted(ctx, tag=tag), holding(app.semaphore("model-permits", PERMITS, timeout=LOCK_S)):
        with holding(app.lock("model-lock", timeout=LOCK_S)):
            take_time()


@contextmanager
def holding(lock: Lock) -> Iterator[None]:
    """Hold a lock, and write down between which moments, once the release was acknowledged: before, it may be lost."""
    lock.acquire(LOCK_S)
    token, since = lock.token, time.monotonic_ns()
    try:
        yield
    finally:
        until = time.monotonic_ns()
        lock.release()
    write("held", name=lock.name, token=token, since=since, until=until)


@app.every("1s", name="model.tick", misfire="run_all", catchup=CATCHUP)
@app.task(name="model.tick", retry=RETRY)
def tick(ctx: JobContext) -> None:
    """The job of each second."""
    slot = app.job(ctx.id).info().slot
    with noted(ctx, slot=None if slot is None else round(slot.timestamp() * 1_000)):
        pass
