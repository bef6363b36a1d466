"""Reads: figures that add up, and pages that miss nothing."""

from __future__ import annotations

import uuid

import pytest

from raftwork.errors import RaftworkError
from raftwork.job_info import JobState
from raftwork.remote_error import FINGERPRINT_HEADING
from raftwork.storage.base import (
    Change,
    Clause,
    Flow,
    FunctionInfo,
    NewJob,
    Storage,
    pack_error,
    result_failed,
    result_retry,
    result_succeeded,
)
from raftwork.testing.conformance.making import ERROR, Contract, Worker, new, put, spec

STATES = [state.value for state in JobState]


def ids(storage: Storage, *clauses: Clause) -> list[bytes]:
    """All matches, over as many pages as it takes."""
    found: list[bytes] = []
    cursor = None
    while True:
        page = storage.jobs(clauses, cursor, 7)
        found += [job.id.bytes for job in page.jobs]
        cursor = page.cursor
        if cursor is None:
            return found


def mixed(storage: Storage) -> list[NewJob]:
    """Two jobs of each kind: tagged mail, high priority, delayed, plain."""
    jobs = []
    for number in range(2):
        jobs += [
            new(storage, number, spec=spec("shop.mail", queue="mail", tags=("crm", "eu"))),
            new(storage, number, spec=spec("shop.report", priority=50)),
            new(storage, number, delay_ms=3_600_000, spec=spec("other.late", tags=("us",))),
            new(storage, number, unique_key=f"key:{number}"),
        ]
    storage.enqueue(jobs)
    return jobs


def _traceback(mark: str) -> str:
    """A traceback with this fingerprint; empty: with none."""
    return f"Traceback\n{FINGERPRINT_HEADING}{mark}\n" if mark else "Traceback"


class QueryContract(Contract):
    """`counts`, `queues`, `job`, `jobs`, `functions`, `totals`, `due`, `health`."""

    def test_j12_counts_name_every_state_and_add_up(self, storage: Storage) -> None:
        before = storage.counts()
        assert {name: before[name] for name in STATES} == dict.fromkeys(STATES, 0)
        worker = Worker(storage)
        for number in range(6):
            put(storage, number)
        a, b, c, _, _ = worker.claim(5)
        worker.succeed(a)
        worker.report(result_failed(b.id, b.token, ERROR))
        worker.report(result_retry(c.id, c.token, 3_600_000, ERROR))
        put(storage, delay_ms=3_600_000)
        storage.cancel([put(storage)])
        counts = storage.counts()
        waiting = {"enqueued": 1, "processing": 2, "retrying": 1, "scheduled": 1, "awaiting": 0}
        assert {name: counts[name] for name in waiting} == waiting
        grown = {name: counts[name] - before[name] for name in counts}
        final = grown["succeeded"] + grown["failed"] + grown["cancelled"] + grown["archived"]
        assert (grown["created"], final, grown["deleted"]) == (8, 3, 0)
        ended = {"total_succeeded": 1, "total_failed": 1, "total_cancelled": 1}
        assert {name: grown[name] for name in ended} == ended

    def test_deleted_jobs_stay_in_the_sum(self, storage: Storage) -> None:
        before = storage.counts()
        storage.delete([put(storage)])
        grown = {name: number - before[name] for name, number in storage.counts().items()}
        assert (grown["created"], grown["deleted"], grown["enqueued"]) == (1, 1, 0)

    def test_queues_have_their_figures(self, storage: Storage) -> None:
        before = {queue.name: queue for queue in storage.queues()}.get("mail")
        mixed(storage)
        worker = Worker(storage, ["mail"], ["shop.mail"])
        worker.succeed(worker.one())
        queues = {queue.name: queue for queue in storage.queues()}
        assert list(queues) == sorted(queues)
        mail, default = queues["mail"], queues["default"]
        assert (mail.enqueued, mail.processing) == (1, 0)
        went = (before.total_in, before.total_succeeded) if before else (0, 0)
        assert (mail.total_in - went[0], mail.total_succeeded - went[1]) == (2, 1)
        assert (default.enqueued, default.scheduled, default.paused) == (4, 2, False)
        assert mail.oldest_enqueued_ms is not None

    def test_functions_have_their_figures(self, storage: Storage) -> None:
        mixed(storage)
        functions = {info.function: info for info in storage.functions()}
        assert {name: info.enqueued for name, info in functions.items() if info.enqueued} == {
            "f": 2,
            "shop.mail": 2,
            "shop.report": 2,
        }
        assert "other.late" in functions

    def test_totals_of_a_function_outlive_its_jobs(self, storage: Storage) -> None:
        before = next((info for info in storage.functions() if info.function == "f"), FunctionInfo("f", 0, 0, 0, 0))
        job = put(storage, 1)
        worker = Worker(storage)
        worker.succeed(worker.one())
        assert storage.requeue([job]) == [Change.DONE]
        worker.succeed(worker.one())
        assert storage.delete([job]) == [Change.DONE]
        (found,) = [info for info in storage.functions() if info.function == "f"]
        assert found == ("f", 0, 0, before.total_succeeded + 2, before.total_failed)

    def test_due_counts_what_a_claim_could_give(self, storage: Storage) -> None:
        mixed(storage)
        assert storage.due(["mail"], ["shop.mail"]) == 2
        assert storage.due(["mail"], ["unknown"]) == 0
        storage.pause_queue("mail")
        assert storage.due(["mail"], ["shop.mail"]) == 0

    def test_an_unknown_job_is_none(self, storage: Storage) -> None:
        assert storage.job(storage.new_ids(1)[0]) is None

    def test_pages_give_every_job_once_newest_first(self, storage: Storage) -> None:
        jobs = [new(storage, number) for number in range(50)]
        storage.enqueue(jobs)
        assert ids(storage) == [job.id for job in reversed(jobs)]

    def test_jobs_are_found_by_where_they_come_from(self, storage: Storage) -> None:
        batch = storage.new_ids(1)[0]
        storage.open_batch(batch, "night")
        member = put(storage, flow=Flow(batch=batch))
        child = put(storage, flow=Flow(((member, 0, False),)))
        assert ids(storage, ("batch", "=", [batch])) == [member]
        assert ids(storage, ("parent", "=", [batch, member])) == [child]
        assert ids(storage, ("parent", "=", [child])) == []
        assert ids(storage, ("batch", "prefix", [batch.hex()]), ("schedule", "=", ["nightly"])) == []

    def test_jobs_are_found_by_their_mistake(self, storage: Storage) -> None:
        worker = Worker(storage)
        ours, other = put(storage), put(storage)
        for id, mark in ((ours, "0123456789abcdef"), (other, "fedcba9876543210")):
            job = worker.one()
            assert job.id == id
            error = pack_error("ValueError", "no", f"Traceback\n{FINGERPRINT_HEADING}{mark}\n")
            worker.report(result_failed(job.id, job.token, error))
        assert ids(storage, ("fingerprint", "=", ["0123456789abcdef"])) == [ours]
        assert ids(storage, ("fingerprint", "prefix", ["fedc"])) == [other]
        assert ids(storage, ("fingerprint", "=", ["0123"])) == []

    def test_errors_are_counted_by_fingerprint_and_task(self, storage: Storage) -> None:
        mail, bill = (f"shop.{uuid.uuid4()}" for _ in range(2))
        worker = Worker(storage, functions=[mail, bill])

        def fail(mark: str, function: str = mail, delay_ms: int | None = None) -> bytes:
            put(storage, spec=spec(function))
            job = worker.one()
            error = pack_error("ValueError", f"no {job.id.hex()}", _traceback(mark))
            if delay_ms is None:
                worker.report(result_failed(job.id, job.token, error))
            else:
                worker.report(result_retry(job.id, job.token, delay_ms, error))
            return job.id

        fail("0123456789abcdef")
        retried = fail("0123456789abcdef", delay_ms=60_000)
        other = fail("fedcba9876543210")
        fail("")
        opaque = fail("")
        found = storage.errors(3)
        assert [(row.fingerprint, row.runs, row.failed, row.last_job) for row in found] == [
            (None, 2, 2, opaque),
            ("fedcba9876543210", 1, 1, other),
            ("0123456789abcdef", 2, 1, retried),
        ]
        assert {(row.error, row.function) for row in found} == {("ValueError", mail)}
        assert all(row.first_ms <= row.last_ms for row in found)
        elsewhere = fail("fedcba9876543210", bill)
        assert [(row.function, row.runs, row.last_job) for row in storage.errors(1)] == [(bill, 1, elsewhere)]
        assert len([row for row in storage.errors(1_000) if row.function in (mail, bill)]) == 4
        with pytest.raises(RaftworkError, match="1001, at most 1000"):
            storage.errors(1_001)

    def test_what_became_of_the_jobs_does_not_change_the_count(self, storage: Storage) -> None:
        function = f"shop.{uuid.uuid4()}"
        worker = Worker(storage, functions=[function])
        id = put(storage, spec=spec(function))
        for _ in range(2):
            job = worker.one()
            worker.report(result_failed(id, job.token, pack_error("ValueError", "no", _traceback("0123456789abcdef"))))
            storage.requeue([id])
        worker.report(result_succeeded(id, worker.one().token, None))
        storage.delete([id])
        (row,) = (row for row in storage.errors(1_000) if row.function == function)
        assert (row.runs, row.failed) == (2, 2)

    def test_clauses_select(self, storage: Storage) -> None:
        jobs = mixed(storage)
        by_kind = [{job.id for job in jobs[kind::4]} for kind in range(4)]
        cases: list[tuple[list[Clause], set[bytes]]] = [
            ([("queue", "=", ["mail"])], by_kind[0]),
            ([("queue", "=", ["mail", "nothing"])], by_kind[0]),
            ([("function", "prefix", ["shop."])], by_kind[0] | by_kind[1]),
            ([("function", "contains", ["late"])], by_kind[2]),
            ([("tag", "=", ["crm"])], by_kind[0]),
            ([("tag", "=", ["crm"]), ("tag", "=", ["us"])], set()),
            ([("tag", "=", ["crm", "us"])], by_kind[0] | by_kind[2]),
            ([("state", "=", ["scheduled"])], by_kind[2]),
            ([("priority", ">", [0])], by_kind[1]),
            ([("unique", "=", ["key:1"])], {jobs[7].id}),
            ([("args.0", "=", [1]), ("queue", "=", ["mail"])], {jobs[4].id}),
            ([("id", "=", [jobs[0].id])], {jobs[0].id}),
        ]
        for clauses, expected in cases:
            assert set(ids(storage, *clauses)) == expected, clauses

    def test_errors_can_be_searched_by_type(self, storage: Storage) -> None:
        put(storage)
        worker = Worker(storage)
        job = worker.one()
        worker.report(result_failed(job.id, job.token, ERROR))
        assert ids(storage, ("error", "=", ["builtins.ValueError"])) == [job.id]
        assert ids(storage, ("error", "=", ["builtins.KeyError"])) == []

    def test_a_question_that_makes_no_sense_is_refused(self, storage: Storage) -> None:
        put(storage)
        for clause in (("nothing", "=", ["x"]), ("state", "~", ["x"]), ("priority", ">", ["high"])):
            with pytest.raises(RaftworkError):
                storage.jobs([clause])
        assert len(ids(storage)) == 1

    def test_totals_and_health_say_how_it_is(self, storage: Storage) -> None:
        put(storage)
        assert storage.totals()["jobs"] == 1
        health = storage.health()
        assert health["role"] in ("owner", "attached", "memory")
        assert "durability" in health
