"""How many jobs a second: stored by one and by many callers, in bulk, and run by one worker process.

    python benches/throughput.py [--place DIR] [--rounds 5]

Each round uses a fresh directory. The disk itself and SQLite are measured in every round, next to what is compared.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from table import Figure, at_least, at_most, render

from raftwork.cli import measure

CALLS = 1_500
BULK_JOBS = 100_000
RUN_JOBS = 30_000
FLOW_JOBS = 10_000


def figures(place: Path, rounds: int) -> list[Figure]:
    """Measure all rounds."""
    sync = Figure("write 4 KiB and fdatasync, p50", "ms")
    sqlite = Figure("SQLite insert of 256 B, WAL, synchronous FULL, p50", "ms")
    alone = Figure("enqueue, one thread, p50", "ms")
    ratio = Figure("enqueue p50 / fdatasync p50", "x", "2 at most", at_most(2.0))
    against = Figure("enqueue p50 / SQLite p50", "x", "aim: below 1", at_most(1.0))
    eight = Figure("enqueue, 8 threads", "jobs/s", "10,000", at_least(10_000))
    many = Figure("enqueue, 32 threads", "jobs/s", "15,000", at_least(15_000))
    bulk = Figure("enqueue_many, 1,000 a call", "jobs/s", "150,000", at_least(150_000))
    threads = Figure("no-op jobs run, one process, 8 threads", "jobs/s", "20,000", at_least(20_000))
    coroutines = Figure("no-op jobs run, one process, asyncio", "jobs/s", "20,000", at_least(20_000))
    flow = Figure("fan-out and fan-in of 10,000 jobs, one worker process", "s", "2 at most", at_most(2.0))
    for _ in range(rounds):
        with measure.fresh_directory(place) as directory:
            sync.values.append(measure.percentile(measure.sync_seconds(directory, 1_000), 0.5) * 1e3)
            sqlite.values.append(measure.percentile(measure.sqlite_seconds(directory, 1_000), 0.5) * 1e3)
            app, noop, noop_async = measure.noop_app(directory / "data")
            try:
                measure.call_seconds(noop.enqueue, 200)  # warm
                alone.values.append(measure.percentile(measure.call_seconds(noop.enqueue, CALLS), 0.5) * 1e3)
                ratio.values.append(alone.values[-1] / sync.values[-1])
                against.values.append(alone.values[-1] / sqlite.values[-1])
                eight.values.append(measure.thread_rate(noop.enqueue, 8, CALLS))
                many.values.append(measure.thread_rate(noop.enqueue, 32, CALLS // 2))
                bulk.values.append(measure.bulk_rate(app, noop, BULK_JOBS))
            finally:
                app.close()
        for figure, is_async in ((threads, False), (coroutines, True)):
            with measure.fresh_directory(place) as directory:
                app, noop, noop_async = measure.noop_app(directory / "data")
                try:
                    task = noop_async if is_async else noop
                    measure.run_rate(app, task, 2_000)  # warm
                    figure.values.append(measure.run_rate(app, task, RUN_JOBS))
                finally:
                    app.close()
        with measure.fresh_directory(place) as directory:
            app, noop, _ = measure.noop_app(directory / "data")
            try:
                measure.run_rate(app, noop, 2_000)  # warm
                flow.values.append(measure.flow_seconds(app, noop, FLOW_JOBS))
            finally:
                app.close()
    return [sync, sqlite, alone, ratio, against, eight, many, bulk, threads, coroutines, flow]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--place", type=Path, default=Path())
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    print(render(figures(given.place, given.rounds)))
