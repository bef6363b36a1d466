"""Reads of three kinds: what an answer has, and how old it says that it can be. With real nodes, some stopped."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from raftwork import InvalidOption, JobNotFound, Raftwork, TooStale
from raftwork.reading import LOCAL_STALENESS_MS_MAX, SESSION, Reading, read_as
from raftwork.testing.cluster import PATIENCE_S, Cluster

PAUSE_S = 2.5
"""How long a node is stopped: longer than local reads allow, and than an election takes."""


def now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def test_what_a_caller_may_say() -> None:
    assert read_as() == SESSION == Reading("session", None)
    assert read_as("local") == Reading("local", LOCAL_STALENESS_MS_MAX)
    assert read_as("local", "500ms") == Reading("local", 500)
    assert read_as("session", timedelta(seconds=3)) == Reading("session", 3_000)
    with pytest.raises(InvalidOption, match="not one of local, session, linearizable"):
        read_as("eventual")  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match="makes no sense with consistency='linearizable'"):
        read_as("linearizable", "1s")
    with pytest.raises(InvalidOption, match="has no unit"):
        read_as("local", 3)  # type: ignore[arg-type]


@pytest.mark.parametrize("storage", ["memory://", "raft:///jobs"])
def test_l3_alone_no_answer_is_ever_old(storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    app = Raftwork("shop", storage)
    task = app.task(name="f")(_nothing)
    with app:
        job = task.enqueue()
        for consistency in ("local", "session", "linearizable"):
            counts = app.counts(consistency=consistency)  # type: ignore[arg-type]
            assert counts["enqueued"] == 1
            assert counts.as_of_index > 0
            assert counts.staleness is not None and counts.staleness < timedelta(seconds=1)
            info = job.info(consistency=consistency)  # type: ignore[arg-type]
            assert info.as_of_index >= counts.as_of_index and info.staleness is not None
            assert [found.as_of_index for found in app.jobs(consistency=consistency)] == [info.as_of_index]  # type: ignore[arg-type]
            queues = app.queues.all(consistency=consistency)  # type: ignore[arg-type]
            assert [queue.enqueued for queue in queues] == [1] and queues.as_of_index == info.as_of_index
        with pytest.raises(JobNotFound):
            app.job("0190d3c1-0000-7000-8000-000000000000").info(consistency="linearizable")


def _nothing() -> None:
    pass


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as cluster:
        yield cluster


def at(cluster: Cluster, number: int) -> Raftwork:
    """An application that asks this one node, over the socket in its directory."""
    return Raftwork("reader", f"raft:///{cluster.data(number)}")


class Writing:
    """Enqueues without a pause, and notes when how many jobs were acknowledged."""

    def __init__(self, url: str) -> None:
        self.app = Raftwork("writer", url)
        self.task = self.app.task(name="f")(_nothing)
        self.acknowledged: list[float] = []
        self.stop = threading.Event()
        self.failure: BaseException | None = None
        self.thread = threading.Thread(target=self._write)

    def _write(self) -> None:
        try:
            while not self.stop.is_set():
                self.task.enqueue()
                self.acknowledged.append(now())
        except BaseException as error:
            self.failure = error

    def before(self, moment: float) -> int:
        """How many were acknowledged before this moment."""
        return sum(at <= moment for at in list(self.acknowledged))

    def __enter__(self) -> "Writing":
        self.app.open()
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()
        self.app.close()
        assert self.failure is None, repr(self.failure)


def until(condition: Callable[[], bool]) -> None:
    latest = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < latest, "it did not happen"


@contextmanager
def reading(app: Raftwork, writing: Writing) -> Iterator[list[TooStale]]:
    """Reads locally all the time: nothing may be missing that was acknowledged longer ago than the answer says."""
    refused: list[TooStale] = []
    wrong: list[str] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            # Its age counts from when the answer was at hand, which is later.
            began = now()
            try:
                counts = app.counts(consistency="local")
            except TooStale as error:
                refused.append(error)
                continue
            assert counts.staleness is not None
            least = writing.before(began - counts.staleness.total_seconds())
            if counts["enqueued"] < least or counts.staleness > timedelta(milliseconds=LOCAL_STALENESS_MS_MAX):
                wrong.append(f"{counts['enqueued']} of {least}, {counts.staleness} old")

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield refused
    finally:
        stop.set()
        thread.join()
    assert not wrong, wrong[:5]


@pytest.mark.parametrize("role", ["follower", "leader"])
def test_l3_a_stopped_node_never_tells_a_small_age(cluster: Cluster, role: str) -> None:
    number = cluster.leader() if role == "leader" else cluster.follower()
    with at(cluster, number) as app, Writing(cluster.url) as writing, reading(app, writing) as refused:
        until(lambda: len(writing.acknowledged) > 100)
        cluster.pause(number)
        stopped = now()
        until(lambda: now() - stopped > PAUSE_S and writing.before(now()) > writing.before(stopped) + 10)
        cluster.resume(number)
        until(lambda: bool(refused))
        # A question that waited in the socket of the stopped process is as old as its answer.
        assert any(error.age_ms is None or error.age_ms > LOCAL_STALENESS_MS_MAX for error in refused)
        until(lambda: _is_answered(app))


def _is_answered(app: Raftwork) -> bool:
    try:
        return app.counts(consistency="local").staleness is not None
    except TooStale as error:
        assert error.code == "RW305" and error.bound_ms == LOCAL_STALENESS_MS_MAX
        return False


def test_l1_linearizable_reads_at_any_node_have_all_that_was_acknowledged(cluster: Cluster) -> None:
    apps = [at(cluster, number).open() for number in range(3)]
    with Writing(cluster.url) as writing:
        for round in range(150):
            acknowledged = writing.before(now())
            counts = apps[round % 3].counts(consistency="linearizable")
            assert counts["enqueued"] >= acknowledged
    for app in apps:
        app.close()


def test_l2_a_session_sees_its_writes_and_never_less_across_members(cluster: Cluster) -> None:
    with Raftwork("shop", cluster.url) as app:
        task = app.task(name="f")(_nothing)
        index = 0
        for number in range(60):
            if number == 20:
                cluster.kill(cluster.leader())
            job = task.enqueue()
            seen = job.info().as_of_index
            assert seen >= index
            index = seen
            assert app.counts()["enqueued"] == number + 1


def test_l3_without_a_majority_local_reads_go_on_and_say_how_old_they_are(cluster: Cluster) -> None:
    number = cluster.follower()
    with at(cluster, number) as app:
        app.task(name="f")(_nothing).enqueue()
        until(lambda: _is_answered(app))
        cluster.kill(*(other for other in range(3) if other != number))
        until(lambda: not _is_answered(app))
        # A way that took long may have made the last answer too old; the next one's may be short.
        until(lambda: _age(app) > timedelta(milliseconds=LOCAL_STALENESS_MS_MAX))
        assert app.counts(consistency="local", max_staleness="1h")["enqueued"] == 1
        assert app.counts()["enqueued"] == 1, "as does a session, which only promises not to go back"


def _age(app: Raftwork) -> timedelta:
    age = app.counts(consistency="local", max_staleness="1h").staleness
    assert age is not None
    return age
