"""Names of hosts whose addresses change: clients and members look them up anew whenever they connect."""

import os
import time
from pathlib import Path

import pytest

from faults.telling import Told
from raftwork.testing.cluster import PATIENCE_S, Cluster, free_ports

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a process its own /etc/hosts"),
]


class Hosts:
    """What names stand for, to processes that are started `within`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.addresses: dict[str, str] = {}
        self.within = ("unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', str(path))

    def point(self, **addresses: str) -> None:
        """From now on these names stand for other addresses."""
        self.addresses |= addresses
        # Written in place: what is mounted is this file, not its name.
        self.path.write_text("".join(f"{address} {name}.test\n" for name, address in self.addresses.items()))


class Named(Cluster):
    """Nodes at one port of several loopback addresses, which know each other by names."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        (self.port,) = free_ports(1)
        self.hosts = Hosts(directory / "hosts")
        for number in range(3):
            self.place(number, f"127.0.0.{10 + number}")

    def place(self, number: int, address: str) -> None:
        """Where a node that does not run is started next, under its name."""
        self.hosts.point(**{f"node-{number}": address})
        self.listen[number], self.clients[number] = f"{address}:{self.port}", f"{address}:{self.port + 1}"

    def command(self, number: int) -> list[str]:
        command = super().command(number)
        command[command.index("--members") + 1] = ",".join(f"node-{each}.test:{self.port}" for each in range(3))
        return [*self.hosts.within, *command, "--advertise", f"node-{number}.test:{self.port}"]


def test_clients_and_members_follow_a_name_to_its_new_address(tmp_path: Path) -> None:
    with Named(tmp_path) as cluster:
        number = cluster.leader()
        address = cluster.hosts.addresses[f"node-{number}"]
        cluster.hosts.point(shop=address)
        client = Told(tmp_path / "client.log", f"raftwork://shop.test:{cluster.port + 1}", within=cluster.hosts.within)
        try:
            assert client.hear() == "open"
            client.tell("enqueue", 1)
            # The one address that it knows by this name is gone, and then the name stands for another node.
            cluster.hosts.point(shop=cluster.hosts.addresses[f"node-{(number + 1) % 3}"])
            cluster.kill(number)
            client.tell("enqueue", 2)
        finally:
            client.kill()

        cluster.place(number, "127.0.0.20")
        cluster.launch(number)
        cluster.wait_until_serving(number)
        latest = time.monotonic() + PATIENCE_S
        while not all(is_in_touch(cluster, each) for each in range(3)):
            assert time.monotonic() < latest, "the others do not reach it, or it does not reach them"


def is_in_touch(cluster: Cluster, number: int) -> bool:
    """Whether this node has a connection to both others, and what the client enqueued."""
    health = cluster.health(number)
    return health is not None and (health["peers_connected"], health["jobs"]) == (2, 2)
