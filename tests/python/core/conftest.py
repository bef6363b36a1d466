"""Processes that a test starts, kills and waits for."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raftwork import _core

HERE = Path(__file__).parent


class Process:
    """One process that runs a part of `parts.py`: lines in, lines out."""

    def __init__(self, *args: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
        self.popen = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-W", "error", str(HERE / "parts.py"), *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.pid = self.popen.pid

    def read(self) -> str:
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        assert line, f"the process ended with {self.popen.wait(10)}"
        return line.strip()

    def lines(self) -> list[str]:
        """What it still says until it ends."""
        assert self.popen.stdout is not None
        return [line.strip() for line in self.popen.stdout]

    def say(self, line: str) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write(line + "\n")
        self.popen.stdin.flush()

    def ask(self, line: str) -> str:
        self.say(line)
        return self.read()

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait(20)

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.popen.kill()
        self.popen.wait(20)
        for pipe in (self.popen.stdin, self.popen.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    """Starts processes; whatever is left is killed at the end."""
    started: list[Process] = []

    def begin(*args: object) -> Process:
        started.append(Process(*map(str, args)))
        return started[-1]

    yield begin
    for process in started:
        process.end()


@pytest.fixture
def memory() -> Iterator[_core.Client]:
    client = _core.Client.memory()
    yield client
    client.close(5)
