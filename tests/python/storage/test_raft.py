"""What `raft://` adds to the contract: the directory, other processes, and what survives them."""

from __future__ import annotations

import os
import select
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from raftwork import ConfigError, ForeignDirectory, JobState, Overloaded, Raftwork, StorageError, UniqueConflict, serde
from raftwork.storage.base import NewJob, result_succeeded
from raftwork.storage.raft import RaftStorage
from raftwork.testing.conformance.making import PATIENCE, Worker, known, new, put, spec


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "jobs"


@pytest.fixture
def storage(directory: Path) -> Iterator[RaftStorage]:
    storage = RaftStorage(directory)
    yield storage
    storage.close()


def in_child(call: Callable[[], object]) -> str:
    """Run a call in a forked child; answers what it returned, or the error it raised, as text."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            told = str(call())
        except BaseException as error:
            told = f"{type(error).__name__}: {error}"
        os.write(writer, told.encode()[:4_000])
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        try:
            heard, _, _ = select.select([pipe], [], [], PATIENCE)
            return pipe.read() if heard else "it says nothing"
        finally:
            # At its end by now, unless it hangs: then it would keep the output of this process open for ever.
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def test_nothing_is_made_before_first_use(directory: Path) -> None:
    storage = RaftStorage(directory)
    assert not directory.exists()
    storage.close()
    assert not directory.exists()


def test_the_directory_is_private(storage: RaftStorage, directory: Path) -> None:
    put(storage)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_a_node_accepts_as_many_jobs_as_its_setting_says_and_workers_go_on(directory: Path) -> None:
    with Raftwork("shop", f"raft:///{directory}", max_jobs=3) as app:

        @app.task(name="shop.add")
        def add(a: int, b: int) -> int:
            return a + b

        jobs = [add.enqueue(number, 1) for number in range(3)]
        with pytest.raises(Overloaded, match="max_jobs"):
            add.enqueue(9, 1)
        health = app.storage.health()
        assert (health["jobs"], health["jobs_max"]) == (3, 3)
        assert any("nearly full: 3 jobs of 3 (max_jobs)" in alarm for alarm in health["alarms"]), health["alarms"]
        with app.running(workers=True):
            assert [job.result(timeout=PATIENCE) for job in jobs] == [1, 2, 3]


def test_jobs_results_and_counts_survive_closing(directory: Path) -> None:
    first = RaftStorage(directory)
    waiting = put(first, 7, spec=spec(queue="mail", tags=("crm",)), unique_key="k")
    done = put(first)
    worker = Worker(first)
    worker.succeed(worker.one(), {"a": (1,)})
    first.close()
    again = RaftStorage(directory)
    try:
        info = known(again, waiting)
        assert (info.state, info.args, info.tags, info.unique_key) == (JobState.ENQUEUED, [7], ("crm",), "k")
        assert known(again, done).result == {"a": (1,)}
        assert again.counts()["created"] == 2
        with pytest.raises(UniqueConflict):
            again.enqueue([new(again, spec=spec(on_conflict=2), unique_key="k")])
    finally:
        again.close()


def test_the_same_batch_after_closing_is_stored_once(directory: Path) -> None:
    first = RaftStorage(directory)
    batch = [new(first, number) for number in range(10)]
    first.enqueue(batch)
    first.close()
    again = RaftStorage(directory)
    try:
        assert [clash.outcome for clash in again.enqueue(batch)] == [1] * 10
        assert again.counts()["created"] == 10
    finally:
        again.close()


def test_the_directory_stays_the_same_when_the_program_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    storage = RaftStorage("jobs")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    put(storage)
    storage.close()
    assert (tmp_path / "jobs").is_dir()
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_forked_child_opens_the_storage_again(directory: Path) -> None:
    with Raftwork("test", f"raft:///{directory}") as app:
        task = app.task(name="echo")(echo)
        task.enqueue(1)
        told = in_child(lambda: [task.enqueue(2).state.value, app.health()["role"]])
        assert told == "['enqueued', 'attached']"
        assert app.health()["role"] == "owner"
        assert app.counts()["enqueued"] == 2
        assert task.enqueue(3).state is JobState.ENQUEUED


def test_children_that_are_forked_at_any_moment_open_the_storage(directory: Path) -> None:
    """What the parent's threads are at just then holds up no child: a child has their memory, and none of them."""
    with Raftwork("test", f"raft:///{directory}") as app:
        task = app.task(name="echo")(echo)
        ended = Event()

        def enqueue() -> None:
            while not ended.is_set():
                task.enqueue(0)

        with ThreadPoolExecutor(8) as threads:
            try:
                busy = [threads.submit(enqueue) for _ in range(8)]
                told = {in_child(lambda: task.enqueue(1).state.value) for _ in range(40)}
            finally:
                ended.set()
        assert told == {"enqueued"}
        assert [thread.result() for thread in busy] == [None] * 8


def echo(value: int) -> int:
    return value


def test_a_job_may_be_enqueued_here_and_run_in_a_child(storage: RaftStorage) -> None:
    id = put(storage, 20)

    def work() -> str:
        worker = Worker(storage)
        job = worker.one()
        (value,), _ = serde.decode_args(job.args)
        return worker.succeed(job, value + 1).name

    assert in_child(work) == "ACCEPTED"
    assert storage.wait(id, PATIENCE).result == 21


def test_a_process_that_opens_first_and_ends_leaves_everything(directory: Path) -> None:
    program = f"""
import os
from raftwork.storage.raft import RaftStorage
from raftwork.testing.conformance.making import put
storage = RaftStorage({str(directory)!r})
print(*(put(storage, number).hex() for number in range(5)), flush=True)
os._exit(0)  # Without closing, as a killed process ends.
"""
    ids = subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    assert len(ids) == 5
    storage = RaftStorage(directory)
    try:
        assert {known(storage, bytes.fromhex(id)).state for id in ids} == {JobState.ENQUEUED}
    finally:
        storage.close()


def test_a_file_in_the_place_of_the_directory_is_refused(directory: Path) -> None:
    directory.write_text("something else")
    with pytest.raises(StorageError):
        RaftStorage(directory).open()
    assert directory.read_text() == "something else"


def test_a_directory_of_something_else_is_left_alone(directory: Path) -> None:
    directory.mkdir(mode=0o700)
    (directory / "IDENTITY").write_text("not ours")
    with pytest.raises(StorageError) as caught:
        RaftStorage(directory).open()
    assert isinstance(caught.value, ForeignDirectory) or caught.value.code == "RW312"
    assert (directory / "IDENTITY").read_text() == "not ours"


def test_a_url_of_another_kind_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        Raftwork("test", "raft://host/path").open()
    assert not list(tmp_path.iterdir())


def test_results_are_durable_when_finish_returns(directory: Path) -> None:
    storage = RaftStorage(directory)
    job = NewJob(storage.new_ids(1)[0], spec(), serde.encode_args((), {}))
    storage.enqueue([job])
    claimed = Worker(storage).one()
    storage.finish([result_succeeded(claimed.id, claimed.token, serde.encode("kept"))])

    def look() -> object:
        return known(RaftStorage(directory), job.id).result

    assert in_child(look) == "kept"
    storage.close()
    again = RaftStorage(directory)
    assert known(again, job.id).result == "kept"
    again.close()
