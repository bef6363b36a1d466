"""`memory://`: the same state machine, in this process and in memory only. For tests, and for work that may be lost."""

from __future__ import annotations

import msgspec

from raftwork import _core
from raftwork.storage.base import Capabilities
from raftwork.storage.client import ClientStorage

__all__ = ["MemoryStorage"]

EXPIRE_SESSION = 3


class MemoryStorage(ClientStorage):
    """Jobs in the memory of this process.

    Args:
        manual_clock: time stands still until `advance` moves it.
        submit_timeout_ms: longest wait of one write.
    """

    # A child with an empty copy would take jobs that nobody ever runs; its calls raise ForkedProcess instead.
    _reopens_in_child = False

    def __init__(self, *, manual_clock: bool = False, submit_timeout_ms: int = 30_000) -> None:
        super().__init__(submit_timeout_ms)
        self.capabilities = Capabilities(durable=False, shared=False, manual_clock=manual_clock)

    def _connect(self) -> _core.Client:
        clock = "manual" if self.capabilities.manual_clock else "real"
        return _core.Client.memory(msgspec.msgpack.encode({"clock": clock}))

    def advance(self, ms: int) -> None:
        """Move the clock and do what becomes due. Only with `manual_clock`."""
        if not self.capabilities.manual_clock:
            super().advance(ms)
        (self._client or self._open()).advance(ms)

    def lapse(self, session: int) -> None:
        """End a session as if its process had died: its jobs are lost to it, and each counts a crash. For tests."""
        self._submit((EXPIRE_SESSION, session))

    def __repr__(self) -> str:
        return "<MemoryStorage>"
