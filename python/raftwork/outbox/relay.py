"""From the outbox into the storage: the relay, and what operators ask of an outbox.

    take rows (counted as tried) ──► look up those that were tried before ──► store the others ──► remove all of them
                                                                                  └─► set aside what is refused

Invariants
* A job has the id that `enqueue` answered, so storing it again changes nothing while the storage knows it.
* A row that was tried before is looked up first, also among finished jobs: it may have been stored, and have run since.
  So it runs once, as long as its `keep_result` or `keep_failed` is longer than a relay may be away.
* Only an error that would be the same tomorrow sets a row aside; it holds up no other row. All else is tried again.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

from raftwork import clock, events
from raftwork.durations import Duration, duration_ms
from raftwork.errors import (
    AccessDenied,
    InvalidName,
    InvalidOption,
    PayloadError,
    RaftworkError,
    TaskError,
    UniqueConflict,
)
from raftwork.outbox.databases import Database, Taken, database_of
from raftwork.outbox.row import read_row
from raftwork.reading import read_as
from raftwork.storage.base import NewJob, Storage

__all__ = ["Outbox", "OutboxStatus", "RefusedJob", "Relay"]

logger = logging.getLogger("raftwork.outbox")

BATCH_ROWS = 500
BATCH_ROWS_MAX = 1_000
"""What one write may hold."""
BATCH_BYTES_MAX = 3 << 20
"""Bytes of rows for one write; the rest of its 4 MiB is for what is around them."""
RETRY_S_MAX = 30.0
DOUBLINGS_MAX = 12
"""From the shortest poll, 10 ms, to more than `RETRY_S_MAX`. An outage may have any number of failures."""

Item = tuple[Taken, NewJob]


class RefusedJob(NamedTuple):
    """A job that was set aside."""

    id: uuid.UUID | str
    """The job's id; as text where somebody wrote something else into the row."""
    function: str
    queue: str
    created_at: datetime
    reason: str
    """The error, with its code."""


class OutboxStatus(NamedTuple):
    """An outbox at one moment."""

    waiting: int
    """Jobs that are not relayed yet."""
    oldest_at: datetime | None
    """When the oldest of them was enqueued."""


class Outbox:
    """The outbox in one SQL database: its table, and relaying what it holds. Made by `app.outbox(url)`.

    Each verb connects for itself, so an outbox may be used from many threads and needs no closing.

    Raises:
        ConfigError: the URL names no database that may have an outbox.

    Example:
        >>> app.outbox("postgresql://localhost/shop").relay()
        17
    """

    def __init__(self, storage: Callable[[], Storage], url: str) -> None:
        self._storage = storage
        self._url = url
        self._named = database_of(url)

    @property
    def url(self) -> str:
        """Where the outbox is, without a password."""
        return self._named.shown

    def ddl(self) -> str:
        """The statements that make the table, for migrations of your own."""
        return "".join(f"{statement};\n" for statement in self._named.ddl())

    def create_table(self) -> None:
        """Make the table `raftwork_outbox`. Harmless when it is there.

        Raises:
            OutboxError: the database refuses it. So do all verbs.
        """
        with self._opened() as database:
            database.create_table()

    def relay(self, *, batch: int = BATCH_ROWS) -> int:
        """Store all jobs that wait now, and return. Answers how many left the outbox.

        Args:
            batch: rows of one write, 1 to 1,000.

        Raises:
            StorageError: the storage did not take them; they stay, and relaying again is harmless.
        """
        _check_batch(batch)
        total = 0
        with self._opened() as database:
            while (moved := relay_batch(database, self._storage(), batch)) > 0:
                total += moved
        return total

    def relaying(self, *, poll: Duration = "250ms", batch: int = BATCH_ROWS) -> Relay:
        """A thread that relays until it is stopped; use it with `with`.

        Args:
            poll: how long to wait when nothing is there, from 10ms.
            batch: rows of one write, 1 to 1,000.
        """
        return Relay(self._storage, self._url, poll=poll, batch=batch)

    def status(self) -> OutboxStatus:
        """How much waits, and for how long."""
        with self._opened() as database:
            count, oldest = database.waiting()
        return OutboxStatus(count, None if oldest is None else clock.from_ms(oldest))

    def refused(self, limit: int = 1_000) -> list[RefusedJob]:
        """Jobs that were set aside, oldest first."""
        with self._opened() as database:
            rows = database.refused(limit)
        return [RefusedJob(_id(row.id), *row[1:3], clock.from_ms(row.created_ms), row.refused) for row in rows]

    def retry(self, ids: Iterable[uuid.UUID | str] | None = None) -> int:
        """Relay jobs again that were set aside: these, or all. Answers how many there were."""
        with self._opened() as database:
            return database.put_back(_texts(ids))

    def discard(self, ids: Iterable[uuid.UUID | str] | None = None) -> int:
        """Delete jobs that were set aside, for good: these, or all. Answers how many there were."""
        with self._opened() as database:
            return database.discard(_texts(ids))

    def _opened(self) -> contextlib.closing[Database]:
        return contextlib.closing(database_of(self._url))

    def __repr__(self) -> str:
        return f"<Outbox {self.url}>"


class Relay:
    """The thread that relays. Errors are logged and tried again, at most 30 s later."""

    def __init__(self, storage: Callable[[], Storage], url: str, *, poll: Duration, batch: int) -> None:
        self._storage = storage
        self._database = database_of(url)
        self._poll_s = duration_ms(poll, "poll", least_ms=10) / 1_000
        self._batch = _check_batch(batch)
        self._closed = threading.Event()
        self._told = ""
        self._thread = threading.Thread(target=self._run, name="raftwork-outbox", daemon=True)

    def start(self) -> Relay:
        """Begin; returns at once."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """End after the batch that is under way, unless it hangs in the storage for longer than a moment."""
        self._closed.set()
        if self._thread.ident is not None:
            self._thread.join(5)

    def __enter__(self) -> Relay:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def _run(self) -> None:
        failures = 0
        while not self._closed.is_set():
            try:
                moved = relay_batch(self._database, self._storage(), self._batch)
            except RaftworkError as error:
                failures += 1
                self._tell(error)
                self._closed.wait(self._retry_s(failures))
            except Exception:
                failures += 1
                logger.exception("The relay of %s failed, and goes on in a moment.", self._database.shown)
                self._closed.wait(self._retry_s(failures))
            else:
                if failures:
                    logger.info("The outbox %s is relayed again.", self._database.shown)
                failures, self._told = 0, ""
                if moved == 0:
                    self._closed.wait(self._poll_s)
        self._database.close()

    def _retry_s(self, failures: int) -> float:
        return min(self._poll_s * 2.0 ** min(failures, DOUBLINGS_MAX), RETRY_S_MAX)

    def _tell(self, error: RaftworkError) -> None:
        if self._told != error.code:
            self._told = error.code
            logger.warning("The outbox %s is held up, which is tried again: %s", self._database.shown, error)


def relay_batch(database: Database, storage: Storage, rows_max: int) -> int:
    """Move the oldest rows. Answers how many are done with.

    Raises:
        OutboxError: the database could not be used.
        StorageError: the storage did not take them.
    """
    with database.batch(rows_max) as (taken, ends):
        refused: list[tuple[Taken, RaftworkError]] = []
        new: list[Item] = []
        room = BATCH_BYTES_MAX
        for row in taken:
            room -= len(row.job)
            if room < 0 and (new or ends.gone or refused):
                break  # The next batch begins with it.
            try:
                job = read_row(row.id, bytes(row.job))
            except (TaskError, PayloadError) as error:
                refused.append((row, error))
                continue
            if row.tries > 1 and storage.job(job.id, read_as("linearizable", None)) is not None:
                ends.gone.append(row.seq)
            else:
                new.append((row, job))
        stored, unfit = _store(storage, new)
        ends.gone.extend(row.seq for row, _ in stored)
        refused += unfit
        ends.refused.extend((str(error), row.seq) for row, error in refused)
    _announce(stored, refused)
    return len(ends.gone) + len(ends.refused)


def _store(storage: Storage, items: Sequence[Item]) -> tuple[list[Item], list[tuple[Taken, RaftworkError]]]:
    """Store jobs in one write; where one of them cannot be, all but those that cannot, found by halving."""
    if not items:
        return [], []
    try:
        storage.enqueue([job for _, job in items])
    except (TaskError, UniqueConflict, AccessDenied) as error:
        if isinstance(error, AccessDenied) and not error.capability:
            raise  # The relay itself is not known to the cluster, which says nothing of the job.
        if len(items) == 1:
            return [], [(items[0][0], error)]
        half = len(items) // 2
        (first, unfit), (second, more) = _store(storage, items[:half]), _store(storage, items[half:])
        return first + second, unfit + more
    return list(items), []


def _announce(stored: Sequence[Item], refused: Sequence[tuple[Taken, RaftworkError]]) -> None:
    for row, error in refused:
        logger.error("Job %s of the outbox is set aside: %s", row.id, error)
        events.emit("outbox.refused", id=row.id, error=error)
    if stored and events.listening():
        for function, count in Counter(job.spec.function for _, job in stored).items():
            events.emit("outbox.relayed", function=function, count=count)


def _check_batch(batch: int) -> int:
    if isinstance(batch, bool) or not isinstance(batch, int) or not 1 <= batch <= BATCH_ROWS_MAX:
        raise InvalidOption(f"batch={batch!r} is not a whole number from 1 to {BATCH_ROWS_MAX:,}.")
    return batch


def _texts(ids: Iterable[uuid.UUID | str] | None) -> list[str] | None:
    if isinstance(ids, str):
        raise InvalidName(f"ids={ids!r} is one text. Write [{ids!r}].")
    return None if ids is None else [str(id) for id in ids]


def _id(text: str) -> uuid.UUID | str:
    try:
        return uuid.UUID(text)
    except ValueError:
        return text
