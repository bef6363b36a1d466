"""A directory, a client of it, and real worker processes, for tests that stop, kill and replace them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from raftwork.app import Raftwork
from worker import shop_jobs

WAIT_S = 60
FOLDER = Path(__file__).parents[1]


class Knock(NamedTuple):
    """One run of a job, waiting for a word."""

    pid: int
    attempt: int
    crashes: int
    token: int
    door: socket.socket

    def say(self, word: str) -> None:
        """What the job shall return."""
        self.door.sendall(word.encode())


class Shop:
    """A directory, a client of it, and worker processes."""

    def __init__(self, folder: Path) -> None:
        self.url = f"raft:///{folder / 'jobs'}"
        self.server = socket.create_server(("127.0.0.1", 0))
        self.server.settimeout(WAIT_S)
        self.port = self.server.getsockname()[1]
        self.client: Raftwork | None = None
        self.workers: list[subprocess.Popen[bytes]] = []
        self.doors: list[socket.socket] = []

    def open(self, ttl: str = "15s") -> Any:
        """Open a client in this process; the task `waits` bound to it."""
        self.client = Raftwork("client", self.url, session_ttl=ttl)
        self.tasks = {
            name: self.client.task(name=name, **task._options)(task.fn) for name, task in shop_jobs.app.tasks.items()
        }
        self.client.open()
        return self.tasks["shop.waits"]

    def work(self, module: str = "worker.shop_jobs", **env: str) -> subprocess.Popen[bytes]:
        """Start a worker process."""
        paths = os.pathsep.join([str(FOLDER), *sys.path])
        process = subprocess.Popen(
            [sys.executable, "-m", module],
            env={**os.environ, "SHOP_STORAGE": self.url, "PYTHONPATH": paths, **env},
            cwd=FOLDER,
        )
        self.workers.append(process)
        return process

    def knock(self) -> Knock:
        """Wait for a job to start."""
        door, _ = self.server.accept()
        self.doors.append(door)
        door.settimeout(WAIT_S)
        return Knock(*map(int, door.recv(64).split()), door)

    def close(self) -> None:
        for process in self.workers:
            process.kill()
            process.wait()
        for door in self.doors:
            door.close()
        self.server.close()
        if self.client is not None:
            self.client.close()
