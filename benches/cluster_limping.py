"""What clients notice of a node that limps, of one that joins, and what idle workers cost.

    python benches/cluster_limping.py [--place DIR] [--rounds 5] [--jobs 1000000]

Slow disk and lost packets need root, and are left out without: a follower's syncs are delayed with `strace`, and
packets are lost in network namespaces that this makes. Each figure compares with the same cluster a moment before.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster_load import application
from cluster_lossy import lossy_ratio
from cluster_parts import Load, all_well, cluster_of, p99_ms, wait_until
from table import Figure, at_most, render

from raftwork.testing.cluster import Cluster, free_ports

SYNC_DELAY_US = 200_000
RATE = 500
SECONDS = 6.0
PEAK_SECONDS = 2.0
SESSIONS = 1_000
SESSION_PROCESSES = 4
IDLE_SECONDS = 10.0
# The command line `raftwork`, that waits for a word once its interpreter has everything.
COMMAND = "import sys; from raftwork.__main__ import main; print('ready', flush=True); sys.stdin.readline(); main()"


def paced(storage: str, seconds: float, rate: float = RATE) -> list[float]:
    """Seconds that each enqueue takes, at a fixed rate."""
    load = Load("pace", storage, threads=8, rate=rate, seconds=seconds)
    load.begin()
    found: list[float] = load.answer()["took"]
    return found


@contextmanager
def slow_syncs(pid: int) -> Iterator[None]:
    """Each fdatasync of this process takes 200 ms longer. The process is traced, which slows it down besides."""
    command = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync"]
    command += ["-e", f"inject=fdatasync:delay_exit={SYNC_DELAY_US}", "-p", str(pid)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as tracer:
        status = Path(f"/proc/{pid}/status")
        wait_until(lambda: f"TracerPid:\t{tracer.pid}" in status.read_text(), "strace holds the node")
        try:
            yield
        finally:
            tracer.terminate()


def slow_disk_ratio(cluster: Cluster) -> tuple[float, float]:
    """The clients' p99 in milliseconds with all nodes healthy, and with one follower whose disk takes 200 ms."""
    leader = all_well(cluster)
    healthy = p99_ms(paced(cluster.url, SECONDS))
    follower = next(number for number in cluster.running() if number != leader)
    with slow_syncs(cluster.pid(follower)):
        limping = p99_ms(paced(cluster.url, SECONDS))
    assert (cluster.health(follower) or {})["fsync_p99_us"] >= SYNC_DELAY_US, "the disk was slow"
    return healthy, limping


def catch_up(cluster: Cluster, jobs: int) -> dict[str, float]:
    """A fourth node joins three that hold that many jobs and serve half of what they can.

    Its interpreter has started before: any program has that, and it takes a core of the new machine, which here is one
    of those that serve.
    """
    app = application(cluster.url).open()
    noop = app.find_task("bench.noop")
    for start in range(0, jobs, 1_000):
        app.enqueue_many(noop.s(number) for number in range(start, start + 1_000))
    app.close()
    peak = Load("enqueue", cluster.url, threads=16, seconds=PEAK_SECONDS)
    peak.begin()
    half = peak.answer()["rate"] / 2
    quiet = p99_ms(paced(cluster.url, SECONDS, half))
    # It serves for longer than the node needs; only what was due while it caught up counts.
    load = Load("pace", cluster.url, threads=8, rate=half, seconds=20)
    load.begin()
    (port,) = free_ports(1)
    command = [sys.executable, "-c", COMMAND, "node", "--json", "--data", str(cluster.directory / "node-3")]
    command += ["--listen", f"127.0.0.1:{port}", "--join", ",".join(cluster.listen)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as joining:
        assert joining.stdin is not None and joining.stdout is not None
        assert joining.stdout.readline() == "ready\n"
        time.sleep(1)  # What its start held up is answered.
        began = time.monotonic()
        joining.stdin.write("\n")
        joining.stdin.flush()
        serving = json.loads(joining.stdout.readline())
        assert serving["event"] == "node.serving"
        caught_up = time.monotonic()
        seen = load.answer()
        assert seen["due"][-1] > caught_up, "it was served until the node had caught up"
        joining.kill()
    during = [took for due, took in zip(seen["due"], seen["took"], strict=True) if began <= due <= caught_up]
    return {"quiet": quiet, "during": p99_ms(during), "seconds": caught_up - began, "half": half}


def idle_cost(cluster: Cluster) -> dict[str, float]:
    """What the leader spends on so many idle workers: entries a second, and percent of one core."""
    each = SESSIONS // SESSION_PROCESSES
    loads = [Load("idle", cluster.url, threads=each) for _ in range(SESSION_PROCESSES)]
    try:
        leader = all_well(cluster)
        wait_until(lambda: (cluster.health(leader) or {"sessions": 0})["sessions"] >= SESSIONS, "all sessions are open")
        time.sleep(2)  # What opening them left to do.
        assert (cluster.health(leader) or {"sessions": 0})["sessions"] < SESSIONS * 1.1, "one for each worker"
        before, spent = (cluster.health(leader) or {})["index"], cpu_seconds(cluster.pid(leader))
        time.sleep(IDLE_SECONDS)
        after, spent_after = (cluster.health(leader) or {})["index"], cpu_seconds(cluster.pid(leader))
        assert cluster.leader() == leader
        return {
            "entries": (after - before) / IDLE_SECONDS,
            "percent": (spent_after - spent) / IDLE_SECONDS * 100,
        }
    finally:
        for load in loads:
            load.end()


def cpu_seconds(pid: int) -> float:
    """Time that a process has spent on processors."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def figures(place: Path, rounds: int, jobs: int) -> list[Figure]:
    """Measure all rounds."""
    disk = Figure("3 nodes: a follower's disk takes 200 ms, clients' p99 against healthy", "x", "2 at most", at_most(2))
    loss = Figure(
        "3 nodes: a follower loses 30 % of packets, clients' p99 against healthy", "x", "2 at most", at_most(2)
    )
    join = Figure(
        f"a node catches up {jobs:,} jobs at half load, clients' p99 against quiet", "x", "3 at most", at_most(3)
    )
    took = Figure(f"a node catches up {jobs:,} jobs at half load", "s")
    entries = Figure(f"3 nodes: {SESSIONS:,} idle workers, entries of the log", "/s", "0", at_most(0.5))
    cost = Figure(f"3 nodes: {SESSIONS:,} idle workers, leader's share of a core", "%", "5 at most", at_most(5))
    for _ in range(rounds):
        if os.geteuid() == 0:
            with cluster_of(place) as cluster:
                healthy, limping = slow_disk_ratio(cluster)
                disk.values.append(limping / healthy)
            healthy, limping = lossy_ratio(place)
            loss.values.append(limping / healthy)
        with cluster_of(place) as cluster:
            found = catch_up(cluster, jobs)
            join.values.append(found["during"] / found["quiet"])
            took.values.append(found["seconds"])
        with cluster_of(place) as cluster:
            found = idle_cost(cluster)
            entries.values.append(found["entries"])
            cost.values.append(found["percent"])
    return [disk, loss, join, took, entries, cost]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--place", type=Path, default=Path())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    given = parser.parse_args()
    print(render(figures(given.place, given.rounds, given.jobs)))
