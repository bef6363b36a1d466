"""Machines that are network namespaces, on one switch, and what goes wrong between them.

Every namespace is one that this test made: a hub with the switch, in which the clients, the workers and the test itself
are, and one for each node. No address of the machine is used, and no packet leaves it.
"""

import ctypes
import os
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from faults.filesystem import run

PREFIX = "raftwork-lab-"
SUBNET = "10.77.0"
HUB = f"{SUBNET}.1"
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def sweep(folder: Path = Path("/run/netns")) -> None:
    """Remove namespaces of a lab whose process is gone without having done so."""
    for left in folder.glob(f"{PREFIX}*"):
        owner = left.name.removeprefix(PREFIX).split("-")[0]
        if not Path("/proc", owner).exists():
            subprocess.run(["ip", "netns", "delete", left.name], capture_output=True, timeout=60)


class Network:
    """A switch, and one machine for each node, reached at `address(number)`."""

    def __init__(self, nodes: int) -> None:
        self.nodes = nodes
        self._base = f"{PREFIX}{os.getpid()}"
        self.hub = f"{self._base}-hub"
        self._entered: int | None = None

    def address(self, number: int) -> str:
        return f"{SUBNET}.{10 + number}"

    def namespace(self, number: int) -> str:
        return f"{self._base}-{number}"

    def create(self) -> None:
        sweep()
        run("ip", "netns", "add", self.hub)
        _ip(
            self.hub,
            "link set lo up",
            "link add switch type bridge forward_delay 0",
            f"addr add {HUB}/24 dev switch",
            "link set switch up",
        )
        for number in range(self.nodes):
            self._add(number)

    def _add(self, number: int) -> None:
        place, port = self.namespace(number), f"port{number}"
        run("ip", "netns", "add", place)
        _ip(self.hub, f"link add {port} type veth peer name eth0 netns {place}", f"link set {port} master switch up")
        _ip(place, "link set lo up", f"addr add {self.address(number)}/24 dev eth0", "link set eth0 up")

    def destroy(self) -> None:
        for name in [*(self.namespace(number) for number in range(self.nodes)), self.hub]:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, timeout=60)

    def command(self, number: int) -> list[str]:
        """What a command begins with that runs on this machine. The process stays the same, so its id is the one."""
        return ["nsenter", f"--net=/run/netns/{self.namespace(number)}", "--"]

    @contextmanager
    def inside(self) -> Iterator[None]:
        """This thread, and every thread and process that it starts, is in the hub meanwhile."""
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _enter(f"/run/netns/{self.hub}")
            yield
        finally:
            if _libc.setns(own, _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "cannot go back to the network of this machine")
            os.close(own)

    # What goes wrong. Each replaces what went wrong before at this node.

    def cut_off(self, number: int) -> None:
        """Nothing comes in or goes out."""
        self._rules(number, ["drop"], ["drop"])

    def cut_from(self, number: int, others: Iterable[int]) -> None:
        """Nothing between this node and these; clients reach it."""
        places = _set(self.address(other) for other in others)
        self._rules(number, [f"ip saddr {places} drop"], [f"ip daddr {places} drop"])

    def deafen(self, number: int, others: Iterable[int]) -> None:
        """It hears nothing of these nodes, and they hear it."""
        places = _set(self.address(other) for other in others)
        # A new connection needs answers; what is open already goes on in one direction, without acknowledgements.
        self._rules(number, [f"ip saddr {places} drop"], [])

    def lose(self, number: int, percent: int) -> None:
        """So many of a hundred packets that come in are lost, and of those that go out."""
        lost = [f"numgen random mod 100 < {percent} drop"]
        self._rules(number, lost, lost)

    def hold_back(self, number: int, others: Iterable[int], bytes_max: int) -> None:
        """Of what these nodes send to this one, only packets of at most so many bytes arrive: words, and no entries."""
        places = _set(self.address(other) for other in others)
        self._rules(number, [f"ip saddr {places} meta length > {bytes_max} drop"], [])

    def heal(self, number: int) -> None:
        self._nft(number, "table ip lab\ndelete table ip lab\n")

    def dropped(self, number: int) -> int:
        """Packets dropped since the rules of this node were set."""
        done = subprocess.run(
            [*self.command(number), "nft", "list", "table", "ip", "lab"], capture_output=True, text=True, timeout=60
        )
        words = done.stdout.split()
        return sum(int(words[place + 1]) for place, word in enumerate(words) if word == "packets")

    def _rules(self, number: int, inward: Sequence[str], outward: Sequence[str]) -> None:
        def chain(hook: str, rules: Sequence[str]) -> str:
            counted = "\n".join(rule.replace("drop", "counter drop") for rule in rules)
            return f"chain {hook} {{ type filter hook {hook} priority 0;\n{counted}\n}}"

        table = f"table ip lab {{\n{chain('input', inward)}\n{chain('output', outward)}\n}}\n"
        self._nft(number, f"table ip lab\ndelete table ip lab\n{table}")

    def _nft(self, number: int, rules: str) -> None:
        command = [*self.command(number), "nft", "-f", "-"]
        done = subprocess.run(command, input=rules, capture_output=True, text=True, timeout=60)
        if done.returncode != 0:
            raise RuntimeError(f"nft refused\n{rules}\n{done.stderr}")


def _set(addresses: Iterable[str]) -> str:
    return "{ " + ", ".join(addresses) + " }"


def _ip(namespace: str, *lines: str) -> None:
    done = subprocess.run(
        ["ip", "-n", namespace, "-batch", "-"], input="\n".join(lines), capture_output=True, text=True, timeout=60
    )
    if done.returncode != 0:
        raise RuntimeError(f"ip in {namespace}: {done.stderr.strip()}")


def _enter(path: str) -> None:
    place = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(place, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter {path}")
    finally:
        os.close(place)
