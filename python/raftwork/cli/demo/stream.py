"""Enqueues: a steady stream, and whatever a key asks for besides. One thread, so the ledger has one writer."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from itertools import count
from typing import Any

from raftwork import clock
from raftwork.app import Raftwork
from raftwork.cli.demo.ledger import Ledger

__all__ = ["JOBS_MAX", "Stream"]

BEAT_S = 0.05
BEAT_JOBS = 50
BATCH = 500
JOBS_MAX = 300_000
"""A demo that is left alone stops enqueuing here: the ledger is kept in memory."""


class Stream:
    """Enqueues until it is stopped.

    Args:
        app: whose storage the jobs go to.
        task: what the stream consists of; it takes a number.
        ledger: told of each answer.
        answered: called after each answer with the moment of it, on the thread of the stream.
    """

    def __init__(self, app: Raftwork, task: Any, ledger: Ledger, answered: Callable[[float], None]) -> None:
        self.error: BaseException | None = None
        """What ended it."""
        self.asked = 0
        """Jobs that a key asked for and that are not answered yet."""
        self._app = app
        self._task = task
        self._ledger = ledger
        self._answered = answered
        self._numbers = count(1)
        self._wanted: queue.SimpleQueue[list[Any] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="demo-stream")

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def more(self, jobs: int) -> None:
        """So many more, as fast as they are answered."""
        self.put([self._task.s(next(self._numbers)) for _ in range(jobs)])

    def put(self, calls: list[Any]) -> None:
        """These, before the stream goes on."""
        with self._lock:
            self.asked += len(calls)
        for start in range(0, len(calls), BATCH):
            self._wanted.put(calls[start : start + BATCH])

    def stop(self) -> None:
        """Enqueue nothing more; returns when the last answer is in the ledger."""
        self._wanted.put(None)
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            next_beat = clock.monotonic()
            while True:
                try:
                    calls = self._wanted.get(timeout=max(0.0, next_beat - clock.monotonic()))
                except queue.Empty:
                    next_beat = max(next_beat + BEAT_S, clock.monotonic())
                    if len(self._ledger.acknowledged) < JOBS_MAX:
                        self._store([self._task.s(next(self._numbers)) for _ in range(BEAT_JOBS)])
                    continue
                if calls is None:
                    return
                self._store(calls)
                with self._lock:
                    self.asked -= len(calls)
        except Exception as error:  # Told by the demo, which ends with it.
            self.error = error

    def _store(self, calls: list[Any]) -> None:
        jobs = self._app.enqueue_many(calls)
        self._answered(clock.monotonic())
        self._ledger.acknowledge([str(job.id) for job in jobs])
