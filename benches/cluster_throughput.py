"""How much three nodes take from Python, and how soon an idle worker on another node begins a job.

    python benches/cluster_throughput.py [--place DIR] [--rounds 5]

Nodes, clients and workers are processes of this machine and share its cores.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from cluster_load import application
from cluster_parts import Load, all_well, cluster_of, together
from latency import start_ms
from table import Figure, at_least, at_most, render

from raftwork import Raftwork
from raftwork.cli import measure
from raftwork.testing.cluster import Cluster

CLIENTS = 2
THREADS = 16
SECONDS = 3.0
WORKERS = 2
JOBS = 40_000
STARTS = 500


def enqueue_rate(cluster: Cluster) -> float:
    """Jobs a second from 32 threads in two processes, each job answered before the thread's next."""
    loads = [Load("enqueue", cluster.url, threads=THREADS, seconds=SECONDS) for _ in range(CLIENTS)]
    return sum(answer["rate"] for answer in together(loads))


def run_rate(cluster: Cluster, task: str, threads: int = 8) -> float:
    """Jobs a second through idle workers, from the first enqueue to the end of the last job."""
    workers = [Load("work", cluster.url, threads=threads) for _ in range(WORKERS)]
    app = application(cluster.url).open()
    try:
        noop = app.find_task(task)
        run_all(app, noop, 2_000)  # warm
        began = time.perf_counter()
        run_all(app, noop, JOBS)
        return JOBS / (time.perf_counter() - began)
    finally:
        app.close()
        for worker in workers:
            worker.end()


def run_all(app: Raftwork, task: object, jobs: int) -> None:
    """Store so many and return when none is left."""
    last = None
    for start in range(0, jobs, 1_000):
        last = app.enqueue_many(task.s(number) for number in range(start, start + 1_000))[-1]  # type: ignore[attr-defined]
    assert last is not None
    last.result(120)  # Without asking all the time: the nodes have better things to do.
    measure.wait_until_empty(app)


def starts(cluster: Cluster) -> list[float]:
    """Milliseconds from the call of enqueue, at the leader, to the first line of the job, in a worker at a follower."""
    leader = all_well(cluster)
    follower = next(number for number in cluster.running() if number != leader)
    worker = Load("work", f"raft:///{cluster.data(follower)}", threads=2)
    app = application(f"raftwork://{cluster.clients[leader]}").open()
    try:
        task = app.find_task("bench.now")
        start_ms(task, 50)  # warm
        return start_ms(task, STARTS)
    finally:
        app.close()
        worker.end()


def figures(place: Path, rounds: int) -> list[Figure]:
    """Measure all rounds."""
    stored = Figure("3 nodes: enqueue, 32 threads in 2 processes", "jobs/s", "10,000", at_least(10_000))
    plain = Figure("3 nodes: no-op jobs end to end, 2 workers of 8 threads", "jobs/s", "10,000", at_least(10_000))
    coroutines = Figure("3 nodes: no-op jobs end to end, 2 workers, asyncio", "jobs/s", "10,000", at_least(10_000))
    middle = Figure("3 nodes: enqueue to start, worker on another node, p50", "ms", "1.5 at most", at_most(1.5))
    tail = Figure("3 nodes: enqueue to start, worker on another node, p99", "ms", "8 at most", at_most(8))
    for _ in range(rounds):
        with cluster_of(place) as cluster:
            stored.values.append(enqueue_rate(cluster))
        with cluster_of(place) as cluster:
            plain.values.append(run_rate(cluster, "bench.noop"))
            coroutines.values.append(run_rate(cluster, "bench.noop_async"))
        with cluster_of(place) as cluster:
            taken = starts(cluster)
            middle.values.append(measure.percentile(taken, 0.5))
            tail.values.append(measure.percentile(taken, 0.99))
    return [stored, plain, coroutines, middle, tail]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--place", type=Path, default=Path())
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    print(render(figures(given.place, given.rounds)))
