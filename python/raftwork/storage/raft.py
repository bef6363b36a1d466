"""`raft://`: the default. The first process that opens the directory owns the node, others attach over its socket.

With `listen` in its network the node is one of several: see `raftwork.network`. A process without it only attaches to
the node of such a directory.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from raftwork import _core
from raftwork.network import Network
from raftwork.storage.base import Capabilities
from raftwork.storage.client import NOTE, ClientStorage

__all__ = ["RaftStorage"]


class RaftStorage(ClientStorage):
    """Jobs in a directory of this machine, shared by all processes of this user that open it.

    Args:
        path: the data directory; made on first use, readable by this user only.
        session_ttl_ms: silence, in milliseconds, after which this process counts as dead.
        submit_timeout_ms: longest wait of one write.
        segment_bytes, snapshot_bytes: sizes of the log, for the process that owns the node. None: the core's defaults.
        max_jobs, max_state_bytes: what the state may hold before that node accepts no more jobs. None: all that it can.
        network: how the node is one of several, for the process that owns it. None: it is alone and has no port.
        labels: shown with this process's sessions.

    Raises:
        ConfigError: settings of the network do not go together.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        session_ttl_ms: int = 15_000,
        submit_timeout_ms: int = 30_000,
        segment_bytes: int | None = None,
        snapshot_bytes: int | None = None,
        max_jobs: int | None = None,
        max_state_bytes: int | None = None,
        network: Network | None = None,
        labels: dict[str, str] | None = None,
    ) -> None:
        super().__init__(submit_timeout_ms)
        member = (network or Network()).node_options()
        self.capabilities = Capabilities(durable=True, shared=True, replicated=bool(member))
        # Absolute from now on: a program that changes its directory must not open another one later.
        self.path = Path(os.path.abspath(path))
        self._options: dict[str, Any] = {"ttl_ms": session_ttl_ms, "kind": "client", "labels": labels or {}, **member}
        self.owner_patience_ms: int | None = None
        """How long, in milliseconds, this process waits for the node of a member's directory, which it must not open
        itself without the settings of that member. None: the core's default, 20,000."""
        sizes = {
            "segment_bytes": segment_bytes,
            "snapshot_bytes": snapshot_bytes,
            "max_jobs": max_jobs,
            "max_state_bytes": max_state_bytes,
        }
        self._options |= {name: value for name, value in sizes.items() if value is not None}

    def _connect(self) -> _core.Client:
        patience = {} if self.owner_patience_ms is None else {"owner_patience_ms": self.owner_patience_ms}
        return _core.Client.open(str(self.path), msgspec.msgpack.encode(self._options | patience))

    def note(self, what: str, about: str) -> None:
        self.order(NOTE, what, about)

    def __repr__(self) -> str:
        return f"<RaftStorage {self.path}>"
