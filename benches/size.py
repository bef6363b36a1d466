"""What many jobs cost: memory, restart, snapshots, the cost of a claim, and memory back after they are done.

    python benches/size.py [--place DIR] [--rounds 5] [--jobs 1000000]

Each measurement runs in a process of its own, so that memory is that of this measurement alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from table import Figure, at_most, render

from raftwork import Raftwork
from raftwork.cli import measure
from raftwork.worker import Worker

CLAIMS = 2_000
# Freed memory goes back when nothing finished for 10 s.
SETTLE_S = 15
LARGE_BYTES = 100_000
SNAPSHOTS = 5
CLAIM_SIZES = (1_000, 100_000, 1_000_000)


def resident_bytes() -> int:
    """Memory of this process that is really there."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def fill(app: Raftwork, task: object, jobs: int) -> None:
    """Store this many jobs."""
    for start in range(0, jobs, 1_000):
        app.enqueue_many(task.s(number) for number in range(start, min(jobs, start + 1_000)))  # type: ignore[attr-defined]


def waiting(directory: Path, jobs: int) -> dict[str, float]:
    """Bytes of memory of each waiting job."""
    app, noop, _ = measure.noop_app(directory)
    before = resident_bytes()
    fill(app, noop, jobs)
    # The process ends here as a crash would end it: the restart reads what is on disk.
    return {"bytes_each": (resident_bytes() - before) / jobs}


def restart(directory: Path, jobs: int) -> dict[str, float]:
    """Time to open a directory with that many jobs."""
    began = time.perf_counter()
    app = Raftwork("bench", storage=f"raft:///{directory.absolute()}").open()
    taken = time.perf_counter() - began
    assert app.counts()["enqueued"] == jobs
    return {"seconds": taken}


def carry(data: bytes) -> None:
    """A job with large arguments, so that a few fill the log."""


def snapshots(directory: Path, jobs: int) -> dict[str, float]:
    """Milliseconds that the capture of a snapshot held up the writes: the longest of some, with many jobs waiting."""
    app = Raftwork("bench", storage=f"raft:///{directory.absolute()}", snapshot_bytes=1 << 20).open()
    task = app.task(queue="bench", name="bench.carry")(carry)
    captures: list[float] = []
    newest = app.health()["snapshot_index"]
    while len(captures) < SNAPSHOTS:
        task.enqueue(os.urandom(LARGE_BYTES)).delete()
        health = app.health()
        if health["snapshot_index"] != newest:
            newest = health["snapshot_index"]
            captures.append(health["snapshot_capture_us"] / 1e3)
    assert app.counts()["enqueued"] == jobs
    return {"ms": max(captures)}


def claims(directory: Path, jobs: int) -> dict[str, float]:
    """Microseconds of one claim with that many jobs waiting, in memory: the disk costs the same for each."""
    app = Raftwork("bench", storage="memory://")
    task = app.task(queue="bench", name="bench.noop")(measure.noop)
    fill(app, task, jobs + CLAIMS)
    session = app.storage.open_session("worker")
    taken = measure.call_seconds(lambda _: app.storage.claim(session, [("bench", 1)], ["bench.noop"], 1), CLAIMS)
    return {"us": measure.percentile(taken, 0.5) * 1e6}


def finished(directory: Path, jobs: int) -> dict[str, float]:
    """Memory after that many jobs have run, against the empty node."""
    app, noop, _ = measure.noop_app(directory)
    fill(app, noop, 1_000)
    pause = threading.Event()
    with Worker(app, queues=["bench"], threads=8):
        measure.wait_until_empty(app)
        empty = resident_bytes()
        chunk = min(jobs, 50_000)
        for _ in range(jobs // chunk):
            fill(app, noop, chunk)
            measure.wait_until_empty(app)
        # Moving to the archive goes on in the background; what counts is where memory settles after it.
        while app.counts()["succeeded"]:
            pause.wait(0.1)
        pause.wait(SETTLE_S)
        after = resident_bytes()
    app.close()
    return {"empty": empty, "after": after, "over": (after / empty - 1) * 100}


MEASUREMENTS = {
    "waiting": waiting,
    "restart": restart,
    "snapshots": snapshots,
    "claims": claims,
    "finished": finished,
}


def alone(what: str, directory: Path, jobs: int) -> dict[str, float]:
    """Run one of the above in a fresh process."""
    command = [sys.executable, __file__, "--only", what, "--directory", str(directory), "--jobs", str(jobs)]
    # `waiting` ends with SIGKILL, so the status says nothing; an answer does.
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True, timeout=1_200)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def figures(place: Path, rounds: int, jobs: int) -> list[Figure]:
    """Measure all rounds."""
    each = Figure(f"memory of a waiting job, {jobs:,} waiting", "bytes", "600 at most", at_most(600))
    again = Figure(f"restart with {jobs:,} waiting", "s", "4 at most", at_most(4))
    stall = Figure(f"writes held up by the capture of a snapshot, {jobs:,} waiting", "ms", "2 at most", at_most(2))
    over = Figure(f"memory over the empty node after {jobs:,} finished", "%", "20 at most", at_most(20))
    cost = {size: Figure(f"claim with {size:,} waiting, p50, in memory", "µs") for size in CLAIM_SIZES if size <= jobs}
    flat = Figure("claim, largest against smallest", "%", "20 at most", at_most(20))
    for _ in range(rounds):
        with measure.fresh_directory(place) as directory:
            each.values.append(alone("waiting", directory / "data", jobs)["bytes_each"])
            again.values.append(alone("restart", directory / "data", jobs)["seconds"])
            stall.values.append(alone("snapshots", directory / "data", jobs)["ms"])
        with measure.fresh_directory(place) as directory:
            over.values.append(alone("finished", directory / "data", jobs)["over"])
            for size, figure in cost.items():
                figure.values.append(alone("claims", directory, size)["us"])
        latest = [figure.values[-1] for figure in cost.values()]
        flat.values.append((max(latest) / min(latest) - 1) * 100)
    return [each, again, stall, over, *cost.values(), flat]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--place", type=Path, default=Path())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--only", choices=MEASUREMENTS, help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only is not None:
        print(json.dumps(MEASUREMENTS[given.only](given.directory, given.jobs)), flush=True)
        os.kill(os.getpid(), 9) if given.only == "waiting" else None
    else:
        print(render(figures(given.place, given.rounds, given.jobs)))
