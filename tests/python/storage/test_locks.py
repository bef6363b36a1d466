"""Locks between processes: who holds one dies, hangs, or loses its leader, on one machine and over three nodes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raftwork import ForkedProcess, Lock, LockLost, LockNotHeld, Raftwork
from raftwork.testing.cluster import Cluster
from raftwork.testing.conformance.making import PATIENCE

HOLDER = """
import sys
from raftwork import Raftwork

app = Raftwork("shop", sys.argv[1], session_ttl=sys.argv[2])
lock = app.lock("invoice") if len(sys.argv) < 4 else app.semaphore("invoice", int(sys.argv[3]))
print(lock.acquire(), flush=True)
for line in sys.stdin:
    if line == "lost?\\n":
        print(lock.lost.is_set(), flush=True)
    elif line == "wait\\n":
        print(lock.lost.wait(60), flush=True)
"""


class Holder:
    """A process that holds the lock "invoice", or a permit of a semaphore of that name."""

    def __init__(self, storage: str, ttl: str = "15s", permits: int | None = None) -> None:
        command = [sys.executable, "-c", HOLDER, storage, ttl, *([] if permits is None else [str(permits)])]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.token = int(self.told())

    def told(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the holder has ended"
        return line.strip()

    def ask(self, what: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        return self.told()

    def end(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
        self.process.kill()
        self.process.wait(PATIENCE)


class Waiter:
    """A thread that waits for the lock "invoice", or for a permit."""

    def __init__(self, app: Raftwork, permits: int | None = None) -> None:
        self.lock = app.lock("invoice") if permits is None else app.semaphore("invoice", permits)
        self.token: int | None = None
        self.at = 0.0
        self._thread = threading.Thread(target=self._wait)
        self._thread.start()
        end = time.monotonic() + PATIENCE
        while not any(lock.waiters for lock in app.locks()):
            assert time.monotonic() < end, "it does not wait"
            threading.Event().wait(0.01)

    def _wait(self) -> None:
        self.token = self.lock.acquire(60)
        self.at = time.monotonic()

    def got(self) -> int:
        self._thread.join(PATIENCE + 60)
        assert self.token is not None
        return self.token


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster whose nodes a test may kill."""
    with Cluster(tmp_path) as cluster:
        yield cluster


def test_k2_on_one_machine_the_death_of_the_holder_hands_over_at_once(tmp_path: Path) -> None:
    url = f"raft:///{tmp_path / 'jobs'}"
    with Raftwork("shop", url) as app:
        holder = Holder(url)
        try:
            waiter = Waiter(app)
            holder.process.kill()
            killed = time.monotonic()
            assert waiter.got() > holder.token
            assert waiter.at - killed < 5, "long before its time to live of 15 s"
            waiter.lock.release()
        finally:
            holder.end()


def test_k1_k2_the_death_of_one_holder_of_a_semaphore_frees_its_permit_only(tmp_path: Path) -> None:
    url = f"raft:///{tmp_path / 'jobs'}"
    with Raftwork("shop", url) as app:
        holders = [Holder(url, permits=2), Holder(url, permits=2)]
        try:
            waiter = Waiter(app, permits=2)
            dead, alive = holders
            dead.process.kill()
            assert waiter.got() > max(holder.token for holder in holders)
            assert [lock.token for lock in app.locks()] == [alive.token, waiter.lock.token]
            assert alive.ask("lost?") == "False"
            waiter.lock.release()
        finally:
            for holder in holders:
                holder.end()


def test_a_lock_is_free_when_the_owner_of_the_directory_died_with_it(tmp_path: Path) -> None:
    url = f"raft:///{tmp_path / 'jobs'}"
    holder = Holder(url)  # Alone, so it owns the directory.
    app = Raftwork("shop", url)
    try:
        waiter = Waiter(app)
        holder.process.kill()
        killed = time.monotonic()
        assert waiter.got() > holder.token
        assert waiter.at - killed < 10, "as soon as the next owner serves"
        waiter.lock.release()
    finally:
        holder.end()
        app.close()


def test_k2_in_a_cluster_the_death_of_the_holder_hands_over(cluster: Cluster) -> None:
    with Raftwork("shop", cluster.url) as app:
        holder = Holder(cluster.url)
        try:
            waiter = Waiter(app)
            holder.process.kill()
            killed = time.monotonic()
            assert waiter.got() > holder.token
            assert waiter.at - killed < 5, "its connection from this machine has ended"
            waiter.lock.release()
        finally:
            holder.end()


def test_k3_a_holder_that_hangs_keeps_the_lock_for_its_time_and_knows_that_it_lost_it(cluster: Cluster) -> None:
    with Raftwork("shop", cluster.url) as app:
        holder = Holder(cluster.url, "3s")
        try:
            waiter = Waiter(app)
            stopped = time.monotonic()
            os.kill(holder.process.pid, signal.SIGSTOP)
            assert waiter.got() > holder.token
            # The last sign of life may be as old as a third of the time to live.
            assert 1.9 <= waiter.at - stopped <= 3 + 2 + 1
            os.kill(holder.process.pid, signal.SIGCONT)
            assert holder.ask("lost?") == "True", "at the first look"
            assert waiter.lock.held
            waiter.lock.release()
        finally:
            os.kill(holder.process.pid, signal.SIGCONT)
            holder.end()


def test_k3_the_holder_keeps_its_lock_when_the_leader_is_killed(three: Cluster) -> None:
    with Raftwork("shop", three.url) as app, app.lock("invoice") as lock:
        token = lock.token
        waiter = Waiter(app)
        three.kill(three.leader())
        three.leader()
        found = app.locks()
        assert [(one.name, one.token, one.waiters) for one in found] == [("invoice", token, 1)]
        lock.check()
        assert waiter.token is None, "it waits at the next node"
        lock.release()
        assert waiter.got() > token
        waiter.lock.release()
        assert app.locks() == []
        lock.acquire(PATIENCE)


def test_a_holder_that_is_cut_off_takes_its_lock_for_lost_before_anybody_has_it(three: Cluster) -> None:
    with Raftwork("shop", three.url, session_ttl="3s") as app:
        lock = app.lock("invoice")
        lock.acquire(PATIENCE)
        began = time.monotonic()
        three.kill()
        assert lock.lost.wait(PATIENCE)
        assert time.monotonic() - began < 3, "two thirds of its time to live, and at most a third since the last sign"
        assert not lock.held
        with pytest.raises(LockLost):
            lock.check()
        three.start()


def test_a_fork_does_not_hold_what_its_parent_holds(tmp_path: Path) -> None:
    with Raftwork("shop", f"raft:///{tmp_path / 'jobs'}") as app:
        unused = app.lock("other")
        with app.lock("invoice") as lock:
            child = os.fork()
            if child == 0:
                os._exit(in_child(lock, unused))
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            assert lock.held
        with pytest.raises(LockNotHeld):
            lock.release()


def in_child(lock: Lock, unused: Lock) -> int:
    """0: everything was as it should be."""
    try:
        lock.release()
    except ForkedProcess:
        pass
    else:
        return 1
    with unused:
        return 0 if unused.held else 2
