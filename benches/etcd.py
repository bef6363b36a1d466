"""etcd 3.4 as a yardstick: three members over loopback, puts of 256 bytes, counted by the revision.

    python benches/etcd.py [--place DIR] [--clients 64] [--seconds 3]

Needs `etcd` (Debian's etcd-server) and `h2load` (Debian's nghttp2-client), and installs neither. The load is h2load in
a process of its own: one connection to the leader for each client and one put in flight on it. What counts is by how
much the revision grew, not what h2load says.
"""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

MEMBERS = 3
VALUE_BYTES = 256
START_SECONDS = 60.0


def missing() -> list[str]:
    """The Debian packages that are not there."""
    needed = {"etcd": "etcd-server", "h2load": "nghttp2-client"}
    return [package for program, package in needed.items() if shutil.which(program) is None]


def free_ports(count: int) -> list[int]:
    """Ports that nobody has at the moment."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in held]
    for sock in held:
        sock.close()
    return ports


def put_body() -> bytes:
    """One etcdserverpb.PutRequest as gRPC frames it: key is field 1, value is field 2."""
    key, value = b"bench", b"\x07" * VALUE_BYTES
    size = len(value)
    message = b"\x0a" + bytes([len(key)]) + key + b"\x12" + bytes([size & 0x7F | 0x80, size >> 7]) + value
    return b"\x00" + len(message).to_bytes(4, "big") + message


class Etcd:
    """Three members in a temporary directory, with their default settings."""

    def __init__(self, place: Path) -> None:
        self.directory = tempfile.TemporaryDirectory(prefix=".raftwork-etcd-", dir=place)
        self.path = Path(self.directory.name)
        ports = free_ports(2 * MEMBERS)
        self.clients, peers = ports[:MEMBERS], ports[MEMBERS:]
        cluster = ",".join(f"m{number}=http://127.0.0.1:{peer}" for number, peer in enumerate(peers))
        self.members = [self.start(number, peer, cluster) for number, peer in enumerate(peers)]

    def start(self, number: int, peer: int, cluster: str) -> subprocess.Popen[bytes]:
        """One member."""
        client = f"http://127.0.0.1:{self.clients[number]}"
        command = ["etcd", "--name", f"m{number}", "--data-dir", str(self.path / str(number))]
        command += ["--listen-client-urls", client, "--advertise-client-urls", client]
        command += ["--listen-peer-urls", f"http://127.0.0.1:{peer}"]
        command += ["--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}"]
        command += ["--initial-cluster", cluster, "--initial-cluster-state", "new", "--log-level", "error"]
        log = (self.path / f"{number}.log").open("wb")
        return subprocess.Popen(command, stdout=log, stderr=log)

    def __enter__(self) -> Etcd:
        return self

    def __exit__(self, *_: object) -> None:
        for member in self.members:
            member.kill()
            member.wait()
        self.directory.cleanup()

    def ask(self, port: int, path: str, question: dict[str, Any]) -> dict[str, Any]:
        """A question over the JSON gateway."""
        body = json.dumps(question).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=body, method="POST")
        with urllib.request.urlopen(request, timeout=5) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def leader(self) -> int:
        """The client port of the member that leads, once there is one."""
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            for port in self.clients:
                try:
                    status = self.ask(port, "/v3/maintenance/status", {})
                except (urllib.error.URLError, OSError):
                    continue
                if status.get("leader", "0") == status["header"]["member_id"]:
                    return port
            time.sleep(0.1)
        raise TimeoutError(f"etcd has no leader after {START_SECONDS:.0f} s; its logs: {self.path}")

    def revision(self, port: int) -> int:
        """How many puts there were."""
        return int(self.ask(port, "/v3/kv/range", {"key": "YmVuY2g="})["header"]["revision"])

    def puts_per_second(self, clients: int, seconds: int) -> float:
        """Puts a second of so many clients that each wait for one answer before they send the next."""
        port = self.leader()
        body = self.path / "put"
        body.write_bytes(put_body())
        command = ["h2load", "--clients", str(clients), "--max-concurrent-streams", "1", "--threads", "1"]
        command += ["--duration", str(seconds), "--data", str(body), "--header", "content-type: application/grpc"]
        command += ["--header", "te: trailers", f"http://127.0.0.1:{port}/etcdserverpb.KV/Put"]
        before, began = self.revision(port), time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        grew, took = self.revision(port) - before, time.monotonic() - began
        if grew == 0:
            raise RuntimeError("no put of h2load arrived at etcd")
        return grew / took


def main() -> None:
    """Measure once and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--place", type=Path, default=Path())
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 64, 256])
    parser.add_argument("--seconds", type=int, default=3)
    given = parser.parse_args()
    if packages := missing():
        raise SystemExit(f"not installed: {', '.join(packages)}")
    with Etcd(given.place) as etcd:
        for clients in given.clients:
            rate = etcd.puts_per_second(clients, given.seconds)
            print(json.dumps({"clients": clients, "puts_per_second": round(rate)}))


if __name__ == "__main__":
    main()
