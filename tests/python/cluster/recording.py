"""What clients and workers asked and were told, written outside of the cluster, while it happens.

A process writes one line when an operation begins and one when it ends, each in one write, so that a kill leaves the
operation open: nobody knows then whether it happened. `verdict` makes one line of the two, in the form of
`tests/sim/history.rs`. Times are nanoseconds of CLOCK_MONOTONIC, which all processes of a machine share.
"""

import mmap
import os
import struct
import time
from pathlib import Path
from typing import Any

import msgspec

from raftwork.errors import DiskFull, NotCommitted, Overloaded, RaftworkError

_encode = msgspec.json.encode

REFUSED = (NotCommitted, Overloaded, DiskFull)
"""What these say is definite (D2): the operation did not happen and will not."""


class Recorder:
    """Writes the operations of one process."""

    def __init__(self, path: Path, process: int) -> None:
        self.process = process
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._next = 0

    def begin(self, operation: str, arguments: dict[str, Any]) -> int:
        """An operation is about to be asked for; gives its number."""
        beginning = self._beginning(operation, arguments)
        self._write(beginning)
        return int(beginning["number"])

    def answered(self, number: int, index: int | None, answer: Any) -> None:
        """It was answered."""
        self._end(number, {"index": index, "answer": answer})

    def failed(self, number: int, error: RaftworkError) -> None:
        """It was refused, or nobody knows."""
        definite = isinstance(error, REFUSED)
        self._end(number, {"error": "not_committed" if definite else "unknown", "why": str(error)[:200]})

    def saw(self, began: int, operation: str, arguments: dict[str, Any], index: int, answer: Any) -> None:
        """Something was read, and is worth an operation of its own."""
        end = {"ended": time.monotonic_ns(), "index": index, "answer": answer}
        self._write(self._beginning(operation, arguments) | {"began": began} | end)

    def note(self, **words: Any) -> None:
        """Something that is no operation."""
        self._write({"process": self.process, "note": words, "at": time.monotonic_ns()})

    def _beginning(self, operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
        number, self._next = self._next, self._next + 1
        beginning = {"process": self.process, "number": number, "began": time.monotonic_ns()}
        return beginning | {"operation": operation, "arguments": arguments}

    def _end(self, number: int, words: dict[str, Any]) -> None:
        self._write({"process": self.process, "number": number, "ended": time.monotonic_ns(), **words})

    def _write(self, line: dict[str, Any]) -> None:
        os.write(self._file, _encode(line) + b"\n")


class Board:
    """A page that the test and its load share: whether to go on, and how many operations each process has done."""

    SLOTS = 64

    def __init__(self, path: Path, create: bool = False) -> None:
        self.path = path
        if create:
            path.write_bytes(bytes(4_096))
        with path.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), 4_096)
        self._parent = os.getppid()

    def stop_clients(self) -> None:
        self._page[0] = 1

    def stop_workers(self) -> None:
        self._page[1] = 1

    @property
    def clients_stop(self) -> bool:
        return self._page[0] == 1 or self._is_orphan()

    @property
    def workers_stop(self) -> bool:
        return self._page[1] == 1 or self._is_orphan()

    def _is_orphan(self) -> bool:
        """Whether the test that started this process is gone."""
        return os.getppid() != self._parent

    def count(self, slot: int) -> None:
        """One more answer for the process of this slot."""
        place = 64 + 8 * slot
        struct.pack_into("<q", self._page, place, struct.unpack_from("<q", self._page, place)[0] + 1)

    def counts(self) -> list[int]:
        """The answers of each slot."""
        return list(struct.unpack_from(f"<{self.SLOTS}q", self._page, 64))

    def close(self) -> None:
        self._page.close()
