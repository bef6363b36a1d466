"""A follower on a bad network: it is in a network namespace of its own, where 30 % of the packets are lost.

    python benches/cluster_lossy.py [--place DIR]

Needs root. The other nodes and the clients are in a second namespace, so no packet leaves what this makes; both are
removed at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster_parts import Load, all_well, p99_ms

from raftwork.cli import measure
from raftwork.network import INSECURE_WORDS, Network
from raftwork.testing.cluster import Cluster

LOSS_PERCENT = 30
RATE = 500
SECONDS = 6.0
HUB, FAR = "10.77.0.1", "10.77.0.2"
FOLLOWER = 2


def run(command: str) -> None:
    """One command of the system."""
    subprocess.run(command.split(), check=True)


@contextmanager
def namespaces() -> Iterator[tuple[str, str]]:
    """Two machines with a cable between them; the names of both."""
    hub, far = (f"raftwork-bench-{os.getpid()}-{name}" for name in ("hub", "far"))
    try:
        for name in (hub, far):
            run(f"ip netns add {name}")
            run(f"ip -n {name} link set lo up")
        run(f"ip -n {hub} link add cable type veth peer name cable netns {far}")
        for name, address in ((hub, HUB), (far, FAR)):
            run(f"ip -n {name} addr add {address}/24 dev cable")
            run(f"ip -n {name} link set cable up")
        yield hub, far
    finally:
        for name in (far, hub):
            subprocess.run(["ip", "netns", "delete", name], check=False)


def lossy_ratio(place: Path) -> tuple[float, float]:
    """The clients' p99 in milliseconds on a good network, and with one follower on a bad one."""
    environment = {**os.environ, "RAFTWORK_ALLOW_INSECURE": "1", "RAFTWORK_INSECURE": INSECURE_WORDS}
    with namespaces() as (hub, far):
        command = ["ip", "netns", "exec", hub, sys.executable, __file__, "--place", str(place), "--far", far]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    found = json.loads(done.stdout)
    return found["healthy"], found["limping"]


class FarCluster(Cluster):
    """Two nodes here, and one on the other machine."""

    def __init__(self, directory: Path, far: str) -> None:
        plain = {"RAFTWORK_ALLOW_INSECURE": "1", "RAFTWORK_INSECURE": INSECURE_WORDS}
        super().__init__(directory, environment=plain)
        places = [HUB, HUB, FAR]
        for addresses in (self.listen, self.clients):
            ports = [address.rpartition(":")[2] for address in addresses]
            addresses[:] = [f"{place}:{port}" for place, port in zip(places, ports, strict=True)]
        self.network = Network(insecure=INSECURE_WORDS)
        self._far = far

    def command(self, number: int) -> list[str]:
        there = ["nsenter", f"--net=/run/netns/{self._far}", "--"] if number == FOLLOWER else []
        return [*there, *super().command(number)]

    def lose(self) -> None:
        """From now on packets to and from the far node are lost."""
        chain = "chain {0} {{ type filter hook {0} priority 0; numgen random mod 100 < {1} counter drop; }}"
        rules = "\n".join(chain.format(hook, LOSS_PERCENT) for hook in ("input", "output"))
        command = ["nsenter", f"--net=/run/netns/{self._far}", "--", "nft", f"table ip bad {{\n{rules}\n}}"]
        subprocess.run(command, check=True)


def inside(place: Path, far: str) -> dict[str, float]:
    """In the namespace of the others: measure with and without loss."""
    with measure.fresh_directory(place) as directory, FarCluster(directory, far) as cluster:
        while all_well(cluster) == FOLLOWER:
            command = [sys.executable, "-m", "raftwork", "cluster", "transfer-leader", "--storage", cluster.url]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        healthy = paced(cluster)
        cluster.lose()
        return {"healthy": healthy, "limping": paced(cluster)}


def paced(cluster: Cluster) -> float:
    """The clients' p99 in milliseconds at a fixed rate."""
    load = Load("pace", cluster.url, threads=8, rate=RATE, seconds=SECONDS)
    load.begin()
    return p99_ms(load.answer()["took"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--place", type=Path, default=Path())
    parser.add_argument("--far", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.far is None:
        print("p99 in ms, healthy and with loss:", lossy_ratio(given.place))
    else:
        print(json.dumps(inside(given.place, given.far)))
