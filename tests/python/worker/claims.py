"""Claimed jobs without a storage, for tests of single parts of a worker."""

from __future__ import annotations

import msgspec

from raftwork.serde import encode_args
from raftwork.storage.base import decode_claimed
from raftwork.worker.leases import Board
from raftwork.worker.run import Run
from raftwork.worker.timekeeper import Timekeeper

__all__ = ["Silent", "claim", "run_on"]


class Silent:
    """A channel that keeps nothing."""

    def write(self, run: Run, progress: bytes | None, state: bytes | None) -> None: ...

    def settle(self, run: Run) -> None: ...

    def line(self, run: Run, line: str) -> None: ...


def claim(function: str, number: int = 1, token: int | None = None) -> bytes:
    """A claimed job as the core hands it out. Its lease has the token `number` if no other is given."""
    token = number if token is None else token
    fields = (number.to_bytes(16, "big"), token, function, "default", encode_args((), {}), 1, 0, 0, 0, 0, 0)
    return msgspec.msgpack.encode((*fields, None, 10, 3, (), b"", None))


def run_on(board: Board, raw: bytes) -> Run:
    """A run of this job, which is on the board."""
    run = Run(decode_claimed(raw), Silent(), Timekeeper())
    board.runs[run.claim.token] = run
    return run
