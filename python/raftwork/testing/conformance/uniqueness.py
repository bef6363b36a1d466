"""Unique keys: at most one job that is not final, or one in a window."""

from __future__ import annotations

import threading
import time

import pytest

from raftwork.errors import UniqueConflict
from raftwork.job_info import JobState
from raftwork.storage.base import Clash, Storage, result_failed, result_retry
from raftwork.testing.conformance.making import (
    ERROR,
    PATIENCE,
    Contract,
    Worker,
    known,
    let_pass,
    new,
    put,
    spec,
    state,
)

SKIP, REPLACE, RAISE = (spec(on_conflict=mode) for mode in (0, 1, 2))


class UniqueContract(Contract):
    """`unique_key`, `on_conflict`, `unique_window_ms`."""

    def test_j10_a_taken_key_answers_the_job_that_holds_it(self, storage: Storage) -> None:
        first = put(storage, spec=SKIP, unique_key="k")
        second = new(storage, spec=SKIP, unique_key="k")
        assert storage.enqueue([second]) == [Clash(0, 2, first)]
        assert storage.job(second.id) is None

    def test_other_keys_and_no_key_are_free(self, storage: Storage) -> None:
        put(storage, unique_key="k")
        put(storage, unique_key="K")
        put(storage)
        put(storage)
        assert storage.counts()["enqueued"] == 4

    def test_j10_a_key_is_held_through_retries_and_freed_by_the_end(self, storage: Storage) -> None:
        worker = Worker(storage)
        first = put(storage, unique_key="k")
        job = worker.one()
        assert storage.enqueue([new(storage, unique_key="k")]) == [Clash(0, 2, first)]
        worker.report(result_retry(job.id, job.token, 3_600_000, ERROR))
        assert storage.enqueue([new(storage, unique_key="k")]) == [Clash(0, 2, first)]
        storage.requeue([first])
        job = worker.one()
        worker.report(result_failed(job.id, job.token, ERROR))
        put(storage, unique_key="k")

    def test_cancel_and_delete_free_the_key(self, storage: Storage) -> None:
        storage.cancel([put(storage, unique_key="k")])
        storage.delete([put(storage, unique_key="k")])
        put(storage, unique_key="k")

    def test_j10_two_of_a_batch_with_one_key_are_one_job(self, storage: Storage) -> None:
        jobs = [new(storage, number, unique_key="k") for number in range(3)]
        assert storage.enqueue(jobs) == [Clash(1, 2, jobs[0].id), Clash(2, 2, jobs[0].id)]

    def test_j10_threads_that_ask_for_one_key_at_once_get_one_job(self, storage: Storage) -> None:
        keys = [f"race-{number}" for number in range(10)]
        answers: dict[str, list[bytes]] = {key: [] for key in keys}
        begin = threading.Barrier(8)

        def ask() -> None:
            begin.wait(PATIENCE)
            for key in keys:
                job = new(storage, spec=SKIP, unique_key=key)
                clashes = storage.enqueue([job])
                answers[key].append(clashes[0].existing if clashes else job.id)

        threads = [threading.Thread(target=ask) for _ in range(begin.parties)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert {len(jobs) for jobs in answers.values()} == {begin.parties}
        assert {len(set(jobs)) for jobs in answers.values()} == {1}
        assert storage.counts()["enqueued"] == len(keys)

    def test_replace_puts_the_new_job_in_the_place_of_a_waiting_one(self, storage: Storage) -> None:
        old = put(storage, 1, spec=REPLACE, unique_key="k")
        fresh = new(storage, 2, spec=REPLACE, unique_key="k")
        assert storage.enqueue([fresh]) == [Clash(0, 3, old)]
        assert state(storage, old) is JobState.CANCELLED
        assert [job.id for job in Worker(storage).claim(5)] == [fresh.id]

    def test_a_running_job_is_not_replaced(self, storage: Storage) -> None:
        old = put(storage, spec=REPLACE, unique_key="k")
        Worker(storage).one()
        assert storage.enqueue([new(storage, spec=REPLACE, unique_key="k")]) == [Clash(0, 2, old)]
        assert state(storage, old) is JobState.PROCESSING

    def test_raise_names_the_holder_and_stores_nothing(self, storage: Storage) -> None:
        holder = put(storage, spec=RAISE, unique_key="k")
        with pytest.raises(UniqueConflict) as caught:
            storage.enqueue([new(storage, spec=RAISE, unique_key="k")])
        assert caught.value.job_id is not None
        assert caught.value.job_id.bytes == holder
        assert storage.counts()["enqueued"] == 1

    def test_repeating_the_same_id_is_no_conflict(self, storage: Storage) -> None:
        job = new(storage, spec=RAISE, unique_key="k")
        storage.enqueue([job])
        assert storage.enqueue([job]) == [Clash(0, 1, job.id)]

    def test_j10_a_window_outlives_the_job_and_ends(self, storage: Storage) -> None:
        windowed = spec(unique_window_ms=300)
        first = put(storage, spec=windowed, unique_key="k")
        worker = Worker(storage)
        worker.succeed(worker.one())
        assert storage.enqueue([new(storage, spec=windowed, unique_key="k")]) == [Clash(0, 2, first)]
        let_pass(storage, 301)
        # The end of a window wakes nobody, so a real clock is asked again until it has come.
        deadline = time.monotonic() + PATIENCE
        fresh = new(storage, spec=windowed, unique_key="k")
        while storage.enqueue([fresh]):
            assert time.monotonic() < deadline
        assert state(storage, fresh.id) is JobState.ENQUEUED

    def test_a_key_is_shown_with_its_job(self, storage: Storage) -> None:
        assert known(storage, put(storage, unique_key="invoice:7")).unique_key == "invoice:7"
        assert known(storage, put(storage)).unique_key is None
