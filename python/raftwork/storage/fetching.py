"""Where a worker gets its jobs from, and what it is told about them."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Fetcher"]


class Fetcher(Protocol):
    """One worker's source of jobs: a session of its own, with heartbeats, prefetch and batched reports behind it.

    Jobs and results are bytes, so that a process executor can pass them on unread: see `decode_claimed` and `result_*`.
    """

    def next(self, timeout: float | None) -> bytes | None:
        """The next job, or None after the time-out. Waits without polling."""
        ...

    def next_many(self, max: int, timeout: float | None) -> list[bytes]:
        """Up to `max` jobs; waits for the first only."""
        ...

    def finish(self, result: bytes) -> None:
        """Report one result. Queued and sent in batches; waits only when too many are under way."""
        ...

    def finish_and_next(self, result: bytes, timeout: float | None) -> bytes | None:
        """`finish` and `next` in one call."""
        ...

    def progress(self, item: bytes) -> None:
        """Send what `pack_progress` made. Of several for one job only the newest may be stored."""
        ...

    def flush(self, timeout: float | None) -> None:
        """Return when everything reported so far is stored."""
        ...

    def events(self, timeout: float | None) -> list[tuple[str, bytes, int]]:
        """What happened to held jobs: `("cancel" | "lost" | "lines", job id, token)`, or `("session_lost", b"", 0)`.

        `lines`: somebody wants the log lines of this job; `tell_lines` answers.

        Raises:
            RaftworkError: it has ended, and everything was told before.
        """
        ...

    def tell_lines(self, job_id: bytes, token: int, lines: list[str] | None, first: int = 0) -> None:
        """Tell whoever asked what this job has logged, of which the first line has this number.

        None: it does not run here on this lease. Returns at once; without effect if nobody asks.
        """
        ...

    def fd(self) -> int:
        """A descriptor that is readable when `next_many` would give something, after it gave less than was asked."""
        ...

    def pause(self) -> None:
        """Claim nothing more and give prefetched jobs back, without spending an attempt."""
        ...

    def resume(self) -> None:
        """Claim again after `pause`."""

    def fenced(self) -> bool:
        """Whether no heartbeat was confirmed for two thirds of the session's life: run nothing, report nothing."""
        ...

    def session(self) -> int:
        """The id of this worker's session."""
        ...

    def close(self, timeout: float | None) -> None:
        """Send what is queued and end the session; jobs still held are released."""
        ...
