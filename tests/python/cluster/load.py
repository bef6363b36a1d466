"""The load: processes that enqueue and processes that work, and how many answers they got."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from cluster.parts import Place
from cluster.recording import Board

TESTS = Path(__file__).resolve().parents[1]
PATIENCE_S = 120.0


@dataclass(frozen=True)
class Sizes:
    """How many processes do what."""

    clients: int = 8
    workers: int = 4
    model_clients: int = 2
    model_workers: int = 2


class Load:
    """Clients and workers as processes, each with its file of the history. The last of both are those of the model."""

    def __init__(self, folder: Path, nodes: list[str], sizes: Sizes, environment: dict[str, str]) -> None:
        self.folder = folder
        self.nodes = nodes
        self.board = Board(folder / "board", create=True)
        told = {"PYTHONPATH": str(TESTS), "LAB_FOLDER": str(folder), "LAB_NODES": ",".join(nodes)}
        self.environment = environment | told
        self.clients = range(sizes.clients + sizes.model_clients)
        self.workers = range(len(self.clients), len(self.clients) + sizes.workers + sizes.model_workers)
        self.model = {*self.clients[sizes.clients :], *self.workers[sizes.workers :]}
        """The places whose processes use the public API and write the ledger of `model_jobs`."""
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self.more: dict[int, dict[str, str]] = {}
        self.down: set[int] = set()
        self._started = 0

    def start(self) -> None:
        for slot in [*self.clients, *self.workers]:
            self.launch(slot)

    def launch(self, slot: int) -> None:
        """Start the process of one place, under a new number."""
        self._started += 1
        place = Place(slot, self._started, self.nodes, self.folder)
        module = f"cluster.{'model_' * (slot in self.model)}{'client' if slot in self.clients else 'worker'}"
        with (self.folder / f"load-{slot}.err").open("ab") as errors:
            self.processes[slot] = subprocess.Popen(
                [sys.executable, "-m", module, *place.arguments()],
                stdin=subprocess.DEVNULL,
                stderr=errors,
                env=self.environment | self.more.get(slot, {}),
                cwd=TESTS,
            )
        self.down.discard(slot)

    def kill(self, slot: int) -> None:
        """SIGKILL, and wait for the end."""
        self.down.add(slot)
        self.processes[slot].kill()
        self.processes[slot].wait()

    def pause(self, slot: int) -> None:
        """SIGSTOP, and return when the whole process has stopped."""
        pid = self.processes[slot].pid
        os.kill(pid, signal.SIGSTOP)
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)

    def resume(self, slot: int) -> None:
        os.kill(self.processes[slot].pid, signal.SIGCONT)

    def answers(self) -> int:
        """Operations that were answered so far."""
        return sum(self.board.counts())

    def wait_for_answers(self, more: int, timeout: float = PATIENCE_S) -> None:
        """Wait until so many more operations were answered."""
        goal, until = self.answers() + more, time.monotonic() + timeout
        while self.answers() < goal:
            self.check()
            if time.monotonic() > until:
                raise AssertionError(f"{goal - self.answers()} of {more} answers did not come within {timeout} s")
            time.sleep(0.005)

    def check(self) -> None:
        """No process of the load ended by itself."""
        for slot, process in list(self.processes.items()):
            if process.poll() is None or slot in self.down or self._is_stopping(slot):
                continue
            if self.processes[slot] is process:  # Else another thread killed it and started the next one meanwhile.
                raise AssertionError(f"the process of place {slot} ended with {process.returncode}:\n{self.said(slot)}")

    def _is_stopping(self, slot: int) -> bool:
        return self.board.clients_stop if slot in self.clients else self.board.workers_stop

    def said(self, slot: int) -> str:
        """The end of what one process complained about."""
        return (self.folder / f"load-{slot}.err").read_text(errors="replace")[-3_000:]

    def stop_clients(self) -> None:
        """No client begins another operation; returns when all have ended."""
        self.board.stop_clients()
        self._wait(self.clients)

    def stop_workers(self) -> None:
        self.board.stop_workers()
        self._wait(self.workers)

    def _wait(self, slots: range) -> None:
        for slot in slots:
            try:
                status = self.processes[slot].wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                raise AssertionError(f"the process of place {slot} does not end:\n{self.said(slot)}") from None
            assert status == 0, f"the process of place {slot} ended with {status}:\n{self.said(slot)}"

    def close(self) -> None:
        """Kill what still runs."""
        for process in self.processes.values():
            process.kill()
            process.wait()
        self.board.close()
