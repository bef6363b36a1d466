"""The other processes of the cluster's measurements: clients and workers, each told on its command line what to do.

    python benches/cluster_load.py ROLE --storage URL ...

Each says `ready` in one line, begins when it reads a line, and answers in one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from pathlib import Path

from raftwork import Raftwork
from raftwork.cli import measure
from raftwork.worker import Worker

QUEUE = "bench"


def now_ns() -> int:
    """A job that tells when it started, on the clock that all processes of a machine share."""
    return time.monotonic_ns()


def hold(ledger: str) -> None:
    """A job that stays with the first worker that takes it, until that is killed."""
    path = Path(ledger)
    first = not path.exists()
    with path.open("a") as file:
        file.write(f"{os.getpid()} {time.monotonic()}\n")
    if first:
        threading.Event().wait(600)


def application(storage: str) -> Raftwork:
    """The same application in all processes."""
    app = Raftwork("bench", storage=storage)
    app.task(queue=QUEUE, name="bench.noop", retry=1)(measure.noop)
    app.task(queue=QUEUE, name="bench.noop_async", retry=1)(measure.noop_async)
    app.task(queue=QUEUE, name="bench.now", retry=1)(now_ns)
    app.task(queue=QUEUE, name="bench.hold", retry=1)(hold)
    return app


def begin() -> None:
    """Ready; wait for the word."""
    print("ready", flush=True)
    sys.stdin.readline()


def enqueue(given: argparse.Namespace) -> dict[str, float]:
    """Threads that each enqueue one job after another: how many in this time."""
    app = application(given.storage).open()
    noop = app.find_task("bench.noop")
    measure.call_seconds(noop.enqueue, 100)  # warm
    gate, over = threading.Barrier(given.threads + 1), threading.Event()
    counts = [0] * given.threads

    def work(number: int) -> None:
        gate.wait()
        while not over.is_set():
            noop.enqueue(number)
            counts[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(given.threads)]
    for thread in threads:
        thread.start()
    begin()
    gate.wait()
    began = time.perf_counter()
    over.wait(given.seconds)
    done, took = sum(counts), time.perf_counter() - began
    over.set()
    for thread in threads:
        thread.join()
    app.close()
    return {"rate": done / took}


def pace(given: argparse.Namespace) -> dict[str, list[float]]:
    """Threads that enqueue at a fixed rate together; when each call was due, and seconds from then to its answer.

    A call that is late because the one before took long counts from the moment at which it was due.
    """
    app = application(given.storage).open()
    noop = app.find_task("bench.noop")
    measure.call_seconds(noop.enqueue, 100)  # warm
    apart = given.threads / given.rate
    taken: list[tuple[float, float]] = []
    begin()
    first = time.monotonic() + 0.1

    def work(number: int) -> None:
        due = first + apart * number / given.threads
        while due < first + given.seconds:
            if (wait := due - time.monotonic()) > 0:
                time.sleep(wait)
            noop.enqueue(number)
            taken.append((due, time.monotonic() - due))
            due += apart

    threads = [threading.Thread(target=work, args=(number,)) for number in range(given.threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    app.close()
    return {"due": [due for due, _ in taken], "took": [took for _, took in taken]}


def work(given: argparse.Namespace) -> dict[str, float]:
    """A worker, until the input ends."""
    app = application(given.storage).open()
    with Worker(app, queues=[QUEUE], threads=given.threads):
        begin()
    app.close()
    return {}


def idle(given: argparse.Namespace) -> dict[str, float]:
    """Workers with nothing to do, each with a connection and a session of its own, until the input ends."""
    workers = []
    for _ in range(given.threads):
        app = Raftwork("bench", storage=given.storage)
        app.task(queue=QUEUE, name="bench.noop")(measure.noop)  # One kind of task: one lane, one session.
        workers.append(Worker(app, queues=[QUEUE], threads=1).start())
    begin()
    os._exit(0)


ROLES = {"enqueue": enqueue, "pace": pace, "work": work, "idle": idle}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("role", choices=ROLES)
    parser.add_argument("--storage", required=True)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rate", type=float, default=500.0, help="calls a second, all threads together")
    arguments = parser.parse_args()
    print(json.dumps(ROLES[arguments.role](arguments)), flush=True)
