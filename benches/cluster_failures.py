"""How long no node answers when the leader dies or leaves, and how soon another worker has a dead one's jobs.

    python benches/cluster_failures.py [--place DIR] [--rounds 5]

All time-outs are the defaults.
"""

from __future__ import annotations

import argparse
import os
import signal
import threading
import time
from itertools import pairwise
from pathlib import Path

from cluster_load import application
from cluster_parts import Load, all_well, cluster_of, wait_until
from table import Figure, at_most, render

from raftwork.testing.cluster import Cluster

# Leaders that are killed in one round, and stopped in one.
LEADERS = 5
WRITERS = 4
TTL_S = 15


class Writers:
    """Threads that enqueue all the time, and when each call was answered."""

    def __init__(self, storage: str) -> None:
        self.answered = [time.monotonic()]
        self._app = application(storage).open()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._write) for _ in range(WRITERS)]

    def __enter__(self) -> Writers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._app.close()

    def _write(self) -> None:
        noop = self._app.find_task("bench.noop")
        while not self._over.is_set():
            noop.enqueue(1)
            self.answered.append(time.monotonic())

    def silence_after(self, at: float) -> float:
        """Seconds of the longest silence that begins about this moment or within the second after it."""
        wait_until(
            lambda: self.answered[-1] > at + 1.0 and self.answered[-1] - self.answered[-2] < 0.05, "writes go on"
        )
        seen = sorted(each for each in self.answered if each > at - 0.1)
        return max((after - before for before, after in pairwise(seen) if before < at + 1.0), default=0.0)


def silences(cluster: Cluster, kill: bool) -> list[float]:
    """Seconds without an answer, each time the leader is killed or stopped; it is back before the next one is."""
    found = []
    with Writers(cluster.url) as writers:
        for _ in range(LEADERS):
            leader = all_well(cluster)
            process = cluster.pid(leader)
            at = time.monotonic()
            os.kill(process, signal.SIGKILL if kill else signal.SIGTERM)
            found.append(writers.silence_after(at))
            (cluster.kill if kill else cluster.stop)(leader)  # Waits for its end.
            cluster.launch(leader)
    return found


def taken_over_after(cluster: Cluster, storage: str, how: signal.Signals) -> float:
    """Seconds from this signal to a worker until its job runs in another one."""
    ledger = cluster.directory / "held.txt"
    ledger.unlink(missing_ok=True)
    app = application(storage).open()
    workers = [Load("work", storage, threads=1) for _ in range(2)]
    try:
        app.find_task("bench.hold").enqueue(str(ledger))
        wait_until(lambda: ledger.exists() and ledger.read_text().endswith("\n"), "a worker took the job")
        holder = int(ledger.read_text().split()[0])
        at = time.monotonic()
        os.kill(holder, how)
        wait_until(lambda: ledger.read_text().count("\n") == 2, "the other worker took the job")
        return float(ledger.read_text().splitlines()[1].split()[1]) - at
    finally:
        app.close()
        for worker in workers:
            worker.end()


def figures(place: Path, rounds: int) -> list[Figure]:
    """Measure all rounds."""
    killed = Figure(
        f"3 nodes: no answer after SIGKILL of the leader, longest of {LEADERS}", "s", "2 at most", at_most(2)
    )
    stopped = Figure(
        f"3 nodes: no answer while the leader stops, longest of {LEADERS}", "ms", "100 at most", at_most(100)
    )
    killed_worker = "3 nodes: SIGKILL of a worker, its job runs elsewhere"
    attached = Figure(f"{killed_worker}, worker attached to a node", "s", "1 at most", at_most(1))
    connected = Figure(f"{killed_worker}, worker over TCP on the same machine", "s", "1 at most", at_most(1))
    hanging = Figure(
        f"3 nodes: SIGSTOP of a worker, its job runs elsewhere, TTL {TTL_S} s", "s", "17 at most", at_most(17)
    )
    for _ in range(rounds):
        with cluster_of(place) as cluster:
            killed.values.append(max(silences(cluster, kill=True)))
            stopped.values.append(max(silences(cluster, kill=False)) * 1e3)
            beside = f"raft:///{cluster.data(all_well(cluster))}"
            attached.values.append(taken_over_after(cluster, beside, signal.SIGKILL))
            connected.values.append(taken_over_after(cluster, cluster.url, signal.SIGKILL))
            hanging.values.append(taken_over_after(cluster, cluster.url, signal.SIGSTOP))
    return [killed, stopped, attached, connected, hanging]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--place", type=Path, default=Path())
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    print(render(figures(given.place, given.rounds)))
