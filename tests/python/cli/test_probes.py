"""Probes and metrics of real processes, and what `raftwork cluster status` makes of it all."""

import json
import os
import signal
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from raftwork import ConfigError, InvalidOption, Raftwork
from raftwork.testing.cluster import PATIENCE_S, Cluster, free_ports
from support.command_line import start


def ask(address: str, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=PATIENCE_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def _nothing() -> None:
    """A job."""


def until(condition: Any) -> None:
    latest = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < latest, "it did not happen"


def test_a_node_answers_probes_and_the_same_numbers_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    with Raftwork("shop", f"raft:///{tmp_path / 'jobs'}", health_listen=address) as app:
        app.task(name="f")(_nothing).enqueue()
        assert ask(address, "/livez") == (200, "")
        assert ask(address, "/readyz") == (200, "")
        status, text = ask(address, "/metrics")
        assert status == 200
        numbers = app.metrics()
        assert numbers['raftwork_jobs{state="enqueued"}'] == 1
        assert 'raftwork_jobs{state="enqueued"} 1\n' in text
        names = {line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")}
        assert names == numbers.keys()
        other = Raftwork("other", f"raft:///{tmp_path / 'other'}", health_listen=address)
        with pytest.raises(ConfigError, match="cannot listen at"):
            other.open()
    with pytest.raises(urllib.error.URLError):
        ask(address, "/livez")
    with pytest.raises(InvalidOption):
        Raftwork("shop", "memory://").metrics()


def test_metrics_are_not_told_to_other_machines_unless_asked_for(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    here, everywhere = f"127.0.0.1:{port}", f"0.0.0.0:{port}"
    with Raftwork("shop", f"raft:///{tmp_path / 'jobs'}", health_listen=everywhere):
        assert ask(here, "/readyz") == (200, "")
        status, words = ask(here, "/metrics")
        assert status == 403
        assert "metrics_open=true" in words
    with Raftwork("shop", f"raft:///{tmp_path / 'jobs'}", health_listen=everywhere, metrics_open=True):
        assert ask(here, "/metrics")[0] == 200


def test_the_command_prints_what_is_counted(raftwork: Any, shop: Path) -> None:
    assert raftwork("enqueue", "--app", "shop:app", "send_welcome", "[7]").status == 0
    answer = raftwork("metrics")
    assert answer.status == 0
    assert "# TYPE raftwork_jobs gauge\n" in answer.out
    numbers = raftwork("metrics", "--json").json
    assert numbers['raftwork_jobs{state="enqueued"}'] == 1
    assert raftwork("metrics", "--storage", "memory://").status == 2


def test_reads_on_the_command_line_say_how_old_they_are(raftwork: Any, shop: Path) -> None:
    raftwork("enqueue", "--app", "shop:app", "send_welcome", "[7]")
    for consistency in ("local", "session", "linearizable"):
        for command in (["status"], ["jobs"]):
            answer = raftwork(*command, "--consistency", consistency, "--json")
            assert answer.status == 0, answer.err
            assert answer.json["as_of_index"] > 0
            assert 0 <= answer.json["staleness_ms"] < 1_000
    answer = raftwork("queues", "--consistency", "linearizable", "--max-staleness", "1s")
    assert answer.status == 2
    assert "makes no sense" in answer.err


def test_a_node_without_a_majority_lives_and_is_not_ready(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    with Cluster(tmp_path) as cluster:
        number = cluster.follower()
        cluster.stop(number)
        cluster.environment["RAFTWORK_HEALTH_LISTEN"] = address
        cluster.start(number)
        until(lambda: ask(address, "/readyz")[0] == 200)
        cluster.kill(*(other for other in range(3) if other != number))
        until(lambda: ask(address, "/readyz")[0] == 503)
        assert ask(address, "/livez") == (200, ""), "to start it again would not help"


def test_a_worker_is_ready_while_a_node_answers_it(cluster: Cluster, shop: Path) -> None:
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    arguments = ("worker", "shop:app", "--json", "--health-listen", address)
    with start(*arguments, cwd=shop, RAFTWORK_STORAGE=cluster.url) as worker:
        assert worker.stdout is not None
        assert json.loads(worker.stdout.readline())["health"] == address
        until(lambda: ask(address, "/readyz")[0] == 200)
        assert ask(address, "/livez")[0] == 200
        cluster.kill()
        until(lambda: ask(address, "/readyz")[0] == 503)
        assert ask(address, "/livez")[0] == 200
        os.kill(worker.pid, signal.SIGKILL)


def test_status_says_in_one_line_whether_a_node_may_be_taken_away(raftwork: Any, cluster: Cluster) -> None:
    command = ["cluster", "status", "--storage", cluster.url]
    until(lambda: raftwork(*command, "--json").json["can_lose"] == 1)
    answer = raftwork(*command)
    assert answer.out.startswith("SAFE to take 1 more away: 3 of 3 voters answer, 2 are needed.\n")
    leader = cluster.leader()
    for member in raftwork(*command, "--json").json["members"]:
        assert (member["silent_ms"] is None) == (member["address"] == cluster.clients[leader])
        assert {"snapshot_bytes", "certificate_expires_ms", "protection", "ready", "staleness_ms"} <= member.keys()
    cluster.kill(cluster.follower())
    until(lambda: raftwork(*command, "--json").json["can_lose"] == 0)
    assert raftwork(*command).out.startswith("TAKE NONE AWAY: 2 of 3 voters answer, 2 are needed.\n")
    cluster.kill(cluster.follower())
    until(lambda: raftwork(*command, "--json").json["leader"] is None)
    assert raftwork(*command).out.startswith("NOTHING CAN BE WRITTEN: no member leads.")
