"""The verbs of batches and flows over the compiled client."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from typing import Any

import msgspec

from raftwork import _core
from raftwork.errors import JobNotFound, TimedOut
from raftwork.reading import SESSION, AsOf, Reading
from raftwork.storage.completions import Completions
from raftwork.storage.flows import BatchRow, BatchStorage, FlowRow, batch_not_found

__all__ = ["ClientFlows", "is_short"]

_decode = msgspec.msgpack.Decoder().decode


class ClientFlows(BatchStorage):
    """Batches and flows for storages behind the compiled client."""

    @abstractmethod
    def _open(self) -> _core.Client: ...
    @abstractmethod
    def _submit(self, command: tuple[Any, ...]) -> Any: ...
    @abstractmethod
    def _view(self, question: tuple[Any, ...], reading: Reading) -> tuple[AsOf, Any]: ...
    @abstractmethod
    def _completions_of(self) -> Completions: ...

    def open_batch(self, batch: bytes, name: str, outer: bytes | None = None) -> bool:
        return bool(self._submit((40, batch, name, outer)) == 0)

    def seal_batch(self, batch: bytes) -> bool | None:
        return _changed(self._submit((41, batch)))

    def cancel_batch(self, batch: bytes, reason: str = "") -> bool | None:
        return _changed(self._submit((42, batch, reason)))

    def batches(self) -> list[BatchRow]:
        rows: list[BatchRow] = []
        while page := self._view((40, rows[-1].id if rows else None, 1_000), SESSION)[1]:
            rows += [BatchRow(*row) for row in page]
        return rows

    def batch(self, batch: bytes) -> BatchRow | None:
        row = self._view((41, batch), SESSION)[1]
        return None if row is None else BatchRow(*row)

    def wait_batch(self, batch: bytes, timeout: float | None = None) -> BatchRow:
        try:
            return BatchRow(*_decode(self._open().wait(batch, timeout)))
        except JobNotFound:
            raise batch_not_found(batch) from None
        except TimedOut:
            if not is_short(timeout):
                raise
            return self._finished(batch)

    async def await_batch(self, batch: bytes, timeout: float | None = None) -> BatchRow:
        completions = self._completions_of()
        try:
            row = await completions.future(lambda client: client.start_wait(batch), timeout, lambda error: error)
            return BatchRow(*_decode(row))
        except JobNotFound:
            raise batch_not_found(batch) from None
        except TimedOut:
            if not is_short(timeout):
                raise
            return await asyncio.to_thread(self._finished, batch)

    def _finished(self, batch: bytes) -> BatchRow:
        """The batch if it has finished: for a time-out that is shorter than the way to the node and back."""
        row = self.batch(batch)
        if row is None:
            raise batch_not_found(batch)
        if row.finished_ms is None:
            raise TimedOut(f"The batch {row.name!r} has {row.pending:,} of {row.total:,} members pending.")
        return row

    def flow(self, job: bytes, reading: Reading = SESSION) -> FlowRow:
        batch, parents, parents_count, children = self._view((42, job), reading)[1]
        return FlowRow(batch, [(id, on, standing) for id, on, standing in parents], parents_count, children)


def _changed(code: int) -> bool | None:
    return None if code == 1 else code == 0


def is_short(timeout: float | None) -> bool:
    """Whether a wait may be over before a node that is far away could answer."""
    return timeout is not None and timeout < 1.0
