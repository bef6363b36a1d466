"""What the cluster's measurements share: a cluster on the disk that is measured, and processes that load it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raftwork.cli import measure
from raftwork.testing.cluster import Cluster

LOAD = Path(__file__).with_name("cluster_load.py")
PATIENCE_S = 60.0


@contextmanager
def cluster_of(place: Path, nodes: int = 3) -> Iterator[Cluster]:
    """Real nodes below this place; each of them votes when this is entered."""
    with measure.fresh_directory(place) as directory, Cluster(directory, nodes) as cluster:
        yield cluster


class Load:
    """One process of `cluster_load.py`. It is ready when this returns, and begins with `begin`."""

    def __init__(self, role: str, storage: str, **options: float) -> None:
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        self.process = subprocess.Popen(
            [sys.executable, str(LOAD), role, "--storage", storage, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line == "ready\n", f"{role} did not become ready: {line!r}"

    def begin(self) -> None:
        """The word that it waits for."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """Wait for its end; answers what it measured."""
        out, _ = self.process.communicate()
        found: dict[str, Any] = json.loads(out)
        return found

    def end(self) -> None:
        """Kill it, if it runs."""
        self.process.kill()
        self.process.communicate()


def together(loads: list[Load]) -> list[dict[str, Any]]:
    """Let all begin at once; answers what each measured."""
    for load in loads:
        load.begin()
    return [load.answer() for load in loads]


def p99_ms(taken: list[float]) -> float:
    """Of seconds, in milliseconds."""
    return measure.percentile(taken, 0.99) * 1e3


def wait_until(holds: Any, what: str) -> float:
    """Ask again and again; answers the moment at which it held, on the monotonic clock."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        if holds():
            return time.monotonic()
        time.sleep(0.005)
    raise AssertionError(f"{what}: not within {PATIENCE_S} s")


def all_well(cluster: Cluster) -> int:
    """Return when all members vote, follow one leader and have caught up with it; answers which leads."""

    def well() -> bool:
        seen = [cluster.health(number) for number in cluster.running()]
        if any(health is None or not health["voter"] or not health["leader"] for health in seen):
            return False
        committed = max(health["committed"] for health in seen if health)
        return len({health["leader"] for health in seen if health}) == 1 and all(
            health["applied"] + 1_000 >= committed and health["peers_connected"] == len(seen) - 1
            for health in seen
            if health
        )

    wait_until(well, "all members follow one leader")
    return cluster.leader()
