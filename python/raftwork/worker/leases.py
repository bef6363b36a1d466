"""What this worker holds: the jobs that run on its leases, and the news about those leases.

News may be about a job that is not here yet: claimed ahead, or on its way to a thread. They wait for it on the board.

The board is also the referee. Whoever takes a job off the board reports how it ended; everybody else stays silent. So
a job that was released at a shutdown, or whose lease is lost, is not reported again by its own thread later.

| news            | from                                  | effect here                                            |
|-----------------|---------------------------------------|--------------------------------------------------------|
| `cancel`        | somebody cancelled a running job      | the job is told; it ends as cancelled                  |
| `lost`          | the lease went to another worker      | the job is told and taken off: its answer counts no more |
| `lines`         | somebody wants what a running job logged | it is told; the job does not notice                 |
| `session_lost`  | the session lapsed, or cannot be sure | all of the above for every job; a new session is opened |
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Protocol

from raftwork.errors import RaftworkError
from raftwork.worker import announce
from raftwork.worker.logs import Ring
from raftwork.worker.run import Cause, Run

__all__ = ["Board", "Listener"]

logger = logging.getLogger("raftwork.worker")

EVENTS_WAIT_S = 1.0
ASKED_MAX = 16
"""Jobs whose lines are kept after they ended, as somebody asked for them: who follows one wants its last line, too."""
EARLY_MAX = 1_024
"""News that wait for their jobs. Most are about jobs that have just ended, and wait for ever."""


class Board:
    """The running jobs of one lane by the token of their lease. Each change is one step under the interpreter lock, so
    there is no other lock.

    Not by their ids: a job whose lease is lost goes on here while it runs again, and what ends first must not take the
    other off.
    """

    __slots__ = ("asked", "early", "runs")

    def __init__(self) -> None:
        self.runs: dict[int, Run] = {}
        self.early: dict[int, Cause] = {}
        """What the listener heard about leases whose jobs were not on the board, by token, oldest first. Whoever puts a
        job on the board looks here afterwards."""
        self.asked: dict[int, Ring] = {}
        """The lines of the jobs that were asked for last, by token, oldest first. Used by the listener only."""

    def take(self, run: Run) -> bool:
        """Take a job off the board. True for the one caller who may report how it ended."""
        return self.runs.pop(run.claim.token, None) is run

    def all(self) -> list[Run]:
        """The jobs that run now."""
        return list(self.runs.values())

    def stop(self, token: int, cause: Cause) -> None:
        """Tell the job that runs on this lease that it shall end. One that begins later hears of it then."""
        run = self.runs.get(token) or self._begun_meanwhile(token, cause)
        if run is None:
            return
        if cause is Cause.LOST:
            if not self.take(run):
                return
            announce.lost(run)
        run.stop(cause)

    def tell_early(self, run: Run) -> None:
        """Tell a job that was just put on the board what was heard about its lease before."""
        cause = self.early.pop(run.claim.token, None)
        if cause is not None:
            self.stop(run.claim.token, cause)

    def _begun_meanwhile(self, token: int, cause: Cause) -> Run | None:
        """Keep news for a job that is not here. The job if it came just then, and does not hear of it by itself."""
        self.early[token] = cause
        for old in list(self.early)[:-EARLY_MAX]:
            self.early.pop(old, None)
        run = self.runs.get(token)
        return run if run is not None and self.early.pop(token, None) is not None else None

    def lines_of(self, token: int) -> Ring | None:
        """What a job logged on this lease. None: it does not run here, and was not asked for while it did."""
        run = self.runs.get(token)
        ring = self.asked.pop(token, None)
        if run is not None:
            ring = run.ring()
        if ring is not None:
            self.asked[token] = ring
            if len(self.asked) > ASKED_MAX:
                del self.asked[next(iter(self.asked))]
        return ring

    def lose_all(self) -> int:
        """Every lease of the lane is gone: tell all jobs, and let none of them report."""
        lost = [run for run in self.all() if self.take(run)]
        for run in lost:
            announce.lost(run)
            run.stop(Cause.LOST)
        return len(lost)


class _Events(Protocol):
    def events(self, timeout: float | None) -> list[tuple[str, bytes, int]]: ...
    def tell_lines(self, job_id: bytes, token: int, lines: list[str] | None, first: int = 0) -> None: ...


class Listener:
    """A thread that hears about leases, one for each session."""

    def __init__(self, fetcher: _Events, board: Board, session_lost: Callable[[object], None], name: str) -> None:
        self._fetcher = fetcher
        self._board = board
        self._session_lost = session_lost
        """Called with the reason; all of its jobs are to be lost then."""
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"raftwork-leases-{name}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening. The thread ends by itself at the next news or time-out."""
        self._closed = True

    def _run(self) -> None:
        while not self._closed:
            try:
                news = self._fetcher.events(EVENTS_WAIT_S)
            except RaftworkError as error:
                if not self._closed:
                    self._session_lost(error)
                return
            for kind, job_id, token in news:
                if kind == "session_lost":
                    self._session_lost("it lapsed, or must be taken for lost")
                    return
                if kind == "lines":
                    self._tell_lines(job_id, token)
                else:
                    self._board.stop(token, Cause.LOST if kind == "lost" else Cause.CANCEL)

    def _tell_lines(self, job_id: bytes, token: int) -> None:
        ring = self._board.lines_of(token)
        first, lines = (0, None) if ring is None else ring.numbered()
        if lines is not None:
            # What cannot be written as UTF-8 must not silence the rest.
            lines = [line.encode("utf-8", "replace").decode() for line in lines]
        try:
            self._fetcher.tell_lines(job_id, token, lines, first)
        except RaftworkError as error:
            logger.warning("The log lines of a job could not be told: %s", error)
