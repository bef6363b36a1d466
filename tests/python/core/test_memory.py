"""The door over a state in memory: one client, its fetchers, its tickets."""

from __future__ import annotations

import gc
import multiprocessing
import os
import select
import threading
import time
import uuid
from collections.abc import Callable

import pytest

from core import wires
from core.wires import enqueue, enqueue_one, lease, pack, submit, succeeded, unpack, wish
from raftwork import _core, errors


def test_a_job_goes_from_enqueue_to_its_result(memory: _core.Client) -> None:
    job = enqueue_one(memory)
    fetcher = memory.fetcher(wish())
    claimed = fetcher.next(10)
    assert claimed is not None
    assert lease(claimed)[0] == job
    fetcher.finish(succeeded(claimed, b"\x2a"))
    found = unpack(memory.wait(job, 10))
    assert found["state"] == "succeeded"
    assert found["result"] == b"\x2a"
    fetcher.close(5)


def test_ids_are_uuid7_unique_and_increasing() -> None:
    ids = [job for _ in range(20) for job in _core.new_ids(500)]
    assert sorted(set(ids)) == ids
    assert {uuid.UUID(bytes=job).version for job in ids} == {7}
    assert {uuid.UUID(bytes=job).variant for job in ids} == {uuid.RFC_4122}
    assert abs(int.from_bytes(ids[0][:6]) / 1000 - time.time()) < 5


def test_waiting_threads_get_every_job_once(memory: _core.Client) -> None:
    fetcher = memory.fetcher(wish(prefetch=32))
    seen: list[bytes] = []
    done = threading.Event()

    def run() -> None:
        claimed = fetcher.next(10)
        while claimed is not None and not done.is_set():
            seen.append(lease(claimed)[0])
            if len(seen) >= 5_000:
                done.set()
            claimed = fetcher.finish_and_next(succeeded(claimed), 0.5)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    ids = [job for _ in range(5) for job in _core.new_ids(1000)]
    for first in range(0, 5_000, 1_000):
        submit(memory, enqueue(ids[first : first + 1_000]))
    for thread in threads:
        thread.join(30)
    fetcher.close(10)
    assert sorted(seen) == sorted(ids)
    _index, _staleness, counts = unpack(memory.view(pack([1])))
    assert counts["succeeded"] == 5_000


def test_slow_jobs_are_not_hoarded(memory: _core.Client) -> None:
    submit(memory, enqueue(_core.new_ids(100)))
    fetcher = memory.fetcher(wish(prefetch=32))
    assert fetcher.next(10) is not None
    _index, _staleness, counts = unpack(memory.view(pack([1])))
    assert counts["processing"] == 1, "one thread asked, so one job is taken"


def test_pause_gives_back_what_nobody_took(memory: _core.Client) -> None:
    for _ in range(3):
        submit(memory, enqueue(_core.new_ids(1_000)))
    fetcher = memory.fetcher(wish(prefetch=32))
    claimed = fetcher.next(10)
    for _ in range(1_000):
        assert claimed is not None
        claimed = fetcher.finish_and_next(succeeded(claimed), 10)
    fetcher.pause()
    assert fetcher.next(10) is None
    fetcher.flush(10)
    _index, _staleness, counts = unpack(memory.view(pack([1])))
    assert (counts["succeeded"], counts["processing"], counts["enqueued"]) == (1_000, 1, 1_999)


def test_events_tell_of_cancel_and_of_a_lost_lease(memory: _core.Client) -> None:
    jobs = [enqueue_one(memory) for _ in range(2)]
    fetcher = memory.fetcher(wish())
    first, second = fetcher.next(10), fetcher.next(10)
    assert first is not None
    assert second is not None
    assert submit(memory, pack([8, [jobs[0]], "not needed"])) == [1]
    assert fetcher.events(10) == [("cancel", *lease(first))]
    fetcher.finish(pack([jobs[1], 999_999, 0, b"\xc0"]))
    assert fetcher.events(10) == [("lost", jobs[1], 999_999)]


def test_a_lost_session_is_final(memory: _core.Client) -> None:
    fetcher = memory.fetcher(wish())
    enqueue_one(memory)
    assert fetcher.next(10) is not None
    submit(memory, pack([3, fetcher.session()]))
    names = [name for name, _job, _token in fetcher.events(10)]
    assert names[-1] == "session_lost"
    assert fetcher.fenced()
    with pytest.raises(errors.SessionExpired):
        fetcher.next(10)
    with pytest.raises(errors.SessionExpired):
        fetcher.events(10)
    again = memory.fetcher(wish())
    assert again.next(10) is not None, "the job is free for others"
    again.close(10)
    with pytest.raises(errors.NotRunning):
        again.events(10)


def test_the_session_of_a_client_is_opened_again(memory: _core.Client) -> None:
    first = memory.session()
    submit(memory, pack([3, first]))
    enqueue_one(memory)
    assert memory.session() != first


def test_the_file_descriptor_of_a_fetcher(memory: _core.Client) -> None:
    fetcher = memory.fetcher(wish())
    descriptor = fetcher.fd()
    assert fetcher.next_many(10, 0) == []
    assert select.select([descriptor], [], [], 0)[0] == []
    submit(memory, enqueue(_core.new_ids(3)))
    assert select.select([descriptor], [], [], 10)[0] == [descriptor]
    assert len(fetcher.next_many(10, 0)) == 3
    assert select.select([descriptor], [], [], 0)[0] == []
    fetcher.close(5)
    assert select.select([descriptor], [], [], 10)[0] == [descriptor]


def test_tickets(memory: _core.Client) -> None:
    (job,) = _core.new_ids(1)
    begun = memory.start(enqueue([job]))
    bad = memory.start(enqueue([job], unique_mode=9))
    waited = memory.start_wait(job)
    forgotten = memory.start_wait(job)
    memory.cancel_ticket(forgotten)
    unknown = memory.start_wait(bytes(16))
    fetcher = memory.fetcher(wish())
    claimed = fetcher.next(10)
    assert claimed is not None
    fetcher.finish(succeeded(claimed))
    answers: dict[int, bytes | BaseException] = {}
    while len(answers) < 4:
        assert select.select([memory.completion_fd()], [], [], 10)[0]
        answers.update(memory.drain())
    assert answers.keys() == {begun, bad, waited, unknown}
    assert isinstance(answers[bad], errors.InvalidOption)
    assert isinstance(answers[unknown], errors.JobNotFound)
    detail = answers[waited]
    assert isinstance(detail, bytes)
    assert unpack(detail)["state"] == "succeeded"
    assert select.select([memory.completion_fd()], [], [], 0)[0] == []


def test_thousands_of_tickets_at_once(memory: _core.Client) -> None:
    tickets = {memory.start(enqueue([job])) for job in _core.new_ids(10_000)}
    while tickets:
        assert select.select([memory.completion_fd()], [], [], 10)[0]
        for ticket, answer in memory.drain():
            assert isinstance(answer, bytes), answer
            tickets.remove(ticket)


def test_refusals_are_typed(memory: _core.Client) -> None:
    (holder,) = _core.new_ids(1)
    submit(memory, enqueue([holder], unique="k", unique_mode=2))
    with pytest.raises(errors.UniqueConflict) as conflict:
        submit(memory, enqueue(_core.new_ids(1), unique="k", unique_mode=2))
    assert conflict.value.job_id == uuid.UUID(bytes=holder)
    with pytest.raises(errors.JobNotFound):
        memory.wait(bytes(16), 1)
    with pytest.raises(errors.InvalidOption):
        memory.submit(b"\xc1")
    with pytest.raises(errors.InvalidOption):
        memory.submit(b"x" * (8 << 20))
    with pytest.raises(errors.InvalidOption):
        memory.fetcher(pack({"queues": []}))
    with pytest.raises(errors.InvalidOption):
        memory.fetcher(pack({"queue": [["default", 1]]}))
    with pytest.raises(errors.InvalidOption):
        memory.fetcher(wish()).finish(b"\x90")


def test_a_wait_ends_at_its_timeout(memory: _core.Client) -> None:
    job = enqueue_one(memory)
    fetcher = memory.fetcher(wish(queues=("other",)))
    calls: list[tuple[Callable[[], object], object]] = [
        (lambda: fetcher.next(0.05), None),
        (lambda: fetcher.events(0.05), []),
        (lambda: fetcher.next_many(3, 0.05), []),
    ]
    for call, expected in calls:
        begun = time.monotonic()
        assert call() == expected
        assert 0.04 < time.monotonic() - begun < 5
    with pytest.raises(errors.TimedOut):
        memory.wait(job, 0.05)


def test_a_manual_clock_stops_where_something_is_due() -> None:
    client = _core.Client.memory(pack({"clock": "manual"}))
    job = enqueue_one(client, delay_ms=60_000)
    client.advance(59_999)
    found = wires.detail(client, job)
    assert found is not None
    assert found["state"] == "scheduled"
    client.advance(1)
    found = wires.detail(client, job)
    assert found is not None
    assert found["state"] == "enqueued"
    assert found["enqueued_ms"] == found["created_ms"] + 60_000
    client.close(5)


def test_a_delayed_job_wakes_a_waiting_thread(memory: _core.Client) -> None:
    fetcher = memory.fetcher(wish())
    enqueue_one(memory, delay_ms=50)
    assert fetcher.next(10) is not None


def test_a_closed_client_says_so() -> None:
    client = _core.Client.memory()
    fetcher = client.fetcher(wish())
    ended: list[BaseException] = []

    def wait() -> None:
        try:
            fetcher.next(30)
        except errors.RaftworkError as error:
            ended.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    client.close(5)
    client.close(5)
    thread.join(10)
    assert [type(error) for error in ended] == [errors.NotRunning]
    with pytest.raises(errors.NotRunning):
        enqueue_one(client)


def in_child(work: Callable[[], None]) -> int:
    """Runs this in a forked child and gives its exit status."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_is_told(memory: _core.Client) -> None:
    fetcher = memory.fetcher(wish())
    job = enqueue_one(memory)
    calls: list[Callable[[], object]] = [
        lambda: memory.submit(b"\x91\x01"),
        lambda: memory.start(b"\x91\x01"),
        lambda: memory.start_wait(job),
        lambda: memory.cancel_ticket(1),
        memory.completion_fd,
        memory.drain,
        lambda: memory.view(pack([1])),
        lambda: memory.wait(job, 1),
        memory.session,
        memory.health,
        memory.role,
        lambda: memory.advance(1),
        lambda: memory.fetcher(wish()),
        lambda: fetcher.next(1),
        lambda: fetcher.next_many(1, 1),
        lambda: fetcher.finish(pack([job, 1, 4])),
        lambda: fetcher.finish_and_next(pack([job, 1, 4]), 1),
        lambda: fetcher.progress(pack([job, 1, None, None])),
        lambda: fetcher.flush(1),
        lambda: fetcher.events(1),
        fetcher.fd,
        fetcher.pause,
        fetcher.fenced,
        fetcher.session,
    ]

    def work() -> None:
        for call in calls:
            with pytest.raises(errors.ForkedProcess):
                call()
        assert memory.pid() == os.getppid()
        memory.close(1)
        fetcher.close(1)
        own = _core.Client.memory()
        enqueue_one(own)
        own.close(5)

    assert in_child(work) == 0
    assert fetcher.next(10) is not None, "the parent goes on"


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_drops_what_it_inherited(memory: _core.Client) -> None:
    held = [_core.Client.memory()]
    held[0].session()

    def work() -> None:
        held.clear()
        gc.collect()

    assert in_child(work) == 0
    enqueue_one(held[0])


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_pools_of_processes_open_their_own(memory: _core.Client, method: str) -> None:
    enqueue_one(memory)
    with multiprocessing.get_context(method).Pool(2) as pool:
        ids = pool.map(wires.enqueue_in_own_client, range(8))
    assert len(set(ids)) == 8
