"""Jobs that left memory for the archive: they are found, run again, and deleted like any other.

Of the promises: J1 (in one state until deleted, wherever its record lies), J4 (only an explicit requeue leaves a final
state, and begins a new generation), J12 (the figures add up), D1 (a requeue that was answered outlives the process).
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raftwork import JobNotFound, JobState, ParentMissing, Raftwork, filters, serde
from raftwork.remote_error import FINGERPRINT_HEADING
from raftwork.storage.base import Change, Flow, NewJob, pack_error, result_cancelled, result_failed
from raftwork.storage.raft import RaftStorage
from raftwork.storage.records import enqueue_command
from raftwork.testing.conformance.making import ERROR, PATIENCE, Worker, known, new, put
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


def nothing() -> None: ...


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
def test_j1_j4_j12_a_requeued_job_is_listed_and_counted_once(directory: Path, end: str) -> None:
    """Live again, its record in the archive is not another job."""
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


def test_archived_jobs_are_found_by_where_they_come_from_and_by_their_mistake(storage: RaftStorage) -> None:
    (batch,) = storage.new_ids(1)
    storage.open_batch(batch, "night")
    member = put(storage, flow=Flow(batch=batch))
    child = put(storage, flow=Flow(((member, 2, False),)))
    worker = Worker(storage)
    error = pack_error("ValueError", "no", f"Traceback\n{FINGERPRINT_HEADING}0123456789abcdef\n")
    worker.report(result_failed(*lease(worker), error))
    ENDS["succeeded"](worker)
    until_archived(storage, 2)
    assert listed(storage, f"batch:{uuid.UUID(bytes=batch)}") == [(member, "failed")]
    assert listed(storage, f"batch:{batch.hex()[:30]}") == [(member, "failed")]
    assert listed(storage, f"batch:{uuid.UUID(bytes=member)}") == []
    assert listed(storage, f"parent:{uuid.UUID(bytes=member)}") == [(child, "succeeded")]
    assert listed(storage, "fingerprint:0123456789abcdef") == [(member, "failed")]
    assert listed(storage, "fingerprint:fedcba9876543210") == []


def test_an_archived_job_of_a_schedule_is_found_by_its_name(tmp_path: Path) -> None:
    with Raftwork("shop", f"raft:///{tmp_path / 'jobs'}") as app:
        app.schedules.put("nightly", app.task(nothing), every="1h")
        job = app.schedules.trigger("nightly").id.bytes
        storage = app.storage
        assert isinstance(storage, RaftStorage)
        assert listed(storage, "schedule:nightly") == [(job, "enqueued")]
        storage.cancel([job])
        until_archived(storage, 1)
        assert listed(storage, "schedule:night*") == [(job, "cancelled")]
        assert listed(storage, "schedule:weekly") == []


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


def test_what_needs_a_job_that_is_not_final_has_nothing_to_do_with_an_archived_one(storage: RaftStorage) -> None:
    job, unknown = archived(storage), uuid.uuid4().bytes
    already = [Change.ALREADY, Change.UNKNOWN]
    assert storage.cancel([job, unknown], "too late") == already
    assert storage.move([job, unknown], "other") == already
    assert storage.set_priority([job, unknown], 5) == already
    assert known(storage, job).state is JobState.SUCCEEDED


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


def test_j11_a_parent_out_of_the_archive_counts_and_brings_its_children_along(storage: RaftStorage) -> None:
    worker = Worker(storage)
    done = archived(storage)
    extras = Flow(((done, 0, True),))
    taker = put(storage, flow=extras)
    assert known(storage, taker).state is JobState.ENQUEUED, "it ended before, in the archive"
    job = worker.one()
    assert job.extras is not None
    assert [row[1] for row in job.extras[1]] == [done]
    worker.succeed(job)

    failing = put(storage)
    child = put(storage, flow=Flow(((failing, 0, False),)))
    last = put(storage, flow=Flow(((child, 0, False),)))
    job = worker.one()
    worker.report(result_failed(job.id, job.token, ERROR))
    until_archived(storage, storage.counts()["created"])
    assert storage.requeue([failing]) == [Change.DONE]
    assert [known(storage, id).state for id in (failing, child, last)] == [
        JobState.ENQUEUED,
        JobState.AWAITING,
        JobState.AWAITING,
    ]
    check_counts(storage)


@pytest.mark.parametrize("reopened", [False, True], ids=["same", "reopened"])
def test_j11_a_batch_that_begins_again_brings_its_callbacks_out_of_the_archive(
    storage: RaftStorage, directory: Path, reopened: bool
) -> None:
    """Its failed member left memory before they were cancelled: what is to come back cannot stand in its record."""
    worker = Worker(storage)
    inner, outer = storage.new_ids(2)
    storage.open_batch(outer, "outer")
    storage.open_batch(inner, "inner", outer)
    callbacks = [put(storage, flow=Flow(((batch, 0, False),))) for batch in (outer, inner)]
    last = put(storage, flow=Flow(((callbacks[0], 0, False),)))
    member = put(storage, flow=Flow((), inner))
    job = worker.one()
    worker.report(result_failed(job.id, job.token, ERROR))
    until_archived(storage, 1)
    storage.seal_batch(inner)
    storage.seal_batch(outer)
    until_archived(storage, storage.counts()["created"])
    if reopened:  # Whoever opens the directory next knows it from the snapshot that closing left.
        storage.close()
        storage = RaftStorage(directory)
        worker = Worker(storage)
    assert storage.requeue([member]) == [Change.DONE]
    assert [known(storage, id).state for id in (*callbacks, last)] == [JobState.AWAITING] * 3
    worker.succeed(worker.one())
    assert [known(storage, id).state for id in callbacks] == [JobState.ENQUEUED] * 2
    check_counts(storage)
    storage.close()


def test_j11_a_parent_that_came_back_for_another_child_takes_the_first_along(storage: RaftStorage) -> None:
    """Its record is written anew when it goes into the archive again, and must still name the children it let down."""
    worker = Worker(storage)
    failing = put(storage)
    child = put(storage, flow=Flow(((failing, 0, False),)))
    job = worker.one()
    worker.report(result_failed(job.id, job.token, ERROR))
    until_archived(storage, 2)
    late = put(storage, flow=Flow(((failing, 0, False),)))
    until_archived(storage, 3)
    assert storage.requeue([failing]) == [Change.DONE]
    assert [known(storage, id).state for id in (child, late)] == [JobState.AWAITING] * 2
    check_counts(storage)


def fail(worker: Worker) -> bytes:
    """The next job fails; its id."""
    id, token = lease(worker)
    worker.report(result_failed(id, token, ERROR))
    return id


@pytest.mark.parametrize("first", ["failed", "running"])
def test_j11_a_fan_in_whose_part_failed_goes_on_with_what_the_others_gave(storage: RaftStorage, first: str) -> None:
    """The others ended while the child was in the archive: nobody told it."""
    worker = Worker(storage)
    failing, running = put(storage), put(storage)
    child = put(storage, flow=Flow(((failing, 0, False), (running, 0, True))))
    last = put(storage, flow=Flow(((child, 0, False),)))
    assert fail(worker) == failing
    job = worker.one()
    until_archived(storage, 3)
    if first == "failed":
        worker.report(result_failed(job.id, job.token, ERROR))
        until_archived(storage, 4)
        assert storage.requeue([failing]) == [Change.DONE]
        worker.succeed(worker.one())
        until_archived(storage, 4)
        assert storage.requeue([running]) == [Change.DONE]
        job = worker.one()
        worker.succeed(job, "output")
    else:
        worker.succeed(job, "output")
        until_archived(storage, 4)
        assert storage.requeue([failing]) == [Change.DONE]
        assert [known(storage, id).state for id in (child, last)] == [JobState.AWAITING] * 2
        worker.succeed(worker.one())
    assert known(storage, child).state is JobState.ENQUEUED
    job = worker.one()
    assert job.extras is not None
    assert [(row[1], serde.decode(row[2])) for row in job.extras[1]] == [(running, "output")]
    check_counts(storage)


def test_j11_a_child_that_is_retried_itself_gets_what_its_other_parents_gave(storage: RaftStorage) -> None:
    worker = Worker(storage)
    failing, running = put(storage), put(storage)
    child = put(storage, flow=Flow(((failing, 0, False), (running, 0, True))))
    assert fail(worker) == failing
    job = worker.one()
    until_archived(storage, 2)
    worker.succeed(job, "output")
    until_archived(storage, 3)
    assert storage.requeue([child]) == [Change.DONE]
    job = worker.one()
    assert job.extras is not None
    assert [(row[1], serde.decode(row[2])) for row in job.extras[1]] == [(running, "output")]


def test_j11_a_fan_out_of_a_thousand_comes_back_from_the_archive(storage: RaftStorage) -> None:
    """With its parent these are more jobs than one command may have."""
    worker = Worker(storage)
    failing = put(storage)
    children = [new(storage, flow=Flow(((failing, 0, False),))) for _ in range(1_000)]
    assert storage.enqueue(children) == []
    assert fail(worker) == failing
    until_archived(storage, 1_001)
    assert storage.requeue([failing]) == [Change.DONE]
    counts = check_counts(storage)
    assert (counts["enqueued"], counts["awaiting"], counts["archived"]) == (1, 1_000, 0)


def test_j11_a_job_waits_for_more_than_a_thousand_that_left_memory(storage: RaftStorage) -> None:
    parents = [new(storage) for _ in range(1_001)]
    for some in (parents[:1_000], parents[1_000:]):
        assert storage.enqueue(some) == []
        storage.cancel([job.id for job in some])
    until_archived(storage, 1_001)
    child = put(storage, flow=Flow(tuple((job.id, 2, False) for job in parents)))
    assert known(storage, child).state is JobState.ENQUEUED


class Forgetful:
    """A client whose node misses a parent, as one does that looked into the archive before the parent went there."""

    def __init__(self, client: Any, missing: bytes) -> None:
        self.client, self.missing = client, missing
        self.misses = self.made = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)

    def _sent(self, command: bytes) -> bytes:
        self.made += 1
        return self.missing if self.made <= self.misses else command

    def submit(self, command: bytes, timeout: float | None) -> Any:
        return self.client.submit(self._sent(command), timeout)

    def start(self, command: bytes) -> Any:
        return self.client.start(self._sent(command))


def enqueue_by(way: str, storage: RaftStorage, job: NewJob) -> None:
    if way == "enqueue":
        storage.enqueue((job,))
    elif way == "aenqueue":
        asyncio.run(storage.aenqueue((job,)))
    else:
        failures: list[BaseException] = []
        storage.start_enqueue((job,), failures.append)
        completions: Any = storage._completions
        assert completions._drain_until(lambda: completions._unwatched == 0, PATIENCE)
        for failure in failures:
            raise failure


@pytest.mark.parametrize("way", ["enqueue", "aenqueue", "start_enqueue"])
def test_a_parent_that_goes_to_the_archive_meanwhile_is_looked_for_once_more(storage: RaftStorage, way: str) -> None:
    """J11: whoever waits for a job that exists is stored."""

    def child_of(parent: bytes) -> NewJob:
        return new(storage, flow=Flow(((parent, 0, False),)))

    parent = archived(storage)
    completions: Any = storage._completions
    client: Any = storage._client
    forgetful: Any = Forgetful(client, enqueue_command((child_of(b"nobody knows me!"),)))
    storage._client = completions._client = forgetful
    try:
        forgetful.misses = 1
        job = child_of(parent)
        enqueue_by(way, storage, job)
        assert known(storage, job.id).state is JobState.ENQUEUED
        assert forgetful.made == 2
        forgetful.made, forgetful.misses = 0, 10
        with pytest.raises(ParentMissing):
            enqueue_by(way, storage, child_of(parent))
        assert forgetful.made == 2, "once more, and no oftener"
    finally:
        storage._client = completions._client = client
