"""Finish and progress: one end for each lease, and none for a stale one."""

from __future__ import annotations

from raftwork import serde
from raftwork.job_info import JobState, Progress
from raftwork.storage.base import (
    Accepted,
    Change,
    Storage,
    pack_error,
    pack_progress,
    result_cancelled,
    result_crashed,
    result_failed,
    result_released,
    result_retry,
    result_snoozed,
    result_succeeded,
)
from raftwork.testing.conformance.making import ERROR, Contract, Worker, known, new, put, spec, state


class FinishContract(Contract):
    """`finish`, `progress`."""

    def test_success_keeps_the_result(self, storage: Storage) -> None:
        id = put(storage)
        worker = Worker(storage)
        assert worker.succeed(worker.one(), {"rows": 3}) is Accepted.ACCEPTED
        info = known(storage, id)
        assert (info.state, info.result, info.error, info.attempt) == (JobState.SUCCEEDED, {"rows": 3}, None, 1)
        assert info.finished_at is not None
        assert info.started_at is not None
        assert info.finished_at >= info.started_at

    def test_failure_keeps_the_error(self, storage: Storage) -> None:
        id = put(storage)
        job = Worker(storage).one()
        assert storage.finish([result_failed(job.id, job.token, ERROR)]) == [Accepted.ACCEPTED]
        info = known(storage, id)
        assert info.state is JobState.FAILED
        assert info.error is not None
        assert (info.error.type, info.error.message) == ("builtins.ValueError", "no")

    def test_j7_attempts_are_counted_and_bounded(self, storage: Storage) -> None:
        id = put(storage, spec=spec(max_attempts=3))
        worker = Worker(storage)
        for attempt in (1, 2, 3):
            job = worker.one()
            assert job.attempt == attempt
            assert worker.report(result_retry(job.id, job.token, 0, ERROR)) is Accepted.ACCEPTED
        info = known(storage, id)
        assert (info.state, info.attempt, len(info.attempts)) == (JobState.FAILED, 3, 3)
        assert worker.claim() == []

    def test_j4_a_result_counts_once(self, storage: Storage) -> None:
        id = put(storage)
        worker = Worker(storage)
        job = worker.one()
        done = result_succeeded(job.id, job.token, serde.encode(1))
        assert storage.finish([done]) == [Accepted.ACCEPTED]
        again = storage.finish([done, result_failed(job.id, job.token, ERROR)])
        assert Accepted.ACCEPTED not in again
        assert (state(storage, id), known(storage, id).result) == (JobState.SUCCEEDED, 1)

    def test_j3_a_stale_forged_or_unknown_token_changes_nothing(self, storage: Storage) -> None:
        id = put(storage)
        worker = Worker(storage)
        old = worker.one()
        worker.report(result_released(old.id, old.token))
        job = worker.one()
        stranger = storage.new_ids(1)[0]
        answers = storage.finish(
            [
                result_succeeded(old.id, old.token, None),
                result_succeeded(job.id, job.token + 1, None),
                result_succeeded(job.id, 0, None),
                result_succeeded(stranger, job.token, None),
            ]
        )
        assert answers == [Accepted.LEASE_LOST] * 3 + [Accepted.UNKNOWN]
        assert storage.progress([pack_progress(old.id, old.token, None, b"x")]) == [Accepted.LEASE_LOST]
        assert state(storage, id) is JobState.PROCESSING
        assert worker.succeed(job) is Accepted.ACCEPTED

    def test_a_batch_of_results_is_answered_one_by_one(self, storage: Storage) -> None:
        storage.enqueue([new(storage, number) for number in range(4)])
        jobs = Worker(storage).claim(4)
        answers = storage.finish(
            [
                result_succeeded(jobs[0].id, jobs[0].token, None),
                result_failed(jobs[1].id, jobs[1].token + 9, ERROR),
                result_released(jobs[2].id, jobs[2].token),
                result_cancelled(jobs[3].id, jobs[3].token, "not wanted"),
            ]
        )
        assert answers == [Accepted.ACCEPTED, Accepted.LEASE_LOST, Accepted.ACCEPTED, Accepted.ACCEPTED]
        expected = [JobState.SUCCEEDED, JobState.PROCESSING, JobState.ENQUEUED, JobState.CANCELLED]
        assert [state(storage, job.id) for job in jobs] == expected
        assert known(storage, jobs[3].id).reason == "not wanted"

    def test_release_and_snooze_spend_no_attempt(self, storage: Storage) -> None:
        id = put(storage, spec=spec(max_attempts=1))
        worker = Worker(storage)
        job = worker.one()
        worker.report(result_released(job.id, job.token))
        job = worker.one()
        assert job.attempt == 1
        worker.report(result_snoozed(job.id, job.token, 3_600_000))
        info = known(storage, id)
        assert info.state is JobState.SCHEDULED
        assert worker.claim() == []
        storage.requeue([id])
        assert worker.one().attempt == 1

    def test_a_snoozed_job_says_why_it_waits_until_its_next_run(self, storage: Storage) -> None:
        id = put(storage)
        worker = Worker(storage)
        job = worker.one()
        worker.report(result_snoozed(job.id, job.token, 3_600_000, "waits for the bank"))
        assert (known(storage, id).state, known(storage, id).reason) == (JobState.SCHEDULED, "waits for the bank")
        storage.requeue([id])
        assert known(storage, id).reason == "waits for the bank"
        job = worker.one()
        assert known(storage, id).reason is None
        worker.report(result_snoozed(job.id, job.token, 3_600_000))
        assert known(storage, id).reason is None

    def test_j7_crashes_are_counted_apart_and_bounded(self, storage: Storage) -> None:
        id = put(storage, spec=spec(max_attempts=1, max_crashes=2))
        worker = Worker(storage)
        for crashes in (0, 1):
            job = worker.one()
            assert (job.attempt, job.crashes) == (1, crashes)
            assert worker.report(result_crashed(job.id, job.token, pack_error("Crash", "killed"))) is Accepted.ACCEPTED
        info = known(storage, id)
        assert (info.state, info.crashes) == (JobState.FAILED, 2)

    def test_saved_state_reaches_the_next_attempt(self, storage: Storage) -> None:
        put(storage)
        worker = Worker(storage)
        job = worker.one()
        note = serde.encode([1, 10, "rows"])
        assert storage.progress([pack_progress(job.id, job.token, note, b"half")]) == [Accepted.ACCEPTED]
        assert known(storage, job.id).progress == Progress(1, 10, "rows")
        assert storage.progress([pack_progress(job.id, job.token, serde.encode([2, 10, ""]), None)]) == [
            Accepted.ACCEPTED
        ]
        worker.report(result_retry(job.id, job.token, 0, ERROR))
        assert worker.one().state == b"half"

    def test_a_running_job_that_was_cancelled_ends_as_its_worker_says(self, storage: Storage) -> None:
        put(storage)
        worker = Worker(storage)
        job = worker.one()
        assert storage.cancel([job.id], "enough") == [Change.TOLD]
        assert known(storage, job.id).cancel_requested
        assert worker.report(result_cancelled(job.id, job.token, "enough")) is Accepted.ACCEPTED
        info = known(storage, job.id)
        assert (info.state, info.reason) == (JobState.CANCELLED, "enough")

    def test_the_history_of_attempts_is_kept(self, storage: Storage) -> None:
        put(storage)
        worker = Worker(storage)
        job = worker.one()
        worker.report(result_retry(job.id, job.token, 0, ERROR))
        worker.succeed(worker.one())
        attempts = known(storage, job.id).attempts
        assert [attempt.attempt for attempt in attempts] == [1, 2]
        assert attempts[0].error is not None
        assert attempts[0].error.message == "no"
        assert attempts[1].error is None
