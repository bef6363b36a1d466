"""`raftwork worker --processes N`: whole processes are started again when they end, and stop when told."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = pytest.mark.crash

CHILD = """
import os, signal, socket, sys
from raftwork.worker import end_with_parent
door = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
def stop(number, frame):
    door.sendall(b"stopped\\n")
    os._exit(0)
signal.signal(signal.SIGTERM, stop)
end_with_parent()
door.sendall(b"up %d\\n" % os.getpid())
while True:
    signal.pause()
"""

PARENT = """
import signal, sys
from raftwork.worker import Supervisor
supervisor = Supervisor([sys.executable, sys.argv[1], sys.argv[2]], 2, backoff_s=(0.0, 0.01))
signal.signal(signal.SIGUSR1, lambda number, frame: supervisor.restart())
sys.exit(supervisor.run())
"""


class Family:
    """A supervisor and the lines that its children say."""

    def __init__(self, folder: Path) -> None:
        (folder / "child.py").write_text(textwrap.dedent(CHILD))
        (folder / "parent.py").write_text(textwrap.dedent(PARENT))
        self.server = socket.create_server(("127.0.0.1", 0))
        self.server.settimeout(30)
        port = str(self.server.getsockname()[1])
        command = [sys.executable, str(folder / "parent.py"), str(folder / "child.py"), port]
        self.process = subprocess.Popen(command)
        self.connections: list[socket.socket] = []

    def child(self) -> tuple[int, socket.socket]:
        """Wait for the next child; its process id and connection."""
        connection, _ = self.server.accept()
        self.connections.append(connection)
        connection.settimeout(30)
        return int(connection.recv(64).split()[1]), connection

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for connection in self.connections:
            connection.close()
        self.server.close()


@pytest.fixture
def family(tmp_path: Path) -> Family:  # type: ignore[misc]
    family = Family(tmp_path)
    yield family
    family.close()


def test_a_child_that_dies_is_started_again(family: Family) -> None:
    (first, connection), (second, _) = family.child(), family.child()
    assert first != second
    os.kill(first, signal.SIGKILL)
    assert connection.recv(64) == b""
    again, _ = family.child()
    assert again not in (first, second)
    os.kill(second, signal.SIGKILL)
    assert family.child()[0] != again


def test_a_stop_signal_reaches_the_children(family: Family) -> None:
    connections = [family.child()[1], family.child()[1]]
    family.process.send_signal(signal.SIGTERM)
    assert [connection.recv(64) for connection in connections] == [b"stopped\n", b"stopped\n"]
    assert family.process.wait(30) == 0


def test_a_restart_replaces_every_child_by_one_that_starts_when_it_has_ended(family: Family) -> None:
    old = [family.child(), family.child()]
    family.process.send_signal(signal.SIGUSR1)
    new = [family.child(), family.child()]
    assert [connection.recv(64) for _, connection in old] == [b"stopped\n", b"stopped\n"]
    assert not {pid for pid, _ in old} & {pid for pid, _ in new}
    family.process.send_signal(signal.SIGTERM)
    assert [connection.recv(64) for _, connection in new] == [b"stopped\n", b"stopped\n"]
    assert family.process.wait(30) == 0


def test_children_stop_when_the_supervisor_is_killed(family: Family) -> None:
    connections = [family.child()[1], family.child()[1]]
    family.process.kill()
    assert [connection.recv(64) for connection in connections] == [b"stopped\n", b"stopped\n"]
