"""What was promised and what was done, written down outside of the cluster.

Two plain files. `acknowledged.txt` is written by the enqueuing side, after each enqueue returned, and fsynced.
`executions.txt` is opened for appending by every worker; one line is one `write`, so lines of different processes never
mix, and a killed process loses none that it wrote. Nothing here reads raftwork's own counters.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from raftwork import clock

__all__ = ["Acknowledged", "Executions", "Ledger", "Run"]


class Acknowledged:
    """The ids that enqueue answered."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("a", encoding="utf-8")

    def add(self, ids: Iterable[str]) -> None:
        """Write ids down; on disk when this returns."""
        self._file.write("".join(f"{job}\n" for job in ids))
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Executions:
    """Where jobs write that they started and how they ended."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def note(self, what: str, job: str, token: int) -> None:
        """Append one line: `start`, `done` or `failed`."""
        os.write(self._descriptor, f"{what} {job} {token} {os.getpid()} {clock.monotonic():.3f}\n".encode())


@dataclass(slots=True)
class Run:
    """One execution: a lease of a job, in a process."""

    token: int
    pid: int
    began: float
    """On the monotonic clock, which all processes of a machine share."""
    end: str = ""
    """`done`, `failed`, or nothing when no end was written down."""


class Ledger:
    """Both files together, followed as they grow. From any thread."""

    def __init__(self, place: Path) -> None:
        self.executions_path = place / "executions.txt"
        self.acknowledged: set[str] = set()
        self.done: set[str] = set()
        self.failed: set[str] = set()
        self.running: set[str] = set()
        self.runs: dict[str, list[Run]] = {}
        self.twice = 0
        """Runs after the first one of a job, those after a retry that was asked for not counted."""
        self._unfinished: set[str] = set()
        self._file = Acknowledged(place / "acknowledged.txt")
        self._offset = 0
        self._lock = threading.Lock()

    def acknowledge(self, ids: list[str]) -> None:
        """These were answered."""
        self._file.add(ids)
        with self._lock:
            self.acknowledged.update(ids)
            # A job may have ended before its enqueue returned.
            self._unfinished.update(job for job in ids if job not in self.done and job not in self.failed)

    def read(self) -> None:
        """Take in what the jobs wrote since the last call."""
        with self._lock:
            if not self.executions_path.exists():
                return
            with self.executions_path.open("rb") as file:
                file.seek(self._offset)
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]
            self._offset += len(whole)
            for line in whole.decode().splitlines():
                self._take(*line.split(" "))

    def unfinished(self) -> set[str]:
        """A copy of the ids that were acknowledged, and have neither succeeded nor failed."""
        with self._lock:
            return set(self._unfinished)

    def close(self) -> None:
        """Close the files; what was read stays."""
        self._file.close()

    def repeated(self, reason_of: Callable[[Run, Run], str]) -> Counter[str]:
        """Executions that another one repeated, counted by the reason that is given for the pair."""
        reasons: Counter[str] = Counter()
        for runs in self.runs.values():
            for run, after in pairwise(runs):
                if run.end != "failed":
                    reasons[reason_of(run, after)] += 1
        return reasons

    def _take(self, what: str, job: str, token: str, pid: str, at: str) -> None:
        runs = self.runs.setdefault(job, [])
        if what == "start":
            if runs and runs[-1].end != "failed":
                self.twice += 1
            runs.append(Run(int(token), int(pid), float(at)))
            self.running.add(job)
            return
        run = next(run for run in reversed(runs) if run.token == int(token))
        run.end = what
        self._unfinished.discard(job)
        if run is runs[-1]:
            self.running.discard(job)
        if what == "done":
            self.done.add(job)
            self.failed.discard(job)
        elif job not in self.done:
            self.failed.add(job)
