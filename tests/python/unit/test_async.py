"""The same objects in an event loop: what they ask and change, without blocking it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from raftwork import JobNotFound, JobState, Raftwork
from raftwork.errors import InvalidFilter


@pytest.fixture
def app() -> Iterator[Raftwork]:
    with Raftwork("shop", "memory://") as app:
        yield app


def send(number: int) -> int:
    return number


def test_a_job_is_asked_and_changed(app: Raftwork) -> None:
    task = app.task(name="send")(send)

    async def main() -> None:
        job = await task.aenqueue(7)
        assert (await job.ainfo()).state is JobState.ENQUEUED
        assert (await job.arefresh(consistency="local")).args == [7]
        assert await job.alimits() is None
        assert await job.acancel("changed my mind") and not await job.acancel()
        assert (await job.ainfo()).reason == "changed my mind"
        assert await job.aretry() and not await job.aretry()
        await job.adelete()
        with pytest.raises(JobNotFound):
            await job.ainfo()

    asyncio.run(main())


def test_an_application_is_asked_and_changes_many(app: Raftwork) -> None:
    task = app.task(name="send")(send)

    async def main() -> None:
        jobs = await app.aenqueue_many(task.s(number) for number in range(250))
        assert [info.id async for info in app.ajobs(limit=2)] == [jobs[-1].id, jobs[-2].id]
        assert len([info async for info in app.ajobs("state:enqueued")]) == 250, "several pages"
        assert len((await app.ajob_page((), None, 10)).jobs) == 10
        with pytest.raises(InvalidFilter):
            app.ajobs("state:")
        assert (await app.acounts())["enqueued"] == 250
        assert await app.aunknown_jobs() == [("send", 250)]
        assert (await app.acancel(jobs[:2], "no")).changed == (await app.aretry(jobs[:2])).changed == 2
        assert (await app.amove(jobs[:2], "mail")).changed == (await app.aset_priority(jobs[:2], 5)).changed == 2
        assert await app.bulk("queue:mail priority:5").acount() == 2
        assert (await app.adelete(jobs[:2])).changed == 2
        assert await app.aworkers() == await app.alocks() == await app.abatches() == []
        assert (await app.ahealth())["status"] == "ok"

    asyncio.run(main())


def test_queues_and_batches(app: Raftwork) -> None:
    task = app.task(name="send")(send)

    async def main() -> None:
        await app.queues.apause("mail", reason="down")
        await app.queues["mail"].alimit(3)
        (queue,) = await app.queues.aall()
        assert (queue.name, queue.paused, queue.reason, queue.limit) == ("mail", True, "down", 3)
        await app.queues["mail"].aresume()
        await app.queues["mail"].apause()
        await app.queues.aresume("mail")
        await app.queues.alimit("mail", None)
        (queue,) = await app.queues.aall()
        assert (queue.paused, queue.limit) == (False, None)
        batch = await app.batch("month-end").aopen()
        async with app.batch(batch.id):
            await task.aenqueue(7)
        assert (await batch.ainfo()).pending == 1
        assert await batch.aseal() and not await batch.aseal()
        assert await batch.acancel("late")
        assert (await batch.await_finished(30)).state == "cancelled"
        assert [one.id for one in await app.abatches()] == [batch.id]

    asyncio.run(main())
