"""Leases that end before the job does: what a zombie says changes nothing (J3, J4), and its worker goes on."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import msgspec
import pytest

from raftwork import events
from raftwork.app import Raftwork
from raftwork.context import JobContext
from raftwork.errors import JobCancelled, LeaseLost
from raftwork.storage.base import Accepted, pack_progress, result_succeeded
from raftwork.worker.leases import Board
from raftwork.worker.run import Cause
from raftwork.worker.runner import Runner

WAIT_S = 20
EXPIRE_SESSION = 3


def expire(app: Raftwork, session: int) -> None:
    """What the leader does with a session that was silent for too long: its leases are lost."""
    client: Any = app.storage
    client._client.submit(msgspec.msgpack.encode((EXPIRE_SESSION, session)), WAIT_S)


class Ledger:
    """Effects outside of raftwork, guarded by the fencing token as the documentation advises."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.token = 0
        self.written: list[str] = []
        self.refused: list[str] = []

    def write(self, token: int, what: str) -> None:
        with self._lock:
            if token < self.token:
                self.refused.append(what)
                return
            self.token = token
            self.written.append(what)


@pytest.mark.parametrize("kind", ["thread", "async"])
def test_j3_a_zombie_changes_nothing(app: Raftwork, work: Any, kind: str) -> None:
    ledger = Ledger()
    started, told, go_on, lost = (threading.Event() for _ in range(4))

    def first(ctx: JobContext) -> None:
        started.set()

    def rest(ctx: JobContext) -> str:
        assert ctx.cancelled
        told.set()
        go_on.wait(WAIT_S)
        ledger.write(ctx.token, "zombie")
        return "zombie"

    def again(ctx: JobContext) -> str:
        ledger.write(ctx.token, "owner")
        return "owner"

    @app.task(name="works")
    def works(ctx: JobContext) -> str:
        if ctx.crashes:
            return again(ctx)
        first(ctx)
        while not ctx.cancelled:
            threading.Event().wait(0.005)
        return rest(ctx)

    @app.task(name="aworks")
    async def aworks(ctx: JobContext) -> str:
        if ctx.crashes:
            return again(ctx)
        first(ctx)
        try:
            await asyncio.sleep(WAIT_S)
        except asyncio.CancelledError:
            return await asyncio.to_thread(rest, ctx)
        return "not told"

    unsubscribe = events.subscribe(lambda event: lost.set() if event.name == "job.lost" else None)
    worker = work(app)
    job = (works if kind == "thread" else aworks).enqueue()
    assert started.wait(WAIT_S)
    lane = next(lane for lane in worker._lanes if lane.board.runs)
    (run,) = lane.board.all()
    old = lane.source.current
    expire(app, old.session())
    assert told.wait(WAIT_S) and lost.wait(WAIT_S), "the job is told"
    assert job.result(WAIT_S) == "owner", "the worker opened a new session and ran it again"
    report = result_succeeded(run.claim.id, run.claim.token, b"\xa6zombie")
    assert app.storage.finish([report]) == [Accepted.LEASE_LOST], "J3"
    assert app.storage.progress([pack_progress(run.claim.id, run.claim.token, b"\x01", None)]) == [Accepted.LEASE_LOST]
    go_on.set()
    worker.stop()
    unsubscribe()
    info = job.info()
    assert (info.result, info.attempt, info.crashes) == ("owner", 1, 1)
    assert ledger.written == ["owner"] and ledger.refused == ["zombie"], "the token protects effects outside"
    assert lane.source.current is None and old is not None


@pytest.mark.parametrize("kind", ["thread", "async"])
def test_a_zombie_that_ends_before_the_owner_leaves_the_owner_its_report(app: Raftwork, work: Any, kind: str) -> None:
    started, told, again, go_on, end = (threading.Event() for _ in range(5))

    @app.task(name="works")
    def works(ctx: JobContext) -> str:
        if ctx.crashes:
            again.set()
            end.wait(WAIT_S)
            return "owner"
        started.set()
        while not ctx.cancelled:
            threading.Event().wait(0.005)
        told.set()
        go_on.wait(WAIT_S)
        return "zombie"

    @app.task(name="aworks")
    async def aworks(ctx: JobContext) -> str:
        if ctx.crashes:
            again.set()
            await asyncio.to_thread(end.wait, WAIT_S)
            return "owner"
        started.set()
        try:
            await asyncio.sleep(WAIT_S)
        except asyncio.CancelledError:
            told.set()
            await asyncio.to_thread(go_on.wait, WAIT_S)
        return "zombie"

    @app.task(name="noop")
    def noop() -> None: ...

    @app.task(name="anoop")
    async def anoop() -> None: ...

    # Two slots: while the owner has one, the next job runs in that of the zombie, and so after its end.
    worker = work(app, threads=2, concurrency=2)
    job = (works if kind == "thread" else aworks).enqueue()
    assert started.wait(WAIT_S)
    lane = next(lane for lane in worker._lanes if lane.board.runs)
    expire(app, lane.source.get().session())
    assert told.wait(WAIT_S) and again.wait(WAIT_S), "it runs twice on this worker"
    go_on.set()
    (noop if kind == "thread" else anoop).enqueue().result(WAIT_S)
    assert [run.claim.crashes for run in lane.board.all()] == [1], "the zombie ended; the owner is on the board"
    end.set()
    assert job.result(WAIT_S) == "owner", "J6: nobody but the owner may report, and it does"


@pytest.mark.parametrize("kind", ["thread", "async"])
def test_a_cancel_between_claim_and_start_is_heard(
    app: Raftwork, work: Any, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A job that was claimed ahead is not on the board yet: its worker is told, and nobody told the job."""
    claimed, heard, go_on = (threading.Event() for _ in range(3))
    called: list[str] = []
    run, arun, stop = Runner.run, Runner.arun, Board.stop

    def late_run(self: Runner, raw: bytes) -> bytes | None:
        claimed.set()
        go_on.wait(WAIT_S)
        return run(self, raw)

    async def late_arun(self: Runner, raw: bytes, task: Any = None) -> bytes | None:
        claimed.set()
        await asyncio.to_thread(go_on.wait, WAIT_S)
        return await arun(self, raw, task)

    def hear(self: Board, token: int, cause: Cause) -> None:
        stop(self, token, cause)
        heard.set()

    monkeypatch.setattr(Runner, "run", late_run)
    monkeypatch.setattr(Runner, "arun", late_arun)
    monkeypatch.setattr(Board, "stop", hear)

    @app.task(name="works")
    def works() -> None:
        called.append("works")

    @app.task(name="aworks")
    async def aworks() -> None:
        called.append("aworks")

    work(app)
    job = (works if kind == "thread" else aworks).enqueue()
    assert claimed.wait(WAIT_S) and job.cancel() and heard.wait(WAIT_S)
    go_on.set()
    with pytest.raises(JobCancelled):
        job.result(WAIT_S)
    assert called == []


def test_a_lost_session_is_replaced_and_work_goes_on(app: Raftwork, work: Any) -> None:
    @app.task(name="add")
    def add(a: int, b: int) -> int:
        return a + b

    @app.task(name="aadd")
    async def aadd(a: int, b: int) -> int:
        return a + b

    worker = work(app)
    for number in range(5):
        assert add.enqueue(number, 1).result(WAIT_S) == number + 1
        assert aadd.enqueue(number, 1).result(WAIT_S) == number + 1
        for lane in worker._lanes:
            expire(app, lane.source.get().session())


def test_progress_of_a_lost_job_is_dropped_and_its_state_refused(app: Raftwork, work: Any) -> None:
    started, done = threading.Event(), threading.Event()

    @app.task(name="reports", max_crashes=1)
    def reports(ctx: JobContext) -> None:
        started.set()
        while not ctx.cancelled:
            threading.Event().wait(0.005)
        ctx.progress(1, 2)
        with pytest.raises(LeaseLost):
            ctx.save("too late")
        done.set()

    worker = work(app)
    job = reports.enqueue()
    assert started.wait(WAIT_S)
    expire(app, worker._lanes[0].source.get().session())
    assert done.wait(WAIT_S)
    job._door.job_wait(job._id, WAIT_S)
    info = job.info()
    assert (info.state, info.crashes, info.progress) == ("failed", 1, None), "J7: crashes are bounded"


def test_a_storage_that_closes_ends_the_worker_quietly(app: Raftwork, work: Any) -> None:
    @app.task(name="noop")
    def noop() -> None: ...

    worker = work(app)
    noop.enqueue().result(WAIT_S)
    app.close()
    worker.stop()
    assert worker.running == 0
