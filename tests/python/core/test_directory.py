"""One directory, many processes: who owns it, who attaches, who takes over."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core import wires
from core.conftest import Process
from core.wires import detail, enqueue_one, pack, succeeded, unpack, wish
from raftwork import _core, errors

Start = Callable[..., Process]

TAKE_OVER_SECONDS = 2.0
RERUN_SECONDS = 5.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs"


@pytest.fixture
def client(path: Path) -> Iterator[_core.Client]:
    opened = _core.Client.open(str(path))
    yield opened
    opened.close(10)


def test_the_first_owns_the_others_attach(path: Path, client: _core.Client, start: Start) -> None:
    other = start("serve", path)
    assert (client.role(), other.read()) == ("owner", "attached")
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE((path / "socket").stat().st_mode) == 0o600
    job = bytes.fromhex(other.ask("enqueue"))
    found = detail(client, job)
    assert found is not None
    assert found["state"] == "enqueued"


def test_the_same_process_may_open_it_twice(path: Path, client: _core.Client) -> None:
    second = _core.Client.open(str(path))
    assert second.role() == "attached"
    job = enqueue_one(second)
    fetcher = client.fetcher(wish())
    claimed = fetcher.next(10)
    assert claimed is not None
    fetcher.finish(succeeded(claimed))
    assert unpack(second.wait(job, 10))["state"] == "succeeded"
    second.close(5)


def test_jobs_outlive_every_process(path: Path) -> None:
    first = _core.Client.open(str(path))
    job = enqueue_one(first)
    first.close(10)
    assert not (path / "socket").exists()
    second = _core.Client.open(str(path))
    assert second.role() == "owner"
    assert detail(second, job) is not None
    second.close(10)


def test_an_attached_worker(path: Path, start: Start) -> None:
    owner = start("serve", path)
    assert owner.read() == "owner"
    worker = _core.Client.open(str(path))
    fetcher = worker.fetcher(wish())
    job = bytes.fromhex(owner.ask("enqueue"))
    claimed = fetcher.next(10)
    assert claimed is not None
    assert wires.lease(claimed)[0] == job
    fetcher.finish(succeeded(claimed))
    fetcher.flush(10)
    assert unpack(worker.wait(job, 10))["state"] == "succeeded"
    fetcher.close(5)
    worker.close(5)


def test_a_killed_worker_gives_its_jobs_back_at_once(path: Path, client: _core.Client, start: Start) -> None:
    worker = start("serve", path)
    assert worker.read() == "attached"
    job = enqueue_one(client)
    assert worker.ask("claim") == job.hex()
    mine = client.fetcher(wish())
    worker.kill()
    # Its session would live for 15 seconds more.
    claimed = mine.next(5)
    assert claimed is not None
    assert unpack(claimed)[6] == 1, "one crash is counted"


def test_a_killed_worker_with_a_living_child(path: Path, client: _core.Client, start: Start) -> None:
    worker = start("serve", path)
    assert worker.read() == "attached"
    child = int(worker.ask("fork"))
    enqueue_one(client)
    worker.ask("claim")
    mine = client.fetcher(wish())
    try:
        worker.kill()
        assert mine.next(5) is not None, "the child's copy of the socket does not keep the leases"
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.crash
def test_another_takes_over_when_the_owner_is_killed(path: Path, start: Start) -> None:
    owner = start("serve", path)
    assert owner.read() == "owner"
    heir = _core.Client.open(str(path))
    assert heir.role() == "attached"
    heir.session()
    before = bytes.fromhex(owner.ask("enqueue"))
    killed = time.monotonic()
    owner.kill()
    after = enqueue_one(heir)
    took = time.monotonic() - killed
    assert took < TAKE_OVER_SECONDS
    assert heir.role() == "owner"
    assert detail(heir, before) is not None
    assert detail(heir, after) is not None
    heir.close(10)


@pytest.mark.crash
def test_the_jobs_of_a_killed_owner_run_again_without_the_wait_for_its_session(path: Path, start: Start) -> None:
    owner = start("serve", path, 60_000)
    assert owner.read() == "owner"
    job = bytes.fromhex(owner.ask("enqueue"))
    assert owner.ask("claim") == job.hex()
    killed = time.monotonic()
    owner.kill()
    client = _core.Client.open(str(path))
    assert client.role() == "owner"
    claimed = client.fetcher(wish()).next(10)
    took = time.monotonic() - killed
    assert claimed is not None
    assert wires.lease(claimed)[0] == job
    assert unpack(claimed)[6] == 1, "one crash is counted"
    assert took < RERUN_SECONDS
    client.close(10)


@pytest.mark.crash
def test_the_heir_runs_the_jobs_of_a_killed_owner_and_keeps_its_own(path: Path, start: Start) -> None:
    owner = start("serve", path, 60_000)
    assert owner.read() == "owner"
    heir = _core.Client.open(str(path), pack({"ttl_ms": 60_000}))
    assert heir.role() == "attached"
    mine = enqueue_one(heir, queue="mine")
    keeping = heir.fetcher(wish(queues=("mine",)))
    held = keeping.next(10)
    assert held is not None
    job = bytes.fromhex(owner.ask("enqueue"))
    assert owner.ask("claim") == job.hex()
    killed = time.monotonic()
    owner.kill()
    claimed = heir.fetcher(wish()).next(10)
    took = time.monotonic() - killed
    assert claimed is not None
    assert wires.lease(claimed)[0] == job
    assert took < RERUN_SECONDS
    keeping.finish(succeeded(held))
    keeping.flush(10)
    found = unpack(heir.wait(mine, 10))
    assert (found["state"], found["crashes"]) == ("succeeded", 0)
    heir.close(10)


@pytest.mark.crash
def test_another_takes_over_from_an_owner_that_cannot_write_and_both_go_on(path: Path, start: Start) -> None:
    owner = start("serve", path)
    assert owner.read() == "owner"
    heir = _core.Client.open(str(path))
    assert heir.role() == "attached"
    heir.session()
    before = bytes.fromhex(owner.ask("enqueue"))
    assert owner.ask("claim") == before.hex()
    assert owner.ask("break") == "broken"
    failed = time.monotonic()
    during = bytes.fromhex(owner.ask("enqueue"))
    assert time.monotonic() - failed < TAKE_OVER_SECONDS
    assert (owner.ask("role"), heir.role()) == ("attached", "owner")
    assert owner.ask("fenced") == "False", "its session goes on at the next owner"
    for job, state in [(before, "processing"), (during, "enqueued")]:
        found = detail(heir, job)
        assert found is not None
        assert (found["state"], found["crashes"]) == (state, 0)
    heir.close(10)


@pytest.mark.crash
def test_a_living_child_of_a_killed_owner_holds_nothing(path: Path, start: Start) -> None:
    owner = start("serve", path)
    assert owner.read() == "owner"
    child = int(owner.ask("fork"))
    heir = _core.Client.open(str(path))
    assert heir.role() == "attached"
    heir.session()
    try:
        killed = time.monotonic()
        owner.kill()
        enqueue_one(heir)
        assert time.monotonic() - killed < TAKE_OVER_SECONDS
        assert heir.role() == "owner"
    finally:
        os.kill(child, signal.SIGKILL)
    heir.close(10)


def test_another_takes_over_when_the_owner_closes(path: Path, start: Start) -> None:
    owner = _core.Client.open(str(path))
    heir = start("serve", path)
    assert heir.read() == "attached"
    job = enqueue_one(owner)
    owner.close(10)
    bytes.fromhex(heir.ask("enqueue"))
    assert heir.ask("role") == "owner"
    again = _core.Client.open(str(path))
    assert again.role() == "attached"
    assert detail(again, job) is not None
    again.close(5)


@pytest.mark.crash
def test_a_wait_and_a_lease_survive_the_owner(path: Path, start: Start) -> None:
    owner = start("serve", path)
    assert owner.read() == "owner"
    worker = _core.Client.open(str(path))
    fetcher = worker.fetcher(wish())
    job = bytes.fromhex(owner.ask("enqueue"))
    claimed = fetcher.next(10)
    assert claimed is not None
    ticket = worker.start_wait(job)
    owner.kill()
    fetcher.finish(succeeded(claimed))
    fetcher.flush(10)
    found = unpack(worker.wait(job, 10))
    assert (found["state"], found["attempt"], found["crashes"]) == ("succeeded", 1, 0)
    assert select.select([worker.completion_fd()], [], [], 10)[0], "the wait was answered too"
    ((settled, answer),) = worker.drain()
    assert settled == ticket
    assert isinstance(answer, bytes)
    later = enqueue_one(worker)
    claimed = fetcher.next(10)
    assert claimed is not None, "the watch was made anew"
    assert wires.lease(claimed)[0] == later
    fetcher.close(5)
    worker.close(10)


@pytest.mark.crash
@pytest.mark.slow
def test_no_acknowledged_job_is_lost_in_twenty_kills(path: Path, start: Start) -> None:
    acknowledged: set[str] = set()
    longest = 0.0
    writers = [start("write_until_killed", path) for _ in range(3)]
    roles = [writer.read() for writer in writers]
    assert sorted(roles) == ["attached", "attached", "owner"]
    for _round in range(20):
        for writer in writers:
            for _ in range(5):
                acknowledged.add(writer.read().split()[0])
        owner = _owner_among(path, writers)
        killed = time.monotonic()
        owner.kill()
        acknowledged.update(line.split()[0] for line in owner.lines() if len(line) > 32)
        survivors = [writer for writer in writers if writer is not owner]
        longest = max(longest, _first_write_after(killed, survivors, acknowledged) - killed)
        writers = [*survivors, start("write_until_killed", path)]
        assert writers[-1].read() in ("attached", "owner")
    for writer in writers:
        writer.kill()
        acknowledged.update(line.split()[0] for line in writer.lines() if len(line) > 32)
    client = _core.Client.open(str(path))
    lost = [job for job in acknowledged if detail(client, bytes.fromhex(job)) is None]
    client.close(10)
    assert lost == []
    assert longest < TAKE_OVER_SECONDS


def _owner_among(path: Path, writers: list[Process]) -> Process:
    holder = int((path / "LOCK").read_text().split()[0])
    return next(writer for writer in writers if writer.pid == holder)


def _first_write_after(moment: float, writers: list[Process], acknowledged: set[str]) -> float:
    """When one of these writers had a write acknowledged that was not before this moment."""
    firsts = []
    for writer in writers:
        while True:
            job, when = writer.read().split()
            acknowledged.add(job)
            if float(when) > moment:
                firsts.append(float(when))
                break
    return min(firsts)


def test_an_owner_that_does_not_answer_is_named(path: Path, start: Start) -> None:
    owner = start("serve", path)
    assert owner.read() == "owner"
    os.kill(owner.pid, signal.SIGSTOP)
    try:
        with pytest.raises(errors.DirectoryBusy, match=str(owner.pid)):
            _core.Client.open(str(path), pack({"open_timeout_ms": 300}))
    finally:
        os.kill(owner.pid, signal.SIGCONT)
    second = _core.Client.open(str(path))
    assert second.role() == "attached"
    second.close(5)


@pytest.mark.slow
def test_a_worker_that_was_stopped_fences_itself(path: Path, client: _core.Client, start: Start) -> None:
    worker = start("serve", path, 1_500)
    assert worker.read() == "attached"
    job = enqueue_one(client)
    assert worker.ask("claim") == job.hex()
    os.kill(worker.pid, signal.SIGSTOP)
    mine = client.fetcher(wish())
    claimed = mine.next(10)
    assert claimed is not None, "its session lapsed"
    os.kill(worker.pid, signal.SIGCONT)
    # Its job is told as lost, and its session; they may come apart.
    told = worker.ask("events 10")
    while "session_lost" not in told:
        assert told, "the session was not told as lost"
        told = worker.ask("events 10")
    assert worker.ask("fenced") == "True"


def test_the_owners_own_sessions_do_not_lapse(path: Path, start: Start) -> None:
    owner = start("serve", path, 500)
    assert owner.read() == "owner"
    watcher = _core.Client.open(str(path))
    job = bytes.fromhex(owner.ask("enqueue"))
    assert owner.ask("claim") == job.hex()
    os.kill(owner.pid, signal.SIGSTOP)
    stopped = time.monotonic()
    while time.monotonic() - stopped < 1.5:
        os.sched_yield()
    os.kill(owner.pid, signal.SIGCONT)
    assert owner.ask("fenced") == "False"
    found = detail(watcher, job)
    assert found is not None
    assert found["state"] == "processing"
    watcher.close(5)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_attaches_to_its_parent(path: Path, client: _core.Client) -> None:
    job = enqueue_one(client)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with pytest.raises(errors.ForkedProcess):
                enqueue_one(client)
            own = _core.Client.open(str(path))
            assert own.role() == "attached"
            assert detail(own, job) is not None
            enqueue_one(own)
            own.close(5)
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    enqueue_one(client)


def sockets() -> set[str]:
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.add(os.readlink(f"/proc/self/fd/{number}"))
    return {name for name in found if name.startswith("socket:")}


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_holds_no_connection_of_its_parent(path: Path, client: _core.Client) -> None:
    before = sockets()
    attached = _core.Client.open(str(path))
    attached.session()
    connections = sockets() - before
    assert len(connections) >= 2, "both ends are in this process"
    child = os.fork()
    if child == 0:
        os._exit(0 if sockets().isdisjoint(connections) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert connections <= sockets(), "the parent keeps them"
    enqueue_one(attached)
    attached.close(5)


def test_a_deep_directory_works(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(mode=0o700, parents=True)
    owner = _core.Client.open(str(deep))
    attached = _core.Client.open(str(deep))
    assert attached.role() == "attached"
    enqueue_one(attached)
    attached.close(5)
    owner.close(10)


def test_a_file_in_place_of_the_directory(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("not a directory")
    with pytest.raises(errors.StorageError):
        _core.Client.open(str(place), pack({"open_timeout_ms": 1_000}))
