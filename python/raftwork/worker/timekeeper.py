"""One thread that calls functions at their time: deadlines of jobs, held-back progress, the end of a grace period.

Invariants
* Calls are made outside the lock, in the order of their times. One that raises is logged; the thread goes on.
* The thread exists only after the first entry: a worker whose jobs have no time-out never pays for it.
* `cancel` is lazy: a cancelled entry stays in the heap until its time, and then does nothing. When the heap is twice as
  long as after the last look, all of those go: most jobs end long before their time-out.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

__all__ = ["Entry", "Timekeeper"]

logger = logging.getLogger("raftwork.worker")

ENTRIES_LEAST = 1_024
"""Shorter heaps are not looked through."""


class Entry:
    """One call to be made. `cancel()` takes it back."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Do not make the call. Harmless when it was made already."""
        self.call = None


class Timekeeper:
    """Makes calls at given times of the monotonic clock, on a thread of its own."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Entry]] = []
        self._long = ENTRIES_LEAST
        """At this length it is looked through next."""
        self._order = itertools.count()
        self._changed = threading.Condition(threading.Lock())
        self._thread: threading.Thread | None = None
        self._closed = False

    def after(self, seconds: float, call: Callable[[], None]) -> Entry:
        """Make the call this many seconds from now."""
        entry = Entry(call)
        with self._changed:
            if self._closed:
                return entry
            if len(self._heap) >= self._long:
                self._drop_cancelled()
            heapq.heappush(self._heap, (time.monotonic() + seconds, next(self._order), entry))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="raftwork-timekeeper", daemon=True)
                self._thread.start()
            if self._heap[0][2] is entry:
                self._changed.notify()
        return entry

    def close(self) -> None:
        """End the thread. Entries that are not due yet are never called."""
        with self._changed:
            self._closed = True
            self._heap.clear()
            self._changed.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(5)

    def _drop_cancelled(self) -> None:
        self._heap = [item for item in self._heap if item[2].call is not None]
        heapq.heapify(self._heap)
        self._long = max(ENTRIES_LEAST, 2 * len(self._heap))

    def _run(self) -> None:
        while (entry := self._next_due()) is not None:
            call, entry.call = entry.call, None
            if call is None:
                continue
            try:
                call()
            except Exception:
                logger.exception("A timed call of the worker failed.")

    def _next_due(self) -> Entry | None:
        with self._changed:
            while not self._closed:
                if not self._heap:
                    self._changed.wait()
                    continue
                wait = self._heap[0][0] - time.monotonic()
                if wait <= 0:
                    return heapq.heappop(self._heap)[2]
                self._changed.wait(wait)
            return None
