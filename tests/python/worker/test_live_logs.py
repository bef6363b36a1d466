"""Log lines of running jobs, asked for from other processes: `job.logs()`, `raftwork logs`, and following a job."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from raftwork import (
    InvalidOption,
    JobContext,
    JobLogs,
    JobNotFound,
    JobState,
    LogsUnavailable,
    Raftwork,
    Retry,
    following,
)
from raftwork.errors import Overloaded
from raftwork.storage.base import LinesStanding
from raftwork.testing.cluster import Cluster
from support.command_line import start
from worker import lines_jobs
from worker.log_jobs import wait_until
from worker.shop import WAIT_S, Shop

KINDS = ("thread", "async", "process")


def texts(lines: list[str]) -> list[str]:
    """Lines without time of day, level and logger."""
    return [line.partition(": ")[2] for line in lines]


class Talk:
    """A running job that logs what it is told."""

    def __init__(self, door: socket.socket) -> None:
        self.door, _ = door.accept()
        self.door.settimeout(WAIT_S)
        self.pid = int(self.door.recv(16))

    def log(self, word: str) -> None:
        """Return when it is logged."""
        self.door.sendall(word.encode())
        assert self.door.recv(64) == lines_jobs.LOGGED

    def end(self, how: str = "end") -> None:
        """Let the job return, or `fail`."""
        self.door.sendall(how.encode())
        self.door.close()


def talks(app: Raftwork, kind: str) -> Any:
    """The task of this kind in another application."""
    task = lines_jobs.app.tasks[f"lines.{kind}"]
    return app.task(name=task.name, **task._options)(task.fn)


def put(app: Raftwork) -> Any:
    """Store a job of `f`, for tests that are the worker themselves."""

    @app.task(name="f")
    def f() -> None:
        pass

    return f.enqueue()


def port(door: socket.socket) -> int:
    """Where jobs find the test."""
    return int(door.getsockname()[1])


def logs_when(job: Any, holds: Callable[[JobLogs], bool]) -> JobLogs:
    """What a job has logged, when this holds of it. A line of a child process takes a moment to its worker."""
    found: list[JobLogs] = []

    def look() -> bool:
        found.append(job.logs())
        return holds(found[-1])

    assert wait_until(look), found[-1]
    return found[-1]


@pytest.fixture
def children(work: Any) -> Iterator[Raftwork]:
    """The application of `lines_jobs` in this process, with a worker."""
    app = lines_jobs.app.open()
    try:
        work(app)
        yield app
    finally:
        app.close()


@pytest.mark.crash
@pytest.mark.parametrize("kind", KINDS)
def test_lines_of_a_running_job_in_this_process(children: Raftwork, door: socket.socket, kind: str) -> None:
    job: Any = children.tasks[f"lines.{kind}"].enqueue(port(door))
    talk = Talk(door)
    none = job.logs()
    assert (none, none.live, none.state, none.reason) == ([], True, "processing", "the job has logged nothing so far")
    talk.log("one")
    talk.log("two")
    logs = logs_when(job, lambda logs: len(logs) == 2)
    assert (texts(logs), logs.live, logs.first, logs.attempt, logs.reason) == (["one", "two"], True, 0, 1, "")
    assert asyncio.run(job.alogs()) == logs
    talk.end("fail")
    children.job_wait(job.id.bytes, WAIT_S)
    stored = job.logs()
    assert (texts(stored), stored.live, stored.state) == (["one", "two"], False, "failed")


def test_why_there_are_no_lines(app: Raftwork, work: Any) -> None:
    @app.task(name="quick")
    def quick() -> None:
        pass

    waiting = quick.enqueue()
    assert (waiting.logs(), waiting.logs().reason) == ([], "the job waits for a worker")
    later = quick.using(delay="1h").enqueue()
    assert later.logs().reason == "the job is not due yet"
    later.cancel()
    assert later.logs().reason.startswith("the job was cancelled")
    work(app)
    waiting.result(WAIT_S)
    assert waiting.logs().reason == "the job succeeded; lines are stored with failures only"
    with pytest.raises(JobNotFound):
        app.job(uuid.uuid4()).logs()


def test_a_job_that_was_claimed_and_did_not_start(app: Raftwork) -> None:
    job = put(app)
    fetcher = app.storage.fetcher([("default", 1)], ["f"])
    packed = fetcher.next(WAIT_S)
    assert packed is not None
    telling = threading.Thread(
        target=lambda: [fetcher.tell_lines(id, token, None) for _, id, token in fetcher.events(9)]
    )
    telling.start()
    logs = job.logs()
    assert (logs, logs.live, logs.state) == ([], False, "processing")
    assert logs.reason.startswith("a worker has taken the job and has not started it")
    telling.join()
    fetcher.close(1)


def test_a_worker_that_does_not_know_the_ask(app: Raftwork) -> None:
    """It is silent, as one of an earlier version is."""
    job = put(app)
    fetcher = app.storage.fetcher([("default", 1)], ["f"])
    assert fetcher.next(WAIT_S) is not None
    with pytest.raises(LogsUnavailable, match=r"RW413 .* did not answer within 2 s: it .* is of a version") as caught:
        job.logs()
    assert caught.value.job_id == job.id
    fetcher.close(1)


def test_a_node_that_does_not_know_the_question(app: Raftwork, monkeypatch: pytest.MonkeyPatch) -> None:
    job = put(app)
    session = app.storage.open_session("worker", ttl_ms=60_000)
    app.storage.claim(session, [("default", 1)], ["f"])
    with pytest.raises(LogsUnavailable, match="no node has a connection of its worker"):
        job.logs()
    view = app.storage._view  # type: ignore[attr-defined]

    def unknown(question: tuple[Any, ...], reading: Any) -> Any:
        if question[0] == 61:
            raise InvalidOption("invalid request: question 61 has 1 items, not 5. Nothing was sent.")
        return view(question, reading)

    monkeypatch.setattr(app.storage, "_view", unknown)
    assert app.storage.run_lines(job.id.bytes, session, 1).standing is LinesStanding.UNKNOWN_HERE
    with pytest.raises(LogsUnavailable, match="of a version that cannot ask workers"):
        job.logs()


@pytest.mark.parametrize(
    ("job", "session", "token", "start"),
    [(b"short", 1, 1, 0), (bytes(16), -1, 1, 0), (bytes(16), 1, "x", 0), (bytes(16), 1, 1, -1)],
)
def test_bad_questions(app: Raftwork, job: Any, session: Any, token: Any, start: Any) -> None:
    with pytest.raises(InvalidOption):
        app.storage.run_lines(job, session, token, start)
    assert app.storage.counts()["enqueued"] == 0, "the storage goes on"


def test_lines_that_are_no_text_silence_nothing(app: Raftwork, work: Any) -> None:
    logged, go_on = threading.Event(), threading.Event()

    @app.task(name="odd")
    def odd() -> None:
        lines_jobs.logger.warning("half \ud800")
        logged.set()
        go_on.wait(WAIT_S)

    work(app)
    job = odd.enqueue()
    assert logged.wait(WAIT_S)
    assert texts(job.logs()) == ["half ?"]
    go_on.set()
    job.result(WAIT_S)


class Follower:
    """Follows a job on a thread."""

    def __init__(self, app: Raftwork, job: Any) -> None:
        self.answers: list[JobLogs] = []
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, args=(app, job.id.bytes))
        self._thread.start()

    def _run(self, app: Raftwork, job: bytes) -> None:
        for answer in following.follow(app, job):
            with self._changed:
                self.answers.append(answer)
                self._changed.notify_all()

    @property
    def lines(self) -> list[str]:
        """What came so far."""
        return [text for answer in self.answers for text in texts(answer)]

    def wait_for(self, *lines: str) -> None:
        """Return when exactly these came."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.lines == list(lines), WAIT_S), self.answers

    def end(self) -> JobState:
        """The last state."""
        self._thread.join(WAIT_S)
        return self.answers[-1].state


@pytest.mark.crash
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["end", "fail"])
def test_who_follows_gets_each_line_once_and_the_last_one_too(
    children: Raftwork, door: socket.socket, kind: str, how: str
) -> None:
    job: Any = children.tasks[f"lines.{kind}"].enqueue(port(door))
    talk = Talk(door)
    follower = Follower(children, job)
    talk.log("one")
    talk.log("two")
    follower.wait_for("one", "two")
    talk.log("three")
    talk.log("last words")
    talk.end(how)
    assert follower.end() is (JobState.SUCCEEDED if how == "end" else JobState.FAILED)
    assert follower.lines == ["one", "two", "three", "last words"]


def test_who_follows_sees_all_attempts_and_what_is_waited_for(app: Raftwork, work: Any) -> None:
    turns = threading.Semaphore(0)

    @app.task(name="again", retry=Retry(2, base="0s"))
    def again(ctx: JobContext) -> None:
        lines_jobs.logger.warning("attempt %d", ctx.attempt)
        assert turns.acquire(timeout=WAIT_S)
        if ctx.attempt == 1:
            raise ValueError

    job = again.enqueue()
    follower = Follower(app, job)
    work(app)
    follower.wait_for("attempt 1")
    turns.release()
    follower.wait_for("attempt 1", "attempt 2")
    turns.release()
    assert follower.end() is JobState.SUCCEEDED
    assert [answer.attempt for answer in follower.answers if answer] == [1, 2]
    assert follower.answers[0].reason == "the job waits for a worker"


@pytest.mark.crash
@pytest.mark.parametrize("owner", ["client", "worker"])
def test_lines_reach_other_processes_of_a_directory(
    shop: Shop, door: socket.socket, owner: str, tmp_path: Path
) -> None:
    if owner == "worker":
        shop.work("worker.lines_jobs")
        assert wait_until((tmp_path / "jobs" / "socket").exists)
    shop.open()
    assert shop.client is not None
    if owner == "client":
        shop.work("worker.lines_jobs")
    assert shop.client.health()["role"] == {"client": "owner", "worker": "attached"}[owner]
    job = talks(shop.client, "thread").enqueue(port(door))
    talk = Talk(door)
    talk.log("one")
    assert texts(job.logs()) == ["one"]
    with start("logs", str(job.id), "--json", "--storage", shop.url, cwd=tmp_path) as command:
        answer = msgspec.json.decode(command.communicate(timeout=WAIT_S)[0])
    assert texts(answer.pop("lines")) == ["one"]
    assert answer == {
        "id": str(job.id), "state": "processing", "attempt": 1, "live": True, "first": 0, "reason": None
    }  # fmt: skip
    talk.end()
    job.result(WAIT_S)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Three nodes that serve."""
    with Cluster(tmp_path) as cluster:
        yield cluster


@pytest.mark.crash
def test_lines_through_any_of_three_nodes(cluster: Cluster, shop: Shop, door: socket.socket, tmp_path: Path) -> None:
    """Workers and clients at members of their own; a follower at another one; a worker that hangs, and is killed."""
    clients = [Raftwork("client", f"raftwork://{address}") for address in cluster.clients]
    for place, address in enumerate(cluster.clients):
        worker = shop.work("worker.lines_jobs", SHOP_STORAGE=f"raftwork://{address}")
        for kind in ("thread", "process"):
            job = talks(clients[place], kind).enqueue(port(door))
            talk = Talk(door)
            talk.log(f"{kind} at {address}")
            for client in clients:
                logs = logs_when(client.job(job.id), bool)
                assert (texts(logs), logs.live) == ([f"{kind} at {address}"], True)
            talk.end()
            job.result(WAIT_S)
        _ends_in_order(worker)
    _follows(cluster, shop, clients, door, tmp_path)
    _hangs_and_dies(cluster, shop, clients, door)
    for client in clients:
        client.close()


def _ends_in_order(worker: Any) -> None:
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(WAIT_S) == 0


def _follows(cluster: Cluster, shop: Shop, clients: list[Raftwork], door: socket.socket, folder: Path) -> None:
    worker = shop.work("worker.lines_jobs", SHOP_STORAGE=f"raftwork://{cluster.clients[0]}")
    job = clients[0].tasks["lines.thread"].enqueue(port(door))
    talk = Talk(door)
    talk.log("one\x1b[31m")
    at = f"raftwork://{cluster.clients[1]}"
    with (
        start("logs", str(job.id), "--follow", "--storage", at, cwd=folder) as shown,
        start("logs", str(job.id), "-f", "--json", "--storage", at, cwd=folder) as told,
    ):
        assert shown.stdout is not None and shown.stderr is not None and told.stdout is not None
        assert shown.stdout.readline().endswith("WARNING shop: one\\x1b[31m\n"), "the terminal is left alone"
        first = msgspec.json.decode(told.stdout.readline())
        assert (first["attempt"], first["number"]) == (1, 0)
        talk.log("two")
        talk.end("fail")
        assert texts(shown.stdout.readlines()) == ["two\n"]
        assert "The job is failed." in shown.stderr.read()
        assert [msgspec.json.decode(line) for line in told.stdout][-1] == {"state": "failed"}
        assert (shown.wait(WAIT_S), told.wait(WAIT_S)) == (1, 1)
    _ends_in_order(worker)


def _hangs_and_dies(cluster: Cluster, shop: Shop, clients: list[Raftwork], door: socket.socket) -> None:
    worker = shop.work("worker.lines_jobs", SHOP_STORAGE=f"raftwork://{cluster.clients[0]}")
    job: Any = clients[0].tasks["lines.thread"].enqueue(port(door))
    talk = Talk(door)
    talk.log("one")
    worker.send_signal(signal.SIGSTOP)
    with pytest.raises(LogsUnavailable, match="did not answer within 2 s"):
        clients[1].job(job.id).logs()
    found: list[Any] = []

    def look() -> None:
        try:
            found.append(clients[1].job(job.id).logs())
        except (LogsUnavailable, Overloaded) as error:
            found.append(error)

    asking = threading.Thread(target=look)
    began = time.monotonic()
    asking.start()
    worker.kill()
    asking.join(WAIT_S)
    assert isinstance(found[0], LogsUnavailable | JobLogs) and time.monotonic() - began < WAIT_S
    # Its process is known to have ended, so the job is free at once.
    logs = logs_when(_Patient(clients[2].job(job.id)), lambda logs: logs.state is not JobState.PROCESSING)
    assert (logs, logs.reason) == ([], "the job waits for a worker")
    talk.door.close()


class _Patient:
    """A job that is asked again while its worker is not known to be dead yet."""

    def __init__(self, job: Any) -> None:
        self._job = job

    def logs(self) -> JobLogs:
        try:
            return self._job.logs()  # type: ignore[no-any-return]
        except LogsUnavailable as error:
            return JobLogs([], JobState.PROCESSING, 1, reason=error.message)


def test_wrong_usage(tmp_path: Path) -> None:
    with start("logs", "seven", "--storage", "memory://", cwd=tmp_path) as command:
        _, errors = command.communicate(timeout=WAIT_S)
    assert command.returncode == 2 and "'seven' is not a job id" in errors
    with start("logs", str(uuid.uuid4()), "--follow", "--storage", "memory://", cwd=tmp_path) as command:
        _, errors = command.communicate(timeout=WAIT_S)
    assert command.returncode == 4 and "RW401" in errors
