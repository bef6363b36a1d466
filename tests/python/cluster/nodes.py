"""The nodes: `raftwork node` processes, each on a machine and a disk of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from cluster import machine
from cluster.machine import Page
from cluster.network import Network
from faults.filesystem import FaultyFilesystem
from raftwork import _core
from raftwork.errors import RaftworkError
from raftwork.network import ALLOW_INSECURE, INSECURE_WORDS
from raftwork.testing.cluster import PATIENCE_S, Cluster

PORT = 7_000
ASK_MS = 1_000

INSECURE = {"RAFTWORK_INSECURE": INSECURE_WORDS, ALLOW_INSECURE: "1"}
"""The network is one that the test made, and the wall clocks jump by more than a certificate is valid."""
SEGMENT = {"RAFTWORK_SEGMENT_BYTES": str(8 << 20)}
"""Small files of the log: it goes from one to the next every minute, and a full disk is felt soon."""


class Nodes(Cluster):
    """A cluster whose nodes have a namespace, a file system and a wall clock each. Use it inside of the network."""

    def __init__(self, directory: Path, network: Network, settings: Mapping[str, str] = MappingProxyType({})) -> None:
        super().__init__(directory, network.nodes, {**INSECURE, **SEGMENT, **settings})
        self.wires = network
        self.listen = [f"{network.address(number)}:{PORT}" for number in range(network.nodes)]
        self.clients = [f"{network.address(number)}:{PORT + 1}" for number in range(network.nodes)]
        self.library = machine.build(directory)
        self.disks: list[FaultyFilesystem] = []
        self.pages = [Page(directory / f"page-{number}") for number in range(network.nodes)]
        self._stack = ExitStack()

    @property
    def count(self) -> int:
        """How many nodes there are."""
        return self.wires.nodes

    def create_disks(self) -> None:
        """Make and mount a file system for each node, ext4 and XFS in turn."""
        for number in range(self.count):
            folder = self.directory / f"disk-{number}"
            folder.mkdir()
            disk = FaultyFilesystem(("ext4", "xfs")[number % 2], folder)
            self._stack.callback(disk.destroy)
            disk.create()
            self.disks.append(disk)

    def data(self, number: int) -> Path:
        return self.disks[number].root / "node"

    def command(self, number: int) -> list[str]:
        return [*self.wires.command(number), *super().command(number)]

    def environment_of(self, number: int) -> dict[str, str]:
        return super().environment_of(number) | self.pages[number].environment(self.library)

    def look(self, number: int) -> dict[str, Any] | None:
        """What one node says of itself. None: it does not answer within a second."""
        options = {"node": self.clients[number], "timeout_ms": ASK_MS, "insecure": True}
        try:
            said = _core.look_at_member(msgspec.msgpack.encode(options))
        except RaftworkError:
            return None
        found: dict[str, Any] = msgspec.msgpack.decode(said)[0]
        return found

    def health(self, number: int, timeout_ms: int = ASK_MS) -> dict[str, Any] | None:
        return self.look(number)

    def all_health(self) -> dict[int, dict[str, Any]]:
        """What all running nodes say of themselves, asked at the same time. Those that do not answer are left out."""
        found: dict[int, dict[str, Any]] = {}

        def ask(number: int) -> None:
            if (health := self.look(number)) is not None:
                found[number] = health

        askers = [threading.Thread(target=ask, args=(number,)) for number in self.running()]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join()
        return found

    def who_leads(self, but: Collection[int] = ()) -> int:
        """The node that leads in the newest term, asked until there is one.

        Args:
            but: nodes that are not asked, such as those cut off, which may not know yet that another leads.
        """
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            leading = {
                number: int(health["term"])
                for number, health in self.all_health().items()
                if number not in but and health["role"] == "leader" and not health["cut_off"]
            }
            if leading:
                return max(leading, key=lambda number: leading[number])
        raise AssertionError(f"no node leads after {PATIENCE_S} s")

    def alarms(self, number: int) -> list[str]:
        """The alarms of one node; none if it does not answer."""
        return list((self.look(number) or {}).get("alarms", ()))

    def said(self, number: int) -> int:
        """How much the node has written to its standard error so far."""
        path = self._log(number)
        return path.stat().st_size if path.exists() else 0

    def log(self, number: int, since: int | None = None) -> str:
        """What the node wrote to its standard error since it had written so much, or the end of all."""
        path = self._log(number)
        if not path.exists():
            return ""
        written = path.read_bytes()
        return written[-4_000 if since is None else since :].decode(errors="replace")

    def ended(self, number: int) -> int | None:
        """The exit status of a node whose process ended by itself, and forget it. None: it runs."""
        status = self._node(number).process.poll()
        if status is not None:
            self._end((number,), 0)
        return status

    def close(self) -> None:
        """Kill what runs, unmount, and remove the disks."""
        try:
            super().close()
        finally:
            self._stack.close()
            for page in self.pages:
                page.close()
