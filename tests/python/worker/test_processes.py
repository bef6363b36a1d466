"""Jobs in child processes: what they break, they break for themselves (J7 and the bad-input rows of jobs that die)."""

from __future__ import annotations

import errno
import os
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from raftwork.app import Raftwork
from raftwork.errors import TimedOut
from raftwork.worker import Worker, processes
from raftwork.worker.ending import Code, ending_of
from raftwork.worker.leases import Board
from raftwork.worker.run import Cause
from worker import child_jobs as jobs
from worker.claims import claim
from worker.finals import final

pytestmark = pytest.mark.crash
WAIT_S = 60


@pytest.fixture
def app() -> Iterator[Raftwork]:
    """The application of the child jobs, with an empty memory."""
    yield jobs.app.open()
    jobs.app.close()


def port(door: socket.socket) -> int:
    return int(door.getsockname()[1])


def wait_for_knock(door: socket.socket) -> tuple[int, socket.socket]:
    """The process id of the job that runs, and a connection that ends with it."""
    connection, _ = door.accept()
    connection.settimeout(WAIT_S)
    return int(connection.recv(16)), connection


def test_results_errors_and_isolation(app: Raftwork, work: Any) -> None:
    worker = work(app, processes=1)
    assert jobs.add.enqueue(1, 2).result(WAIT_S) == 3
    assert jobs.pid.enqueue().result(WAIT_S) != os.getpid()
    assert jobs.acts.enqueue().result(WAIT_S) == os.getpid(), "coroutines stay here"
    info = final(jobs.fails.enqueue())
    assert info.state == "failed" and info.error is not None
    assert (info.error.type, info.error.message) == ("KeyError", "'in a child'")
    assert "in fails" in info.error.traceback and "shop: the last words" in info.error.traceback
    assert jobs.remembers.enqueue(1).result(WAIT_S) == [1] and jobs.remembered == []
    children = worker._lanes[1].pids()
    worker.stop()
    assert all(not os.path.exists(f"/proc/{child}") for child in children), "the children have ended"


def test_what_a_child_would_store_in_a_memory_of_its_own_is_refused(app: Raftwork, work: Any) -> None:
    work(app, processes=1)
    info = final(jobs.enqueues.enqueue())
    assert info.error is not None and info.error.type == "raftwork.errors.ConfigError"
    assert "raft:///jobs" in info.error.message and "on a thread" in info.error.message
    assert jobs.reads.enqueue().result(WAIT_S) == ["RW001"] * 3
    assert jobs.add.enqueue(1, 2).result(WAIT_S) == 3, "jobs themselves run in children as everywhere"


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("exit", "exited with status 3"),
        ("segfault", "signal 11 (SIGSEGV)"),
        ("kill", "signal 9 (SIGKILL)"),
        ("fork", "exited with status 4"),
    ],
)
def test_a_child_that_dies_is_a_counted_crash(app: Raftwork, work: Any, how: str, words: str) -> None:
    work(app, processes=1)
    info = final(jobs.dies.enqueue(how))
    assert (info.state, info.attempt) == ("failed", 0), "crashes spend no attempt"
    assert info.crashes == 2, "J7: at max_crashes it is over"
    assert info.error is not None and info.error.type == "ProcessCrashed" and words in info.error.message
    assert "shop: about to die" in info.error.traceback
    assert jobs.add.enqueue(1, 2).result(WAIT_S) == 3, "the child was replaced"


def test_system_exit_is_an_ordinary_failure(app: Raftwork, work: Any) -> None:
    work(app, processes=1)
    info = final(jobs.dies.using(retry=1).enqueue("sys.exit"))
    assert info.error is not None and info.error.type == "SystemExit" and info.crashes == 0


def test_other_jobs_do_not_notice(app: Raftwork, work: Any, door: socket.socket) -> None:
    work(app, processes=2, kill_grace="30s")
    other = jobs.polite.enqueue(port(door))
    _, connection = wait_for_knock(door)
    assert final(jobs.dies.enqueue("segfault")).state == "failed"
    assert other.info().state == "processing" and other.info().crashes == 0
    other.cancel()
    assert final(other).state == "cancelled"
    connection.close()


def test_progress_and_state_survive_the_process(app: Raftwork, work: Any) -> None:
    work(app, processes=1)
    job = jobs.contexts.enqueue()
    state, attempt, crashes = job.result(WAIT_S)
    assert state["from"] != os.getpid() and (attempt, crashes) == (1, 1)
    progress = job.info().progress
    assert progress is not None and (progress.done, progress.note) == (100, "all")


def test_a_state_that_cannot_be_stored_is_the_jobs_error_and_the_next_job_gets_its_own_answer(
    app: Raftwork, work: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = work(app, processes=1)
    source = worker._lanes[1].source

    def fail(run: Any) -> None:
        raise TimedOut("some results are not stored yet")

    with monkeypatch.context() as patch:
        patch.setattr(source, "settle", fail)
        info = final(jobs.saves.enqueue(1))
    assert info.error is not None and info.error.type == "raftwork.errors.TimedOut"
    assert [jobs.add.enqueue(number, 1).result(WAIT_S) for number in range(3)] == [1, 2, 3]
    assert jobs.saves.enqueue(2).result(WAIT_S) == 2
    assert jobs.saves_on_a_loop.enqueue().result(WAIT_S) == 2


def test_a_timeout_is_raised_inside_or_enforced(app: Raftwork, work: Any, door: socket.socket) -> None:
    work(app, processes=1, kill_grace="200ms")
    info = final(jobs.spins.enqueue())
    assert info.error is not None and info.error.type == "TimeoutError" and "in spins" in info.error.traceback
    job = jobs.sleeps.enqueue(port(door))
    _, connection = wait_for_knock(door)
    info = final(job)
    assert (info.state, info.crashes) == ("failed", 0), "a kill for a time-out is no crash"
    assert info.error is not None and info.error.type == "TimeoutError"
    assert connection.recv(1) == b"", "the process is gone"
    assert jobs.add.enqueue(1, 2).result(WAIT_S) == 3
    connection.close()


@pytest.mark.parametrize("name", ["polite", "deaf"])
def test_a_cancelled_job_is_told_and_then_killed(app: Raftwork, work: Any, door: socket.socket, name: str) -> None:
    work(app, processes=1, kill_grace="30s" if name == "polite" else "100ms")
    job = getattr(jobs, name).enqueue(port(door))
    _, connection = wait_for_knock(door)
    job.cancel()
    info = final(job)
    assert (info.state, info.crashes) == ("cancelled", 0)
    assert connection.recv(1) == b""
    assert jobs.add.enqueue(1, 2).result(WAIT_S) == 3
    connection.close()


def test_a_cancel_before_the_child_has_the_job_is_heard(
    app: Raftwork, work: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed, heard, go_on = (threading.Event() for _ in range(3))
    run, stop = processes._Slot.run, Board.stop

    def late(self: processes._Slot, raw: bytes) -> bytes | None:
        claimed.set()
        go_on.wait(WAIT_S)
        return run(self, raw)

    def hear(self: Board, token: int, cause: Cause) -> None:
        stop(self, token, cause)
        heard.set()

    monkeypatch.setattr(processes._Slot, "run", late)
    monkeypatch.setattr(Board, "stop", hear)
    work(app, processes=1, kill_grace="30s")
    job = jobs.pid.enqueue()
    assert claimed.wait(WAIT_S) and job.cancel() and heard.wait(WAIT_S)
    go_on.set()
    info = final(job)
    assert (info.state, info.crashes) == ("cancelled", 0)
    assert jobs.add.enqueue(1, 2).result(WAIT_S) == 3


def test_what_comes_late_for_one_job_does_not_end_the_next() -> None:
    child = processes.Child("worker.child_jobs:app", None)
    try:
        child.wait_ready()
        child.pipe.send("stop", 7, int(Cause.CANCEL))
        for token, code in ((8, Code.SUCCEEDED), (7, Code.CANCELLED)):
            child.pipe.send("job", claim(jobs.pid.name, token=token))
            kind, report = child.receive(WAIT_S)
            assert kind == "done" and ending_of(report).code is code
    finally:
        child.close()


def test_a_stop_kills_what_does_not_end_and_releases_it(app: Raftwork, work: Any, door: socket.socket) -> None:
    worker = work(app, processes=1)
    job = jobs.deaf.enqueue(port(door))
    _, connection = wait_for_knock(door)
    worker.stop("20ms")
    assert connection.recv(1) == b"", "it is gone before another worker may start it"
    info = job.info()
    assert (info.state, info.attempt, info.crashes) == ("enqueued", 0, 0)
    connection.close()


def test_a_child_killed_while_idle_is_replaced(app: Raftwork, work: Any) -> None:
    work(app, processes=1)
    first = jobs.pid.enqueue().result(WAIT_S)
    os.kill(first, signal.SIGKILL)
    info = final(jobs.pid.enqueue())
    assert info.state == "succeeded" and info.result != first


def test_a_slot_survives_a_system_without_processes(app: Raftwork, work: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the start, and for a child that is to replace another."""
    refusals, child = 2, processes.Child

    def start(*args: Any) -> processes.Child:
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise BlockingIOError(errno.EAGAIN, "no process left")
        return child(*args)

    monkeypatch.setattr(processes, "Child", start)
    work(app, processes=1)
    first = jobs.pid.enqueue().result(WAIT_S)
    refusals = 2
    assert final(jobs.dies.using(max_crashes=1).enqueue("kill")).state == "failed"
    info = final(jobs.pid.enqueue())
    assert info.result != first and info.crashes == 0
    assert refusals == 0


def test_a_child_that_cannot_be_watched_is_not_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    def refuse(pid: int) -> int:
        started.append(pid)
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(os, "pidfd_open", refuse, raising=False)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="too many"):
        processes.Child("shop:app", None)
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(started[0], os.WNOHANG)


def test_an_application_that_no_child_can_import_is_told(app: Raftwork, caplog: Any) -> None:
    told = threading.Event()

    def emit(record: Any) -> bool:
        if "ModuleNotFoundError" in record.getMessage():
            told.set()
        return True

    caplog.handler.addFilter(emit)
    try:
        with Worker(app, processes=1, threads=1, target="no_such_module:app", drain_timeout="0s"):
            job = jobs.pid.enqueue()
            assert told.wait(WAIT_S)
            assert job.info().state == "enqueued", "nothing is claimed that cannot be run"
    finally:
        caplog.handler.removeFilter(emit)  # The handler is that of all tests.
