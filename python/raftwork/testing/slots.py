"""Fires the recurring schedules of a harness, by the scheduler of workers, at each slot that its time comes to.

* Schedules of code are put when the harness begins, as a worker does that starts, and those that a test defines later
  with the next step of the time. Each is put once: what the test deletes, pauses or puts in place of one stays so.
* Time stops at each slot, so each is fired when it comes. While nobody works, none is, and what is then due was missed.
"""

from __future__ import annotations

from raftwork.app import Raftwork
from raftwork.errors import RunawayJobs
from raftwork.storage.base import ScheduleRow, Storage
from raftwork.worker.scheduler import Scheduler

__all__ = ["SLOTS_MAX", "Slots"]

SLOTS_MAX = 10_000
"""Instants in one step of the time at which schedules fire."""


class Slots:
    """What fires, and when.

    Args:
        app: whose schedules.
        storage: that of the harness.
    """

    def __init__(self, app: Raftwork, storage: Storage) -> None:
        self._app = app
        self._put: set[str] = set()
        self._scheduler = Scheduler(self, lambda: 0.0)
        self._passed = 0
        self.storage = storage
        """Where schedules are."""

    def put(self) -> None:
        """Store the schedules of code that are new.

        Raises:
            InvalidOption: one cannot be stored, as a worker would say in its log.
        """
        new = self._app.planned.keys() - self._put
        if new:
            self._app.put_planned(self.storage, new)
            self._put |= new

    def put_planned(self, storage: Storage) -> list[str]:
        """What the scheduler does in a worker when it starts. `put` has done it."""
        return []

    def orphaned(self, storage: Storage) -> list[ScheduleRow]:
        """None: all began with the test."""
        return []

    def begin(self) -> None:
        """The time begins to move."""
        self._passed = 0
        self.put()

    def next_ms(self) -> int | None:
        """The next slot.

        Raises:
            RunawayJobs: so many came already.
        """
        slot = self.storage.due_schedules(1).next_ms
        if slot is not None and self._passed == SLOTS_MAX:
            most = max(self.storage.schedules(), key=lambda row: row.fired)
            raise RunawayJobs(
                f"{SLOTS_MAX:,} slots came in one advance(), most of them of {most.name!r}. Advance by less, or pause "
                f"what the test is not about: app.schedules.pause({most.name!r})."
            )
        return slot

    def fire(self) -> None:
        """Fire what is due."""
        fired = False
        while self._scheduler.turn(self.storage) == 0.0:
            fired = True
        self._passed += fired
