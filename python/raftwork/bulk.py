"""One verb for all jobs that fit a filter: counted first, changed a chunk at a time, and stoppable between two chunks.

Which jobs are meant is settled before the first change, as a changed job may fit the filter again, or no longer. A job
whose state does not allow the verb by then is skipped. Each change is told: by a line of the logger `raftwork.audit`,
by the event `bulk.changed`, and by a note in the audit of the cluster.
"""

from __future__ import annotations

import asyncio
import getpass
import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from raftwork import events
from raftwork.errors import InvalidOption, RaftworkError
from raftwork.operators import BulkAnswer, pages
from raftwork.options import check_name, check_priority
from raftwork.reading import SESSION, Reading
from raftwork.storage.base import Change, Clause, JobPage, Storage

__all__ = ["Bulk", "BulkProgress", "note_change"]

logger = logging.getLogger("raftwork.audit")

CHUNK_JOBS = 500
"""Jobs of one write: large enough to be quick, small enough that other callers get their turn between two."""
CHUNK_JOBS_MAX = 1_000
ABOUT_BYTES_MAX = 1_024
"""Bytes of a note in the audit."""


class BulkProgress(NamedTuple):
    """How far a change of many jobs is."""

    matched: int
    """Jobs that fit."""
    changed: int
    skipped: int

    @property
    def done(self) -> int:
        """Jobs that were asked about so far."""
        return self.changed + self.skipped


class HasJobs(Protocol):
    """What is needed of the application."""

    @property
    def storage(self) -> Storage:
        """Where the jobs are."""
        ...

    def job_page(
        self,
        clauses: Sequence[Clause] = (),
        cursor: bytes | None = None,
        limit: int = 100,
        reading: Reading = SESSION,
    ) -> JobPage:
        """A page of the jobs for which every clause holds."""
        ...


Told = Callable[[BulkProgress], object]


class Bulk:
    """The jobs that fit a filter, to be changed together. Made by `app.bulk(filter)`; asks nothing yet.

    Every verb answers how many jobs matched, were changed and were skipped. They take:

    * `progress`, called after each chunk with a `BulkProgress`;
    * `stop`, asked before each chunk: when it says True nothing more is changed, and the answer says `stopped`.

    If the storage fails in between, the error has a note that says how many were changed before.

    Example:
        >>> app.bulk("state:failed error:*Timeout* since:2h").retry().changed
        412
    """

    def __init__(self, app: HasJobs, clauses: Sequence[Clause], text: str, chunk: int = CHUNK_JOBS) -> None:
        if isinstance(chunk, bool) or not isinstance(chunk, int) or not 1 <= chunk <= CHUNK_JOBS_MAX:
            raise InvalidOption(f"chunk={chunk!r} is not a whole number from 1 to {CHUNK_JOBS_MAX:,}.")
        self._app = app
        self._clauses = clauses
        self._text = text
        self._chunk = chunk
        self._ids: list[bytes] | None = None

    def count(self) -> int:
        """How many jobs fit. Settles which: a verb that is called afterwards changes these."""
        if self._ids is None:
            self._ids = [info.id.bytes for info in pages(self._app.job_page, self._clauses, None, SESSION)]
        return len(self._ids)

    async def acount(self) -> int:
        """`count` for a running event loop."""
        return await asyncio.to_thread(self.count)

    def retry(self, *, progress: Told | None = None, stop: Callable[[], bool] | None = None) -> BulkAnswer:
        """Run them again: final ones with fresh attempts, waiting ones now."""
        return self._change("retry", self._app.storage.requeue, progress, stop)

    def cancel(
        self, reason: str = "", *, progress: Told | None = None, stop: Callable[[], bool] | None = None
    ) -> BulkAnswer:
        """Cancel them: waiting ones at once, running ones are told.

        Args:
            reason: kept with each job.
        """
        storage = self._app.storage
        return self._change("cancel", lambda ids: storage.cancel(ids, reason), progress, stop)

    def delete(self, *, progress: Told | None = None, stop: Callable[[], bool] | None = None) -> BulkAnswer:
        """Forget them and their results. Running ones are skipped."""
        return self._change("delete", self._app.storage.delete, progress, stop)

    def move(self, queue: str, *, progress: Told | None = None, stop: Callable[[], bool] | None = None) -> BulkAnswer:
        """Put them into another queue, in which each stands by since when it waits.

        Jobs that wait for a worker, for their time, for a retry or for their parents move at once. Running ones are
        skipped, as their worker is one of the old queue, and so are final ones and those that are there already.

        Args:
            queue: its name. It need not have had a job.

        Raises:
            InvalidName: the name may not be stored.
        """
        check_name(queue, "The queue")
        storage = self._app.storage
        return self._change(f"move to {queue}", lambda ids: storage.move(ids, queue), progress, stop)

    def set_priority(
        self, priority: int, *, progress: Told | None = None, stop: Callable[[], bool] | None = None
    ) -> BulkAnswer:
        """Give them another priority. Skips running and final ones, as `move` does.

        Args:
            priority: -100 to 100, higher first.

        Raises:
            InvalidOption: it is out of range.
        """
        check_priority(priority)
        storage = self._app.storage
        return self._change(f"set priority {priority}", lambda ids: storage.set_priority(ids, priority), progress, stop)

    async def aretry(self, *, progress: Told | None = None, stop: Callable[[], bool] | None = None) -> BulkAnswer:
        """`retry` for a running event loop. Here as below, `progress` and `stop` are called on another thread."""
        return await asyncio.to_thread(self.retry, progress=progress, stop=stop)

    async def acancel(
        self, reason: str = "", *, progress: Told | None = None, stop: Callable[[], bool] | None = None
    ) -> BulkAnswer:
        """`cancel` for a running event loop."""
        return await asyncio.to_thread(self.cancel, reason, progress=progress, stop=stop)

    async def adelete(self, *, progress: Told | None = None, stop: Callable[[], bool] | None = None) -> BulkAnswer:
        """`delete` for a running event loop."""
        return await asyncio.to_thread(self.delete, progress=progress, stop=stop)

    async def amove(
        self, queue: str, *, progress: Told | None = None, stop: Callable[[], bool] | None = None
    ) -> BulkAnswer:
        """`move` for a running event loop."""
        return await asyncio.to_thread(self.move, queue, progress=progress, stop=stop)

    async def aset_priority(
        self, priority: int, *, progress: Told | None = None, stop: Callable[[], bool] | None = None
    ) -> BulkAnswer:
        """`set_priority` for a running event loop."""
        return await asyncio.to_thread(self.set_priority, priority, progress=progress, stop=stop)

    def _change(
        self,
        verb: str,
        change: Callable[[Sequence[bytes]], list[Change]],
        progress: Told | None,
        stop: Callable[[], bool] | None,
    ) -> BulkAnswer:
        matched = self.count()
        ids, self._ids = self._ids or [], None  # A second verb asks anew.
        codes: list[Change] = []
        changed, stopped = 0, False
        try:
            for start in range(0, matched, self._chunk):
                if stopped := stop is not None and stop():
                    break
                fresh = change(ids[start : start + self._chunk])
                codes += fresh
                changed += sum(code in (Change.DONE, Change.TOLD) for code in fresh)
                if progress is not None:
                    progress(BulkProgress(matched, changed, len(codes) - changed))
        except RaftworkError as error:
            error.add_note(f"Before that, {changed:,} of {matched:,} jobs were changed.")
            raise
        finally:
            self._tell(verb, matched, changed, len(codes) - changed)
            note_change(self._app.storage, verb, f"all jobs that fit {self._text!r}", matched, changed)
        return BulkAnswer(matched, changed, len(codes) - changed, tuple(codes), stopped)

    def _tell(self, verb: str, matched: int, changed: int, skipped: int) -> None:
        logger.info(
            "%s of all jobs that fit %r by %s: %d matched, %d changed, %d skipped.",
            *(verb, self._text, _who(), matched, changed, skipped),
        )
        events.emit("bulk.changed", verb=verb, filter=self._text, matched=matched, changed=changed, skipped=skipped)

    def __repr__(self) -> str:
        return f"<Bulk {self._text!r}>"


def note_change(storage: Storage, verb: str, which: str, matched: int, changed: int) -> None:
    """Keep in the audit of the cluster what was done to jobs. The change stands, also if that fails."""
    words = f"{verb}: {changed:,} of {matched:,} jobs changed by user {_who()}: {which}"
    try:
        storage.note(f"jobs.{verb.split()[0]}", words.encode()[:ABOUT_BYTES_MAX].decode(errors="ignore"))
    except RaftworkError as error:
        logger.warning("What was done is not in the audit of the cluster: %s. It was: %s", error, words)


def _who() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "somebody"  # A container may have no name for its user.
