"""What a limit costs: no-op jobs with a concurrency limit for each of 1,000 keys, next to the same jobs without.

    python benches/limits.py [--place DIR] [--rounds 5]

Both are measured in every round, each in a fresh directory, and compared in pairs.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from table import Figure, at_least, render

from raftwork import Limit
from raftwork.cli import measure

JOBS = 30_000
KEYS = 1_000


def noop(key: int) -> None:
    """Does nothing."""


class Keyed:
    """A task whose calls by number share few keys."""

    def __init__(self, task: Any) -> None:
        self._task = task

    def s(self, number: int) -> Any:
        """The call of this number."""
        return self._task.s(number % KEYS)


def rate(place: Path, limit: Limit | None) -> float:
    """Jobs a second that one worker process runs."""
    with measure.fresh_directory(place) as directory:
        app = measure.noop_app(directory / "data")[0]
        try:
            task = Keyed(app.task(queue="bench", name="bench.keyed", limit=limit)(noop))
            measure.run_rate(app, task, 2_000)  # warm
            return measure.run_rate(app, task, JOBS)
        finally:
            app.close()


def figures(place: Path, rounds: int) -> list[Figure]:
    """Measure all rounds."""
    without = Figure("no-op jobs run, 8 threads, without limits", "jobs/s")
    limited = Figure("no-op jobs run, 8 threads, a concurrency limit per key, 1,000 keys", "jobs/s")
    ratio = Figure("the same with / without limits", "%", "70", at_least(70.0))
    for _ in range(rounds):
        without.values.append(rate(place, None))
        limited.values.append(rate(place, Limit(2, per="key")))
        ratio.values.append(100 * limited.values[-1] / without.values[-1])
    return [without, limited, ratio]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--place", type=Path, default=Path())
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    print(render(figures(given.place, given.rounds)))
