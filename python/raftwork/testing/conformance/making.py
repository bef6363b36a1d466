"""Jobs and workers for the contract: small, and the same in every file."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from raftwork import serde
from raftwork.job_info import JobInfo, JobState
from raftwork.storage.base import (
    Accepted,
    ClaimedJob,
    Fetcher,
    JobSpec,
    NewJob,
    Storage,
    decode_claimed,
    pack_error,
    result_succeeded,
)

__all__ = ["ERROR", "PATIENCE", "Contract", "Worker", "empty", "fetching", "new", "put", "spec", "state"]

ERROR = pack_error("builtins.ValueError", "no", "Traceback: ...")
PATIENCE = 20.0
"""Seconds after which something that must happen has not happened. Never reached when all is well."""


class Contract:
    """The base of the families."""

    @pytest.fixture
    def storage(self) -> Iterator[Storage]:
        """An empty storage. To be provided."""
        raise NotImplementedError("Provide the fixture `storage`.")


def spec(function: str = "f", **changes: Any) -> JobSpec:
    """A specification, by default of function `f` in queue `default`."""
    return JobSpec(function, **changes)


def new(storage: Storage, *args: Any, spec: JobSpec | None = None, **changes: Any) -> NewJob:
    """A job that is not stored yet."""
    return NewJob(storage.new_ids(1)[0], spec or JobSpec("f"), serde.encode_args(args, {}), **changes)


def put(storage: Storage, *args: Any, spec: JobSpec | None = None, **changes: Any) -> bytes:
    """Store one job; answers its id."""
    job = new(storage, *args, spec=spec, **changes)
    assert storage.enqueue([job]) == []
    return job.id


def known(storage: Storage, job: bytes) -> JobInfo:
    """The job, which must be known."""
    info = storage.job(job)
    assert info is not None
    return info


def state(storage: Storage, job: bytes) -> JobState:
    """The state of a job, which must be known."""
    return known(storage, job).state


def empty(storage: Storage) -> None:
    """Take away what earlier tests left: workers, pauses, limits, schedules, jobs. Totals of what went through stay."""
    for session in storage.sessions():
        if session.kind == "worker":
            storage.close_session(session.session)
    for queue in storage.queues():
        if queue.paused:
            storage.resume_queue(queue.name)
    for limited in storage.queue_limits():
        if limited.limit is not None:
            storage.limit_queue(limited.name, None)
    for schedule in storage.schedules():
        storage.delete_schedule(schedule.name)
    for batch in storage.batches():
        storage.cancel_batch(batch.id)
    while jobs := storage.jobs(limit=500).jobs:
        storage.delete([job.id.bytes for job in jobs])


class Worker:
    """A worker's session without a fetcher: each claim is one command."""

    def __init__(
        self,
        storage: Storage,
        queues: Sequence[str] = ("default",),
        functions: Sequence[str] = ("f",),
        *,
        ttl_ms: int = 600_000,
    ) -> None:
        self.storage = storage
        self.queues = [(queue, 1) for queue in queues]
        self.functions = list(functions)
        self.session = storage.open_session("worker", ttl_ms=ttl_ms)

    def claim(self, max: int = 1, *, strict: bool = False) -> list[ClaimedJob]:
        """Up to `max` jobs."""
        return self.storage.claim(self.session, self.queues, self.functions, max, strict=strict)

    def one(self) -> ClaimedJob:
        """Exactly one job, which must be there."""
        (job,) = self.claim(1)
        return job

    def succeed(self, job: ClaimedJob, result: Any = None) -> Accepted:
        """Report success."""
        packed = None if result is None else serde.encode(result)
        return self.storage.finish([result_succeeded(job.id, job.token, packed)])[0]

    def report(self, result: bytes) -> Accepted:
        """Report anything."""
        return self.storage.finish([result])[0]


@contextmanager
def fetching(
    storage: Storage, queue: str = "default", function: str = "f", prefetch: int = 0
) -> Generator[Fetcher, None, None]:
    """A fetcher for one queue and function."""
    fetcher = storage.fetcher([(queue, 1)], [function], prefetch=prefetch)
    try:
        yield fetcher
    finally:
        fetcher.close(PATIENCE)


def fetch(fetcher: Fetcher) -> ClaimedJob:
    """The next job, which must come."""
    packed = fetcher.next(PATIENCE)
    assert packed is not None, "no job came"
    return decode_claimed(packed)


def let_pass(storage: Storage, ms: int) -> None:
    """Move a manual clock. A real one moves by itself: what follows must wait to be woken."""
    if storage.capabilities.manual_clock:
        storage.advance(ms)
