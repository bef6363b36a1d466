"""The storage of an application inside a harness: `memory://` with a manual clock, where only the harness runs jobs."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence

from raftwork.errors import JobNotFound, RaftworkError, TimedOut
from raftwork.job_info import JobInfo
from raftwork.storage.base import Change, Clash, Fetcher, NewJob
from raftwork.storage.memory import MemoryStorage

__all__ = ["HarnessStorage"]


class HarnessStorage(MemoryStorage):
    """Jobs in memory, and a time that stands still.

    Args:
        stored: called when jobs were enqueued, on the thread that did it.
        astored: the same for a running event loop.
        told: called with a running job that somebody cancelled, as its worker would be told.
    """

    def __init__(
        self, stored: Callable[[], None], astored: Callable[[], Awaitable[None]], told: Callable[[bytes], None]
    ) -> None:
        super().__init__(manual_clock=True)
        self._stored = stored
        self._astored = astored
        self._told = told

    def close(self, timeout: float | None = 10.0) -> None:
        """Do nothing: an application that closes, as web frameworks do at their end, leaves its jobs to the test."""

    def end(self) -> None:
        """The end of the harness."""
        super().close()

    def enqueue(self, jobs: Sequence[NewJob]) -> list[Clash]:
        clashes = super().enqueue(jobs)
        self._stored()
        return clashes

    async def aenqueue(self, jobs: Sequence[NewJob]) -> list[Clash]:
        clashes = await super().aenqueue(jobs)
        await self._astored()
        return clashes

    def start_enqueue(self, jobs: Sequence[NewJob], failed: Callable[[BaseException], None]) -> None:
        # Stored when this returns: a test that looks for the job at once must find it.
        try:
            super().enqueue(jobs)
        except RaftworkError as error:
            failed(error)
        else:
            self._stored()

    def trigger_schedule(self, name: str, job: bytes, slot_ms: int | None = None) -> bool:
        found = super().trigger_schedule(name, job, slot_ms)
        if found:
            self._stored()
        return found

    def fetcher(
        self,
        queues: Sequence[tuple[str, int]],
        functions: Sequence[str],
        *,
        strict: bool = False,
        prefetch: int = 1,
        labels: Mapping[str, str] | None = None,
    ) -> Fetcher:
        """One that finds no job: a worker that the application starts must not take them from the test."""
        return super().fetcher(queues, (), strict=strict, prefetch=prefetch, labels=labels)

    def cancel(self, jobs: Sequence[bytes], reason: str = "") -> list[Change]:
        changes = super().cancel(jobs, reason)
        for job, change in zip(jobs, changes, strict=True):
            if change is Change.TOLD:
                self._told(job)
        return changes

    def wait(self, job: bytes, timeout: float | None = None) -> JobInfo:
        """The job if it is final. Nobody would run it meanwhile, so any time-out is over at once."""
        info = self.job(job)
        if info is None:
            raise JobNotFound(f"No job has the id {uuid.UUID(bytes=job)}.", uuid.UUID(bytes=job))
        if not info.state.final:
            raise TimedOut(
                f"{info.call} is {info.state}, and in a harness nothing runs while one waits. Call drain() first, or "
                'advance() when it is not due yet; harness(app, mode="inline") runs jobs as they are enqueued.'
            )
        return info

    async def await_final(self, job: bytes, timeout: float | None = None) -> JobInfo:
        return self.wait(job, timeout)

    def __repr__(self) -> str:
        return "<the storage of a harness>"
