"""The verdict itself: each kind of mistake that it must find, planted into a history or a ledger that was good."""

import json
from pathlib import Path
from typing import Any

import pytest

from cluster import verdict
from cluster.verdict import Fates, History, Run

A, B = "0190a000-0000-7000-8000-00000000000a", "0190a000-0000-7000-8000-00000000000b"


def lines(*operations: dict[str, Any]) -> list[bytes]:
    """What one process wrote: a line for the beginning of each operation, and one for its end if it has any."""
    written = []
    for number, op in enumerate(operations):
        began = {"process": 1, "number": number, "began": op["began"], "operation": op["operation"]}
        written.append(began | {"arguments": op["arguments"]})
        if "ended" in op:
            end = {name: op[name] for name in ("ended", "index", "answer", "error", "why") if name in op}
            written.append({"process": 1, "number": number} | end)
    return [json.dumps(line).encode() for line in written]


def enqueue(job: str = A, began: int = 0, delay: int = 0, **end: Any) -> dict[str, Any]:
    end = end or {"ended": began + 10, "index": 5, "answer": [0]}
    jobs = [{"id": job, "queue": "judged", "delay": delay, "max_attempts": 9, "max_crashes": 9}]
    return {"operation": "enqueue", "began": began, "arguments": {"jobs": jobs}, **end}


def claim(token: int = 6, job: str = A, session: int = 2, began: int = 20, crashes: int = 0) -> dict[str, Any]:
    lease = {"job": job, "token": token, "attempt": 1, "crashes": crashes}
    wish = {"session": session, "queues": ["judged"], "max": 1}
    end = {"ended": began + 10, "index": token, "answer": [lease]}
    return {"operation": "claim", "began": began, "arguments": wish, **end}


def finish(token: int = 6, job: str = A, began: int = 40, code: int = 0, index: int = 0) -> dict[str, Any]:
    end = {"ended": began + 10, "index": index or token + 1, "answer": [code]}
    return {"operation": "finish", "began": began, "arguments": {"results": [{"job": job, "token": token}]}, **end}


def history(*operations: dict[str, Any]) -> History:
    found = History()
    found.add(lines(*operations))
    return found


def run(token: int = 6, job: str = A, began: int = 35) -> Run:
    return Run(job, token, 1, 7, began)


GOOD = (enqueue(), claim(), finish())


def test_a_good_run_has_nothing_wrong() -> None:
    fates = Fates.of(history(*GOOD))
    assert verdict.lost(fates, []) == []
    assert verdict.double_leases([run()], fates) == []
    assert verdict.early([run()], fates) == []
    assert (fates.refused, history(*GOOD).unknown(), history(*GOOD).recorded()) == (0, 0, 3)


def test_a_lost_job_is_found() -> None:
    fates = Fates.of(history(*GOOD, enqueue(B, 60, ended=70, index=9, answer=[0])))
    assert verdict.lost(fates, []) == [B]
    assert verdict.lost(fates, [B]) == [], "the storage says that it ended"


def test_an_enqueueing_in_doubt_is_not_a_lost_job() -> None:
    never, unknown = enqueue(B, 60, began_only=True), enqueue(B, 60, ended=70, error="unknown", why="RW302 who knows")
    for doubtful in (never, unknown):
        doubtful.pop("began_only", None)
        recorded = history(*GOOD, doubtful)
        fates = Fates.of(recorded)
        assert verdict.lost(fates, []) == []
        assert (fates.in_doubt, recorded.unknown()) == ({B}, 1)


def test_one_that_was_refused_for_good_is_in_no_doubt() -> None:
    recorded = history(enqueue(B, 60, ended=70, error="not_committed", why="RW301 no"))
    assert (Fates.of(recorded).in_doubt, recorded.unknown(), recorded.errors["RW301"]) == (set(), 0, 1)


@pytest.mark.parametrize(
    ("runs", "more", "words"),
    [
        ([run(), run(began=36)], (), "was run twice under token 6"),
        ([run(), run(8)], (), "ended under token 6, and was run under 8 besides"),
        ([run(), run(8)], (finish(8, began=80),), "ended under each of the tokens [6, 8]"),
        ([run(5)], (), "ended under token 6, under which nobody ran it"),
    ],
)
def test_a_double_lease_is_found(runs: list[Run], more: tuple[dict[str, Any], ...], words: str) -> None:
    problems = verdict.double_leases(runs, Fates.of(history(*GOOD, *more)))
    assert len(problems) == 1
    assert words in problems[0]


def test_a_run_whose_lease_was_lost_is_explained() -> None:
    """The zombie's end is refused and counted; the receiver of its effects refuses its token."""
    again = claim(8, session=3, began=60, crashes=1)
    fates = Fates.of(history(enqueue(), claim(), again, finish(8), finish(6, code=1)))
    runs = [run(6), run(8), run(7)]
    assert verdict.double_leases(runs, fates) == []
    assert fates.refused == 1
    assert verdict.effects(runs) == {A: 2}


def test_a_job_that_starts_before_it_is_due_is_found() -> None:
    fates = Fates.of(history(enqueue(delay=300)))
    assert verdict.early([run(began=290_000_000)], fates) == [A]
    assert verdict.early([run(began=299_000_000)], fates) == [], "within what clocks may drift"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_checker_reads_what_is_written_here_and_finds_planted_anomalies(tmp_path: Path) -> None:
    good = history(*GOOD, enqueue(B, 60, ended=70, error="unknown", why="RW302"))
    good.write(tmp_path / "good")
    assert "no contradiction" in verdict.check_history(tmp_path / "good")
    planted = {
        "two leases of one job": (*GOOD[:2], claim(8, session=3, began=60), finish(6, began=80, index=9)),
        "L1": (enqueue(), enqueue(B, 60, ended=70, index=4, answer=[0])),
        "a lost write": (
            enqueue(),
            {**enqueue(), "operation": "cancel", "arguments": {"jobs": [A]}, "began": 20}
            | {"ended": 30, "index": 7, "answer": [2]},
        ),
        "a zombie whose end is taken": (*GOOD, finish(6, began=80, index=9)),
    }
    for title, operations in planted.items():
        history(*operations).write(tmp_path / "bad")
        with pytest.raises(AssertionError, match="contradicts itself"):
            print(title, verdict.check_history(tmp_path / "bad"))
