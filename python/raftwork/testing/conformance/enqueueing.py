"""Enqueue: everything or nothing, once for each id, visible at once."""

from __future__ import annotations

import asyncio

import pytest

from raftwork import serde
from raftwork.errors import RaftworkError, UniqueConflict
from raftwork.job_info import JobState
from raftwork.storage.base import Clash, JobSpec, Storage
from raftwork.testing.conformance.making import PATIENCE, Contract, Worker, known, new, put, spec, state


class EnqueueContract(Contract):
    """`enqueue`, `aenqueue`, `start_enqueue`, `new_ids`."""

    def test_a_stored_job_is_seen_at_once_with_all_it_was_given(self, storage: Storage) -> None:
        given = spec(
            "shop.send",
            queue="mail",
            priority=-7,
            max_attempts=4,
            max_crashes=2,
            timeout_ms=60_000,
            tags=("crm", "ümlaut"),
            expires_ms=3_600_000,
            meta=b"anything\0",
        )
        info = known(storage, put(storage, 7, "x", spec=given))
        assert (info.function, info.queue, info.state, info.priority) == ("shop.send", "mail", JobState.ENQUEUED, -7)
        assert (info.max_attempts, info.max_crashes, info.timeout_ms) == (4, 2, 60_000)
        assert (info.tags, info.meta) == (("crm", "ümlaut"), b"anything\0")
        assert (info.args, info.kwargs) == ([7, "x"], {})
        assert (info.attempt, info.crashes, info.generation, info.archived) == (0, 0, 0, False)
        assert info.enqueued_at is not None
        assert [info.started_at, info.finished_at, info.error, info.progress] == [None] * 4

    def test_new_ids_are_distinct_and_grow(self, storage: Storage) -> None:
        ids = [*storage.new_ids(1_000), *storage.new_ids(1), *storage.new_ids(1_000)]
        assert ids == sorted(set(ids))
        assert {len(id) for id in ids} == {16}
        assert {id[6] >> 4 for id in ids} == {7}
        assert storage.new_ids(0) == []

    def test_the_same_id_twice_is_one_job(self, storage: Storage) -> None:
        job = new(storage, 1)
        assert storage.enqueue([job]) == []
        assert storage.enqueue([job]) == [Clash(0, 1, job.id)]
        assert storage.counts()["enqueued"] == 1

    def test_repeating_a_batch_adds_what_was_missing_only(self, storage: Storage) -> None:
        jobs = [new(storage, number) for number in range(5)]
        storage.enqueue(jobs[1:3])
        assert [clash.position for clash in storage.enqueue(jobs)] == [1, 2]
        assert storage.counts()["enqueued"] == 5

    def test_a_known_id_stays_known_when_the_job_is_done(self, storage: Storage) -> None:
        job = new(storage)
        storage.enqueue([job])
        worker = Worker(storage)
        worker.succeed(worker.one())
        assert storage.enqueue([job]) == [Clash(0, 1, job.id)]
        assert state(storage, job.id) is JobState.SUCCEEDED

    def test_a_batch_keeps_its_order(self, storage: Storage) -> None:
        jobs = [new(storage, number) for number in range(100)]
        storage.enqueue(jobs)
        assert [job.id for job in Worker(storage).claim(100)] == [job.id for job in jobs]

    def test_a_batch_may_mix_specifications(self, storage: Storage) -> None:
        jobs = [new(storage, spec=JobSpec(f"f{number % 3}", queue=f"q{number % 2}")) for number in range(12)]
        storage.enqueue(jobs)
        for job in jobs:
            info = known(storage, job.id)
            assert (info.function, info.queue) == (job.spec.function, job.spec.queue)

    def test_l4_a_batch_is_refused_as_a_whole(self, storage: Storage) -> None:
        refusing = spec(on_conflict=2)
        held = put(storage, spec=refusing, unique_key="k")
        jobs = [new(storage, number) for number in range(3)]
        jobs.insert(2, new(storage, spec=refusing, unique_key="k"))
        with pytest.raises(UniqueConflict) as caught:
            storage.enqueue(jobs)
        assert caught.value.job_id is not None
        assert caught.value.job_id.bytes == held
        assert [storage.job(job.id) for job in jobs] == [None] * 4
        assert storage.counts()["enqueued"] == 1

    def test_an_empty_batch_changes_nothing(self, storage: Storage) -> None:
        assert storage.enqueue([]) == []
        assert storage.counts()["enqueued"] == 0

    def test_a_batch_of_a_thousand_is_one_write(self, storage: Storage) -> None:
        storage.enqueue([new(storage, number) for number in range(1_000)])
        assert storage.counts()["enqueued"] == 1_000

    def test_what_cannot_be_stored_is_refused_and_nothing_of_it_is_kept(self, storage: Storage) -> None:
        wrong = [
            new(storage, spec=spec(queue="")),
            new(storage, spec=spec(queue="x" * 256)),
            new(storage, spec=spec("a\nb")),
            new(storage, spec=spec(priority=101)),
            new(storage, spec=spec(tags=("",))),
            new(storage, unique_key=""),
            new(storage)._replace(id=b"short"),
            new(storage)._replace(args=b"x" * (serde.ARGS_BYTES_MAX + 1)),
        ]
        for job in wrong:
            with pytest.raises(RaftworkError):
                storage.enqueue([new(storage), job])
        assert storage.counts()["enqueued"] == 0
        put(storage)

    def test_names_may_be_any_text_without_control_characters(self, storage: Storage) -> None:
        for name in ("x", "two words", "../x", "<script>", "🎈", "é" * 127):
            job = put(storage, spec=spec(name, queue=name, tags=(name,)), unique_key=name)
            info = known(storage, job)
            assert (info.function, info.queue, info.tags, info.unique_key) == (name, name, (name,), name)

    def test_coroutines_can_enqueue(self, storage: Storage) -> None:
        async def enqueue() -> list[bytes]:
            jobs = [new(storage, number) for number in range(20)]
            answers = await asyncio.gather(*(storage.aenqueue([job]) for job in jobs))
            assert answers == [[]] * 20
            assert await storage.aenqueue([jobs[0]]) == [Clash(0, 1, jobs[0].id)]
            return [job.id for job in jobs]

        ids = asyncio.run(enqueue())
        assert {state(storage, id) for id in ids} == {JobState.ENQUEUED}

    def test_coroutines_get_the_same_errors(self, storage: Storage) -> None:
        refusing = spec(on_conflict=2)
        put(storage, spec=refusing, unique_key="k")
        with pytest.raises(UniqueConflict):
            asyncio.run(storage.aenqueue([new(storage, spec=refusing, unique_key="k")]))

    def test_a_started_write_happens_and_a_refused_one_is_told(self, storage: Storage) -> None:
        refusing = spec(on_conflict=2)
        put(storage, spec=refusing, unique_key="k")
        failures: list[BaseException] = []
        good = new(storage)
        storage.start_enqueue([new(storage, spec=refusing, unique_key="k")], failures.append)
        storage.start_enqueue([good], failures.append)
        asyncio.run(storage.astart_enqueue([new(storage, spec=refusing, unique_key="k")], failures.append))
        storage.close(PATIENCE)
        assert [type(failure) for failure in failures] == [UniqueConflict] * 2
