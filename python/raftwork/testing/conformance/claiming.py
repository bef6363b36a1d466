"""Claim: each job to one worker, the right one first, and only what the worker can run."""

from __future__ import annotations

import threading
from collections import Counter

from raftwork.job_info import JobState
from raftwork.storage.base import Accepted, Change, Storage, result_released, result_retry, result_succeeded
from raftwork.testing.conformance.making import ERROR, Contract, Worker, known, new, put, spec, state


class ClaimContract(Contract):
    """`open_session`, `close_session`, `claim`."""

    def test_j2_two_workers_never_get_the_same_job(self, storage: Storage) -> None:
        put(storage)
        first, second = Worker(storage), Worker(storage)
        assert [len(first.claim()), len(second.claim())] == [1, 0]

    def test_j2_many_threads_share_jobs_without_loss_or_repetition(self, storage: Storage) -> None:
        before = storage.counts()["total_succeeded"]
        ids = [new(storage) for _ in range(300)]
        storage.enqueue(ids)
        claimed: list[bytes] = []

        def work() -> None:
            worker = Worker(storage)
            while jobs := worker.claim(7):
                claimed.extend(job.id for job in jobs)
                assert set(storage.finish([result_succeeded(job.id, job.token, None) for job in jobs])) == {
                    Accepted.ACCEPTED
                }

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert Counter(claimed) == Counter(job.id for job in ids)
        assert storage.counts()["total_succeeded"] - before == 300

    def test_a_claimed_job_says_all_that_is_needed_to_run_it(self, storage: Storage) -> None:
        given = spec(queue="mail", priority=3, max_attempts=4, timeout_ms=5, tags=("a",), meta=b"m")
        id = put(storage, 7, spec=given)
        job = Worker(storage, ["mail"]).one()
        info = known(storage, id)
        assert (job.id, job.function, job.queue, job.priority) == (id, "f", "mail", 3)
        assert (job.attempt, job.crashes, job.max_attempts, job.max_crashes) == (1, 0, 4, 3)
        assert (job.timeout_ms, job.tags, job.meta, job.state) == (5, ("a",), b"m", None)
        assert job.args == info.packed_args
        assert job.created_ms <= job.enqueued_ms <= job.claimed_ms
        assert (info.state, info.attempt, info.token) == (JobState.PROCESSING, 1, job.token)

    def test_higher_priority_first_then_first_in_first_out(self, storage: Storage) -> None:
        priorities = [0, 5, -5, 0, 100, 5, -100, 0]
        jobs = [new(storage, place, spec=spec(priority=priority)) for place, priority in enumerate(priorities)]
        for job in jobs:
            storage.enqueue([job])
        expected = sorted(jobs, key=lambda job: -job.spec.priority)
        assert [job.id for job in Worker(storage).claim(8)] == [job.id for job in expected]

    def test_order_counts_from_becoming_enqueued(self, storage: Storage) -> None:
        worker = Worker(storage)
        first = put(storage, 1)
        claimed = worker.one()
        second = put(storage, 2)
        worker.report(result_retry(claimed.id, claimed.token, 0, ERROR))
        third = put(storage, 3)
        storage.requeue([first])
        order = [job.id for job in worker.claim(3)]
        assert order.index(second) < order.index(third)
        assert order.index(second) < order.index(first)

    def test_only_known_functions_and_named_queues(self, storage: Storage) -> None:
        put(storage, spec=spec("unknown"))
        put(storage, spec=spec(queue="other"))
        wanted = put(storage)
        assert [job.id for job in Worker(storage, ["default", "empty"], ["f", "g"]).claim(10)] == [wanted]
        assert Worker(storage, ["default"], ["never"]).claim(10) == []

    def test_strict_queues_are_emptied_in_the_given_order(self, storage: Storage) -> None:
        for number in range(6):
            put(storage, spec=spec(queue="low" if number % 2 else "high"))
        queues = [job.queue for job in Worker(storage, ["high", "low"]).claim(6, strict=True)]
        assert queues == ["high"] * 3 + ["low"] * 3

    def test_weighted_queues_share(self, storage: Storage) -> None:
        for _ in range(40):
            put(storage, spec=spec(queue="a"))
            put(storage, spec=spec(queue="b"))
        session = storage.open_session("worker")
        seen: Counter[str] = Counter()
        for _ in range(40):
            seen.update(job.queue for job in storage.claim(session, [("a", 3), ("b", 1)], ["f"], 1))
        assert 24 <= seen["a"] <= 36, seen
        assert seen["b"] == 40 - seen["a"]

    def test_a_claim_gives_no_more_than_was_asked(self, storage: Storage) -> None:
        storage.enqueue([new(storage) for _ in range(5)])
        worker = Worker(storage)
        assert [len(worker.claim(2)) for _ in range(4)] == [2, 2, 1, 0]

    def test_j2_tokens_grow_over_all_leases(self, storage: Storage) -> None:
        worker = Worker(storage)
        tokens = []
        for number in range(3):
            put(storage, number)
            job = worker.one()
            tokens.append(job.token)
            worker.report(result_released(job.id, job.token))
            again = worker.one()
            tokens.append(again.token)
            worker.succeed(again)
        assert tokens == sorted(set(tokens))

    def test_a_closed_session_gives_its_jobs_back_without_a_spent_attempt(self, storage: Storage) -> None:
        ids = [put(storage, number) for number in range(3)]
        leaving = Worker(storage)
        claimed = leaving.claim(2)
        assert storage.close_session(leaving.session) == 2
        staying = Worker(storage)
        jobs = staying.claim(3)
        assert {job.id for job in jobs} == set(ids)
        assert {job.attempt for job in jobs} == {1}
        assert {job.crashes for job in jobs} == {0}
        # What the first one still says does not count.
        late = storage.finish([result_succeeded(job.id, job.token, None) for job in claimed])
        assert late == [Accepted.LEASE_LOST] * 2
        assert state(storage, ids[0]) is JobState.PROCESSING

    def test_sessions_are_seen_while_they_are_open(self, storage: Storage) -> None:
        session = storage.open_session("worker", labels={"zone": "a", "lane": "thread"})
        put(storage)
        storage.claim(session, [("default", 1)], ["f"])
        (found,) = [info for info in storage.sessions() if info.session == session]
        assert (found.kind, found.labels, found.leases) == ("worker", {"zone": "a", "lane": "thread"}, 1)
        storage.close_session(session)
        assert session not in [info.session for info in storage.sessions()]

    def test_cancelled_jobs_are_not_handed_out(self, storage: Storage) -> None:
        id = put(storage)
        assert storage.cancel([id]) == [Change.DONE]
        assert Worker(storage).claim() == []
