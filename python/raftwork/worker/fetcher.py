"""Where one lane of a worker gets its jobs: a fetcher of the storage, replaced when its session is lost.

The fetcher itself is Rust: it claims ahead, batches reports and sends heartbeats without the interpreter. Here is only
what must happen around it: opening, listening for news about leases, opening again, pausing, closing.

States: open ── session lost ──▶ opening (with growing waits) ──▶ open; any ── close ──▶ closed.

A session that is soon over counts as a failed try: where every claim is refused, opening one works each time, and each
is two entries of the log.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from raftwork import clock, events
from raftwork.errors import ForkedProcess, RaftworkError
from raftwork.storage.base import Fetcher, Storage, pack_progress
from raftwork.worker.leases import Board, Listener
from raftwork.worker.run import Run

__all__ = ["Source", "SourceOptions"]

logger = logging.getLogger("raftwork.worker")

REOPEN_WAITS_S = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Before each try to open a session; the last is repeated."""
SESSION_S_LEAST = 5.0
"""A session that lasted so long was a good one: the next is opened at once."""
SAVE_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """What a lane asks for."""

    queues: Sequence[tuple[str, int]]
    functions: Sequence[str]
    strict: bool = False
    prefetch: int = 1
    labels: Mapping[str, str] = field(default_factory=dict)


class Source:
    """The fetcher of one lane. Also the channel of its jobs: their progress and state go the same way."""

    def __init__(self, storage: Storage, options: SourceOptions, board: Board, name: str) -> None:
        self._storage = storage
        self._options = options
        self._board = board
        self._name = name
        self._changed = threading.Condition()
        self._fetcher: Fetcher | None = None
        self._listener: Listener | None = None
        """Of the newest fetcher."""
        self._opened_at = 0.0
        self._turn = 0
        """How many tries there were since the last good session."""
        self._lost: Fetcher | None = None
        """The last one whose session was lost."""
        self._closed = threading.Event()
        """Set when no other fetcher is wanted any more."""
        self._paused = False
        self.opened: Callable[[Fetcher], None] = lambda fetcher: None
        """Called with each new fetcher, on the thread that opened it."""

    @property
    def current(self) -> Fetcher | None:
        """The fetcher in use; None while there is no session."""
        return self._fetcher

    def open(self) -> None:
        """Open the first fetcher. Raises what the storage raises."""
        fetcher = self._open()
        with self._changed:
            self._fetcher = fetcher
            self._changed.notify_all()
        self.opened(fetcher)

    def get(self) -> Fetcher | None:
        """The fetcher in use; waits for one. None when the source is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._fetcher is not None or self._closed.is_set())
            return self._fetcher

    def broken(self, fetcher: Fetcher, why: object) -> None:
        """The session of this fetcher is over: lose its leases and open another, once, whoever says it first.

        In this order: jobs of the next session must not be taken for some of this one, however late another thread
        says it again.
        """
        with self._changed:
            if self._fetcher is not fetcher or self._lost is fetcher:
                return
            self._lost = fetcher
            again = not self._closed.is_set()
            if again:
                self._fetcher = None
        lost = self._board.lose_all()
        logger.warning("The session of %s ended, and others may run its %d jobs: %s", self._name, lost, why)
        events.emit("worker.session_lost", lane=self._name, running=lost)
        if again:
            name = f"raftwork-reopen-{self._name}"
            threading.Thread(target=self._reopen, args=(fetcher,), name=name, daemon=True).start()

    def retire(self) -> None:
        """Claim nothing more, and open no other fetcher: the lane ends."""
        self.pause()
        with self._changed:
            self._closed.set()
            self._changed.notify_all()

    def pause(self) -> None:
        """Claim nothing more; what was claimed ahead goes back."""
        self._paused = True
        fetcher = self._fetcher
        if fetcher is not None:
            try:
                fetcher.pause()
            except RaftworkError as error:
                logger.warning("%s could not give back what it had claimed ahead: %s", self._name, error)

    @property
    def paused(self) -> bool:
        """Whether nothing is claimed at the moment."""
        return self._paused

    def resume(self) -> None:
        """Claim again after `pause`."""
        self._paused = False
        fetcher = self._fetcher
        if fetcher is not None:
            try:
                fetcher.resume()
            except RaftworkError as error:
                self.broken(fetcher, error)
                return
            self.opened(fetcher)
        with self._changed:
            self._changed.notify_all()

    def wait_while_paused(self, timeout: float) -> None:
        """Return when jobs are claimed again, or the source closes, or the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: not self._paused or self._closed.is_set(), timeout)

    def finish(self, result: bytes) -> None:
        """Report a result that no other call carries. One that cannot be sent is the lease's loss, not an error."""
        fetcher = self._fetcher
        if fetcher is None:
            return
        try:
            fetcher.finish(result)
        except RaftworkError as error:
            self.broken(fetcher, error)

    def close(self, timeout: float) -> None:
        """Send what is queued, end the session, and let everybody go who waits for a fetcher."""
        with self._changed:
            self._closed.set()
            fetcher, self._fetcher = self._fetcher, None
            self._changed.notify_all()
        self._stop_listening()
        if fetcher is not None:
            try:
                fetcher.close(timeout)
            except RaftworkError as error:
                logger.warning("%s could not close its session; its leases lapse instead: %s", self._name, error)

    def write(self, run: Run, progress: bytes | None, state: bytes | None) -> None:
        """Send progress or state of a job. For one whose lease is lost there is nothing to do."""
        fetcher = self._fetcher
        if fetcher is not None and not run.lost:
            fetcher.progress(pack_progress(run.claim.id, run.claim.token, progress, state))

    def settle(self, run: Run) -> None:
        """Return when the state of this job is stored, or its lease is lost.

        Raises:
            TimedOut: it is not stored yet.
            StorageError: the session ended, and the lease with it.
        """
        fetcher = self._fetcher
        if fetcher is not None and not run.lost:
            fetcher.flush(SAVE_TIMEOUT_S)

    def line(self, run: Run, line: str) -> None:
        """Log lines stay here; the last of them are stored with a failure."""

    def _open(self) -> Fetcher:
        options = self._options
        fetcher = self._storage.fetcher(
            options.queues,
            options.functions,
            strict=options.strict,
            prefetch=options.prefetch,
            labels=options.labels,
        )
        self._opened_at = clock.monotonic()
        self._listener = Listener(fetcher, self._board, lambda why: self.broken(fetcher, why), self._name)
        return fetcher

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()

    def _reopen(self, lost: Fetcher) -> None:
        since = clock.monotonic()
        self._stop_listening()
        try:
            lost.close(1.0)
        except RaftworkError:
            pass  # It is lost: there is nothing to tell its session.
        if since - self._opened_at >= SESSION_S_LEAST:
            self._turn = 0
        while not self._closed.wait(REOPEN_WAITS_S[self._turn]):
            self._turn = min(self._turn + 1, len(REOPEN_WAITS_S) - 1)
            try:
                fetcher = self._open()
            except ForkedProcess:
                return
            except RaftworkError as error:
                wait = REOPEN_WAITS_S[self._turn]
                logger.warning("%s has no session and tries again in %.1f s: %s", self._name, wait, error)
                continue
            self._adopt(fetcher, since)
            return

    def _adopt(self, fetcher: Fetcher, since: float) -> None:
        with self._changed:
            if not self._closed.is_set():
                self._fetcher = fetcher
                self._changed.notify_all()
        if self._fetcher is not fetcher:
            self._stop_listening()
            fetcher.close(1.0)
            return
        if self._paused:
            fetcher.pause()
        logger.info("%s has a new session.", self._name)
        events.emit("worker.reconnected", lane=self._name, seconds=clock.monotonic() - since)
        self.opened(fetcher)
