"""Three nodes and two workers with everything on for twenty minutes: does anything grow, and is anything lost?

    python benches/soak.py [--place DIR] [--minutes 20] [--rate 500]

Jobs of every kind come at a steady rate. In the first quarter one worker is killed, and each node in turn is stopped
and started again; then nothing is disturbed. Memory and open files of every process and the files on disk are read
every five seconds. A node keeps the log since its last snapshot in memory, so what it takes rises and falls: what
tells of a leak are the floors, the least that was read in each quarter of the second half, beside what the state itself
counts: ended batches stay in it for two weeks, 100,000 at most. The process of the clients remembers every job and has
to grow. At the end everybody waits until no job is left to run. Then each job whose enqueueing was answered must have a
final state and, if it ran, its line in the ledger.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import soak_jobs
from cluster_parts import all_well, cluster_of

from raftwork import Raftwork, chain
from raftwork.errors import RaftworkError
from raftwork.testing.cluster import Cluster

SAMPLE_S = 5.0
DISTURBED = 0.25
SETTLED = 0.5
CLIENTS = 4
BULK_EVERY = 50
"""One of so many delayed jobs is followed by a change of all that wait for their time."""
ENDING_S = 180.0
PARTS = 4
Row = tuple[float, float, int]
"""When, megabytes, open files."""
OPEN = ("awaiting", "scheduled", "enqueued", "processing", "retrying")


class Clients:
    """Threads that enqueue jobs of every kind, and what was answered."""

    def __init__(self, app: Raftwork, rate: float) -> None:
        self.app = app
        self.acknowledged: dict[int, tuple[uuid.UUID, str]] = {}
        self.refused: Counter[str] = Counter()
        self.cancelled: set[int] = set()
        self.bulk = 0
        self._apart = CLIENTS / rate
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(CLIENTS)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _run(self, place: int) -> None:
        chance = random.Random(place)
        kinds = kinds_of(self.app)
        number = place
        due = time.monotonic()
        while not self._over.is_set():
            kind = chance.choice(list(kinds))
            try:
                id = kinds[kind](number)
                self.acknowledged[number] = (id, kind)
                if kind == "delayed" and chance.random() < 0.3 and self.app.job(id).cancel("not wanted"):
                    self.cancelled.add(number)
                if kind == "delayed" and number % BULK_EVERY == 0:
                    self.bulk += self.app.bulk("state:scheduled fn:soak.plain").set_priority(number % 100).changed
            except RaftworkError as error:
                self.refused[error.code] += 1
            number += CLIENTS
            due += self._apart
            self._over.wait(max(0.0, due - time.monotonic()))


def kinds_of(app: Raftwork) -> dict[str, Callable[[int], uuid.UUID]]:
    """How a job of each kind is enqueued."""
    task = app.find_task
    names = ("plain", "coroutine", "child", "flaky", "hopeless", "saving", "locking")
    names += ("sharing", "reading", "stepping", "rated")
    kinds: dict[str, Callable[[int], uuid.UUID]] = {
        name: partial(lambda found, number: found.enqueue(number).id, task(f"soak.{name}")) for name in names
    }
    kinds["delayed"] = lambda number: task("soak.plain").using(delay="2s").enqueue(number).id
    kinds["urgent"] = lambda number: task("soak.plain").using(priority=50, unique="args").enqueue(number).id
    kinds["limited"] = lambda number: task("soak.limited").enqueue(number % 11, number).id
    kinds["chain"] = lambda number: chain(task("soak.first").s(number), task("soak.plain").s()).enqueue().id
    kinds["batch"] = lambda number: batch_of(app, number)
    kinds["fair"] = lambda number: task("soak.fair").enqueue(number % 13, number).id
    kinds["output"] = lambda number: output_of(app, number)
    kinds["nested"] = lambda number: nested(app, number)
    kinds["outbox"] = lambda number: outgoing(app, number)
    kinds["many"] = lambda number: app.enqueue_many([task("soak.plain").s(number)])[0].id
    return kinds


def batch_of(app: Raftwork, number: int) -> uuid.UUID:
    """Three jobs that finish together, and one after them that stands in the ledger. Answers one of the three."""
    first = app.find_task("soak.first")
    with app.batch("soak", on_complete=app.find_task("soak.plain").s(number)):
        return [first.enqueue(number) for _ in range(3)][-1].id


def nested(app: Raftwork, number: int) -> uuid.UUID:
    """A batch inside of another, whose end stands in the ledger."""
    first = app.find_task("soak.first")
    with app.batch("soak outer", on_success=app.find_task("soak.plain").s(number)):
        first.enqueue(number)
        with app.batch("soak inner"):
            return first.enqueue(number).id


def output_of(app: Raftwork, number: int) -> uuid.UUID:
    """A job that gets the result of another."""
    first = app.find_task("soak.first").enqueue(number)
    return app.find_task("soak.plain").enqueue(first.output).id


def outgoing(app: Raftwork, number: int) -> uuid.UUID:
    """A job that a transaction of a SQL database writes down, and a worker relays."""
    path = app.setting("outbox").removeprefix("sqlite:///")
    with contextlib.closing(sqlite3.connect(path, timeout=30.0)) as connection, connection:
        return app.find_task("soak.plain").using(connection=connection).enqueue(number).id


class Watch:
    """Reads what processes hold, and what the state counts, again and again."""

    def __init__(self, processes: Callable[[], dict[str, int]], state: Callable[[], float | None], data: Path) -> None:
        self.samples: list[dict[str, Any]] = []
        self._processes, self._state, self._data = processes, state, data
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(SAMPLE_S):
            held = {name: holds(pid) for name, pid in self._processes().items()}
            files = [path for path in self._data.rglob("*") if path.is_file()]
            state = self._state()
            if state is not None:
                held["state"] = (state, 0)
            self.samples.append(
                {"at": time.monotonic(), "held": {k: v for k, v in held.items() if v}, "files": len(files)}
            )

    def slopes(self, begun: float, minutes: float) -> dict[str, dict[str, Any]]:
        """For each process: the least megabytes in each part of the second half, megabytes an hour, most open files."""
        first = begun + SETTLED * minutes * 60
        rows: dict[str, list[Row]] = {}
        for sample in self.samples:
            for name, (megabytes, opened) in sample["held"].items():
                if sample["at"] >= first:
                    rows.setdefault(name, []).append((sample["at"] / 3_600, megabytes, opened))
        return {
            name: {
                "floors_mb": [round(min(row[1] for row in part), 1) for part in parts(found)],
                "mb_per_hour": round(slope([row[:2] for row in found]), 1),
                "open_files_max": max(row[2] for row in found),
            }
            for name, found in rows.items()
            if len(found) >= PARTS
        }


def parts(found: list[Row]) -> list[list[Row]]:
    """What was read, in equal lengths of time."""
    size = -(-len(found) // PARTS)
    return [found[start : start + size] for start in range(0, len(found), size)]


def slope(points: list[tuple[float, float]]) -> float:
    """Of the straight line through these points, by least squares."""
    x0 = sum(x for x, _ in points) / len(points)
    y0 = sum(y for _, y in points) / len(points)
    return sum((x - x0) * (y - y0) for x, y in points) / sum((x - x0) ** 2 for x, _ in points)


def holds(pid: int) -> tuple[float, int] | None:
    """Megabytes in memory and open files of a process. None: it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return None


class Workers:
    """Two worker processes."""

    def __init__(self) -> None:
        self.running = {f"worker {number}": self._start() for number in range(2)}

    def _start(self) -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-m",
            "raftwork",
            "worker",
            "soak_jobs:app",
            "--children",
            "1",
            "--outbox",
            "setting",
        ]
        return subprocess.Popen(command, cwd=Path(__file__).parent)

    def replace(self, name: str) -> None:
        """Kill one; another one takes its place."""
        killed = self.running[name]
        killed.kill()
        killed.wait()
        others = {other: process for other, process in self.running.items() if other != name}
        self.running = {**others, f"{name}, the next": self._start()}

    def end(self) -> list[int]:
        """Let them finish; answers how they exited."""
        for process in self.running.values():
            process.terminate()
            process.wait(60)
        return [process.returncode for process in self.running.values()]


def disturb(cluster: Cluster, workers: Workers, minutes: float) -> None:
    """In the first quarter a worker is killed, and each node stopped once, one after another; then nothing happens."""
    pause = threading.Event()
    nodes = cluster.running()
    apart_s = DISTURBED * minutes * 60 / (len(nodes) + 1)
    pause.wait(apart_s)
    workers.replace("worker 0")
    for number in nodes:
        pause.wait(apart_s)
        cluster.stop(number)
        cluster.start(number)
    pause.wait((1 - DISTURBED) * minutes * 60)


def judge(app: Raftwork, clients: Clients, ledger: Path) -> dict[str, int]:
    """What became of what was answered."""
    runs = Counter(ledger.read_text().split())
    lost = open_still = unrun = 0
    for number, (id, _) in clients.acknowledged.items():
        ran = runs[str(number)]
        try:
            state = app.job(id).info().state.value
        except RaftworkError:
            lost += not ran and number not in clients.cancelled  # Its history has ended: only the ledger knows.
            continue
        open_still += state in OPEN
        unrun += state == "succeeded" and not ran
    return {
        "acknowledged": len(clients.acknowledged),
        "cancelled": len(clients.cancelled),
        "refused": sum(clients.refused.values()),
        "changed_in_bulk": clients.bulk,
        "lost": lost,
        "not_final": open_still,
        "succeeded_without_a_run": unrun,
        "run_more_than_once": sum(count > 1 for line, count in runs.items() if line != "tick"),
        "ticks": runs["tick"],
    }


def soak(place: Path, minutes: float, rate: float) -> dict[str, Any]:
    """One soak; what it found."""
    with cluster_of(place) as cluster:
        ledger = cluster.directory / "ledger.txt"
        os.environ |= {"RAFTWORK_STORAGE": cluster.url, soak_jobs.LEDGER: str(ledger)}
        os.environ["RAFTWORK_ENCRYPTION_KEYS"] = f"soak:{base64.b64encode(os.urandom(32)).decode()}"
        os.environ["RAFTWORK_OUTBOX"] = f"sqlite:///{cluster.directory / 'shop.db'}"
        with contextlib.closing(sqlite3.connect(cluster.directory / "shop.db")) as shop:
            shop.execute("PRAGMA journal_mode = WAL")
        soak_jobs.application().outbox().create_table()
        workers = Workers()
        app = soak_jobs.application().open()

        def processes() -> dict[str, int]:
            nodes = {f"node {number}": cluster.pid(number) for number in cluster.running()}
            return {**nodes, **{name: process.pid for name, process in workers.running.items()}, "clients": os.getpid()}

        def state() -> float | None:
            """Megabytes that the state of one node counts."""
            healths = (cluster.health(number) for number in cluster.running())
            return next((health["state_bytes"] / 2**20 for health in healths if health), None)

        all_well(cluster)
        begun = time.monotonic()
        with Watch(processes, state, cluster.directory) as watch:
            with Clients(app, rate) as clients:
                disturb(cluster, workers, minutes)
            wait_for_end(app)
        slopes = watch.slopes(begun, minutes)
        found = {
            "minutes": minutes,
            **judge(app, clients, ledger),
            "refusals": dict(clients.refused),
            "files": {"first": watch.samples[0]["files"], "most": max(sample["files"] for sample in watch.samples)},
            "state_floors_mb": slopes.pop("state", {}).get("floors_mb"),
            "processes": slopes,
            "exits": workers.end(),
        }
        app.close()
    return found


def wait_for_end(app: Raftwork) -> None:
    """Until no job is left to run."""
    app.schedules.pause("soak.every")
    until = time.monotonic() + ENDING_S
    while app.outbox().status().waiting:
        assert time.monotonic() < until, f"jobs are not relayed: {app.outbox().status()}"
        time.sleep(0.1)
    while any(app.counts().get(state, 0) for state in OPEN):
        assert time.monotonic() < until, f"jobs are left: {app.counts()}"
        time.sleep(0.1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--place", type=Path, default=Path())
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--rate", type=float, default=500.0, help="jobs a second")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(json.dumps(soak(given.place, given.minutes, given.rate), indent=1))
