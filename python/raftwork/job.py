"""One job as users hold it: a light handle that asks, waits and changes, and what it needs of its application."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any, Generic, Protocol, TypeVar, cast

from raftwork.durations import Duration
from raftwork.errors import JobCancelled, JobFailed
from raftwork.flow_info import FlowInfo
from raftwork.job_info import JobInfo, JobState
from raftwork.limits import JobLimits
from raftwork.logs import JobLogs
from raftwork.output import Output
from raftwork.reading import SESSION, Consistency, Reading, read_as

__all__ = ["Job", "JobDoor", "outcome_of"]

R_co = TypeVar("R_co", covariant=True)


class JobDoor(Protocol):
    """What a `Job` needs from the application that made it."""

    def job_info(self, job: bytes, reading: Reading) -> JobInfo:
        """The job now; JobNotFound when there is none."""
        ...

    def job_limits(self, job: bytes, reading: Reading) -> JobLimits | None:
        """The limits of one job."""
        ...

    def job_flow(self, job: bytes, reading: Reading) -> FlowInfo:
        """The flow around one job or batch."""
        ...

    def job_logs(self, job: bytes) -> JobLogs:
        """What the job has logged."""
        ...

    def job_wait(self, job: bytes, timeout: float | None) -> JobInfo:
        """The job when it is final."""
        ...

    async def job_await(self, job: bytes, timeout: float | None) -> JobInfo:
        """The same for a running event loop."""
        ...

    def job_cancel(self, job: bytes, reason: str) -> bool:
        """Cancel one job."""
        ...

    def job_retry(self, job: bytes) -> bool:
        """Requeue one job."""
        ...

    def job_delete(self, job: bytes) -> None:
        """Delete one job."""
        ...


class Job(Generic[R_co]):
    """A handle on one stored job. Costs nothing until asked; may be made from an id in any process.

    `R` is what the task returns, so `result()` is typed. Each verb has a twin with `a` in front for event loops.
    """

    __slots__ = ("_door", "_id")

    def __init__(self, door: JobDoor, id: bytes) -> None:
        self._door = door
        self._id = id

    @property
    def id(self) -> uuid.UUID:
        """The id of the job; `str(job.id)` is what the command line takes."""
        return uuid.UUID(bytes=self._id)

    def info(self, *, consistency: Consistency = "session", max_staleness: Duration | None = None) -> JobInfo:
        """Everything known about the job now.

        Args:
            consistency: `"session"` has all that this process did and saw; `"local"` what the node at hand has, at most
                2 s old; `"linearizable"` all that anybody was answered before.
            max_staleness: refuse an answer that could be older.

        Raises:
            JobNotFound: it was deleted, its retention ended, or it was never stored.
            TooStale: the answer could be older than allowed.
            TimedOut: `"linearizable"`, and no majority of the cluster was heard.
        """
        return self._door.job_info(self._id, read_as(consistency, max_staleness))

    refresh = info

    async def ainfo(self, *, consistency: Consistency = "session", max_staleness: Duration | None = None) -> JobInfo:
        """`info` for a running event loop."""
        return await asyncio.to_thread(self.info, consistency=consistency, max_staleness=max_staleness)

    arefresh = ainfo

    def limits(
        self, *, consistency: Consistency = "session", max_staleness: Duration | None = None
    ) -> JobLimits | None:
        """The limits of the job, which of them holds it back, and its place. None if it has none, or is final.

        Args:
            consistency, max_staleness: as for `info`.
        """
        return self._door.job_limits(self._id, read_as(consistency, max_staleness))

    async def alimits(
        self, *, consistency: Consistency = "session", max_staleness: Duration | None = None
    ) -> JobLimits | None:
        """`limits` for a running event loop."""
        return await asyncio.to_thread(self.limits, consistency=consistency, max_staleness=max_staleness)

    def flow(self, *, consistency: Consistency = "session", max_staleness: Duration | None = None) -> FlowInfo:
        """What the job waits or waited for, and how many jobs wait for it. Empty for one that stands alone.

        Args:
            consistency, max_staleness: as for `info`.

        Example:
            >>> [parent.id for parent in job.flow().parents if parent.standing == "open"]
        """
        return self._door.job_flow(self._id, read_as(consistency, max_staleness))

    async def aflow(self, *, consistency: Consistency = "session", max_staleness: Duration | None = None) -> FlowInfo:
        """`flow` for a running event loop."""
        return await asyncio.to_thread(self.flow, consistency=consistency, max_staleness=max_staleness)

    def logs(self) -> JobLogs:
        """What the job has logged: the last 500 lines so far if it runs, wherever its worker is; else the last 50 that
        were stored when it failed last. Empty with a `reason` when there are none.

        Raises:
            JobNotFound: there is no such job.
            LogsUnavailable: it runs, and its worker cannot be asked. The message says why.
            Overloaded: too many ask at once.
            AccessDenied: the token lacks `read`.
        """
        return self._door.job_logs(self._id)

    async def alogs(self) -> JobLogs:
        """`logs` for a running event loop."""
        return await asyncio.to_thread(self._door.job_logs, self._id)

    @property
    def state(self) -> JobState:
        """Where the job is now. Asks the storage each time; in an event loop write `(await job.ainfo()).state`."""
        return self._door.job_info(self._id, SESSION).state

    def result(self, timeout: float | None = None) -> R_co:
        """Wait until the job is final and give what it returned. Woken by the storage, never polling.

        Args:
            timeout: seconds to wait; None waits as long as it takes.

        Raises:
            JobFailed: attempts or crashes are used up; `.error` has type, message and traceback of the last one.
            JobCancelled: it was cancelled; `.reason` says why.
            TimedOut: not final yet; the job goes on.
            JobNotFound: there is no such job.
            SerializationError: this process lacks a class of the result.
        """
        return cast(R_co, outcome_of(self._door.job_wait(self._id, timeout)))

    async def aresult(self, timeout: float | None = None) -> R_co:
        """`result` for a running event loop."""
        return cast(R_co, outcome_of(await self._door.job_await(self._id, timeout)))

    def cancel(self, reason: str = "") -> bool:
        """Cancel the job at once if it waits; tell its worker if it runs. False: it was final already.

        Raises:
            JobNotFound: there is no such job.
        """
        return self._door.job_cancel(self._id, reason)

    async def acancel(self, reason: str = "") -> bool:
        """`cancel` for a running event loop."""
        return await asyncio.to_thread(self.cancel, reason)

    def retry(self) -> bool:
        """Run the job again: a final one with fresh attempts, a waiting one now. False: it is enqueued or runs already,
        or another job has its unique key by now.

        Raises:
            JobNotFound: there is no such job.
        """
        return self._door.job_retry(self._id)

    async def aretry(self) -> bool:
        """`retry` for a running event loop."""
        return await asyncio.to_thread(self.retry)

    def delete(self) -> None:
        """Forget the job and its result.

        Raises:
            JobNotFound: there is no such job.
            WrongState: it runs. Cancel it first.
        """
        self._door.job_delete(self._id)

    async def adelete(self) -> None:
        """`delete` for a running event loop."""
        await asyncio.to_thread(self.delete)

    @property
    def output(self) -> R_co:
        """Its result as an argument of a later `enqueue`: that job waits for this one, and gets what it returned.

        Typed as the result itself, and nothing of the kind until then: do not look into it.
        """
        return cast(R_co, Output(self._id))

    def __eq__(self, other: object) -> bool:
        return self._id == other._id if isinstance(other, Job) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._id)

    def __repr__(self) -> str:
        return f"<Job {self.id}>"


def outcome_of(info: JobInfo) -> Any:
    """The result of a final job, or the exception that says why there is none."""
    if info.state is JobState.SUCCEEDED:
        return info.result
    name = f"{info.function} {info.id}"
    if info.state is JobState.CANCELLED:
        reason = info.reason or "no reason given"
        raise JobCancelled(f"Job {name} was cancelled: {reason}.", info.id, info.reason or "")
    spent = f"{info.attempt} of {info.max_attempts} attempts, {info.crashes} crashes"
    failed = JobFailed(f"Job {name} failed after {spent}: {info.error or info.reason}", info.id, info.error)
    if info.error is not None and info.error.traceback:
        failed.add_note(f"On the worker:\n{info.error.traceback}")
    raise failed
