"""What a job has logged, as users get it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raftwork.job_info import JobState

__all__ = ["JobLogs"]


class JobLogs(list[str]):
    """Log lines of a job, oldest first, and where they come from.

    Each has the time of day in UTC, the level, the logger and the text.
    """

    state: JobState
    """The state that the job was in."""
    attempt: int
    """The run that logged them, 1 for the first."""
    live: bool
    """Whether the job runs, and its worker told them. Otherwise they were stored with its last failure."""
    first: int
    """The number of the first line among all of this run; more than 0 when older ones are gone. 0 if not `live`."""
    reason: str
    """Why there are no lines; empty when there are."""

    def __init__(
        self, lines: list[str], state: JobState, attempt: int, *, live: bool = False, first: int = 0, reason: str = ""
    ) -> None:
        super().__init__(lines)
        self.state = state
        self.attempt = attempt
        self.live = live
        self.first = first
        self.reason = reason
