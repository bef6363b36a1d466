"""The part of an application that is about jobs on their way through an outbox."""

from __future__ import annotations

import uuid
from abc import abstractmethod
from typing import Any

from raftwork import clock
from raftwork.codecs import Kind
from raftwork.door import Door
from raftwork.errors import ConfigError, InvalidOption
from raftwork.flows import batch_of
from raftwork.job import Job
from raftwork.limits import Carried
from raftwork.outbox import Outbox, Writer, pack_row
from raftwork.outbox.writing import Row
from raftwork.plans import Plan
from raftwork.storage.base import NewJob

__all__ = ["Outgoing"]


class Outgoing(Door):
    """Writes jobs into outboxes, and gives the outboxes themselves."""

    @abstractmethod
    def setting(self, name: str) -> Any:
        """The value of one setting."""

    def outbox(self, url: str | None = None) -> Outbox:
        """The outbox in a SQL database. Connects to nothing yet.

        Args:
            url: `sqlite:///shop.db`, `postgresql://user@host/database`. Default: the setting `outbox`.

        Raises:
            ConfigError: there is no URL, it names no such database, or psycopg is not installed.

        Example:
            >>> app.outbox("sqlite:///shop.db").create_table()
        """
        url = self.setting("outbox") if url is None else url
        if url is None:
            raise ConfigError("There is no outbox. Give its URL, such as sqlite:///shop.db, or set RAFTWORK_OUTBOX.")
        return Outbox(lambda: self.storage, url)

    def put_aside(self, writer: Writer, plan: Plan, packed: bytes, key: str | None, limits: Carried) -> Job[Any]:
        """Write one job that a task has prepared into an outbox. Use `task.using(connection=...).enqueue`."""
        id, row = self._row(plan, packed, key, limits)
        writer.write(row)
        return Job(self, id)

    async def aput_aside(self, writer: Writer, plan: Plan, packed: bytes, key: str | None, limits: Carried) -> Job[Any]:
        """`put_aside` for a running event loop."""
        id, row = self._row(plan, packed, key, limits)
        await writer.awrite(row)
        return Job(self, id)

    def _row(self, plan: Plan, packed: bytes, unique_key: str | None, limits: Carried) -> tuple[bytes, Row]:
        if batch_of(self) is not None:
            raise InvalidOption(
                f"{plan.spec.function} has a connection and would join the batch around it, which may be over when "
                "the outbox is relayed. Enqueue it before the batch, or without the connection."
            )
        id, now_ms = self.storage.new_ids(1)[0], clock.now_ms()
        # A delay counts from here: however late the relay is, "in ten minutes" means ten minutes after the order.
        run_at_ms = now_ms + plan.delay_ms if plan.run_at_ms is None and plan.delay_ms else plan.run_at_ms
        sealed = self.codecs.seal(id, Kind.ARGS, packed)
        job = NewJob(id, plan.spec, sealed, run_at_ms=run_at_ms, unique_key=unique_key, limits=limits)
        return id, Row(str(uuid.UUID(bytes=id)), plan.spec.function, plan.spec.queue, pack_row(job), now_ms)
