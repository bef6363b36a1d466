"""The processes of the demo: three nodes and two workers; watched, killed with SIGKILL, and never left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raftwork import clock
from raftwork.cli.demo.jobs import LEDGER, QUEUE
from raftwork.errors import SessionExpired
from raftwork.testing.cluster import Cluster
from raftwork.worker.supervisor import PARENT_PIPE

__all__ = ["NODES", "Crew", "Kill", "Node", "Return"]

NODES = 3
WORKERS = 2
WORKER_THREADS = 8
WATCH_S = 0.05
ANSWER_MS = 500


@dataclass
class Node:
    """What is known of one node."""

    name: str
    address: str
    pid: int | None = None
    role: str = "starting"
    term: int = 0
    applied: int = 0
    committed: int = 0
    lag: int = 0
    """Entries that were committed when it was asked last, and that it had not applied."""


@dataclass
class Kill:
    """A leader that was killed, and how the others went on. Seconds count from the signal."""

    node: str
    pid: int
    at: float
    term: int
    leader: str | None = None
    leads_after: float | None = None
    accepts_after: float | None = None


@dataclass
class Return:
    """A node that was started again. Seconds count from its start."""

    node: str
    at: float
    target: int = 0
    """It has caught up when it has applied this entry: the newest one when it first answered."""
    lag: int | None = None
    caught_up_after: float | None = None


class Crew:
    """All processes of one demo. Leaving the context ends them.

    Args:
        place: where data directories, logs and the ledger go.
        ledger: the file to which jobs write.
        announce: told of what happens, in words; from any thread.
    """

    def __init__(self, place: Path, ledger: Path, announce: Callable[[str], None]) -> None:
        self.cluster = Cluster(place, NODES)
        self.nodes = [Node(f"node-{number + 1}", address) for number, address in enumerate(self.cluster.clients)]
        self.kills: list[Kill] = []
        self.returns: list[Return] = []
        self.ended: dict[int, str] = {}
        """Workers that ended by themselves, with their exit status in words."""
        self._voting = False
        self._place = place
        self._announce = announce
        self._environment = {**self.cluster.environment, "RAFTWORK_STORAGE": self.cluster.url, LEDGER: str(ledger)}
        self._workers: list[subprocess.Popen[bytes]] = []
        self._pipe = os.pipe()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._watchers = [
            threading.Thread(target=self._watch, args=(number,), name=f"demo-watch-{number}") for number in range(NODES)
        ]

    def __enter__(self) -> Crew:
        for number in range(NODES):
            self._launch(number)
        for number in range(WORKERS):
            self._workers.append(self._start_worker(number))
        for watcher in self._watchers:
            watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        # The data is of no use after the demo, and nothing is lost by a kill, as the demo has just shown.
        self._stop.set()
        for worker in self._workers:
            worker.kill()
        self.cluster.close()
        for worker in self._workers:
            worker.wait()
        for watcher in self._watchers:
            if watcher.ident is not None:
                watcher.join()
        for end in self._pipe:
            os.close(end)

    @property
    def ready(self) -> bool:
        """All nodes vote, so that any one may be killed."""
        return self._voting

    @property
    def busy(self) -> bool:
        """A kill or a return is still under way."""
        return any(kill.accepts_after is None for kill in self.kills) or any(
            back.caught_up_after is None for back in self.returns
        )

    def leader(self) -> Node | None:
        """Who leads, as it says itself."""
        leading = [node for node in self.nodes if node.role == "leader"]
        return max(leading, key=lambda node: node.term, default=None)

    def down(self) -> Node | None:
        """A node that was killed and not started again."""
        return next((node for node in self.nodes if node.pid is None), None)

    def kill_leader(self) -> None:
        """SIGKILL, as a power cut would end it: no handler runs, nothing is flushed."""
        with self._lock:
            node = self.leader()
            if node is None or node.pid is None:
                return
            self.kills.append(Kill(node.name, node.pid, clock.monotonic(), node.term))
            self._announce(f"SIGKILL to {node.name}, the leader, pid {node.pid}")
            self.cluster.kill(self.nodes.index(node))
            node.pid, node.role, node.lag = None, "killed", 0

    def bring_back(self) -> None:
        """Start the killed node again, with the directory that it left."""
        with self._lock:
            node = self.down()
            if node is not None:
                self.returns.append(Return(node.name, clock.monotonic()))
                self._launch(self.nodes.index(node))
                self._announce(f"{node.name} is started again, pid {node.pid}")

    def answered(self, at: float) -> None:
        """A write was answered at this moment."""
        if self.kills and (kill := self.kills[-1]).accepts_after is None:
            with self._lock:
                # Answers of the old leader may still arrive after it was killed.
                if kill.leads_after is not None and at - kill.at >= kill.leads_after:
                    kill.accepts_after = at - kill.at
                    self._announce(f"jobs are accepted again, {kill.accepts_after:.1f} s after the kill")

    def look_after(self) -> None:
        """Tell of workers that ended, which nobody asked for."""
        for worker in self._workers:
            if worker.poll() is not None and worker.pid not in self.ended:
                self.ended[worker.pid] = f"status {worker.returncode}"
                self._announce(f"worker {worker.pid} ended with status {worker.returncode}; see {self._place}")

    def without_session(self) -> set[int]:
        """Workers that say in their log that their session ended, and with it the leases of their jobs."""
        logs = {worker.pid: self._log(number) for number, worker in enumerate(self._workers)}
        return {pid for pid, log in logs.items() if SessionExpired.code in log.read_text(encoding="utf-8")}

    def _log(self, number: int) -> Path:
        return self._place / f"worker-{number + 1}.log"

    def _launch(self, number: int) -> None:
        self.cluster.launch(number)
        self.nodes[number].pid = self.cluster.pid(number)
        self.nodes[number].role = "starting"

    def _start_worker(self, number: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "raftwork", "worker", "raftwork.cli.demo.jobs:app", "--queue", QUEUE]
        with self._log(number).open("ab") as log:
            return subprocess.Popen(
                [*command, "--threads", str(WORKER_THREADS), "--log-level", "WARNING"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**self._environment, PARENT_PIPE: str(self._pipe[0])},
                pass_fds=(self._pipe[0],),
                cwd=self._place,
                start_new_session=True,
            )

    def _watch(self, number: int) -> None:
        """Ask one node how it is, many times a second."""
        while not self._stop.wait(WATCH_S):
            if (pid := self.nodes[number].pid) is not None:
                # A node lags behind what was committed before it was asked, or a quick one would seem to lag too.
                committed = max(node.committed for node in self.nodes)
                health = self.cluster.health(number, ANSWER_MS)
                with self._lock:
                    if self.nodes[number].pid == pid and health is not None:
                        self._take(number, health, committed, clock.monotonic())

    def _take(self, number: int, health: dict[str, Any], committed: int, at: float) -> None:
        """What a node said of itself."""
        node = self.nodes[number]
        leads = health["role"] == "leader" and not health["cut_off"]
        node.role = health["role"] if health["voter"] else "learner"
        node.term, node.applied, node.committed = health["term"], health["applied"], health["committed"]
        node.lag = max(0, committed - node.applied)
        if leads and not self._voting and health["voters"] == NODES:
            self._voting = True
            self._announce(f"three nodes vote, {node.name} leads: any one of them may die now")
        if leads and self.kills and (kill := self.kills[-1]).leads_after is None and node.term > kill.term:
            kill.leader, kill.leads_after = node.name, at - kill.at
            self._announce(f"{kill.node} is gone; {node.name} leads after {kill.leads_after:.1f} s")
        if self.returns and (back := self.returns[-1]).node == node.name and back.caught_up_after is None:
            if back.lag is None:
                back.lag, back.target = node.lag, committed
                self._announce(f"{node.name} answers; it lags {node.lag:,} entries")
            elif node.applied >= back.target and health["voter"] and health["leader"]:
                back.caught_up_after = at - back.at
                self._announce(f"{node.name} has caught up, {back.caught_up_after:.1f} s after its start")
