"""The lab: nodes on machines of their own, load on them, and a log of what was done to them."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from cluster.load import Load, Sizes
from cluster.network import Network
from cluster.nodes import INSECURE, Nodes
from cluster.parts import TTL_MS, connect, read
from cluster.pauses import Moment
from raftwork import _core

REST_S = 60.0
"""How long a healed cluster may take until all jobs have ended. Far more than it should; what it took is reported."""
LEFT_S = 20.0
"""How long it may take after the last process of the load has ended until nothing of them is left."""
HISTORY_S = 60.0
"""How long a node may take to get the history that it lacks. It asks the others again 10 s after one did not answer."""

Archives = dict[int, dict[str, Any]]
"""What each node says of its archive, with its alarms and how many jobs it has in memory."""


@dataclass
class Injected:
    """What was done, and when."""

    kinds: Counter[str] = field(default_factory=Counter)
    """How often each took effect."""
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """Those that had no effect, or for which there was no time: kind and reason."""
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """What each kind took in all, until each node had all history again."""
    moments: list[Moment] = field(default_factory=list)


@dataclass
class Lab:
    """What injections work on."""

    folder: Path
    network: Network
    nodes: Nodes
    load: Load
    injected: Injected = field(default_factory=Injected)
    lock: threading.Lock = field(default_factory=threading.Lock)
    kind: str = ""
    """The fault that is under way."""

    def note(self, kind: str) -> None:
        """One more injection of this kind, which took effect."""
        with self.lock:
            self.injected.kinds[kind] += 1

    def skip(self, kind: str, why: str) -> None:
        """One of this kind took no effect."""
        with self.lock:
            self.injected.skipped.append((kind, why))

    def now(self, what: str) -> None:
        """From this moment on writes must be answered soon (A1). What it is: see `pauses`."""
        self.injected.moments.append(Moment(self.kind, what, time.monotonic_ns()))

    def has_done(self, injections: int, operations: int) -> bool:
        """Whether there were so many faults, and so many operations were answered."""
        with self.lock:
            return self.injected.kinds.total() >= injections and self.load.answers() >= operations

    def sessions_of_clients(self) -> set[int]:
        """The sessions of the processes that no fault touches: they only enqueue, read and cancel."""
        pids = {self.load.processes[slot].pid for slot in self.load.clients}
        return {session for session, _, _, pid, *_ in self.ask((5,)) if pid in pids}

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

    def archives(self) -> Archives:
        """How the history of each node that answers is."""
        answers = self.nodes.all_health().items()
        return {number: {"jobs": said["jobs"], "alarms": said["alarms"], **said["archive"]} for number, said in answers}

    def wait_for_history(self) -> None:
        """Wait until each node that runs has the finished jobs that any has archived by now.

        Else faults that follow one another would take the history of all nodes, which is more than one node at a time.
        """
        upto = max((archive.get("watermark", 0) for archive in self.archives().values()), default=0)
        self._wait_for(
            # A node that skips jobs says what is lost before it says that it is behind them.
            lambda archives: all(_has_all(archive) and archive["watermark"] >= upto for archive in archives.values()),
            f"all nodes have the jobs that had finished up to number {upto}",
        )

    def wait_for_whole_history(self) -> float:
        """Wait until no job is in memory, and each node has all of them; gives the seconds that it took.

        All jobs have ended: no node has any left, so none will be evicted behind this.
        """
        began = time.monotonic()
        counts = self.ask((1,))
        jobs = counts["created"] - counts["deleted"]

        def whole(archives: Archives) -> bool:
            newest = {archive.get("watermark") for archive in archives.values()}
            each = (_has_all(known) and (known["jobs"], known["records"]) == (0, jobs) for known in archives.values())
            return len(newest) == 1 and all(each)

        self._wait_for(whole, f"each node has a record of each of {jobs} jobs")
        return time.monotonic() - began

    def _wait_for(self, holds: Callable[[Archives], bool], what: str) -> None:
        until = time.monotonic() + HISTORY_S
        while not (len(archives := self.archives()) == len(self.nodes.running()) and holds(archives)):
            assert time.monotonic() < until, f"not within {HISTORY_S} s: {what}; {archives}"
            time.sleep(0.02)

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


def _has_all(archive: dict[str, Any]) -> bool:
    return archive.get("open") is True and archive["lost"] is None and archive["stopped"] is None


@contextmanager
def at(lab: Lab, number: int) -> Iterator[_core.Client]:
    """A client of this one node, over the socket in its directory. At any address a client is led to the leader."""
    client = _core.Client.open(
        str(lab.nodes.data(number)), msgspec.msgpack.encode({"ttl_ms": TTL_MS, "kind": "client"})
    )
    try:
        assert client.role() == "attached", f"node {number} does not run"
        yield client
    finally:
        client.close(1.0)


def remembered(lab: Lab, jobs: Iterable[str]) -> list[dict[str, dict[str, Any]]]:
    """What each node itself knows of these jobs. Finished jobs are history, and each node keeps its own."""
    wanted, by_node = sorted(jobs), []
    for number in range(lab.nodes.count):
        with at(lab, number) as client:
            read(client, 1)  # From here on its state is the newest.
            found = {job: read(client, 3, uuid.UUID(job).bytes, consistency="local")[1] for job in wanted}
        by_node.append({job: detail for job, detail in found.items() if detail is not None})
    return by_node


def final_states(lab: Lab, jobs: Iterable[str]) -> list[str]:
    """Those of the jobs that each node knows to have ended."""
    ended = [
        {job for job, detail in details.items() if detail["state"] in ("succeeded", "cancelled")}
        for details in remembered(lab, jobs)
    ]
    return sorted(set.intersection(*ended))


def open_batches(lab: Lab) -> list[str]:
    """Batches that have not finished, in words."""
    rows: list[list[Any]] = []
    while page := lab.ask((40, rows[-1][0] if rows else None, 1_000)):
        rows += page
    return [f"batch {row[1]} is {row[2]} with {row[7]} pending members" for row in rows if row[5] is None]


def left_waiting(lab: Lab) -> list[str]:
    """J6: what lives or waits although all processes of the load have ended, in words."""
    late = time.monotonic() + LEFT_S
    while (found := _left(lab)) and time.monotonic() < late:
        time.sleep(0.05)
    return found


def _left(lab: Lab) -> list[str]:
    own = os.getpid()
    found = [f"J6: session {row[0]} of process {row[3]} lives" for row in lab.ask((5,)) if row[3] != own]
    holders, _ = lab.ask((60, None, 1_000))
    found += [f"J6: session {row[3]} holds `{row[0]}`, and {row[9]} wait for it" for row in holders]
    answers = lab.nodes.all_health()
    found += [f"J6: node {number} does not answer" for number in range(lab.nodes.count) if number not in answers]
    for number, health in answers.items():
        requests, waits = health["inbox"]["requests"], health["waits"]
        if requests or waits:
            found.append(f"J6: at node {number} {requests} requests wait, and {waits} for the end of a job")
    return found


@contextmanager
def lab(folder: Path, nodes: int, settings: Mapping[str, str] = MappingProxyType({})) -> Iterator[Lab]:
    """A cluster, and load that can be started. Everything of it is gone at the end, whatever happened.

    Args:
        folder: where everything is.
        nodes: how many.
        settings: variables for their processes.
    """
    if os.geteuid() != 0:
        raise RuntimeError("the fault lab needs root: it makes network namespaces and mounts loop devices")
    with ExitStack() as stack:
        network = Network(nodes)
        stack.callback(network.destroy)
        network.create()
        stack.enter_context(network.inside())
        cluster = Nodes(folder, network, settings)
        stack.callback(cluster.close)
        cluster.create_disks()
        cluster.start()
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RAFTWORK_")} | INSECURE
        load = Load(folder, cluster.clients, Sizes(), environment)
        stack.callback(load.close)
        yield Lab(folder, network, cluster, load)
