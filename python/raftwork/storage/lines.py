"""The verb for the log lines of a running job, which only its worker has."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from typing import NamedTuple

__all__ = ["LinesStanding", "LinesStorage", "RunLines"]


class LinesStanding(enum.IntEnum):
    """Why there are lines, or none."""

    TOLD = 0
    """These are they."""
    NOT_RUNNING = 1
    """The worker does not run this job on this lease: not yet, or not any more."""
    NOT_CONNECTED = 2
    """No node has a connection of the worker."""
    SILENT = 3
    """The worker gave no answer in time."""
    UNREACHABLE = 4
    """A node could not be asked, and no other has the connection of the worker."""
    UNKNOWN_HERE = 5
    """The node is of a version that cannot ask workers."""


class RunLines(NamedTuple):
    """Log lines of one run of a job."""

    standing: LinesStanding
    first: int
    """The number of the first line; the first that a run logs has 0."""
    lines: list[str]
    """Oldest first."""
    why: str
    """What there is to say about it, in words."""


class LinesStorage(ABC):
    """Log lines of running jobs. They are asked of the worker each time, and stored nowhere."""

    @abstractmethod
    def run_lines(self, job: bytes, session: int, token: int, start: int = 0) -> RunLines:
        """What a job has logged under this lease, from the line with this number on, as far as its worker still has it.

        Answered within seconds, whatever has become of the worker. One that was asked while the job ran may answer for
        a while after it ended.

        Raises:
            Overloaded: too many ask at once.
            StorageError: nobody could be asked.
        """
