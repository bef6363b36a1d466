"""`raftwork node` and `raftwork cluster status`: nodes as processes, asked while some of them are down."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raftwork.cli import target
from raftwork.network import INSECURE_WORDS
from raftwork.testing.cluster import Cluster, free_ports
from support.command_line import start


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Starts `raftwork node`; what is left is killed at the end."""
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: str, **environment: str) -> "subprocess.Popen[str]":
        started.append(start("node", *arguments, cwd=tmp_path, **environment))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def test_a_node_alone_in_its_cluster_serves_and_ends_on_sigterm(node: Any, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    listen, clients = f"127.0.0.1:{port}", f"127.0.0.1:{port + 1}"
    process = node("--data", "jobs", "--listen", listen, "--members", listen, "--json")
    serving = json.loads(process.stdout.readline())
    assert (serving["event"], serving["role"], serving["pid"]) == ("node.serving", "leader", process.pid)
    assert (serving["listen"], serving["clients"]) == (listen, clients)
    assert serving["directory"] == str(tmp_path / "jobs")
    other = node("--data", "jobs", "--listen", listen, "--members", listen)
    assert "RW313 Another process runs the node" in other.communicate(timeout=60)[1]
    assert other.returncode == 3
    process.send_signal(signal.SIGTERM)
    assert "Stops;" in process.communicate(timeout=60)[1]
    assert process.returncode == 0


def test_a_node_that_waits_for_the_others_ends_at_once(node: Any, tmp_path: Path) -> None:
    first, second = (f"127.0.0.1:{port}" for port in free_ports(2))
    process = node("--data", "jobs", "--listen", first, "--members", f"{first},{second}")
    until = time.monotonic() + 30
    while not (tmp_path / "jobs" / "LOCK").exists():
        assert time.monotonic() < until
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == 0
    assert not (tmp_path / "jobs" / "IDENTITY").exists(), "nothing was made"


def test_settings_come_from_every_place(node: Any, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    listen = f"127.0.0.1:{port}"
    (tmp_path / "raftwork.toml").write_text(
        f'members = ["{listen}"]\nlisten = "127.0.0.1:1"\nstorage = "raft:///jobs"\n'
    )
    process = node("--json", "--log-level", "ERROR", RAFTWORK_LISTEN=listen)
    assert json.loads(process.stdout.readline())["listen"] == listen
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60)[1] == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "jobs"], "--listen HOST:PORT"),
        (["--data", "jobs", "--listen", "7000"], "RW001 listen='7000' has no port"),
        (["--data", "jobs", "--listen", "127.0.0.1:1", "--members", "a"], "RW001 members='a' has no port"),
        (["--data", "jobs", "--listen", "127.0.0.1:1", "--insecure", "yes"], "must be exactly"),
        (["--data", "jobs", "--listen", "127.0.0.1:1", "--insecure", INSECURE_WORDS], "ALLOW_INSECURE is not set"),
        (["--data", "jobs", "--listen", "127.0.0.1:1", "--tls-ca", "ca.pem"], "without tls_certificate and tls_key"),
    ],
)
def test_wrong_usage_of_node(raftwork: Any, shop: Path, arguments: list[str], words: str) -> None:
    answer = raftwork("node", *arguments)
    assert answer.status == 2
    assert words in answer.err
    assert not (shop / "jobs").exists()


def test_a_node_needs_a_directory(raftwork: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAFTWORK_STORAGE", "memory://")
    answer = raftwork("node", "--listen", "127.0.0.1:1")
    assert answer.status == 2
    assert "Name one with --data" in answer.err


def test_the_core_tells_of_its_members_on_the_error_stream(cluster: Cluster) -> None:
    node = (cluster.health(0) or {})["leader"]
    cluster.stop()
    said = "".join(path.read_text() for path in cluster.directory.glob("*.log"))
    assert f" INFO raftwork.core.node member {node} leads in term" in said


def test_status_tells_how_each_member_is_also_when_some_are_down(raftwork: Any, cluster: Cluster) -> None:
    command = ["cluster", "status", "--storage", cluster.url]
    answer = raftwork(*command, "--json")
    assert (answer.status, answer.json["problems"]) == (0, [])
    leader = cluster.leader()
    assert answer.json["leader"] == answer.json["members"][leader]["node"]
    assert [member["address"] for member in answer.json["members"]] == cluster.clients
    assert sorted(member["role"] for member in answer.json["members"]) == ["follower", "follower", "leader"]
    for member in answer.json["members"]:
        assert member["term"] == answer.json["term"]
        assert 0 <= member["lag"] <= answer.json["committed"]
        assert {"applied", "committed", "snapshot_index", "log_bytes", "fsync_p99_us", "alarms"} <= member.keys()
    told = raftwork(*command).out
    assert all(address in told for address in cluster.clients)

    down = cluster.follower()
    cluster.kill(down)
    answer = raftwork(*command, "--json")
    assert answer.status == 3
    assert answer.json["leader"] == answer.json["members"][leader]["node"], "the others go on"
    assert [member["answers"] for member in answer.json["members"]] == [number != down for number in range(3)]
    assert answer.json["problems"][0].startswith(f"{cluster.clients[down]} does not answer")
    assert "no answer" in raftwork(*command).out

    hanging = next(number for number in range(3) if number not in (down, leader))
    cluster.pause(hanging)
    answer = raftwork(*command, "--json", "--timeout", "200ms")
    assert [member["answers"] for member in answer.json["members"]] == [number == leader for number in range(3)]
    cluster.resume(hanging)
    cluster.kill()
    answer = raftwork(*command, "--json")
    assert (answer.status, answer.json["leader"]) == (3, None)
    assert "no member leads" in answer.json["problems"][-1]
    assert raftwork(*command).status == 3


def test_members_are_found_by_the_settings(raftwork: Any, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAFTWORK_LISTEN", cluster.listen[0])
    monkeypatch.setenv("RAFTWORK_MEMBERS", ",".join(cluster.listen))
    monkeypatch.setenv("RAFTWORK_STORAGE", f"raft:///{cluster.data(0)}")
    answer = raftwork("cluster", "status", "--json")
    assert answer.status == 0, answer.err + answer.out
    assert [member["address"] for member in answer.json["members"]] == cluster.clients
    assert raftwork("queues").status == 0, "beside the node of this machine"


def test_a_command_does_not_wait_for_a_cluster_for_long(raftwork: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "CLUSTER_WAIT_MS", 200)
    answer = raftwork("status", "--storage", "raftwork://127.0.0.1:1")
    assert answer.status == 3
    assert answer.err.startswith("RW319 no member of raftwork://127.0.0.1:1 can answer")


def test_one_node_has_no_members_to_ask(raftwork: Any, shop: Path) -> None:
    for storage in ("raft:///jobs", "memory://"):
        answer = raftwork("cluster", "status", "--storage", storage)
        assert answer.status == 2
        assert "no members to ask" in answer.err
    assert not (shop / "jobs").exists()


def test_a_worker_and_the_commands_reach_the_cluster(raftwork: Any, shop: Path, cluster: Cluster) -> None:
    environment = {"RAFTWORK_STORAGE": cluster.url}
    with start("worker", "shop:app", "--json", cwd=shop, **environment) as worker:
        try:
            assert worker.stdout is not None
            worker.stdout.readline()
            os.environ.update(environment)
            answer = raftwork(
                "enqueue", "--app", "shop:app", "send_welcome", "[7]", "--wait", "--timeout", "30", "--json"
            )
            assert answer.status == 0, answer.err
            assert answer.json["result"] == "'sent default to 7'"
            assert raftwork("jobs", "--json").json["jobs"][0]["state"] == "succeeded"
            assert raftwork("status", "--json").json["health"]["cluster"] == cluster.health(0)["cluster"]  # type: ignore[index]
            assert raftwork("doctor").status == 0
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(30) == 0
        finally:
            os.environ.pop("RAFTWORK_STORAGE")
            worker.kill()
