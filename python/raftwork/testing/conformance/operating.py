"""What operators do: cancel, requeue, delete, pause."""

from __future__ import annotations

from raftwork.job_info import JobState
from raftwork.storage.base import Accepted, Change, Storage, result_failed, result_retry, result_succeeded
from raftwork.testing.conformance.making import (
    ERROR,
    Contract,
    Worker,
    fetch,
    fetching,
    known,
    new,
    put,
    spec,
    state,
)


class OperateContract(Contract):
    """`cancel`, `requeue`, `delete`, `move`, `set_priority`, `pause_queue`, `resume_queue`."""

    def test_waiting_jobs_are_cancelled_at_once(self, storage: Storage) -> None:
        worker = Worker(storage)
        retried = put(storage)
        job = worker.one()
        worker.report(result_retry(job.id, job.token, 3_600_000, ERROR))
        jobs = [put(storage), put(storage, delay_ms=3_600_000), retried]
        assert storage.cancel(jobs, "closed") == [Change.DONE] * 3
        assert {(known(storage, id).state, known(storage, id).reason) for id in jobs} == {
            (JobState.CANCELLED, "closed")
        }

    def test_cancel_answers_for_each_job(self, storage: Storage) -> None:
        worker = Worker(storage)
        running = put(storage)
        worker.one()
        waiting = put(storage)
        done = put(storage, spec=spec("g"))
        other = Worker(storage, functions=["g"])
        other.succeed(other.one())
        stranger = storage.new_ids(1)[0]
        answers = storage.cancel([running, waiting, done, stranger, waiting])
        assert answers == [Change.TOLD, Change.DONE, Change.ALREADY, Change.UNKNOWN, Change.ALREADY]
        assert state(storage, running) is JobState.PROCESSING

    def test_j4_requeue_starts_a_final_job_afresh(self, storage: Storage) -> None:
        worker = Worker(storage)
        id = put(storage, spec=spec(max_attempts=1))
        job = worker.one()
        worker.report(result_failed(job.id, job.token, ERROR))
        assert storage.requeue([id]) == [Change.DONE]
        info = known(storage, id)
        assert (info.state, info.attempt, info.crashes, info.generation) == (JobState.ENQUEUED, 0, 0, 1)
        again = worker.one()
        assert (again.id, again.attempt) == (id, 1)
        assert again.token > job.token
        assert storage.finish([result_succeeded(job.id, job.token, None)]) == [Accepted.LEASE_LOST]
        assert worker.succeed(again) is Accepted.ACCEPTED

    def test_requeue_works_on_every_final_state(self, storage: Storage) -> None:
        worker = Worker(storage)
        cancelled, succeeded = put(storage), put(storage, spec=spec(priority=1))
        worker.succeed(worker.one())
        storage.cancel([cancelled])
        assert storage.requeue([cancelled, succeeded]) == [Change.DONE] * 2
        assert {job.id for job in worker.claim(5)} == {cancelled, succeeded}

    def test_requeue_makes_a_waiting_job_due_now(self, storage: Storage) -> None:
        worker = Worker(storage)
        retried = put(storage)
        job = worker.one()
        worker.report(result_retry(job.id, job.token, 3_600_000, ERROR))
        scheduled = put(storage, delay_ms=3_600_000)
        enqueued = put(storage)
        assert storage.requeue([retried, scheduled, enqueued]) == [Change.DONE, Change.DONE, Change.ALREADY]
        claimed = {job.id: job.attempt for job in worker.claim(5)}
        assert claimed == {retried: 2, scheduled: 1, enqueued: 1}

    def test_requeue_leaves_running_and_unknown_jobs_alone(self, storage: Storage) -> None:
        running = put(storage)
        worker = Worker(storage)
        job = worker.one()
        assert storage.requeue([running, storage.new_ids(1)[0]]) == [Change.ALREADY, Change.UNKNOWN]
        assert worker.succeed(job) is Accepted.ACCEPTED

    def test_delete_forgets_all_but_running_jobs(self, storage: Storage) -> None:
        worker = Worker(storage)
        running = put(storage)
        job = worker.one()
        waiting, scheduled = put(storage), put(storage, delay_ms=3_600_000)
        stranger = storage.new_ids(1)[0]
        answers = storage.delete([running, waiting, scheduled, stranger])
        assert answers == [Change.RUNNING, Change.DONE, Change.DONE, Change.UNKNOWN]
        assert [storage.job(id) for id in (waiting, scheduled)] == [None, None]
        assert worker.claim() == []
        worker.succeed(job)
        assert storage.delete([running]) == [Change.DONE]
        assert storage.job(running) is None

    def test_jobs_that_wait_move_to_another_queue(self, storage: Storage) -> None:
        worker = Worker(storage, ["default"])
        running = put(storage)
        job = worker.one()
        first, scheduled = put(storage), put(storage, delay_ms=3_600_000)
        there = put(storage, spec=spec(queue="mail"))
        stranger = storage.new_ids(1)[0]
        answers = storage.move([running, first, scheduled, there, stranger, first], "mail")
        assert answers == [
            *(Change.RUNNING, Change.DONE, Change.DONE, Change.ALREADY, Change.UNKNOWN, Change.ALREADY),
        ]
        assert {known(storage, id).queue for id in (first, scheduled, there)} == {"mail"}
        assert (known(storage, running).queue, state(storage, scheduled)) == ("default", JobState.SCHEDULED)
        assert [job.id for job in Worker(storage, ["mail"]).claim(5)] == [first, there], "by since when they wait"
        worker.succeed(job)
        assert storage.move([running], "mail") == [Change.ALREADY], "it is final"

    def test_a_moved_job_wakes_who_waits(self, storage: Storage) -> None:
        id = put(storage, spec=spec(queue="elsewhere"))
        with fetching(storage) as fetcher:
            assert fetcher.next(0.05) is None
            storage.move([id], "default")
            assert fetch(fetcher).id == id

    def test_jobs_that_wait_get_another_priority(self, storage: Storage) -> None:
        worker = Worker(storage)
        running = put(storage)
        job = worker.one()
        first, second = put(storage), put(storage)
        assert storage.set_priority([running, second, second], 5) == [Change.RUNNING, Change.DONE, Change.ALREADY]
        assert (known(storage, second).priority, known(storage, running).priority) == (5, 0)
        assert [job.id for job in worker.claim(5)] == [second, first]
        worker.succeed(job)
        assert storage.set_priority([running, storage.new_ids(1)[0]], 5) == [Change.ALREADY, Change.UNKNOWN]

    def test_a_paused_queue_hands_out_nothing_and_takes_everything(self, storage: Storage) -> None:
        storage.pause_queue("mail", None, "provider is down")
        id = put(storage, spec=spec(queue="mail"))
        other = put(storage)
        assert [job.id for job in Worker(storage, ["mail", "default"]).claim(5)] == [other]
        (mail,) = [queue for queue in storage.queues() if queue.name == "mail"]
        assert (mail.paused, mail.reason, mail.enqueued) == (True, "provider is down", 1)
        storage.resume_queue("mail")
        assert [job.id for job in Worker(storage, ["mail"]).claim(5)] == [id]

    def test_resuming_wakes_who_waits(self, storage: Storage) -> None:
        storage.pause_queue("default")
        id = put(storage)
        with fetching(storage) as fetcher:
            assert fetcher.next(0.05) is None
            storage.resume_queue("default")
            assert fetch(fetcher).id == id

    def test_resuming_what_is_not_paused_is_harmless(self, storage: Storage) -> None:
        storage.resume_queue("never seen")
        storage.pause_queue("default")
        storage.pause_queue("default")
        storage.resume_queue("default")
        put(storage)
        assert len(Worker(storage).claim()) == 1

    def test_changes_of_many_jobs_are_one_write_each(self, storage: Storage) -> None:
        jobs = [new(storage, number) for number in range(1_000)]
        storage.enqueue(jobs)
        ids = [job.id for job in jobs]
        assert storage.cancel(ids) == [Change.DONE] * 1_000
        assert storage.requeue(ids) == [Change.DONE] * 1_000
        assert storage.delete(ids) == [Change.DONE] * 1_000
        assert storage.counts()["enqueued"] == 0
