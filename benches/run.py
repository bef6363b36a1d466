"""`make bench`: every figure of benches/README.md, with the machine it was measured on.

python benches/run.py [--place DIR] [--rounds 5] [--jobs 1000000]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import cluster_failures
import cluster_limping
import cluster_throughput
import job_model
import latency
import limits
import recurring
import replication
import size
import throughput
from table import Figure, at_least, render

ROOT = Path(__file__).parents[1]


def machine(place: Path) -> list[str]:
    """What the figures depend on."""
    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), ": ?")
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    below = [fields for fields in mounts if str(place.resolve()).startswith(fields[1])]
    device, at, kind = max(below, key=lambda fields: len(fields[1]))[:3]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    what = f"raftwork {version('raftwork')} {commit.strip()}, release build"
    return [
        f"Measured {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {what}.",
        f"{len(os.sched_getaffinity(0))} cores,{model.partition(':')[2]}, {memory:.0f} GiB; {platform.platform()}.",
        f"Disk: {device} on {at}, {kind}. Python {platform.python_version()}.",
    ]


def commits(place: Path, rounds: int) -> list[Figure]:
    """The Rust core alone: `benches/commits.rs`."""
    targets = {1: 3_500, 32: 50_000}
    found = {
        clients: Figure(f"durable commits, Rust, {clients} client(s), 256 B", "/s", f"{limit:,}", at_least(limit))
        for clients, limit in targets.items()
    }
    command = ["cargo", "bench", "--quiet", "--locked", "--bench", "commits", "--"]
    command += ["--place", str(place.resolve()), "--rounds", str(rounds)]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            row = json.loads(line)
            found[row["clients"]].values.append(row["commits_per_second"])
    return list(found.values())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--place", type=Path, default=Path(), help="a directory on the disk to measure")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    given = parser.parse_args()
    print("\n".join(machine(given.place)), f"{given.rounds} rounds.\n", flush=True)
    figures = [
        *commits(given.place, given.rounds),
        *replication.figures(given.place, given.rounds),
        *throughput.figures(given.place, given.rounds),
        *latency.figures(given.place, given.rounds),
        *size.figures(given.place, given.rounds, given.jobs),
        *cluster_throughput.figures(given.place, given.rounds),
        *cluster_failures.figures(given.place, given.rounds),
        *cluster_limping.figures(given.place, given.rounds, given.jobs),
        *limits.figures(given.place, given.rounds),
        *job_model.figures(given.place, given.rounds),
        *recurring.figures(given.place, 10_000, 10),
    ]
    print(render(figures))


if __name__ == "__main__":
    main()
