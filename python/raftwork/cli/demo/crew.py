"""The processes of the demo: started, killed with SIGKILL, and never left behind."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

from raftwork import clock
from raftwork.errors import NodeFailed

__all__ = ["Crew", "Member"]

READY_SECONDS_MAX = 20.0
STOP_SECONDS_MAX = 3.0


@dataclass
class Member:
    """One process."""

    role: str
    process: subprocess.Popen[bytes]
    state: str = "running"

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid


class Crew:
    """All processes of one demo. Leaving the context ends them."""

    def __init__(self, environment: dict[str, str], announce: Callable[[str], None]) -> None:
        self.members: list[Member] = []
        self.killed: dict[int, str] = {}
        self._environment = {**os.environ, **environment}
        self._announce = announce

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        running = [member for member in self.members if member.process.poll() is None]
        for member in running:
            member.process.terminate()
        for member in running:
            try:
                member.process.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                member.process.kill()
                member.process.wait()
        for member in self.members:
            for pipe in (member.process.stdin, member.process.stdout):
                if pipe is not None:
                    pipe.close()

    def start(self, role: str) -> Member:
        """Start a process; it may take a moment until it is ready."""
        process = subprocess.Popen(
            [sys.executable, "-m", "raftwork.cli.demo.child", role],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self._environment,
            # Ctrl-C is for the demo, which then ends its processes in order.
            start_new_session=True,
        )
        member = Member(role, process)
        self.members.append(member)
        return member

    def wait_ready(self, member: Member) -> None:
        """Return when the process serves.

        Raises:
            NodeFailed: it ended, or was not ready in time.
        """
        output = member.process.stdout
        assert output is not None, "start() asks for a pipe"
        line = _read_line(output, READY_SECONDS_MAX)
        if not line.startswith(b"ready"):
            raise NodeFailed(f"The {member.role} process {member.pid} did not become ready; its errors are above.")
        self._announce(f"{member.role} {member.pid} is ready ({line.decode().split()[1]})")

    def kill(self, member: Member) -> None:
        """End a process as a power cut would: no handler runs, nothing is flushed."""
        os.kill(member.pid, signal.SIGKILL)
        member.process.wait()
        member.state = "killed"
        self.killed[member.pid] = member.role
        self._announce(f"SIGKILL to {member.role} {member.pid}")

    def first(self, role: str) -> Member:
        """The oldest process of a role that runs."""
        return next(member for member in self.members if member.role == role and member.state == "running")

    def ended(self) -> list[Member]:
        """Processes that ended without being killed by the demo."""
        return [member for member in self.members if member.state == "running" and member.process.poll() is not None]


def _read_line(output: IO[bytes], seconds: float) -> bytes:
    """One line, or what there is at the end of the file or of the time."""
    end = clock.monotonic() + seconds
    line = b""
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        while not line.endswith(b"\n"):
            if not selector.select(max(0.0, end - clock.monotonic())):
                return line
            byte = os.read(output.fileno(), 1)
            if not byte:
                return line
            line += byte
    return line
