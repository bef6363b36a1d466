"""Replicated durable commits: three nodes on this machine, beside three members of etcd 3.4 in the same rounds.

    python benches/replication.py [--place DIR] [--rounds 5]

The Rust side is `benches/cluster.rs`, the yardstick `benches/etcd.py`. In each round everything is measured once, one
after the other, so what the neighbours of a virtual machine do to one they do to all.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path

import etcd
from table import Figure, at_least, render

ROOT = Path(__file__).parents[1]
FLOORS = {1: 2_000, 32: 35_000, 256: 70_000}
CLIENTS = [1, 32, 64, 256]
AT = 64
"""Clients of the comparison with etcd."""
SECONDS = 2


class Rates:
    """The figures of one arrangement, by number of clients."""

    def __init__(self, what: str, *options: str, floors: bool = False) -> None:
        self.options = list(options)
        limits = FLOORS if floors else {}
        self.figures = {clients: self._figure(what, clients, limits.get(clients)) for clients in CLIENTS}

    @staticmethod
    def _figure(what: str, clients: int, limit: int | None) -> Figure:
        name = f"replicated commits, {what}, {clients} client(s)"
        return Figure(name, "/s") if limit is None else Figure(name, "/s", f"{limit:,}", at_least(limit))

    def measure(self, place: Path) -> dict[int, float]:
        """One round, in a cluster of its own."""
        command = ["cargo", "bench", "--quiet", "--locked", "--bench", "cluster", "--", "--rounds", "1"]
        command += ["--place", str(place.resolve()), "--seconds", str(SECONDS), *self.options]
        command += ["--clients", ",".join(map(str, CLIENTS))]
        done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
        rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        rates = {row["clients"]: float(row["commits_per_second"]) for row in rows}
        for clients, rate in rates.items():
            self.figures[clients].values.append(rate)
        return rates


def ratio_of(what: str, limit: float) -> Figure:
    """One rate divided by another of the same round."""
    return Figure(what, "x", str(limit), at_least(limit))


def figures(place: Path, rounds: int) -> list[Figure]:
    """All rows. Without etcd on this machine its rows are missing, and it is said why."""
    within = Rates("clients in the leader's process", "--within", floors=True)
    apart = Rates("clients in a process of their own", floors=True)
    events = Rates("clients in one event loop of their own process", "--events", floors=True)
    secured = Rates("clients in a process of their own, TLS", "--tls")
    tls = {clients: ratio_of(f"the same, TLS / plain, {clients} client(s)", 0.7) for clients in CLIENTS}
    puts = Figure(f"etcd 3.4, three members, puts of 256 B, {AT} clients", "/s")
    ratio = ratio_of(f"replicated commits, own process / etcd, {AT} clients", 4)
    packages = etcd.missing()
    if packages:
        print(f"etcd is not compared: not installed: {', '.join(packages)}", flush=True)
    for _ in range(rounds):
        within.measure(place)
        events.measure(place)
        plain, sealed = apart.measure(place), secured.measure(place)
        for clients, figure in tls.items():
            figure.values.append(sealed[clients] / plain[clients])
        if not packages:
            with etcd.Etcd(place) as members:
                puts.values.append(members.puts_per_second(AT, SECONDS))
            ratio.values.append(plain[AT] / puts.values[-1])
    rows = [figure for rates in (within, apart, events, secured) for figure in rates.figures.values()]
    return [*rows, *tls.values(), puts, ratio]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--place", type=Path, default=Path())
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    print(render(figures(given.place, given.rounds)))


if __name__ == "__main__":
    main()
