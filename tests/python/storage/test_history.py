"""Jobs that left memory for the archive: they are found, run again, and deleted like any other.

Of the promises: J1 (in one state until deleted, wherever its record lies), J4 (only an explicit requeue leaves a final
state, and begins a new generation), J12 (the figures add up), D1 (a requeue that was answered outlives the process).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raftwork import JobNotFound, JobState, filters
from raftwork.storage.base import Change, result_cancelled, result_failed
from raftwork.storage.raft import RaftStorage
from raftwork.testing.conformance.making import ERROR, PATIENCE, Worker, known, put
from storage.test_raft import in_child


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "jobs"


@pytest.fixture
def storage(directory: Path) -> Iterator[RaftStorage]:
    storage = RaftStorage(directory)
    yield storage
    storage.close()


def archived(storage: RaftStorage) -> bytes:
    """A job that ran, and whose record is in the archive and no longer in memory."""
    job = put(storage, 7)
    worker = Worker(storage)
    worker.succeed(worker.one(), "first")
    until_archived(storage, 1)
    return job


def until_archived(storage: RaftStorage, jobs: int) -> None:
    """Nobody is told when a job leaves memory, so ask until so many did."""
    until = time.monotonic() + PATIENCE
    while storage.counts()["archived"] != jobs:
        assert time.monotonic() < until, "the job stays in memory"


def listed(storage: RaftStorage, filter: str = "", limit: int = 100) -> list[tuple[bytes, str]]:
    """All jobs that a query finds, page by page, with their states."""
    found, cursor = [], None
    while True:
        page = storage.jobs(filters.parse(filter), cursor, limit)
        found += [(info.id.bytes, info.state.value) for info in page.jobs]
        cursor = page.cursor
        if cursor is None:
            return found


def check_counts(storage: RaftStorage) -> dict[str, int]:
    """J12: created = in memory by state + archived + deleted."""
    counts = storage.counts()
    live = sum(counts[state.value] for state in JobState)
    assert counts["created"] == live + counts["archived"] + counts["deleted"], counts
    return counts


ENDS: dict[str, Callable[[Worker], object]] = {
    "succeeded": lambda worker: worker.succeed(worker.one(), "first"),
    "failed": lambda worker: worker.report(result_failed(*lease(worker), ERROR)),
    "cancelled": lambda worker: worker.report(result_cancelled(*lease(worker), "not wanted")),
}


def lease(worker: Worker) -> tuple[bytes, int]:
    job = worker.one()
    return job.id, job.token


@pytest.mark.parametrize("end", ENDS)
def test_a_requeued_job_is_listed_and_counted_once(directory: Path, end: str) -> None:
    """J1, J4, J12: live again, its record in the archive is not another job."""
    storage = RaftStorage(directory)
    before, job, after = put(storage, 1), put(storage, 2), put(storage, 3)
    worker = Worker(storage)
    for _ in range(3):
        ENDS[end](worker)
    until_archived(storage, 3)
    assert listed(storage) == [(after, end), (job, end), (before, end)]

    assert storage.requeue([job]) == [Change.DONE]
    for round in range(2):  # Before and after a restart.
        for limit in (1, 2, 100):
            assert listed(storage, limit=limit) == [(after, end), (job, "enqueued"), (before, end)]
        assert listed(storage, f"state:{end}") == [(after, end), (before, end)], "not by its old state"
        assert listed(storage, "state:enqueued") == [(job, "enqueued")]
        assert known(storage, job).generation == 1 and not known(storage, job).archived
        counts = check_counts(storage)
        assert (counts["enqueued"], counts["archived"]) == (1, 2)
        if round == 0:
            storage.close()
            storage = RaftStorage(directory)
    worker = Worker(storage)
    running = worker.one()
    assert listed(storage) == [(after, end), (job, "processing"), (before, end)]
    worker.succeed(running, "second")
    until_archived(storage, 3)
    assert listed(storage) == [(after, end), (job, "succeeded"), (before, end)], "the newest record counts"
    assert known(storage, job).result == "second"
    assert [one for one, _ in listed(storage, "state:succeeded")].count(job) == 1
    check_counts(storage)
    assert storage.delete([job]) == [Change.DONE]
    assert listed(storage) == [(after, end), (before, end)]
    assert check_counts(storage)["archived"] == 2
    storage.close()


def test_an_archived_job_is_run_again(storage: RaftStorage) -> None:
    """J4."""
    job = archived(storage)
    assert known(storage, job).result == "first"
    assert storage.requeue([job]) == [Change.DONE]
    assert known(storage, job).state is JobState.ENQUEUED
    worker = Worker(storage)
    worker.succeed(worker.one(), "second")
    assert storage.wait(job, PATIENCE).result == "second"
    assert storage.counts()["enqueued"] == 0


def test_an_archived_job_is_deleted(storage: RaftStorage) -> None:
    job = archived(storage)
    assert storage.delete([job]) == [Change.DONE]
    with pytest.raises(JobNotFound):
        storage.wait(job, PATIENCE)


def test_an_unknown_job_is_neither(storage: RaftStorage) -> None:
    archived(storage)
    unknown = storage.new_ids(1)
    assert storage.requeue(unknown) == storage.delete(unknown) == [Change.UNKNOWN]


def test_a_forked_child_owns_the_directory_without_its_history(directory: Path) -> None:
    """The archive's engine cannot be used on both sides of a fork; work goes on, and the health says so."""
    parent = RaftStorage(directory)
    archived(parent)
    parent.close()

    def own() -> str:
        storage = RaftStorage(directory)
        put(storage, 8)
        health = storage.health()
        storage.close()
        return f"{health['role']} {health['archive']['open']}"

    assert in_child(own) == "owner False"
    again = RaftStorage(directory)
    assert again.counts()["enqueued"] == 1
    again.close()
