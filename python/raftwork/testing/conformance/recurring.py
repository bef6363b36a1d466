"""Recurring schedules: each slot is used once, whoever tries and however often, and time comes to every slot."""

from __future__ import annotations

import threading
import time
import uuid

from raftwork import serde
from raftwork.errors import RaftworkError
from raftwork.job_info import JobState
from raftwork.storage.base import DueSchedules, Firing, PutAnswer, ScheduleRow, SlotJob, Storage
from raftwork.testing.conformance.making import PATIENCE, Contract, Worker, known, let_pass, spec

HOUR_MS = 3_600_000
ARGS = serde.encode_args((7,), {})


def fresh_name() -> str:
    """A name that no other test has, as a storage may be shared."""
    return f"schedule-{uuid.uuid4()}"


def add(storage: Storage, in_ms: int = 0, name: str = "", overlap: int = 0, definition: bytes = b"d") -> ScheduleRow:
    """Put a schedule of function `f` whose next slot comes so soon."""
    name = name or fresh_name()
    storage.put_schedule(name, spec(), ARGS, definition, storage.now_ms() + in_ms, overlap=overlap)
    return row(storage, name)


def row(storage: Storage, name: str) -> ScheduleRow:
    """A schedule, which must be known."""
    found = storage.schedule(name)
    assert found is not None
    return found


def fire(storage: Storage, seen: ScheduleRow, *ids: bytes, next_ms: int | None = None) -> list[bool] | None:
    """Use the slot of a schedule as it was seen, with one job for each id; the next slot is an hour later."""
    assert seen.next_ms is not None
    jobs = [SlotJob(id, seen.next_ms + place) for place, id in enumerate(ids)]
    firing = Firing(seen.name, seen.generation, seen.next_ms, next_ms or seen.next_ms + HOUR_MS, jobs)
    return fired(storage, firing)


def fired(storage: Storage, firing: Firing) -> list[bool] | None:
    """What became of one firing, which must not be refused."""
    (answer,) = storage.fire_schedules([firing])
    if isinstance(answer, RaftworkError):
        raise answer
    return answer


def fire_one(storage: Storage, name: str) -> tuple[bytes, bool]:
    """Use the next slot of a schedule for one job. Answers its id, and whether it was stored."""
    (id,) = storage.new_ids(1)
    answer = fire(storage, row(storage, name), id)
    assert answer is not None
    return id, answer[0]


def due(storage: Storage, name: str) -> ScheduleRow | None:
    """The schedule, if it is due."""
    return next((row for row in storage.due_schedules(1_000).rows if row.name == name), None)


class RecurringContract(Contract):
    """Everything about recurring schedules."""

    def test_a_schedule_is_shown_as_it_was_put(self, storage: Storage) -> None:
        name = fresh_name()
        assert storage.schedule(name) is None
        next_ms = storage.now_ms() + HOUR_MS
        answer = storage.put_schedule(name, spec("g", queue="mail"), ARGS, b"when", next_ms, overlap=1)
        assert answer is PutAnswer.STORED
        found = row(storage, name)
        assert (found.function, found.queue, found.args, found.definition) == ("g", "mail", ARGS, b"when")
        assert (found.source, found.overlap, found.next_ms, found.paused) == ("api", 1, next_ms, None)
        assert (found.last_slot_ms, found.last_job, found.fired, found.skipped) == (None, None, 0, 0)

    def test_schedules_are_listed_by_name(self, storage: Storage) -> None:
        names = sorted(fresh_name() for _ in range(5))
        for name in reversed(names):
            add(storage, HOUR_MS, name)
        assert [row.name for row in storage.schedules() if row.name in names] == names

    def test_what_is_stored_already_keeps_its_slot(self, storage: Storage) -> None:
        stored = add(storage, HOUR_MS)
        answer = storage.put_schedule(stored.name, spec(), ARGS, b"d", storage.now_ms() + 2 * HOUR_MS)
        assert answer is PutAnswer.SAME
        assert row(storage, stored.name) == stored
        moved = add(storage, 2 * HOUR_MS, stored.name, definition=b"changed")
        assert moved.generation > stored.generation
        assert moved.next_ms != stored.next_ms

    def test_older_code_does_not_undo_newer_code(self, storage: Storage) -> None:
        name = fresh_name()

        def put(definition: bytes, generation: int) -> PutAnswer:
            return storage.put_schedule(name, spec(), ARGS, definition, 1, generation=generation)

        assert put(b"old", 100) is PutAnswer.STORED
        assert put(b"new", 200) is PutAnswer.STORED
        assert put(b"old", 100) is PutAnswer.OLDER
        found = row(storage, name)
        assert (found.definition, found.generation, found.source) == (b"new", 200, "code")
        assert put(b"newer", 201) is PutAnswer.STORED

    def test_a_slot_is_used_once(self, storage: Storage) -> None:
        seen = add(storage)
        first, second, third = storage.new_ids(3)
        assert fire(storage, seen, first, second) == [True, True]
        assert fire(storage, seen, third) is None
        assert storage.job(third) is None
        found = row(storage, seen.name)
        assert found.next_ms == (seen.next_ms or 0) + HOUR_MS
        assert (found.last_slot_ms, found.last_job, found.fired, found.skipped) == (seen.next_ms, second, 2, 0)

    def test_many_schedulers_use_a_slot_once(self, storage: Storage) -> None:
        seen = add(storage)
        ids = storage.new_ids(8)
        answers: list[list[bool] | None] = []
        threads = [threading.Thread(target=lambda id=id: answers.append(fire(storage, seen, id))) for id in ids]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert sorted(answers, key=str) == [None] * 7 + [[True]]
        assert [id for id in ids if storage.job(id) is not None] == [row(storage, seen.name).last_job]

    def test_a_job_tells_its_schedule_and_slot_and_runs_as_others_do(self, storage: Storage) -> None:
        seen = add(storage)
        (id,) = storage.new_ids(1)
        assert fire(storage, seen, id) == [True]
        info = known(storage, id)
        assert info.slot is not None
        assert (info.schedule, info.args, int(info.slot.timestamp() * 1_000)) == (seen.name, [7], seen.next_ms)
        worker = Worker(storage)
        job = worker.one()
        assert (job.id, job.args, job.extras) == (id, ARGS, {3: [seen.name, seen.next_ms]})
        worker.succeed(job)
        assert (known(storage, id).state, known(storage, id).schedule) == (JobState.SUCCEEDED, seen.name)

    def test_a_job_may_begin_later_than_its_slot(self, storage: Storage) -> None:
        seen = add(storage)
        assert seen.next_ms is not None
        (id,) = storage.new_ids(1)
        jobs = [SlotJob(id, seen.next_ms, seen.next_ms + HOUR_MS)]
        assert fired(storage, Firing(seen.name, seen.generation, seen.next_ms, None, jobs)) == [True]
        assert known(storage, id).state is JobState.SCHEDULED
        assert row(storage, seen.name).next_ms is None

    def test_skip_stores_nothing_beside_a_job_that_has_not_ended(self, storage: Storage) -> None:
        name = add(storage, overlap=1).name
        assert fire_one(storage, name)[1]
        worker = Worker(storage)
        job = worker.one()
        assert not fire_one(storage, name)[1]
        worker.succeed(job)
        assert fire_one(storage, name)[1]
        assert (row(storage, name).fired, row(storage, name).skipped) == (2, 1)

    def test_queue_one_stores_nothing_beside_a_job_that_waits(self, storage: Storage) -> None:
        name = add(storage, overlap=2).name
        assert fire_one(storage, name)[1]
        worker = Worker(storage)
        worker.one()
        assert [fire_one(storage, name)[1] for _ in range(2)] == [True, False]

    def test_replace_cancels_a_job_that_waits_and_tells_one_that_runs(self, storage: Storage) -> None:
        name = add(storage, overlap=3).name
        first, _ = fire_one(storage, name)
        second, _ = fire_one(storage, name)
        assert known(storage, first).state is JobState.CANCELLED
        worker = Worker(storage)
        assert worker.one().id == second
        third, stored = fire_one(storage, name)
        assert stored
        assert known(storage, second).cancel_requested
        assert known(storage, third).state is JobState.ENQUEUED

    def test_a_paused_schedule_does_not_fire(self, storage: Storage) -> None:
        seen = add(storage)
        assert storage.pause_schedule(seen.name, "holidays")
        assert row(storage, seen.name).paused == "holidays"
        assert due(storage, seen.name) is None
        assert fire(storage, seen, *storage.new_ids(1)) is None
        assert storage.resume_schedule(seen.name)
        assert due(storage, seen.name) == seen

    def test_a_paused_schedule_may_be_triggered_and_moved(self, storage: Storage) -> None:
        seen = add(storage, HOUR_MS)
        assert seen.next_ms is not None
        storage.pause_schedule(seen.name)
        (id,) = storage.new_ids(1)
        assert storage.trigger_schedule(seen.name, id)
        assert storage.trigger_schedule(seen.name, id)
        assert (known(storage, id).schedule, known(storage, id).slot) == (seen.name, None)
        assert storage.move_schedule(seen.name, seen.generation, seen.next_ms, seen.next_ms + 1)
        assert not storage.move_schedule(seen.name, seen.generation, seen.next_ms, seen.next_ms + 2)
        found = row(storage, seen.name)
        assert (found.next_ms, found.fired, found.last_job) == (seen.next_ms + 1, 1, None), "it is of no slot"

    def test_a_past_slot_is_filled_in_once(self, storage: Storage) -> None:
        seen = add(storage, HOUR_MS)
        slot_ms = storage.now_ms() - HOUR_MS
        (id,) = storage.new_ids(1)
        for _ in range(2):
            assert storage.trigger_schedule(seen.name, id, slot_ms)
        info = known(storage, id)
        assert info.slot is not None
        assert (info.schedule, int(info.slot.timestamp() * 1_000)) == (seen.name, slot_ms)
        found = row(storage, seen.name)
        assert (found.next_ms, found.last_slot_ms, found.fired) == (seen.next_ms, None, 1)
        assert Worker(storage).one().extras == {3: [seen.name, slot_ms]}

    def test_a_slot_that_was_filled_in_is_not_fired_again(self, storage: Storage) -> None:
        seen = add(storage)
        (id,) = storage.new_ids(1)
        assert storage.trigger_schedule(seen.name, id, seen.next_ms)
        assert fire(storage, seen, id) == [True]
        assert row(storage, seen.name).fired == 1

    def test_a_deleted_schedule_leaves_its_jobs(self, storage: Storage) -> None:
        seen = add(storage)
        id, _ = fire_one(storage, seen.name)
        assert storage.delete_schedule(seen.name)
        assert storage.schedule(seen.name) is None
        assert known(storage, id).state is JobState.ENQUEUED

    def test_c1_many_fire_together_and_each_by_itself(self, storage: Storage) -> None:
        rows = [add(storage) for _ in range(300)]
        ids = storage.new_ids(300)
        firings = [
            Firing(row.name, row.generation, row.next_ms or 0, None, [SlotJob(id, row.next_ms or 0)])
            for row, id in zip(rows, ids, strict=True)
        ]
        firings[7] = firings[7]._replace(generation=firings[7].generation + 1)
        firings[9] = firings[9]._replace(next_ms=firings[9].slot_ms)
        answers = storage.fire_schedules([*firings, firings[0]])
        assert isinstance(answers[9], RaftworkError)
        assert [place for place, answer in enumerate(answers) if answer != [True]] == [7, 9, 300]
        assert (answers[7], answers[300]) == (None, None)
        assert all((storage.job(id) is None) == (place in (7, 9)) for place, id in enumerate(ids))

    def test_verbs_tell_of_a_schedule_that_there_is_not(self, storage: Storage) -> None:
        name = fresh_name()
        assert not storage.delete_schedule(name)
        assert not storage.pause_schedule(name)
        assert not storage.resume_schedule(name)
        assert not storage.trigger_schedule(name, storage.new_ids(1)[0])
        assert not storage.move_schedule(name, 1, 1, 2)
        assert fired(storage, Firing(name, 1, 1, 2, [])) is None

    def test_the_oldest_slot_is_due_first_and_the_next_one_is_told(self, storage: Storage) -> None:
        now = storage.now_ms()
        late, later, to_come = (fresh_name() for _ in range(3))
        for name, at in ((later, now - 1), (late, now - 2), (to_come, now + HOUR_MS)):
            storage.put_schedule(name, spec(), ARGS, b"", at)
        found = storage.due_schedules(1_000)
        assert [row.name for row in found.rows if row.name in (late, later, to_come)] == [late, later]
        assert found.next_ms is not None
        assert now <= found.now_ms < found.next_ms <= now + HOUR_MS

    def test_what_is_due_is_told_in_pages(self, storage: Storage) -> None:
        now = storage.now_ms()
        names = sorted(fresh_name() for _ in range(5))
        slots = [now - 3, now - 2, now - 2, now - 2, now - 1]
        for name, slot in reversed(list(zip(names, slots, strict=True))):
            storage.put_schedule(name, spec(), ARGS, b"", slot)
        found: list[str] = []
        after: tuple[int, str] | None = None
        while rows := storage.due_schedules(2, after).rows:
            assert len(rows) <= 2
            found += [row.name for row in rows]
            after = (rows[-1].next_ms or 0, rows[-1].name)
        assert [name for name in found if name in names] == names
        assert len(set(found)) == len(found)

    def test_time_comes_to_a_slot_while_nothing_else_happens(self, storage: Storage) -> None:
        seen = add(storage, 200)
        assert seen.next_ms is not None
        let_pass(storage, 200)
        end = time.monotonic() + PATIENCE
        found = DueSchedules([], 0, None)
        while not any(row.name == seen.name for row in found.rows):
            assert time.monotonic() < end, "time stands still"
            found = storage.due_schedules(1_000)
            threading.Event().wait(0.01)
        assert found.now_ms >= seen.next_ms
