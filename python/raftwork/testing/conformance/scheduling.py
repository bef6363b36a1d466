"""Time: delays, retries, expiry and pauses end by themselves, never early, and wake whoever waits."""

from __future__ import annotations

from raftwork.job_info import JobState
from raftwork.storage.base import Accepted, Storage, result_retry, result_snoozed
from raftwork.testing.conformance.making import (
    ERROR,
    PATIENCE,
    Contract,
    Worker,
    fetch,
    fetching,
    known,
    let_pass,
    new,
    put,
    spec,
    state,
)

SHORT_MS = 150


class ScheduleContract(Contract):
    """Everything that becomes due."""

    def test_j9_a_delayed_job_comes_when_it_is_due_and_not_before(self, storage: Storage) -> None:
        id = put(storage, delay_ms=SHORT_MS)
        assert state(storage, id) is JobState.SCHEDULED
        with fetching(storage) as fetcher:
            let_pass(storage, SHORT_MS)
            job = fetch(fetcher)
            assert job.id == id
            assert job.claimed_ms - job.created_ms >= SHORT_MS

    def test_run_at_wins_over_delay_and_the_past_means_now(self, storage: Storage) -> None:
        late = put(storage, delay_ms=0, run_at_ms=4_000_000_000_000)
        now = put(storage, delay_ms=3_600_000, run_at_ms=1)
        assert [state(storage, late), state(storage, now)] == [JobState.SCHEDULED, JobState.ENQUEUED]
        run_at = known(storage, late).run_at
        assert run_at is not None
        assert run_at.timestamp() == 4_000_000_000

    def test_jobs_become_due_in_order_of_their_time(self, storage: Storage) -> None:
        later = put(storage, delay_ms=SHORT_MS * 2)
        sooner = put(storage, delay_ms=SHORT_MS)
        with fetching(storage) as fetcher:
            let_pass(storage, SHORT_MS * 3)
            assert [fetch(fetcher).id, fetch(fetcher).id] == [sooner, later]

    def test_a_retry_comes_after_its_delay(self, storage: Storage) -> None:
        id = put(storage)
        worker = Worker(storage)
        job = worker.one()
        assert worker.report(result_retry(job.id, job.token, SHORT_MS, ERROR)) is Accepted.ACCEPTED
        assert state(storage, id) is JobState.RETRYING
        with fetching(storage) as fetcher:
            let_pass(storage, SHORT_MS)
            again = fetch(fetcher)
            assert (again.id, again.attempt) == (id, 2)
            assert again.claimed_ms - job.claimed_ms >= SHORT_MS

    def test_a_snoozed_job_comes_after_its_delay(self, storage: Storage) -> None:
        put(storage)
        worker = Worker(storage)
        job = worker.one()
        worker.report(result_snoozed(job.id, job.token, SHORT_MS))
        with fetching(storage) as fetcher:
            let_pass(storage, SHORT_MS)
            assert fetch(fetcher).attempt == 1

    def test_a_job_that_did_not_start_in_time_is_cancelled(self, storage: Storage) -> None:
        id = put(storage, spec=spec(expires_ms=SHORT_MS))
        let_pass(storage, SHORT_MS + 1)
        info = storage.wait(id, PATIENCE)
        assert (info.state, info.reason) == (JobState.CANCELLED, "expired")

    def test_a_job_that_started_in_time_does_not_expire(self, storage: Storage) -> None:
        id = put(storage, spec=spec(expires_ms=SHORT_MS))
        worker = Worker(storage)
        job = worker.one()
        witness = put(storage, spec=spec("witness", expires_ms=SHORT_MS))
        let_pass(storage, SHORT_MS + 1)
        storage.wait(witness, PATIENCE)
        assert state(storage, id) is JobState.PROCESSING
        assert worker.succeed(job) is Accepted.ACCEPTED

    def test_a_pause_with_an_end_ends_by_itself(self, storage: Storage) -> None:
        put(storage)
        now_ms = Worker(storage).one().claimed_ms
        waiting = put(storage)
        storage.pause_queue("default", now_ms + 4 * SHORT_MS, "deploy")
        assert Worker(storage).claim() == []
        with fetching(storage) as fetcher:
            let_pass(storage, 4 * SHORT_MS)
            job = fetch(fetcher)
            assert job.id == waiting
            assert job.claimed_ms >= now_ms + 4 * SHORT_MS

    def test_a_thousand_jobs_due_together_all_come(self, storage: Storage) -> None:
        jobs = [new(storage, number, delay_ms=SHORT_MS) for number in range(1_000)]
        storage.enqueue(jobs)
        with fetching(storage) as fetcher:
            let_pass(storage, SHORT_MS)
            fetch(fetcher)
        last = put(storage, delay_ms=1)
        with fetching(storage) as fetcher:
            let_pass(storage, SHORT_MS)
            while fetch(fetcher).id != last:
                pass

    def test_time_does_not_run_backwards_between_two_steps_of_a_job(self, storage: Storage) -> None:
        id = put(storage)
        worker = Worker(storage)
        worker.succeed(worker.one())
        info = known(storage, id)
        assert info.enqueued_at is not None
        assert info.started_at is not None
        assert info.finished_at is not None
        assert info.created_at <= info.enqueued_at <= info.started_at <= info.finished_at
