"""What a `Job` and the command line ask of an application about jobs, over whatever storage it has."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from raftwork import events, filters, following
from raftwork.bulk import CHUNK_JOBS, Bulk
from raftwork.codecs import Codecs
from raftwork.durations import Duration
from raftwork.errors import InvalidFilter, InvalidOption
from raftwork.flow_info import FlowInfo
from raftwork.job import Job
from raftwork.job_info import JobInfo
from raftwork.known import UnknownJobs, unknown_jobs
from raftwork.limits import JobLimits
from raftwork.logs import JobLogs
from raftwork.operators import ERROR_GROUPS_MAX, BulkAnswer, ErrorGroup, change_one, changed, not_found
from raftwork.options import check_name, check_priority
from raftwork.reading import SESSION, Consistency, Reading, Rows, read_as
from raftwork.storage.base import Change, Clause, JobPage, Storage

__all__ = ["Door"]


class Door(ABC):
    """The part of an application that answers for jobs and their storage, and changes them."""

    @property
    @abstractmethod
    def storage(self) -> Storage:
        """Where the jobs are."""

    @property
    @abstractmethod
    def codecs(self) -> Codecs:
        """How payloads are written and read."""

    def health(self) -> dict[str, Any]:
        """How the storage is: status, role of this process, durability, and what the node says about itself."""
        return self.storage.health()

    def metrics(self) -> dict[str, float]:
        """What the node counts, by name and labels as Prometheus shows them: `raftwork_jobs{state="enqueued"}`."""
        return self.storage.metrics()

    def unknown_jobs(
        self, *, consistency: Consistency = "session", max_staleness: Duration | None = None
    ) -> Rows[UnknownJobs]:
        """Jobs that wait for a worker while no connected worker knows their function, by the name of the function.

        Such a job is no error: it waits until a worker knows its function, or somebody cancels it. While no worker is
        connected these are all that wait. A worker that does not say what it knows, as those of an older version,
        counts as one that knows everything; then the list is empty.

        Args:
            consistency, max_staleness: as for `Job.info`. The answer says of which state it is.

        Example:
            >>> for function, waiting in app.unknown_jobs():
            ...     print(f"{waiting} jobs of {function}")
        """
        return unknown_jobs(self.storage, read_as(consistency, max_staleness))

    def errors(
        self, limit: int = 100, *, consistency: Consistency = "session", max_staleness: Duration | None = None
    ) -> Rows[ErrorGroup]:
        """What runs failed with, in groups of the same mistake, the newest first.

        Args:
            limit: groups at most, up to 1,000: so many are remembered.
            consistency, max_staleness: as for `Job.info`. The answer says of which state it is.

        Raises:
            InvalidOption: the limit is no number from 0 to 1,000.
        """
        if isinstance(limit, bool) or not isinstance(limit, int) or not 0 <= limit <= ERROR_GROUPS_MAX:
            raise InvalidOption(f"limit {limit!r} is not a whole number from 0 to {ERROR_GROUPS_MAX:,}.")
        rows = self.storage.errors(limit, read_as(consistency, max_staleness))
        groups = Rows(ErrorGroup.of(row) for row in rows)
        groups.as_of = rows.as_of
        return groups

    def cancel(self, ids: Iterable[uuid.UUID | str | bytes | Job[Any]], reason: str = "") -> BulkAnswer:
        """Cancel jobs: waiting ones at once, running ones are told."""
        return changed(self.storage.cancel, ids, reason)

    def retry(self, ids: Iterable[uuid.UUID | str | bytes | Job[Any]]) -> BulkAnswer:
        """Run jobs again: final ones with fresh attempts, waiting ones now."""
        return changed(self.storage.requeue, ids)

    def delete(self, ids: Iterable[uuid.UUID | str | bytes | Job[Any]]) -> BulkAnswer:
        """Forget jobs that are not running."""
        return changed(self.storage.delete, ids)

    def move(self, ids: Iterable[uuid.UUID | str | bytes | Job[Any]], queue: str) -> BulkAnswer:
        """Put jobs that wait into another queue. See `Bulk.move`."""
        return changed(self.storage.move, ids, check_name(queue, "The queue"))

    def set_priority(self, ids: Iterable[uuid.UUID | str | bytes | Job[Any]], priority: int) -> BulkAnswer:
        """Give jobs that wait another priority. See `Bulk.set_priority`."""
        return changed(self.storage.set_priority, ids, check_priority(priority))

    def job_page(
        self,
        clauses: Sequence[Clause] = (),
        cursor: bytes | None = None,
        limit: int = 100,
        reading: Reading = SESSION,
    ) -> JobPage:
        """A page of the jobs for which every clause holds, newest first."""
        page = self.storage.jobs(self._asked(clauses), cursor, limit, reading)
        return page._replace(jobs=[info.seen_by(self.codecs) for info in page.jobs])

    def _asked(self, clauses: Sequence[Clause]) -> Sequence[Clause]:
        """The clauses as nodes can answer them, who see neither encrypted arguments nor the keys made of them."""
        return [_hidden(clause, self.codecs) for clause in clauses] if self.codecs.encrypts else clauses

    def bulk(self, filter: str = "", *, everything: bool = False, chunk: int = CHUNK_JOBS) -> Bulk:
        """All jobs that fit a filter, to be retried, cancelled, deleted, moved or given a priority together.

        Asks nothing yet.

        Args:
            filter: as for `jobs`.
            everything: every job there is, in place of a filter.
            chunk: jobs of one write, 1 to 1,000.

        Raises:
            InvalidFilter: the filter cannot be read; the message gives the position.
            InvalidOption: neither or both are given, or the chunk is out of range.

        Example:
            >>> app.bulk("state:failed queue:mail").retry()
        """
        clauses = filters.parse(filter)
        if bool(clauses) == everything:
            raise InvalidOption(
                "Which jobs? Give a filter, such as state:failed, or everything=True for every job there is; not both."
            )
        return Bulk(self, clauses, filter or "everything", chunk)

    def subscribe(self, listener: Callable[[events.Event], object], *names: str) -> Callable[[], None]:
        """Call `listener` for what happens in this process, of whichever application. Answers a function that ends it.

        Args:
            listener: called with an event, which has a `name` and `fields`, on the thread where it happens.
            names: which events, such as `"job.failed"`; none means all. See the reference of events.

        Raises:
            InvalidOption: there is no event of such a name.

        Example:
            >>> stop = app.subscribe(lambda event: print(event.fields["error"]), "job.failed")
        """
        return events.subscribe(listener, *names)

    def job_info(self, job: bytes, reading: Reading) -> JobInfo:
        """For `Job.info`."""
        found = self.storage.job(job, reading)
        if found is None:
            raise not_found(job)
        return found.seen_by(self.codecs)

    def job_limits(self, job: bytes, reading: Reading) -> JobLimits | None:
        """For `Job.limits`."""
        return self.storage.job_limits(job, reading)

    def job_flow(self, job: bytes, reading: Reading) -> FlowInfo:
        """For `Job.flow` and `Batch.flow`."""
        return FlowInfo.of(*self.storage.flow(job, reading))

    def job_logs(self, job: bytes) -> JobLogs:
        """For `Job.logs`."""
        return following.logs_of(self, job)

    def job_wait(self, job: bytes, timeout: float | None) -> JobInfo:
        """For `Job.result`."""
        return self.storage.wait(job, timeout).seen_by(self.codecs)

    async def job_await(self, job: bytes, timeout: float | None) -> JobInfo:
        """For `Job.aresult`."""
        return (await self.storage.await_final(job, timeout)).seen_by(self.codecs)

    def job_cancel(self, job: bytes, reason: str) -> bool:
        """For `Job.cancel`."""
        return change_one(self.storage.cancel([job], reason)[0], job) in (Change.DONE, Change.TOLD)

    def job_retry(self, job: bytes) -> bool:
        """For `Job.retry`."""
        return change_one(self.storage.requeue([job])[0], job) is Change.DONE

    def job_delete(self, job: bytes) -> None:
        """For `Job.delete`."""
        change_one(self.storage.delete([job])[0], job)


def _hidden(clause: Clause, codecs: Codecs) -> Clause:
    field, operator, values = clause
    if field.startswith("args."):
        raise InvalidFilter(
            f"{field} cannot be searched: arguments are encrypted, so nodes cannot look into them. Give jobs tags to "
            "find them by (tag:NAME), or a unique key (unique:TASK:KEY)."
        )
    if field == "fingerprint":
        raise InvalidFilter(
            "fingerprint cannot be searched: tracebacks are encrypted, and the fingerprint is their last line. Search "
            "by the type of the error (error:TimeoutError) and the function (fn:NAME)."
        )
    if field != "unique":
        return clause
    if operator != "=":
        raise InvalidFilter(
            "unique cannot be searched by a pattern: arguments are encrypted, and unique keys are stored as digests. "
            "Write the whole key."
        )
    # Both forms: jobs from before there were encryption keys have it as it is.
    return (field, operator, [form for value in values for form in (value, codecs.unique(value))])
