"""Jobs that left memory for the archive: they are found, run again, and deleted like any other."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raftwork import JobNotFound, JobState
from raftwork.storage.base import Change
from raftwork.storage.raft import RaftStorage
from raftwork.testing.conformance.making import PATIENCE, Worker, known, put
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
    # Nobody is told when a job leaves memory, so ask until it did.
    until = time.monotonic() + PATIENCE
    while not storage.counts()["archived"]:
        assert time.monotonic() < until, "the job stays in memory"
    return job


def test_an_archived_job_is_run_again(storage: RaftStorage) -> None:
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
