"""Many processes, one machine, no configuration: gunicorn with 4 preloaded workers, a worker process and a script."""

import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.processes import TESTS, environment, finish, lost, start_worker

REQUESTS = 200

pytestmark = [pytest.mark.crash]


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket, so that the test takes no port."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=30)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def get(path: str, target: str) -> tuple[int, str]:
    """Ask the server; gives the process that answered, and the id of the job that it stored."""
    connection = UnixConnection(path)
    try:
        connection.request("GET", target)
        response = connection.getresponse()
        body = response.read().decode()
        assert response.status == 200, body
    finally:
        connection.close()
    process, identity = body.split()
    return int(process), identity


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The path of the socket of a gunicorn with 4 preloaded workers."""
    path = str(tmp_path / "http")
    ready, told = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "--preload", "--workers", "4", "--bind", f"unix:{path}",
         "--config", str(Path(__file__).with_name("gunicorn_conf.py")), "faults.web:application"],
        env={**environment(tmp_path / "jobs", tmp_path / "ledger"), "READY_FD": str(told)},
        cwd=TESTS,
        pass_fds=[told],
    )  # fmt: skip
    os.close(told)
    try:
        assert os.read(ready, 1) == b"r", "gunicorn did not start"
        yield path
    finally:
        os.close(ready)
        process.terminate()
        process.wait(timeout=30)


def test_prefork_server_worker_and_script_share_a_directory(server: str, tmp_path: Path) -> None:
    storage, ledger = tmp_path / "jobs", tmp_path / "ledger"
    answers = [get(server, f"/{number}") for number in range(REQUESTS // 2)]
    processes = {process for process, _ in answers}
    worker = start_worker(storage, ledger)
    try:
        # One of the web processes owns the node. Kill it: another takes over, and the server goes on.
        owner = int((storage / "LOCK").read_text().split()[0])
        assert owner in processes
        os.kill(owner, signal.SIGKILL)
        answers += [get(server, f"/{number}") for number in range(REQUESTS // 2, REQUESTS)]
        assert lost(storage, ledger, [identity for _, identity in answers]) == "lost 0"
        finish(storage, ledger, [identity for _, identity in answers])
    finally:
        worker.terminate()
        worker.wait(timeout=60)
    assert set(map(int, ledger.read_text().split())) == set(range(REQUESTS))
