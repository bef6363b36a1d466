"""Floods of connections against a cluster that serves: nobody is elected, and nobody waits for long (row 10)."""

import select
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raftwork import Raftwork
from support.founded import Founded, command

CONNECTIONS = 1_500
STRANGERS = 500
STRANGERS_SERVED = 64
HELLO = bytes.fromhex("16030100c8010000c40303") + b"x" * 60
"""The beginning of a TLS handshake that never goes on."""


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Founded]:
    with Founded(tmp_path_factory.mktemp("floods"), nodes=3) as founded:
        yield founded


def flood(ports: list[int], stop: threading.Event, said: bytes) -> int:
    """Open connections to all ports as fast as one thread can, and keep them as long as the other side does."""
    held: list[socket.socket] = []
    count = 0
    while not stop.is_set():
        for port in ports:
            made = socket.socket()
            made.settimeout(1)
            try:
                made.connect(("127.0.0.1", port))
                made.sendall(said)
            except OSError:
                made.close()
                continue
            held.append(made)
            count += 1
        for made in held[:-200]:
            made.close()
        held = held[-200:]
    for made in held:
        made.close()
    return count


@pytest.mark.parametrize("said", [b"", HELLO], ids=["silent", "handshakes"])
def test_a_flood_of_connections_elects_nobody(founded: Founded, said: bytes) -> None:
    clients = [int(listen.rpartition(":")[2]) + 1 for listen in founded.listen]
    members = [int(listen.rpartition(":")[2]) for listen in founded.listen]
    token = founded.make_token("honest", "enqueue:*", "read")
    app = Raftwork("shop", storage=founded.url, tls_ca=founded.ca, token=token)

    @app.task(name="shop.nothing")
    def nothing() -> None: ...

    stop, counts = threading.Event(), []
    threads = [
        threading.Thread(target=lambda ports=ports: counts.append(flood(ports, stop, said)))
        for ports in (clients, members)
    ]
    with app:
        nothing.enqueue()
        before = app.storage.health()
        for thread in threads:
            thread.start()
        took, opened, until = [], time.monotonic(), time.monotonic() + 20
        while len(took) < 300 or time.monotonic() - opened < 5:
            assert time.monotonic() < until
            began = time.perf_counter()
            nothing.enqueue()
            took.append(time.perf_counter() - began)
        stop.set()
        for thread in threads:
            thread.join()
        after = app.storage.health()
    assert sum(counts) >= CONNECTIONS // 3, "a flood"
    assert (after["term"], after["leader"]) == (before["term"], before["leader"])
    assert statistics.median(took) < 0.5
    # The ports are as good as before for whoever comes now.
    assert command("status", "--storage", founded.url, at=Path.cwd(), **env(founded, token))["health"]["cluster"]


def resident(pid: int, which: str = "VmRSS") -> int:
    """Bytes of memory that a process has, or had at most (VmHWM)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith(f"{which}:"))


def come_at_once(port: int, said: bytes) -> list[socket.socket]:
    """Connections of many strangers, from many addresses; returns when the other side keeps as many as it ever does."""
    held = []
    for number in range(STRANGERS):
        made = socket.socket()
        made.bind((f"127.0.1.{number % 100 + 1}", 0))
        made.connect(("127.0.0.1", port))
        made.sendall(said)
        held.append(made)
    until, kept = time.monotonic() + 30, list(held)
    while len(kept) > STRANGERS_SERVED:
        assert time.monotonic() < until, f"{len(kept)} strangers are kept"
        ended, _, _ = select.select(kept, [], [], 1)
        kept = [made for made in kept if made not in ended]
    return held


@pytest.mark.parametrize("said", [b"", HELLO], ids=["silent", "handshakes"])
@pytest.mark.parametrize("step", [0, 1], ids=["members", "clients"])
def test_five_hundred_strangers_take_little_memory_and_give_it_back(founded: Founded, step: int, said: bytes) -> None:
    """Rows 7 and 10: 128 KiB for each of those that are kept, and nothing for the others."""
    pid, port = founded.processes[0].pid, int(founded.listen[0].rpartition(":")[2]) + step
    taken, kept = [], []
    for _ in range(5):
        before = resident(pid)
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # What it had at most counts from here.
        for made in come_at_once(port, said):
            made.close()
        taken.append(resident(pid, "VmHWM") - before)
        kept.append(resident(pid))
    # About 2 MiB in all where this was written, the node's own work included.
    assert max(taken) < STRANGERS_SERVED * (128 << 10), taken
    # After the first the process has what it works with. Four more that kept theirs would be four times as much.
    assert kept[-1] - kept[0] < STRANGERS_SERVED * (64 << 10), f"some is not given back: {kept}"


def env(founded: Founded, token: str) -> dict[str, str]:
    return {"RAFTWORK_TLS_CA": founded.ca, "RAFTWORK_TOKEN": token}
