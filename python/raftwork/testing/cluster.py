"""A real cluster for tests and the demo: `raftwork node` processes here, that can be killed, paused and started again.

    with Cluster(tmp_path) as cluster:
        app = Raftwork("shop", cluster.url)
        cluster.kill(cluster.leader())

Nothing here waits for a time: each wait asks, or is told, and gives up after `PATIENCE_S`.
"""

from __future__ import annotations

import json
import os
import queue
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from raftwork import _core
from raftwork.errors import RaftworkError
from raftwork.network import Network
from raftwork.worker.supervisor import PARENT_PIPE

__all__ = ["PATIENCE_S", "Cluster", "free_ports"]

PATIENCE_S = 60.0
"""Seconds after which something that must happen has not happened."""


class Cluster:
    """Nodes of one cluster on free ports of 127.0.0.1.

    Args:
        directory: where their data directories and logs go.
        nodes: how many.
        environment: variables for their processes besides those of this one; `RAFTWORK_*` of this one are left out.
    """

    def __init__(self, directory: Path, nodes: int = 3, environment: Mapping[str, str] | None = None) -> None:
        self.directory = directory
        ports = free_ports(nodes)
        self.listen = [f"127.0.0.1:{port}" for port in ports]
        self.clients = [f"127.0.0.1:{port + 1}" for port in ports]
        self.network = Network()
        """How this process reaches them."""
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("RAFTWORK_")}
        self.environment |= environment or {}
        self._nodes: list[_Node | None] = [None] * nodes
        self._first = nodes
        self._pipe = os.pipe()

    @property
    def url(self) -> str:
        """The storage of its clients."""
        return f"raftwork://{','.join(self.clients)}"

    def data(self, number: int) -> Path:
        """The data directory of one node."""
        return self.directory / f"node-{number}"

    def pid(self, number: int) -> int:
        """The process of one node."""
        return self._node(number).process.pid

    def running(self) -> list[int]:
        """The nodes whose processes were started and not ended."""
        return [number for number, node in enumerate(self._nodes) if node is not None]

    def start(self, *numbers: int) -> None:
        """Start these nodes, or all that do not run, and wait until each says that it serves."""
        chosen = numbers or [number for number, node in enumerate(self._nodes) if node is None]
        for number in chosen:
            self.launch(number)
        for number in chosen:
            self.wait_until_serving(number)
        # A group of all of them, not of those that have joined so far: any one may be killed from here on.
        self.health_when(lambda health: health["voters"] == len(self._nodes))

    def launch(self, number: int) -> None:
        """Start one node and do not wait."""
        assert self._nodes[number] is None, f"node {number} runs already"
        command, environment = self.command(number), self.environment_of(number)
        self._nodes[number] = _Node(command, environment, self._pipe[0], self._log(number))

    def command(self, number: int) -> list[str]:
        """The command line of one node."""
        others = "--members" if number < self._first else "--join"
        return [
            *(sys.executable, "-m", "raftwork", "node", "--json"),
            *(
                "--data",
                str(self.data(number)),
                "--listen",
                self.listen[number],
                others,
                ",".join(self.listen[: self._first]),
            ),
        ]

    def environment_of(self, number: int) -> dict[str, str]:
        """The variables of one node."""
        return self.environment

    def grow(self) -> int:
        """Choose the address of one more node, which joins when it is started; answers its number."""
        self.listen.append("")
        self.clients.append("")
        self._nodes.append(None)
        self.move(len(self._nodes) - 1)
        return len(self._nodes) - 1

    def move(self, number: int) -> None:
        """Choose another address for a node that does not run."""
        assert self._nodes[number] is None, f"node {number} runs"
        (port,) = free_ports(1)
        self.listen[number], self.clients[number] = f"127.0.0.1:{port}", f"127.0.0.1:{port + 1}"

    def wait_until_serving(self, number: int) -> dict[str, Any]:
        """Return when the node says that it serves; answers what it says of itself."""
        node = self._node(number)
        try:
            line = node.said.get(timeout=PATIENCE_S)
        except queue.Empty:
            line = None
        assert line, f"node {number} does not serve:\n{self._log(number).read_text()[-4_000:]}"
        node.said.put(line)
        serving: dict[str, Any] = json.loads(line)
        return serving

    def wait_for_end(self, number: int) -> str:
        """Return when the node has ended by itself; answers what it wrote to its error stream."""
        self._node(number).wait()
        self._nodes[number] = None
        return self._log(number).read_text()

    def kill(self, *numbers: int) -> None:
        """SIGKILL to these nodes, or to all that run: first to each, then wait for the end of each."""
        self._end(numbers or tuple(self.running()), signal.SIGKILL)

    def stop(self, *numbers: int) -> list[int]:
        """SIGTERM, likewise; answers their exit statuses."""
        return self._end(numbers or tuple(self.running()), signal.SIGTERM)

    def pause(self, number: int) -> None:
        """SIGSTOP, and return when the whole process has stopped."""
        os.kill(self.pid(number), signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid(number), os.WSTOPPED | os.WNOWAIT)

    def resume(self, number: int) -> None:
        """SIGCONT."""
        os.kill(self.pid(number), signal.SIGCONT)

    def health(self, number: int, timeout_ms: int = 3_000) -> dict[str, Any] | None:
        """What one node says of itself. None: it does not answer."""
        options = self.network.client_options() | {"node": self.clients[number], "timeout_ms": timeout_ms}
        try:
            said = _core.look_at_member(msgspec.msgpack.encode(options))
        except RaftworkError:
            return None
        found: dict[str, Any] = msgspec.msgpack.decode(said)[0]
        return found

    def health_when(
        self, holds: Callable[[dict[str, Any]], bool], but: int | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Ask the node that leads, until there is one and this holds of what it says of itself.

        Args:
            holds: what must hold.
            but: a node that is not meant, such as one that is paused and does not know that another leads.
        """
        until = time.monotonic() + PATIENCE_S
        seen: dict[int, dict[str, Any] | None] = {}
        while time.monotonic() < until:
            for number in self.running():
                seen[number] = health = None if number == but else self.health(number)
                if health and health["role"] == "leader" and not health["cut_off"] and holds(health):
                    return number, health
        raise AssertionError(f"no node leads, or not as it should, after {PATIENCE_S} s: {seen}")

    def leader(self, but: int | None = None) -> int:
        """The node that leads, as it says itself; asks until there is one.

        Args:
            but: a node that is not meant, such as one that is paused and does not know that another leads.
        """
        return self.health_when(lambda health: True, but)[0]

    def follower(self) -> int:
        """A node that runs and does not lead."""
        leader = self.leader()
        return next(number for number in self.running() if number != leader)

    def close(self) -> None:
        """Kill what runs."""
        self.kill()
        for end in self._pipe:
            os.close(end)

    def __enter__(self) -> Cluster:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _end(self, numbers: tuple[int, ...], number_of_signal: signal.Signals) -> list[int]:
        nodes = [self._node(number) for number in numbers]
        for node in nodes:
            node.process.send_signal(number_of_signal)
        statuses = [node.wait() for node in nodes]
        for number in numbers:
            self._nodes[number] = None
        return statuses

    def _node(self, number: int) -> _Node:
        node = self._nodes[number]
        assert node is not None, f"node {number} does not run"
        return node

    def _log(self, number: int) -> Path:
        return self.directory / f"node-{number}.log"


class _Node:
    """One process, and the lines it says."""

    def __init__(self, command: list[str], environment: Mapping[str, str], parent: int, log: Path) -> None:
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**environment, PARENT_PIPE: str(parent)},
                pass_fds=(parent,),
                # Ctrl-C in a terminal is for whoever runs the cluster, and ends the nodes in order.
                start_new_session=True,
                text=True,
            )
        self.said: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, name="node-output", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.put(line)
        self.said.put(None)

    def wait(self) -> int:
        """Wait for its end; answers its status."""
        status = self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that are free now, and so is the next one of each.

    From below those that the system gives to outgoing connections, so that none takes one meanwhile.
    """
    found: list[int] = []
    held: list[socket.socket] = []
    try:
        while len(found) < count:
            port = random.randrange(20_000, 32_000, 2)
            try:
                held += [_hold(port), _hold(port + 1)]
            except OSError:
                continue
            found.append(port)
    finally:
        for each in held:
            each.close()
    return found


def _hold(port: int) -> socket.socket:
    held = socket.socket()
    try:
        held.bind(("127.0.0.1", port))
    except OSError:
        held.close()
        raise
    return held
