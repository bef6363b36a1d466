"""The steps of one job, and who may report how it ended."""

from __future__ import annotations

import asyncio
import threading
import uuid
from typing import Any

import msgspec
import pytest

from raftwork import events
from raftwork.app import Raftwork
from raftwork.context import JobContext
from raftwork.errors import SerializationError
from raftwork.serde import encode
from raftwork.storage.base import ClaimedJob
from raftwork.worker.binding import bindings_of
from raftwork.worker.ending import Code, Ending, ending_of, report
from raftwork.worker.failure import Failure
from raftwork.worker.leases import EARLY_MAX, Board
from raftwork.worker.run import Cause, Run
from raftwork.worker.runner import Runner
from raftwork.worker.timekeeper import Timekeeper
from worker.claims import Silent, claim, run_on

WAIT_S = 20


def runner_of(app: Raftwork, board: Board) -> Runner:
    return Runner(bindings_of(app), board, Silent(), Timekeeper())


def run(runner: Runner, name: str) -> bytes | None:
    return asyncio.run(runner.arun(claim(name))) if name.startswith("a") else runner.run(claim(name))


@pytest.mark.parametrize("way", ["lost", "released"])
@pytest.mark.parametrize("name", ["plain", "aplain", "result", "raises", "araises"])
def test_a_job_that_was_taken_off_the_board_is_not_reported(app: Raftwork, name: str, way: str) -> None:
    board = Board()

    def take_off() -> None:
        if way == "lost":
            assert board.lose_all() == 1
        else:
            assert [board.take(run) for run in board.all()] == [True]

    @app.task(name="plain")
    def plain() -> None:
        take_off()

    @app.task(name="aplain")
    async def aplain() -> None:
        take_off()

    @app.task(name="result")
    def result() -> int:
        take_off()
        return 1

    @app.task(name="raises")
    def raises() -> None:
        take_off()
        raise ValueError

    @app.task(name="araises")
    async def araises() -> None:
        take_off()
        raise ValueError

    assert run(runner_of(app, board), name) is None
    assert board.runs == {}


def test_only_one_may_take_a_job_off_the_board() -> None:
    board = Board()
    zombie = run_on(board, claim("x", 1, token=6))
    assert board.lose_all() == 1
    owner = run_on(board, claim("x", 1, token=7))
    assert not board.take(zombie), "another run of the same job is not this one"
    assert board.take(owner) and not board.take(owner)


def test_news_about_an_older_lease_are_ignored() -> None:
    board = Board()
    run = run_on(board, claim("x", 7))
    board.stop(6, Cause.LOST)
    assert board.runs and run.cause is None
    board.stop(7, Cause.CANCEL)
    assert board.runs and run.cause is Cause.CANCEL and not run.lost
    board.stop(7, Cause.LOST)
    assert not board.runs and run.cause is Cause.LOST and run.lost
    run.stop(Cause.CANCEL)
    assert run.cause is Cause.LOST, "a weaker cause does not come after a stronger one"


@pytest.mark.parametrize("cause", [Cause.CANCEL, Cause.LOST])
@pytest.mark.parametrize("name", ["plain", "aplain"])
def test_news_that_come_before_the_job_wait_for_it(app: Raftwork, name: str, cause: Cause) -> None:
    called: list[str] = []

    @app.task(name="plain")
    def plain() -> None:
        called.append("plain")

    @app.task(name="aplain")
    async def aplain() -> None:
        called.append("aplain")

    board = Board()
    runner = runner_of(app, board)
    board.stop(1, cause)
    report = run(runner, name)
    assert called == [], "it does not begin"
    assert report is None if cause is Cause.LOST else ending_of(report or b"").code is Code.CANCELLED
    assert board.runs == {} and board.early == {}
    assert ending_of(run(runner, name) or b"") == Ending(Code.SUCCEEDED), "they were for that run"


@pytest.mark.parametrize("heard_by_itself", [False, True])
def test_news_for_a_job_that_begins_just_then_reach_it(heard_by_itself: bool) -> None:
    class Late(dict[int, Run]):
        """The job is put on the board between two looks of the listener."""

        looks = 0

        def get(self, token: int, default: Any = None) -> Any:
            self.looks += 1
            if self.looks == 2:
                run_on(board, claim("x", token))
                if heard_by_itself:
                    board.tell_early(self[token])
            return super().get(token, default)

    board = Board()
    board.runs = Late()
    board.stop(7, Cause.CANCEL)
    assert board.all()[0].cause is Cause.CANCEL and board.early == {}


def test_the_news_that_wait_are_bounded() -> None:
    board = Board()
    for token in range(3 * EARLY_MAX):
        board.stop(token, Cause.CANCEL)
    assert list(board.early) == list(range(2 * EARLY_MAX, 3 * EARLY_MAX)), "the newest are kept"


def test_a_coroutine_that_is_cancelled_while_it_is_made_ready_is_cancelled(app: Raftwork) -> None:
    @app.task(name="asleeps")
    async def asleeps() -> None:
        await asyncio.sleep(WAIT_S)

    board = Board()
    stop = events.subscribe(lambda event: board.stop(1, Cause.CANCEL) if event.name == "job.started" else None)
    try:
        report = run(runner_of(app, board), "asleeps")
    finally:
        stop()
    assert ending_of(report or b"").code is Code.CANCELLED


def test_a_worker_without_the_task_says_so(app: Raftwork) -> None:
    ending = ending_of(runner_of(app, Board()).run(claim("unknown")) or b"")
    assert ending.code is Code.RETRY and ending.failure is not None
    assert ending.failure.type.endswith("TaskNotRegistered") and "unknown" in ending.failure.message


@pytest.mark.parametrize("name", ["raises", "araises", "unpackable"])
def test_a_subclass_hears_what_a_job_raised(app: Raftwork, name: str) -> None:
    heard: list[BaseException] = []

    class Hearing(Runner):
        def raised(self, run: Run, error: BaseException) -> None:
            heard.append(error)

    @app.task(name="raises")
    def raises() -> None:
        raise ValueError

    @app.task(name="araises")
    async def araises() -> None:
        raise ValueError

    @app.task(name="unpackable")
    def unpackable() -> object:
        return object()

    run(Hearing(bindings_of(app), Board(), Silent(), Timekeeper()), name)
    assert [type(error) for error in heard] == [SerializationError if name == "unpackable" else ValueError]


@pytest.mark.parametrize("name", ["plain", "aplain"])
def test_a_listener_does_not_take_a_job_off_the_short_way(
    app: Raftwork, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> Ending:
        raise AssertionError("the long way")

    @app.task(name="plain")
    def plain() -> None: ...

    @app.task(name="aplain")
    async def aplain() -> None: ...

    monkeypatch.setattr(Runner, "_after_value", refuse)
    seen: list[events.Event] = []
    stop = events.subscribe(seen.append)
    try:
        report = run(runner_of(app, Board()), name)
    finally:
        stop()
    assert [event.name for event in seen] == ["job.started", "job.succeeded"]
    assert seen[0].fields["id"] == seen[1].fields["id"] == uuid.UUID(int=1)
    assert ending_of(report or b"") == Ending(Code.SUCCEEDED)


@pytest.mark.parametrize("name", ["plain", "aplain"])
def test_a_listener_that_interrupts_does_not_end_a_job(app: Raftwork, name: str) -> None:
    @app.task(name="plain")
    def plain() -> int:
        return 7

    @app.task(name="aplain")
    async def aplain() -> int:
        return 7

    def interrupts(event: events.Event) -> None:
        raise KeyboardInterrupt

    stop = events.subscribe(interrupts)
    try:
        report = run(runner_of(app, Board()), name)
    finally:
        stop()
    assert ending_of(report or b"") == Ending(Code.SUCCEEDED, result=encode(7))


@pytest.mark.parametrize(
    "ending",
    [
        Ending(Code.SUCCEEDED, result=b"\x01"),
        Ending(Code.SUCCEEDED),
        Ending(Code.RETRY, delay_ms=5, failure=Failure("T", "m", "t")),
        Ending(Code.FAILED, failure=Failure("T", "m", "t")),
        Ending(Code.SNOOZE, delay_ms=7),
        Ending(Code.SNOOZE, delay_ms=7, reason="waits for the bank"),
        Ending(Code.RELEASE),
        Ending(Code.CANCELLED, reason="why"),
        Ending(Code.CRASHED, failure=Failure("T", "m", "t")),
    ],
)
def test_a_report_reads_back(ending: Ending) -> None:
    job = msgspec.msgpack.decode(claim("x"), type=ClaimedJob)
    assert ending_of(report(job, ending)) == ending


def test_no_more_coroutines_run_at_once_than_there_are_slots(app: Raftwork, work: Any) -> None:
    now = most = 0
    full = threading.Event()

    @app.task(name="counts")
    async def counts(ctx: JobContext) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        if now == 3:
            full.set()
        while not full.is_set():
            await asyncio.sleep(0.001)
        await asyncio.sleep(0)
        now -= 1

    jobs = [counts.enqueue() for _ in range(100)]
    work(app, concurrency=3)
    for job in jobs:
        job.result(WAIT_S)
    assert most == 3


def test_coroutines_that_wait_do_not_hold_up_the_others(app: Raftwork, work: Any) -> None:
    together = 0
    all_in = threading.Event()

    @app.task(name="meets")
    async def meets() -> None:
        nonlocal together
        together += 1
        if together == 10:
            all_in.set()
        while not all_in.is_set():
            await asyncio.sleep(0.001)

    jobs = [meets.enqueue() for _ in range(10)]
    work(app, concurrency=10)
    for job in jobs:
        job.result(WAIT_S)


def test_tasks_that_waited_are_not_reused(app: Raftwork, work: Any) -> None:
    tasks: list[Any] = []

    @app.task(name="waits")
    async def waits() -> None:
        tasks.append(asyncio.current_task())
        await asyncio.sleep(0)

    jobs = [waits.enqueue() for _ in range(20)]
    work(app, concurrency=5)
    for job in jobs:
        job.result(WAIT_S)
    assert len(set(map(id, tasks))) == len(tasks) == 20
