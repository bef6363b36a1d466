"""What the three executors have in common: a source of jobs, a board of running ones, and an orderly end.

The end of a lane: `stop_claiming` ── `drain` until the time is over ── `stop_running` ── a moment to unwind ──
`release_rest` ── `close`. A lane that runs dry at `drain` has nothing to do in the rest.
"""

from __future__ import annotations

import abc

from raftwork.storage.base import result_released
from raftwork.worker.fetcher import Source
from raftwork.worker.leases import Board
from raftwork.worker.run import Cause

__all__ = ["Lane"]

CLOSE_TIMEOUT_S = 5.0


class Lane(abc.ABC):
    """Some queues, one way of running jobs, and a number of slots."""

    def __init__(self, name: str, slots: int, source: Source, board: Board) -> None:
        self.name = name
        self.slots = slots
        self.source = source
        self.board = board
        self.stopping = False

    @abc.abstractmethod
    def start(self) -> None:
        """Open the source and begin to run jobs."""

    @abc.abstractmethod
    def drain(self, until: float) -> bool:
        """Wait for running jobs until this time of the monotonic clock. True when none is left."""

    def stop_claiming(self) -> None:
        """Start no more jobs, and give back what was claimed ahead."""
        self.stopping = True
        self.source.retire()

    def stop_running(self) -> None:
        """Tell the running jobs to end, because the worker does."""
        for run in self.board.all():
            run.stop(Cause.SHUTDOWN)

    def release_rest(self) -> int:
        """Give back what still runs, without spending its attempt; whatever it answers later is not reported."""
        released = 0
        for run in self.board.all():
            if self.board.take(run):
                self.source.finish(result_released(run.claim.id, run.claim.token))
                run.stop(Cause.LOST)
                released += 1
        return released

    def close(self) -> None:
        """Send the last reports and end the session."""
        self.source.close(CLOSE_TIMEOUT_S)
