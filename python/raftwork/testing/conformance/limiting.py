"""Limits: how many jobs of a key run at once or start in a time, what becomes of those beyond, and who takes turns."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from raftwork.errors import InvalidOption
from raftwork.job_info import JobState
from raftwork.storage.base import (
    Change,
    ClaimedJob,
    Storage,
    result_cancelled,
    result_failed,
    result_released,
    result_retry,
    result_snoozed,
)
from raftwork.testing.conformance.making import (
    ERROR,
    Contract,
    Worker,
    fetch,
    fetching,
    let_pass,
    new,
    put,
    spec,
    state,
)

MINUTE_MS = 60_000


class LimitContract(Contract):
    """`limits` of a job, `limit_queue`, `job_limits`, `queue_limits`."""

    def test_j13_no_more_jobs_of_a_key_run_at_once_than_its_limit(self, storage: Storage) -> None:
        jobs = [put(storage, place, limits=[(0, "acme", 2)]) for place in range(5)]
        other = put(storage, limits=[(0, "other", 2)])
        worker = Worker(storage)
        first = worker.claim(9)
        assert [job.id for job in first] == [*jobs[:2], other], "in their order, and another key is not held up"
        assert state(storage, jobs[2]) is JobState.ENQUEUED
        found = storage.job_limits(jobs[3])
        assert found is not None
        assert (found.limited_by, found.place) == ("acme", 2)
        (limit,) = found.limits
        assert (limit.kind, limit.n, limit.running, limit.waiting, limit.open) == ("concurrency", 2, 2, 3, False)
        worker.succeed(first[0])
        assert [job.id for job in worker.claim(9)] == [jobs[2]]

    def test_j13_however_a_run_ends_the_next_may_start(self, storage: Storage) -> None:
        for _ in range(8):
            put(storage, limits=[(0, "one", 1)])
        worker = Worker(storage)
        reports: list[Callable[[ClaimedJob], bytes]] = [
            lambda job: result_failed(job.id, job.token, ERROR),
            lambda job: result_retry(job.id, job.token, MINUTE_MS, ERROR),
            lambda job: result_snoozed(job.id, job.token, MINUTE_MS),
            lambda job: result_released(job.id, job.token),
            lambda job: result_cancelled(job.id, job.token, "enough"),
        ]
        for report in reports:
            job = worker.one()
            assert worker.claim(9) == []
            worker.report(report(job))
        job = worker.one()
        storage.close_session(worker.session)
        assert len(Worker(storage).claim(9)) == 1

    def test_j13_a_job_that_waits_gives_up_its_place(self, storage: Storage) -> None:
        jobs = [put(storage, limits=[(0, "one", 1)]) for _ in range(4)]
        worker = Worker(storage)
        running = worker.one()
        storage.cancel([jobs[1]])
        assert storage.delete([jobs[2]]) == [Change.DONE]
        worker.succeed(running)
        assert worker.one().id == jobs[3]
        assert storage.job_limits(jobs[1]) is None, "a final job is limited by nothing"

    def test_j13_what_nobody_takes_holds_up_nobody(self, storage: Storage) -> None:
        storage.pause_queue("paused")
        put(storage, spec=spec(queue="paused"), limits=[(0, "shared", 1)])
        put(storage, spec=spec("unknown"), limits=[(0, "shared", 1)])
        job = put(storage, limits=[(0, "shared", 1)])
        assert Worker(storage, ["paused", "default"]).one().id == job

    def test_j13_the_newest_job_says_how_many(self, storage: Storage) -> None:
        for _ in range(3):
            put(storage, limits=[(0, "key", 1)])
        worker = Worker(storage)
        assert len(worker.claim(9)) == 1
        put(storage, limits=[(0, "key", 3)])
        assert len(worker.claim(9)) == 2

    def test_j13_a_job_needs_room_in_all_of_its_limits(self, storage: Storage) -> None:
        first = put(storage, limits=[(0, "all", 2), (0, "a", 1)])
        put(storage, limits=[(0, "all", 2), (0, "a", 1)])
        third = put(storage, limits=[(0, "all", 2), (0, "b", 1)])
        put(storage, limits=[(0, "all", 2), (0, "c", 1)])
        assert [job.id for job in Worker(storage).claim(9)] == [first, third]

    def test_j13_a_rate_lets_no_more_start_than_it_says(self, storage: Storage) -> None:
        window = MINUTE_MS if storage.capabilities.manual_clock else 10 * MINUTE_MS
        unused = storage.new_ids(1)[0].hex()  # A rate is remembered after its jobs.
        for kind, numbers in ((1, (window, 3)), (2, (window,)), (3, (1_000 * window,))):
            for _ in range(5):
                put(storage, limits=[(kind, f"{unused}{kind}", 3, *numbers)])
            worker = Worker(storage)
            started = worker.claim(9)
            assert len(started) == 3, kind
            for job in started:
                worker.succeed(job)
            assert worker.claim(9) == [], "what has ended has started"

    def test_j13_a_rate_goes_on_with_time(self, storage: Storage) -> None:
        for _ in range(2):
            put(storage, limits=[(2, "slow", 1, 300)])
        with fetching(storage, prefetch=0) as fetcher:
            first = fetch(fetcher)
            let_pass(storage, 310)
            second = fetch(fetcher)
        assert second.claimed_ms - first.claimed_ms >= 300

    def test_j13_a_fetcher_is_woken_when_there_is_room(self, storage: Storage) -> None:
        for _ in range(3):
            put(storage, limits=[(0, "one", 1)])
        with fetching(storage) as fetcher, fetching(storage) as other:
            for _ in range(3):
                job = fetch(fetcher)
                fetcher, other = other, fetcher
                other.finish(result_failed(job.id, job.token, ERROR))

    def test_j13_a_queue_runs_no_more_jobs_at_once_than_its_limit(self, storage: Storage) -> None:
        storage.limit_queue("narrow", 2)
        for _ in range(4):
            put(storage, spec=spec(queue="narrow"))
        put(storage)
        worker = Worker(storage, ["narrow", "default"])
        running = worker.claim(9)
        assert sorted(job.queue for job in running) == ["default", "narrow", "narrow"]
        (row,) = [row for row in storage.queue_limits() if row.name == "narrow"]
        assert (row.limit, row.held_back) == (2, 0)
        worker.succeed(next(job for job in running if job.queue == "narrow"))
        assert len(worker.claim(9)) == 1
        storage.limit_queue("narrow", None)
        assert len(worker.claim(9)) == 1

    def test_j8_keys_that_take_turns_alternate(self, storage: Storage) -> None:
        first = [put(storage, place, limits=[(4, "a")]) for place in range(4)]
        second = [put(storage, place, limits=[(4, "b")]) for place in range(2)]
        worker = Worker(storage)
        claimed = [*worker.claim(3), *worker.claim(9)]
        assert [job.id for job in claimed] == [first[0], second[0], first[1], second[1], *first[2:]]

    def test_j8_a_key_that_came_late_has_no_turns_to_make_up_for(self, storage: Storage) -> None:
        first = [put(storage, limits=[(4, "a")]) for _ in range(4)]
        worker = Worker(storage)
        assert [worker.one().id for _ in range(2)] == first[:2]
        second = [put(storage, limits=[(4, "b")]) for _ in range(2)]
        assert [job.id for job in worker.claim(9)] == [first[2], second[0], first[3], second[1]]

    def test_j8_priority_is_above_turns(self, storage: Storage) -> None:
        first = [put(storage, limits=[(4, "a")], spec=spec(priority=1)) for _ in range(2)]
        last = put(storage, limits=[(4, "a")])
        other = put(storage, limits=[(4, "b")])
        assert [job.id for job in Worker(storage).claim(9)] == [*first, other, last]

    def test_j8_only_what_may_start_has_a_turn(self, storage: Storage) -> None:
        first = [put(storage, limits=[(0, "one", 1), (4, "a")]) for _ in range(2)]
        second = [put(storage, limits=[(4, "b")]) for _ in range(3)]
        worker = Worker(storage)
        running = worker.claim(3)
        assert [job.id for job in running] == [first[0], *second[:2]]
        worker.succeed(running[0])
        assert [job.id for job in worker.claim(9)] == [first[1], second[2]], "it waits longer for its turn"

    def test_a_key_that_takes_turns_holds_back_nobody(self, storage: Storage) -> None:
        jobs = [put(storage, limits=[(4, "a")]) for _ in range(3)]
        Worker(storage).one()
        found = storage.job_limits(jobs[2])
        assert found is not None
        assert (found.limited_by, found.place) == (None, 2)
        (limit,) = found.limits
        assert (limit.kind, limit.key, limit.n, limit.window_ms, limit.open) == ("fair", "a", None, None, True)

    def test_a_job_takes_turns_by_one_key(self, storage: Storage) -> None:
        with pytest.raises(InvalidOption, match="takes turns by another key"):
            put(storage, limits=[(4, "a"), (4, "b")])

    def test_j13_jobs_held_back_are_counted(self, storage: Storage) -> None:
        storage.enqueue([new(storage, limits=[(0, "one", 1)], spec=spec(queue="counted")) for _ in range(4)])
        Worker(storage, ["counted"]).one()
        (row,) = [row for row in storage.queue_limits() if row.name == "counted"]
        assert row.held_back == 3
