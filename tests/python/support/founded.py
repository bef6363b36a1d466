"""A cluster with certificates, made by commands alone: no file is written or changed by the test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from raftwork.testing.cluster import free_ports
from support.command_line import start

WAIT_S = 90


def command(*arguments: str, at: Path, **environment: str) -> Any:
    """Run a command line in a directory. Returns what it said as JSON.

    Raises:
        AssertionError: it failed; the words say why.
    """
    status, out, err = attempt(*arguments, at=at, **environment)
    assert status == 0, (arguments, err)
    return json.loads(out)


def attempt(*arguments: str, at: Path, **environment: str) -> tuple[int, str, str]:
    """Run a command line in a directory. Returns status, output and errors."""
    with start(*arguments, "--json", cwd=at, **environment) as process:
        out, err = process.communicate(timeout=WAIT_S)
        return process.returncode, out, err


class Founded:
    """Nodes in directories of their own; the first has the authority's key."""

    def __init__(self, directory: Path, nodes: int = 1, settings: dict[str, str] | None = None) -> None:
        self.directory = directory
        self.environment = {**os.environ, **(settings or {})}
        self.listen = [f"127.0.0.1:{port}" for port in free_ports(max(nodes, 3))]
        self.processes: dict[int, subprocess.Popen[str]] = {}
        made = command("cluster", "init", str(self.at(0)), "--listen", self.listen[0], at=directory)
        self.cluster, self.token = made["cluster"], made["token"]
        self.begin(0)
        for number in range(1, nodes):
            self.join(number)

    def at(self, number: int) -> Path:
        return self.directory / f"n{number}"

    @property
    def ca(self) -> str:
        return str(self.at(0) / "pki" / "ca.pem")

    @property
    def url(self) -> str:
        """Where clients reach the nodes that were started."""
        ports = (self.listen[number].rpartition(":")[2] for number in sorted(self.processes))
        return f"raftwork://{','.join(f'127.0.0.1:{int(port) + 1}' for port in ports)}"

    def invite(self, *arguments: str) -> str:
        text: str = command("cluster", "invite", *arguments, at=self.at(0))["invitation"]
        return text

    def join(self, number: int) -> None:
        listen = self.listen[number]
        command("cluster", "join", self.invite(), str(self.at(number)), "--listen", listen, at=self.directory)
        self.begin(number)

    def begin(self, number: int) -> dict[str, Any]:
        """Start a node; returns when it serves, and votes."""
        with (self.directory / f"n{number}.log").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "raftwork", "node", "--json"],
                cwd=self.at(number),
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.processes[number] = process
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, (self.directory / f"n{number}.log").read_text()
        serving: dict[str, Any] = json.loads(line)
        return serving

    def log(self, number: int) -> str:
        return (self.directory / f"n{number}.log").read_text()

    def make_token(self, name: str, *can: str, **options: str) -> str:
        given = [word for capability in can for word in ("--can", capability)]
        more = [word for option, value in options.items() for word in (f"--{option}", value)]
        text: str = command("cluster", "token", "create", name, *given, *more, at=self.at(0))["token"]
        return text

    def close(self) -> None:
        while self.processes:
            _, process = self.processes.popitem()
            process.kill()
            process.communicate()

    def __enter__(self) -> Founded:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
