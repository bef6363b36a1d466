"""Flows and batches: who waits for whom, what a parent's end does to its children, and what goes with it (J11)."""

from __future__ import annotations

import asyncio
import threading

import pytest

from raftwork import serde
from raftwork.errors import BatchNotFound, FlowCycle, ParentMissing, TimedOut, WrongState
from raftwork.job_info import JobState
from raftwork.storage.base import Change, Flow, Storage, result_failed
from raftwork.testing.conformance.making import ERROR, PATIENCE, Contract, Worker, known, new, put, state

SUCCESS, FAILURE, FINISH = 0, 1, 2
OPEN, MET, UNMET, VOID = 0, 1, 2, 3


def child(
    storage: Storage,
    *parents: bytes,
    on: int = SUCCESS,
    uses: bool = False,
    batch: bytes | None = None,
    delay_ms: int = 0,
) -> bytes:
    """Store a job that waits for these; answers its id."""
    return put(storage, flow=Flow(tuple((parent, on, uses) for parent in parents), batch), delay_ms=delay_ms)


def opened(storage: Storage, outer: bytes | None = None) -> bytes:
    """A new batch."""
    (id,) = storage.new_ids(1)
    assert storage.open_batch(id, "night", outer)
    return id


def fail(worker: Worker) -> bytes:
    """Let the next job fail for good; answers its id."""
    job = worker.one()
    worker.report(result_failed(job.id, job.token, ERROR))
    return job.id


class FlowContract(Contract):
    """Everything about flows and batches."""

    def test_j11_a_child_is_ready_when_its_last_parent_succeeded(self, storage: Storage) -> None:
        worker = Worker(storage)
        first, second = put(storage), put(storage)
        waiting = child(storage, first, second)
        for ended in (first, second):
            assert state(storage, waiting) is JobState.AWAITING
            job = worker.one()
            assert job.id == ended
            worker.succeed(job)
        assert state(storage, waiting) is JobState.ENQUEUED
        assert worker.one().id == waiting

    def test_j11_the_end_of_a_parent_decides_who_runs_and_who_is_cancelled(self, storage: Storage) -> None:
        worker = Worker(storage)
        parent = put(storage)
        good, bad, any_ = (child(storage, parent, on=on) for on in (SUCCESS, FAILURE, FINISH))
        behind = child(storage, good)
        assert fail(worker) == parent
        assert [state(storage, job).value for job in (good, bad, any_, behind)] == [
            "cancelled",
            "enqueued",
            "enqueued",
            "cancelled",
        ]
        assert f"parent {known(storage, parent).id} failed" in str(known(storage, good).reason)

    def test_j11_a_parent_that_ended_before_counts_at_once(self, storage: Storage) -> None:
        worker = Worker(storage)
        done = put(storage)
        worker.succeed(worker.one())
        assert state(storage, child(storage, done)) is JobState.ENQUEUED
        assert state(storage, child(storage, done, on=FAILURE)) is JobState.CANCELLED

    def test_an_unknown_parent_is_refused_and_named(self, storage: Storage) -> None:
        (nobody,) = storage.new_ids(1)
        with pytest.raises(ParentMissing, match="waits for") as caught:
            child(storage, nobody)
        assert caught.value.job_id is not None
        assert caught.value.job_id.bytes == nobody

    def test_jobs_of_one_write_may_wait_for_earlier_ones(self, storage: Storage) -> None:
        worker = Worker(storage)
        first = new(storage)
        second = new(storage, flow=Flow(((first.id, SUCCESS, True),)))
        assert storage.enqueue([first, second]) == []
        worker.succeed(worker.one(), 7)
        assert worker.one().id == second.id

    def test_j11_results_go_along_and_survive_their_parent(self, storage: Storage) -> None:
        worker = Worker(storage)
        parent = put(storage)
        taker = child(storage, parent, uses=True)
        worker.succeed(worker.one(), {"rows": 3})
        storage.delete([parent])
        extras = worker.one().extras
        assert extras is not None
        assert extras[1] == [[0, parent, serde.encode({"rows": 3})]]
        assert state(storage, taker) is JobState.PROCESSING

    def test_j11_a_requeued_parent_takes_its_cancelled_children_along(self, storage: Storage) -> None:
        worker = Worker(storage)
        parent = put(storage)
        waiting = child(storage, parent)
        last = child(storage, waiting)
        fail(worker)
        assert state(storage, last) is JobState.CANCELLED
        assert storage.requeue([parent]) == [Change.DONE]
        assert [state(storage, job) for job in (waiting, last)] == [JobState.AWAITING] * 2
        for job in (parent, waiting, last):
            claimed = worker.one()
            assert claimed.id == job
            worker.succeed(claimed)

    def test_j11_a_deleted_parent_cancels_its_children(self, storage: Storage) -> None:
        parent = put(storage)
        waiting = child(storage, parent)
        storage.delete([parent])
        assert state(storage, waiting) is JobState.CANCELLED
        assert storage.flow(waiting).parents == [(parent, SUCCESS, UNMET)]

    def test_a_flow_tells_parents_and_children(self, storage: Storage) -> None:
        parent = put(storage)
        waiting = child(storage, parent)
        assert storage.flow(waiting).parents == [(parent, SUCCESS, OPEN)]
        assert storage.flow(parent).children == 1
        assert (known(storage, parent).in_flow, known(storage, waiting).in_flow) == (True, True)
        storage.cancel([waiting])
        assert storage.flow(waiting).parents == [(parent, SUCCESS, VOID)]
        assert storage.flow(parent).children == 0

    def test_a_thousand_and_more_children_are_all_settled(self, storage: Storage) -> None:
        worker = Worker(storage)
        parent = put(storage)
        after = Flow(((parent, SUCCESS, False),))
        for _ in range(3):
            storage.enqueue([new(storage, flow=after) for _ in range(1_000)])
        before = storage.counts()["enqueued"]
        worker.succeed(worker.one())
        deadline = threading.Event()
        for _ in range(int(PATIENCE * 20)):
            # The first thousand are ready with the end of the parent, the others with the next entries of the log.
            if storage.flow(parent).children == 0:
                break
            deadline.wait(0.05)
        assert storage.counts()["enqueued"] - before == 3_000 - 1
        assert storage.counts()["awaiting"] == 0

    def test_j11_a_batch_finishes_when_it_is_sealed_and_nobody_is_pending(self, storage: Storage) -> None:
        worker = Worker(storage)
        batch = opened(storage)
        assert not storage.open_batch(batch, "night")
        after = child(storage, batch)
        members = [put(storage, flow=Flow((), batch)) for _ in range(2)]
        assert known(storage, members[0]).batch is not None
        worker.succeed(worker.one())
        assert storage.seal_batch(batch) is True
        assert storage.seal_batch(batch) is False
        job = worker.one()
        assert job.extras is not None
        assert job.extras[2] == batch
        put(storage, flow=Flow((), batch))  # A running job may add others, also to a sealed batch.
        worker.succeed(job)
        assert state(storage, after) is JobState.AWAITING
        worker.succeed(worker.one())
        assert state(storage, after) is JobState.ENQUEUED
        row = storage.wait_batch(batch, PATIENCE)
        assert (row.state, row.total, row.pending, row.succeeded) == ("succeeded", 3, 0, 3)
        assert row in storage.batches()
        with pytest.raises(WrongState, match="is finished"):
            put(storage, flow=Flow((), batch))

    def test_j11_a_requeued_member_begins_the_batch_again(self, storage: Storage) -> None:
        worker = Worker(storage)
        outer = opened(storage)
        inner = opened(storage, outer)
        good, bad = child(storage, outer), child(storage, outer, on=FAILURE)
        member = put(storage, flow=Flow((), inner))
        storage.seal_batch(inner)
        storage.seal_batch(outer)
        fail(worker)
        assert [state(storage, job).value for job in (good, bad)] == ["cancelled", "enqueued"]
        row = storage.batch(outer)
        assert row is not None
        assert (row.state, row.total, row.failed) == ("failed", 1, 1)
        storage.requeue([member])
        assert state(storage, good) is JobState.AWAITING
        storage.cancel([bad])
        worker.succeed(worker.one())
        assert state(storage, good) is JobState.ENQUEUED

    def test_a_batch_is_waited_for_and_cancelled(self, storage: Storage) -> None:
        batch = opened(storage)
        member = put(storage, flow=Flow((), batch))
        with pytest.raises(TimedOut):
            storage.wait_batch(batch, 0.0)
        ended: list[str] = []
        waiter = threading.Thread(target=lambda: ended.append(storage.wait_batch(batch, PATIENCE).state))
        waiter.start()
        assert storage.cancel_batch(batch, "enough") is True
        waiter.join(PATIENCE)
        assert ended == ["cancelled"]
        assert known(storage, member).reason == "enough"
        assert asyncio.run(storage.await_batch(batch, PATIENCE)).cancelled == 1
        assert storage.cancel_batch(batch) is False

    def test_an_unknown_batch_is_told(self, storage: Storage) -> None:
        (nobody,) = storage.new_ids(1)
        assert storage.batch(nobody) is None
        assert storage.seal_batch(nobody) is None
        assert storage.cancel_batch(nobody) is None
        with pytest.raises(BatchNotFound):
            storage.wait_batch(nobody, PATIENCE)
        with pytest.raises(BatchNotFound):
            put(storage, flow=Flow((), nobody))

    def test_no_member_waits_for_its_own_batch(self, storage: Storage) -> None:
        batch = opened(storage)
        member = put(storage, flow=Flow((), batch))
        child(storage, member, batch=batch)
        with pytest.raises(FlowCycle):
            child(storage, batch, batch=batch)
        callback = child(storage, batch)
        with pytest.raises(FlowCycle):
            child(storage, callback, batch=batch)
