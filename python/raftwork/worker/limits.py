"""Memory and CPU time of a child process while it runs one job, and what happens when it takes too much.

The worker looks from outside, ten times a second, so a job is caught whatever it does, also in code that never returns
to Python. What it looks at is the whole child: its resident memory, and the processor time that it and the processes it
has waited for took since the job began.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from raftwork import durations, sizes
from raftwork.worker.timekeeper import Entry, Timekeeper

__all__ = ["Limits", "Usage", "Watch", "supported", "usage_of"]

PERIOD_S = 0.1


class Limits(NamedTuple):
    """What jobs of one task may take; None is no limit."""

    memory_bytes: int | None = None
    cpu_ms: int | None = None

    def broken_by(self, usage: Usage) -> str | None:
        """Words about the limit that is exceeded, if one is."""
        if self.memory_bytes is not None and usage.memory_bytes > self.memory_bytes:
            used, limit = sizes.text(usage.memory_bytes), sizes.text(self.memory_bytes)
            return f"The job's process took {used} of memory; its limit is memory={limit!r}."
        if self.cpu_ms is not None and usage.cpu_ms > self.cpu_ms:
            return f"The job took more processor time than its limit cpu={durations.text(self.cpu_ms)!r} allows."
        return None


class Usage(NamedTuple):
    """What a process takes."""

    memory_bytes: int
    cpu_ms: int


def supported() -> bool:
    """Whether this system tells what processes take."""
    return os.path.exists("/proc/self/stat")


def usage_of(pid: int) -> Usage | None:
    """What a process takes; None when it has ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            # The name of the program may contain anything, so what counts begins after its bracket.
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    ticks = sum(int(field) for field in fields[11:15])  # Of its own in user and system mode, and of its children.
    return Usage(int(fields[21]) * os.sysconf("SC_PAGE_SIZE"), ticks * 1_000 // os.sysconf("SC_CLK_TCK"))


class Watch:
    """Looks at a process as long as it runs one job."""

    def __init__(self, pid: int, limits: Limits, exceeded: Callable[[str], None], timekeeper: Timekeeper) -> None:
        """Begin. `exceeded` is called at most once, with what to say."""
        self._pid = pid
        self._limits = limits
        self._exceeded = exceeded
        self._timekeeper = timekeeper
        before = usage_of(pid)
        self._cpu_before_ms = 0 if before is None else before.cpu_ms
        self._entry: Entry = timekeeper.after(PERIOD_S, self._look)
        self._ended = False

    def end(self) -> None:
        """The job has ended."""
        self._ended = True
        self._entry.cancel()

    def _look(self) -> None:
        usage = usage_of(self._pid)
        if usage is None or self._ended:
            return
        broken = self._limits.broken_by(usage._replace(cpu_ms=usage.cpu_ms - self._cpu_before_ms))
        if broken is None:
            self._entry = self._timekeeper.after(PERIOD_S, self._look)
        else:
            self._exceeded(broken)
