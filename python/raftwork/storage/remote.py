"""`raftwork://`: a cluster over the network. The client finds a member that can answer, and another when it ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from raftwork import _core
from raftwork.network import Network
from raftwork.storage.base import Capabilities
from raftwork.storage.client import NOTE, ClientStorage

__all__ = ["RemoteStorage"]


class RemoteStorage(ClientStorage):
    """Jobs of a cluster that this process is no node of.

    Args:
        nodes: where members serve clients, `host:port`. One that answers is enough; more are found when it does not.
        session_ttl_ms: silence, in milliseconds, after which this process counts as dead.
        submit_timeout_ms: longest wait of one write.
        open_timeout_ms: how long to wait for a member that answers, when it is opened.
        network: the certificates of this process. None: plain, to members on this machine only.
        labels: shown with this process's sessions.

    Raises:
        ConfigError: certificates are missing, or do not go together with other settings.
    """

    capabilities = Capabilities(durable=True, shared=True, replicated=True)

    def __init__(
        self,
        nodes: Sequence[str],
        *,
        session_ttl_ms: int = 15_000,
        submit_timeout_ms: int = 30_000,
        open_timeout_ms: int = 30_000,
        network: Network | None = None,
        labels: dict[str, str] | None = None,
    ) -> None:
        super().__init__(submit_timeout_ms)
        self.nodes = tuple(nodes)
        self.open_timeout_ms = open_timeout_ms
        self._options: dict[str, Any] = {
            "nodes": self.nodes,
            "ttl_ms": session_ttl_ms,
            "kind": "client",
            "labels": labels or {},
            **(network or Network()).client_options(),
        }

    def _connect(self) -> _core.Client:
        return _core.Client.connect(msgspec.msgpack.encode(self._options | {"open_timeout_ms": self.open_timeout_ms}))

    def note(self, what: str, about: str) -> None:
        self.order(NOTE, what, about)

    def __repr__(self) -> str:
        return f"<RemoteStorage {','.join(self.nodes)}>"
