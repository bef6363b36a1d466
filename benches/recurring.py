"""Ten thousand schedules of every minute on three nodes whose leader dies each minute: is each slot one job, and when?

    python benches/recurring.py [--place DIR] [--schedules 10000] [--minutes 10]

The leader is killed 30 s after a slot, and every other time 300 ms after it, while the slot's firings are under way.
It is back two seconds later. What is late is measured by the storage: from a slot to the moment at which its job was
stored. A slot counts as beside a kill when the leader was killed less than ten seconds before or after it. All time-
outs are the defaults.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from cluster_load import application
from cluster_parts import Load, all_well, cluster_of
from table import Figure, at_most, render

from raftwork import JobInfo, Raftwork
from raftwork.testing.cluster import Cluster

MINUTE_S = 60.0
FAR_S = 10.0


def put(app: Raftwork, schedules: int) -> None:
    """Store the schedules."""
    noop = app.find_task("bench.noop")
    for number in range(schedules):
        app.schedules.put(f"minutely-{number}", noop.s(number), cron="* * * * *")


def sleep_until(at: float) -> None:
    """Until a moment of the wall clock."""
    while (left := at - time.time()) > 0:
        time.sleep(left)


def kill_leaders(cluster: Cluster, first: float, minutes: int) -> list[float]:
    """Kill the leader once a minute; answers when."""
    killed = []
    for minute in range(minutes):
        sleep_until(first + minute * MINUTE_S + (0.3 if minute % 2 else 30.0))
        leader = cluster.leader()
        killed.append(time.time())
        cluster.kill(leader)
        time.sleep(2.0)
        cluster.launch(leader)
    return killed


def jobs_of(app: Raftwork, first: float, minutes: int) -> Iterator[JobInfo]:
    """The jobs of the slots that were watched."""
    last = first + (minutes - 1) * MINUTE_S
    for job in app.jobs():
        if job.slot is not None and first <= job.slot.timestamp() <= last:
            yield job


def watch(place: Path, schedules: int, minutes: int) -> dict[str, float]:
    """One run: what was missed, doubled and late."""
    with cluster_of(place) as cluster:
        app = application(cluster.url).open()
        put(app, schedules)
        workers = [Load("work", cluster.url, threads=4) for _ in range(2)]
        all_well(cluster)
        first = (time.time() // MINUTE_S + 2) * MINUTE_S
        killed = kill_leaders(cluster, first, minutes)
        all_well(cluster)
        sleep_until(first + (minutes - 1) * MINUTE_S + 45.0)
        seen: Counter[tuple[str | None, datetime]] = Counter()
        quiet_s, beside_s = [0.0], [0.0]
        for job in jobs_of(app, first, minutes):
            assert job.slot is not None
            seen[job.schedule, job.slot] += 1
            late_s = (job.created_at - job.slot) / timedelta(seconds=1)
            near = any(abs(job.slot.timestamp() - at) < FAR_S for at in killed)
            (beside_s if near else quiet_s).append(late_s)
        for worker in workers:
            worker.end()
        app.close()
    return {
        "missed": schedules * minutes - len(seen),
        "doubled": sum(count - 1 for count in seen.values()),
        "late": max(quiet_s),
        "beside": max(beside_s),
    }


def figures(place: Path, schedules: int, minutes: int) -> list[Figure]:
    """Measure once: it takes as many minutes as are watched."""
    what = f"{schedules:,} schedules every minute for {minutes} minutes, leader killed each minute"
    missed = Figure(f"{what}: slots without a job", "", "0", at_most(0))
    doubled = Figure("the same: slots with more than one job", "", "0", at_most(0))
    late = Figure("the same: latest job, away from the kills", "s", "2 at most", at_most(2))
    beside = Figure("the same: latest job, killed during the firing", "s")
    found = watch(place, schedules, minutes)
    for figure, name in ((missed, "missed"), (doubled, "doubled"), (late, "late"), (beside, "beside")):
        figure.values.append(found[name])
    return [missed, doubled, late, beside]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--place", type=Path, default=Path())
    parser.add_argument("--schedules", type=int, default=10_000)
    parser.add_argument("--minutes", type=int, default=10)
    given = parser.parse_args()
    print(render(figures(given.place, given.schedules, given.minutes)))
