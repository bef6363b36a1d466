"""The executor of plain functions: one thread for each slot.

A thread asks for a job, runs it, and hands in its report with the request for the next: one call into Rust for a job.
While jobs are claimed ahead that call does not even release the interpreter.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from raftwork.errors import ForkedProcess, RaftworkError
from raftwork.storage.base import Fetcher, decode_claimed, result_released
from raftwork.worker.fetcher import Source
from raftwork.worker.lane import Lane
from raftwork.worker.leases import Board

__all__ = ["ThreadLane"]

logger = logging.getLogger("raftwork.worker")

NEXT_WAIT_S = 1.0


class ThreadLane(Lane):
    """Runs jobs on threads of this process."""

    def __init__(
        self, name: str, slots: int, source: Source, board: Board, run: Callable[[bytes], bytes | None]
    ) -> None:
        super().__init__(name, slots, source, board)
        self._run = run
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Open the source and start the threads."""
        self.source.open()
        for number in range(self.slots):
            # Daemons: a job that never returns must not keep the interpreter from ending.
            thread = threading.Thread(target=self._work, name=f"raftwork-{self.name}-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def drain(self, until: float) -> bool:
        """Wait until every thread has ended its job."""
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        run = self._executor()
        while not self.stopping and (fetcher := self.source.get()) is not None:
            try:
                self._serve(fetcher, run)
            except ForkedProcess:
                return  # A job forked, and this is the child: the worker is the parent's.
            except RaftworkError as error:
                if not self.stopping:
                    self.source.broken(fetcher, error)
            except Exception:  # A claim that cannot be read: only that job is lost to us, not the thread.
                logger.exception("%s could not run a job. Its lease ends with the session.", self.name)

    def _serve(self, fetcher: Fetcher, run: Callable[[bytes], bytes | None]) -> None:
        source, raw = self.source, None
        while not self.stopping and source.current is fetcher:
            if raw is None:
                if source.paused:
                    source.wait_while_paused(NEXT_WAIT_S)
                else:
                    raw = fetcher.next(NEXT_WAIT_S)
                continue
            report = run(raw)
            raw = None
            if report is None:
                continue
            if self.stopping:
                fetcher.finish(report)
            else:
                raw = fetcher.finish_and_next(report, NEXT_WAIT_S)
        if raw is not None:
            # The worker was told to stop between the claim and the start.
            claim = decode_claimed(raw)
            fetcher.finish(result_released(claim.id, claim.token))

    def _executor(self) -> Callable[[bytes], bytes | None]:
        """What runs one job on this thread."""
        return self._run
