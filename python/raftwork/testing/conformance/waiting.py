"""Waiting for the end of a job: woken at once, by threads and by event loops, and closed without a trace."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from raftwork.errors import JobNotFound, NotRunning, TimedOut
from raftwork.job_info import JobInfo, JobState
from raftwork.storage.base import Storage
from raftwork.testing.conformance.making import PATIENCE, Contract, Worker, new, put


def on_thread(call: Callable[[], Any]) -> Callable[[], Any]:
    """Run a call on a thread; the answer waits for it and gives its result."""
    box: list[Any] = []
    thread = threading.Thread(target=lambda: box.append(call()))
    thread.start()

    def join() -> Any:
        thread.join(PATIENCE)
        assert box, "the thread did not end"
        return box[0]

    return join


class WaitContract(Contract):
    """`wait`, `await_final`, `close`."""

    def test_a_final_job_is_answered_at_once(self, storage: Storage) -> None:
        id = put(storage)
        worker = Worker(storage)
        worker.succeed(worker.one(), 42)
        assert storage.wait(id, 0.0).result == 42
        assert asyncio.run(storage.await_final(id, PATIENCE)).result == 42

    def test_waiters_are_woken_by_the_end(self, storage: Storage) -> None:
        id = put(storage)
        worker = Worker(storage)
        job = worker.one()
        joins = [on_thread(lambda: storage.wait(id, PATIENCE)) for _ in range(3)]
        worker.succeed(job, "done")
        assert [join().result for join in joins] == ["done"] * 3

    def test_every_final_state_wakes(self, storage: Storage) -> None:
        id = put(storage)
        join = on_thread(lambda: storage.wait(id, PATIENCE))
        storage.cancel([id])
        assert join().state is JobState.CANCELLED

    def test_a_wait_that_ends_early_leaves_the_job_alone(self, storage: Storage) -> None:
        id = put(storage)
        with pytest.raises(TimedOut):
            storage.wait(id, 0.02)
        with pytest.raises(TimedOut):
            asyncio.run(storage.await_final(id, 0.02))
        worker = Worker(storage)
        worker.succeed(worker.one())
        assert storage.wait(id, 0.0).state is JobState.SUCCEEDED

    def test_an_unknown_job_is_not_waited_for(self, storage: Storage) -> None:
        stranger = storage.new_ids(1)[0]
        with pytest.raises(JobNotFound):
            storage.wait(stranger, PATIENCE)
        with pytest.raises(JobNotFound):
            asyncio.run(storage.await_final(stranger, PATIENCE))

    def test_many_coroutines_wait_on_one_loop(self, storage: Storage) -> None:
        ids = [put(storage, number) for number in range(50)]
        worker = Worker(storage)

        async def wait_for_all() -> list[JobInfo]:
            waits = [asyncio.ensure_future(storage.await_final(id, PATIENCE)) for id in ids]
            await asyncio.sleep(0)
            await asyncio.to_thread(
                lambda: [worker.succeed(job, number) for number, job in enumerate(worker.claim(50))]
            )
            return await asyncio.gather(*waits)

        assert [info.result for info in asyncio.run(wait_for_all())] == list(range(50))

    def test_loops_on_several_threads_do_not_take_each_others_answers(self, storage: Storage) -> None:
        ids = [put(storage, number) for number in range(40)]
        worker = Worker(storage)
        jobs = worker.claim(40)

        async def wait_for(mine: list[bytes]) -> list[bytes]:
            found = await asyncio.gather(*(storage.await_final(id, PATIENCE) for id in mine))
            return [info.id.bytes for info in found]

        joins = [on_thread(lambda mine=ids[part::4]: asyncio.run(wait_for(mine))) for part in range(4)]  # type: ignore[misc]
        for job in jobs:
            worker.succeed(job)
        assert [join() for join in joins] == [ids[part::4] for part in range(4)]

    def test_a_cancelled_wait_can_be_repeated(self, storage: Storage) -> None:
        id = put(storage)
        worker = Worker(storage)

        async def twice() -> JobInfo:
            first = asyncio.ensure_future(storage.await_final(id, PATIENCE))
            await asyncio.sleep(0)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            second = asyncio.ensure_future(storage.await_final(id, PATIENCE))
            await asyncio.to_thread(lambda: worker.succeed(worker.one(), 7))
            return await second

        assert asyncio.run(twice()).result == 7

    def test_a_cancelled_enqueue_leaves_the_storage_usable(self, storage: Storage) -> None:
        async def cancel_some() -> None:
            for step in range(3):
                task = asyncio.ensure_future(storage.aenqueue([new(storage)]))
                for _ in range(step):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            await storage.aenqueue([new(storage)])

        asyncio.run(cancel_some())
        assert 1 <= storage.counts()["enqueued"] <= 4

    def test_a_closed_storage_says_so(self, storage: Storage) -> None:
        id = put(storage)
        storage.close(PATIENCE)
        storage.close(PATIENCE)
        verbs: list[Callable[[], Any]] = [
            lambda: storage.wait(id, PATIENCE),
            storage.counts,
            lambda: storage.cancel([id]),
            lambda: storage.enqueue([new(storage)]),
            lambda: asyncio.run(_run(storage.aenqueue([new(storage)]))),
            storage.open,
        ]
        for verb in verbs:
            with pytest.raises(NotRunning):
                verb()

    def test_closing_ends_waits(self, storage: Storage) -> None:
        id = put(storage)

        def wait() -> type[BaseException] | None:
            try:
                storage.wait(id, PATIENCE)
            except BaseException as error:
                return type(error)
            return None

        async def close_while_waiting() -> None:
            waiting = asyncio.ensure_future(storage.await_final(id, PATIENCE))
            await asyncio.sleep(0)
            await asyncio.to_thread(storage.close, PATIENCE)
            with pytest.raises(NotRunning):
                await waiting

        join = on_thread(wait)
        asyncio.run(close_while_waiting())
        assert join() is NotRunning


async def _run(awaitable: Awaitable[Any]) -> Any:
    return await awaitable
