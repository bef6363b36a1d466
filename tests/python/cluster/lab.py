"""The lab: nodes on machines of their own, load on them, and a log of what was done to them."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.load import Load, Sizes
from cluster.network import Network
from cluster.nodes import INSECURE, Nodes
from cluster.parts import connect, read

REST_S = 120.0
"""How long a healed cluster may take until all jobs have ended. Far more than it should; what it took is reported."""


@dataclass
class Injected:
    """What was done, and when."""

    kinds: Counter[str] = field(default_factory=Counter)
    leader_lost: list[tuple[int, bool]] = field(default_factory=list)
    """Moments, in nanoseconds of CLOCK_MONOTONIC, at which a leader was lost; whether a majority was left."""
    remarks: Counter[str] = field(default_factory=Counter)


@dataclass
class Lab:
    """What injections work on."""

    folder: Path
    network: Network
    nodes: Nodes
    load: Load
    injected: Injected = field(default_factory=Injected)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, kind: str) -> None:
        """One more injection of this kind."""
        with self.lock:
            self.injected.kinds[kind] += 1

    def leader_lost(self, majority: bool = True) -> None:
        """A leader is lost from this moment on. With a majority left, another one leads soon (A1)."""
        self.injected.leader_lost.append((time.monotonic_ns(), majority))

    def unfinished(self) -> int:
        """Jobs that have not ended, as a majority knows them."""
        counts = self.ask((1,))
        return sum(counts[state] for state in ("awaiting", "enqueued", "processing", "scheduled", "retrying"))

    def wait_until_done(self) -> float:
        """Wait until every job has ended; gives the seconds that it took."""
        began = time.monotonic()
        while (left := self.unfinished()) > 0:
            self.load.check()
            assert time.monotonic() < began + REST_S, f"J6: {left} jobs have not ended {REST_S} s after all was healed"
            time.sleep(0.05)
        return time.monotonic() - began

    def check_totals(self, acknowledged: int, in_doubt: int) -> None:
        """J12: no job was made that nobody asked for, none is missing, and none is in two states."""
        counts = self.ask((1,))
        created = counts["created"]
        assert acknowledged <= created <= acknowledged + in_doubt, f"{acknowledged} and {in_doubt} in doubt: {counts}"

    def ask(self, question: tuple[Any, ...]) -> Any:
        """Ask about the newest state."""
        client = connect(self.nodes.clients, "client")
        try:
            return read(client, *question)[1]
        finally:
            client.close(1.0)

    def describe(self) -> str:
        """How everything is, for a person who reads why a run failed."""
        health = {
            number: {name: said.get(name) for name in ("role", "term", "committed", "applied", "cut_off", "alarms")}
            for number, said in self.nodes.all_health().items()
        }
        logs = "\n".join(f"--- node {number}\n{self.nodes.log(number)[-1_500:]}" for number in range(self.nodes.count))
        return f"running {self.nodes.running()}, health {health}\n{logs}"


def details_of(lab: Lab, jobs: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What some node knows of each job. Finished jobs are history, and each node keeps its own."""
    left, found = set(jobs), {}
    for address in lab.nodes.clients:
        client = connect([address], "client")
        try:
            for job in sorted(left):
                detail = read(client, 3, uuid.UUID(job).bytes)[1]
                if detail is not None:
                    found[job] = detail
                    left.discard(job)
        finally:
            client.close(1.0)
    return found


def final_states(lab: Lab, jobs: Iterable[str]) -> list[str]:
    """Those of the jobs that some node knows to have ended."""
    return [job for job, detail in details_of(lab, jobs).items() if detail["state"] in ("succeeded", "cancelled")]


def open_batches(lab: Lab) -> list[str]:
    """Batches that have not finished, in words."""
    rows: list[list[Any]] = []
    while page := lab.ask((40, rows[-1][0] if rows else None, 1_000)):
        rows += page
    return [f"batch {row[1]} is {row[2]} with {row[7]} pending members" for row in rows if row[5] is None]


@contextmanager
def lab(folder: Path, nodes: int) -> Iterator[Lab]:
    """A cluster under load. Everything of it is gone at the end, whatever happened."""
    if os.geteuid() != 0:
        raise RuntimeError("the fault lab needs root: it makes network namespaces and mounts loop devices")
    with ExitStack() as stack:
        network = Network(nodes)
        stack.callback(network.destroy)
        network.create()
        stack.enter_context(network.inside())
        cluster = Nodes(folder, network)
        stack.callback(cluster.close)
        cluster.create_disks()
        cluster.start()
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RAFTWORK_")} | INSECURE
        load = Load(folder, cluster.clients, Sizes(), environment)
        stack.callback(load.close)
        yield Lab(folder, network, cluster, load)
