"""What an application answers and changes, for a running event loop: each verb that asks the storage, with an `a`.

The verbs themselves are those of `raftwork.door` and `raftwork.app`. A storage waits for its answers outside of the
interpreter, so each of these takes a thread of the event loop's default executor for as long as that takes.
"""

from __future__ import annotations

import asyncio
import uuid
from abc import ABC
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

from raftwork import filters
from raftwork.door import Door
from raftwork.durations import Duration
from raftwork.flows import BatchInfo
from raftwork.job import Job
from raftwork.job_info import JobInfo
from raftwork.known import UnknownJobs
from raftwork.operators import BulkAnswer, ErrorGroup, WorkerInfo, apages
from raftwork.reading import SESSION, Consistency, Counts, Reading, Rows, read_as
from raftwork.storage.base import Clause, JobPage

__all__ = ["AsyncDoor"]


class AsyncDoor(Door, ABC):
    """The part of an application that is for event loops, beside enqueueing."""

    def ajobs(
        self,
        filter: str = "",
        *,
        limit: int | None = None,
        consistency: Consistency = "session",
        max_staleness: Duration | None = None,
    ) -> AsyncIterator[JobInfo]:
        """`jobs` for a running event loop: `async for info in app.ajobs("state:failed")`."""
        return apages(self.ajob_page, filters.parse(filter), limit, read_as(consistency, max_staleness))

    async def ajob_page(
        self,
        clauses: Sequence[Clause] = (),
        cursor: bytes | None = None,
        limit: int = 100,
        reading: Reading = SESSION,
    ) -> JobPage:
        """`job_page` for a running event loop."""
        return await asyncio.to_thread(self.job_page, clauses, cursor, limit, reading)

    async def acounts(self, *, consistency: Consistency = "session", max_staleness: Duration | None = None) -> Counts:
        """`counts` for a running event loop."""
        reading = read_as(consistency, max_staleness)
        return await asyncio.to_thread(lambda: self.storage.counts(reading))

    async def aunknown_jobs(
        self, *, consistency: Consistency = "session", max_staleness: Duration | None = None
    ) -> Rows[UnknownJobs]:
        """`unknown_jobs` for a running event loop."""
        return await asyncio.to_thread(self.unknown_jobs, consistency=consistency, max_staleness=max_staleness)

    async def aerrors(
        self, limit: int = 100, *, consistency: Consistency = "session", max_staleness: Duration | None = None
    ) -> Rows[ErrorGroup]:
        """`errors` for a running event loop."""
        return await asyncio.to_thread(self.errors, limit, consistency=consistency, max_staleness=max_staleness)

    async def abatches(self) -> list[BatchInfo]:
        """`batches` for a running event loop."""
        return await asyncio.to_thread(lambda: [BatchInfo.of(row) for row in self.storage.batches()])

    async def aworkers(self) -> list[WorkerInfo]:
        """`workers` for a running event loop."""
        return await asyncio.to_thread(lambda: WorkerInfo.connected(self.storage))

    async def ahealth(self) -> dict[str, Any]:
        """`health` for a running event loop."""
        return await asyncio.to_thread(self.health)

    async def ametrics(self) -> dict[str, float]:
        """`metrics` for a running event loop."""
        return await asyncio.to_thread(self.metrics)

    async def acancel(self, ids: Iterable[uuid.UUID | str | bytes | Job[Any]], reason: str = "") -> BulkAnswer:
        """`cancel` for a running event loop. Here as below, `ids` are gone through on another thread."""
        return await asyncio.to_thread(self.cancel, ids, reason)

    async def aretry(self, ids: Iterable[uuid.UUID | str | bytes | Job[Any]]) -> BulkAnswer:
        """`retry` for a running event loop."""
        return await asyncio.to_thread(self.retry, ids)

    async def adelete(self, ids: Iterable[uuid.UUID | str | bytes | Job[Any]]) -> BulkAnswer:
        """`delete` for a running event loop."""
        return await asyncio.to_thread(self.delete, ids)

    async def amove(self, ids: Iterable[uuid.UUID | str | bytes | Job[Any]], queue: str) -> BulkAnswer:
        """`move` for a running event loop."""
        return await asyncio.to_thread(self.move, ids, queue)

    async def aset_priority(self, ids: Iterable[uuid.UUID | str | bytes | Job[Any]], priority: int) -> BulkAnswer:
        """`set_priority` for a running event loop."""
        return await asyncio.to_thread(self.set_priority, ids, priority)
