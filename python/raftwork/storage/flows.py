"""Dependencies and batches in the storage contract: what travels, and the verbs."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from raftwork.errors import BatchNotFound
from raftwork.reading import SESSION, Reading

__all__ = ["BatchRow", "BatchStorage", "Flow", "FlowRow", "batch_not_found"]


class Flow(NamedTuple):
    """What makes a new job part of a flow."""

    parents: tuple[tuple[bytes, int, bool], ...] = ()
    """Jobs or batches that it waits for: id, 0 success, 1 failure or 2 finish, whether it takes the result."""
    batch: bytes | None = None

    def wire(self) -> dict[int, Any]:
        """The last item of a job's row."""
        extras: dict[int, Any] = {1: self.parents} if self.parents else {}
        return extras if self.batch is None else {**extras, 2: self.batch}


class BatchRow(NamedTuple):
    """One batch."""

    id: bytes
    name: str
    state: str
    """`open`, `sealed`, or how it finished: `succeeded`, `failed`, `cancelled`."""
    outer: bytes | None
    opened_ms: int
    finished_ms: int | None
    total: int
    pending: int
    succeeded: int
    failed: int
    cancelled: int


class FlowRow(NamedTuple):
    """What a job waits for, and who waits for a job or batch."""

    batch: bytes | None
    parents: list[tuple[bytes, int, int]]
    """At most 100: id, which end, and 0 open, 1 met, 2 unmet, 3 not waited for any more."""
    parents_count: int
    children: int
    """Jobs that wait for it or were cancelled because of how it ended, counted up to 10,000."""


class BatchStorage(ABC):
    """The part of a storage that is about batches and flows."""

    @abstractmethod
    def open_batch(self, batch: bytes, name: str, outer: bytes | None = None) -> bool:
        """Begin a batch, inside of another one if that is given. False: there is one of this id already.

        Raises:
            BatchNotFound, WrongState: there is no such outer batch, or it takes no members any more.
        """

    @abstractmethod
    def seal_batch(self, batch: bytes) -> bool | None:
        """From now on it finishes when no member is pending. False: it was sealed before; None: nobody knows it."""

    @abstractmethod
    def cancel_batch(self, batch: bytes, reason: str = "") -> bool | None:
        """Seal it and cancel its members. False: it is over, or was cancelled before; None: nobody knows it."""

    @abstractmethod
    def batches(self) -> list[BatchRow]:
        """All batches that are open or not forgotten yet, by id."""

    @abstractmethod
    def batch(self, batch: bytes) -> BatchRow | None:
        """One batch."""

    @abstractmethod
    def wait_batch(self, batch: bytes, timeout: float | None = None) -> BatchRow:
        """Return when the batch has finished.

        Raises:
            TimedOut: it has not.
            BatchNotFound: nobody knows it.
        """

    @abstractmethod
    async def await_batch(self, batch: bytes, timeout: float | None = None) -> BatchRow:
        """`wait_batch` for a running event loop."""

    @abstractmethod
    def flow(self, job: bytes, reading: Reading = SESSION) -> FlowRow:
        """The flow around a job or batch in memory. An id that nobody knows has none."""


def batch_not_found(batch: bytes) -> BatchNotFound:
    """The error for an id that no batch has."""
    return BatchNotFound(
        f"No batch has the id {uuid.UUID(bytes=batch)}, or it was forgotten, 14 days after it finished."
    )
