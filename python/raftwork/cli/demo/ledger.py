"""What was promised and what was done, written down outside of raftwork.

Two plain files. `acknowledged.txt` is written by the enqueuing side, after each enqueue returned, and fsynced.
`executions.txt` is opened for appending by every job; one line is one `write`, so lines of different processes never
mix, and a killed process loses none that it wrote. Nothing here reads raftwork's own counters.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Acknowledged", "Executions", "Reader", "Run"]


class Acknowledged:
    """The ids that enqueue answered."""

    def __init__(self, path: Path) -> None:
        self.ids: set[str] = set()
        self._file = path.open("a", encoding="utf-8")

    def add(self, ids: Iterable[str]) -> None:
        """Write ids down; on disk when this returns."""
        new = list(ids)
        self._file.write("".join(f"{job}\n" for job in new))
        self._file.flush()
        os.fsync(self._file.fileno())
        self.ids.update(new)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Executions:
    """Where jobs write that they started and that they are done."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def note(self, what: str, job: str, token: int) -> None:
        """Append one line."""
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, f"{what} {job} {token} {os.getpid()}\n".encode())
        finally:
            os.close(descriptor)


@dataclass
class Run:
    """One execution: a lease of a job, in a process."""

    token: int
    pid: int
    done: bool = False


@dataclass
class Reader:
    """Follows `executions.txt` as it grows."""

    path: Path
    runs: dict[str, list[Run]] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    _offset: int = 0

    def read(self) -> None:
        """Take in what was written since the last call."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._offset)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.decode().splitlines():
            what, job, token, pid = line.split(" ")
            runs = self.runs.setdefault(job, [])
            if what == "start":
                runs.append(Run(int(token), int(pid)))
            else:
                self.done.add(job)
                for run in runs:
                    run.done = run.done or run.token == int(token)

    def repeated(self, killed: dict[int, str]) -> Counter[str]:
        """Jobs that ran more than once, counted by the reason. `killed` names the role of each killed process."""
        reasons: Counter[str] = Counter()
        for runs in self.runs.values():
            reasons.update(_reason(run, killed) for run in runs[:-1])
        return reasons


def _reason(run: Run, killed: dict[int, str]) -> str:
    role = killed.get(run.pid)
    if role is None:
        return f"process {run.pid} lost its lease"
    if run.done:
        return f"done, but {role} {run.pid} was killed before it could say so"
    return f"{role} {run.pid} was killed in the middle of it"
