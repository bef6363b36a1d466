"""The worker's source of jobs: woken, batched, fenced, and told about cancelled jobs."""

from __future__ import annotations

import select
import threading

from raftwork import serde
from raftwork.job_info import JobState, Progress
from raftwork.storage.base import (
    Accepted,
    Storage,
    decode_claimed,
    pack_progress,
    result_released,
    result_succeeded,
)
from raftwork.testing.conformance.making import (
    PATIENCE,
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


class FetchContract(Contract):
    """`fetcher` and its verbs."""

    def test_a_waiting_fetcher_is_woken_by_an_enqueue(self, storage: Storage) -> None:
        with fetching(storage) as fetcher:
            found: list[bytes] = []
            thread = threading.Thread(target=lambda: found.append(fetch(fetcher).id))
            thread.start()
            id = put(storage)
            thread.join(PATIENCE)
            assert found == [id]

    def test_nothing_within_the_time_is_none(self, storage: Storage) -> None:
        with fetching(storage) as fetcher:
            assert fetcher.next(0.02) is None
            assert fetcher.next_many(5, 0.02) == []

    def test_results_are_stored_when_flush_returns(self, storage: Storage) -> None:
        ids = [put(storage, number) for number in range(20)]
        with fetching(storage, prefetch=1) as fetcher:
            job = fetch(fetcher)
            for _ in range(19):
                packed = fetcher.finish_and_next(result_succeeded(job.id, job.token, serde.encode("x")), PATIENCE)
                assert packed is not None
                job = decode_claimed(packed)
            fetcher.finish(result_succeeded(job.id, job.token, serde.encode("x")))
            fetcher.flush(PATIENCE)
            assert {known(storage, id).result for id in ids} == {"x"}

    def test_closing_stores_results_and_gives_the_rest_back(self, storage: Storage) -> None:
        ids = [put(storage, number) for number in range(3)]
        with fetching(storage) as fetcher:
            first, _second = fetch(fetcher), fetch(fetcher)
            fetcher.finish(result_succeeded(first.id, first.token, None))
        assert state(storage, ids[0]) is JobState.SUCCEEDED
        jobs = Worker(storage).claim(5)
        assert [(job.id, job.attempt, job.crashes) for job in jobs if job.id == ids[1]] == [(ids[1], 1, 0)]
        assert {job.id for job in jobs} == set(ids[1:])

    def test_a_paused_fetcher_gives_prefetched_jobs_back(self, storage: Storage) -> None:
        storage.enqueue([new(storage, number) for number in range(50)])
        with fetching(storage, prefetch=50) as fetcher:
            job = fetch(fetcher)
            fetcher.pause()
            assert fetcher.next(0.02) is None
            fetcher.finish(result_succeeded(job.id, job.token, None))
            fetcher.flush(PATIENCE)
            assert state(storage, job.id) is JobState.SUCCEEDED
            worker = Worker(storage)
            assert len(worker.claim(100)) == 49

    def test_cancelling_a_running_job_tells_its_worker(self, storage: Storage) -> None:
        put(storage)
        with fetching(storage) as fetcher:
            job = fetch(fetcher)
            storage.cancel([job.id])
            assert fetcher.events(PATIENCE) == [("cancel", job.id, job.token)]

    def test_progress_goes_through(self, storage: Storage) -> None:
        put(storage)
        with fetching(storage) as fetcher:
            job = fetch(fetcher)
            for done in range(5):
                fetcher.progress(pack_progress(job.id, job.token, serde.encode([done, 5, ""]), None))
            fetcher.progress(pack_progress(job.id, job.token, None, b"state"))
            fetcher.flush(PATIENCE)
            info = known(storage, job.id)
            assert (info.progress, info.packed_state) == (Progress(4, 5, ""), b"state")

    def test_its_descriptor_tells_of_jobs(self, storage: Storage) -> None:
        with fetching(storage, prefetch=4) as fetcher:
            poll = select.poll()
            poll.register(fetcher.fd(), select.POLLIN)
            assert fetcher.next_many(5, 0.0) == []
            id = put(storage)
            assert poll.poll(int(PATIENCE * 1000))
            assert [decode_claimed(packed).id for packed in fetcher.next_many(5, 0.0)] == [id]

    def test_it_claims_only_its_queues_and_functions(self, storage: Storage) -> None:
        put(storage, spec=spec("other"))
        put(storage, spec=spec(queue="other"))
        mine = put(storage)
        with fetching(storage, prefetch=10) as fetcher:
            assert fetch(fetcher).id == mine
            assert fetcher.next(0.02) is None

    def test_it_holds_a_session_that_is_seen_and_ends(self, storage: Storage) -> None:
        with fetching(storage) as fetcher:
            session = fetcher.session()
            (info,) = [info for info in storage.sessions() if info.session == session]
            assert info.kind == "worker"
            assert not fetcher.fenced()
        assert session not in [info.session for info in storage.sessions()]

    def test_a_session_that_is_ended_for_it_takes_its_leases(self, storage: Storage) -> None:
        id = put(storage)
        with fetching(storage) as fetcher:
            job = fetch(fetcher)
            storage.close_session(fetcher.session())
            told = [name for name, _, _ in fetcher.events(PATIENCE)]
            assert "session_lost" in told or "lost" in told
            worker = Worker(storage)
            again = worker.one()
            assert again.id == id
            assert storage.finish([result_released(job.id, job.token)]) == [Accepted.LEASE_LOST]
            assert worker.succeed(again) is Accepted.ACCEPTED

    def test_a_session_that_falls_silent_loses_its_jobs(self, storage: Storage) -> None:
        if not storage.capabilities.shared:
            return  # Every session of a storage inside one process lives as long as the process.
        id = put(storage)
        silent = Worker(storage, ttl_ms=600)
        job = silent.one()
        with fetching(storage) as fetcher:
            again = fetch(fetcher)
            assert (again.id, again.attempt, again.crashes) == (id, 1, 1)
        assert storage.finish([result_succeeded(job.id, job.token, None)]) == [Accepted.LEASE_LOST]

    def test_a_fetcher_that_works_long_keeps_its_jobs(self, storage: Storage) -> None:
        if not storage.capabilities.shared:
            return  # As above: nothing can lapse.
        put(storage)
        with fetching(storage) as fetcher:
            job = fetch(fetcher)
            # A witness: a silent session with the same life lapses meanwhile, so heartbeats were what kept the other.
            put(storage, spec=spec("witness"))
            Worker(storage, functions=["witness"], ttl_ms=600).one()
            with fetching(storage, function="witness") as other:
                fetch(other)
            assert fetcher.next(0.0) is None
            fetcher.finish(result_succeeded(job.id, job.token, None))
            fetcher.flush(PATIENCE)
            assert state(storage, job.id) is JobState.SUCCEEDED
