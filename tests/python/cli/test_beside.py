"""A member's directory: processes beside its node, and commands while that is down."""

import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from raftwork import ForeignDirectory, Raftwork, _core
from raftwork.storage.raft import RaftStorage
from raftwork.testing.cluster import PATIENCE_S, Cluster
from support.command_line import start
from support.jobs import send


def beside(cluster: Cluster, number: int, **settings: Any) -> Raftwork:
    """An application that uses the directory of this node."""
    return Raftwork("shop", f"raft:///{cluster.data(number)}", **settings)


def enqueue(app: Raftwork, count: int) -> list[Any]:
    task = app.task(name="shop.send")(send)
    return [job.id for job in app.enqueue_many(task.s(number) for number in range(count))]


@pytest.mark.parametrize(
    "command",
    [
        ["jobs"],
        ["status"],
        ["cluster", "backup", "b.rwb"],
        ["cluster", "members"],
        ["enqueue", "--app", "shop:app", "send_welcome", "[1]"],
    ],
)
def test_a_command_does_not_open_the_directory_of_a_stopped_member(
    raftwork: Any, shop: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    number = cluster.follower()
    cluster.stop(number)
    monkeypatch.setenv("RAFTWORK_STORAGE", f"raft:///{cluster.data(number)}")
    refused = raftwork(*command)
    assert refused.status == 3
    assert refused.err.startswith("RW314 ")
    assert "one of several members of a cluster" in refused.err
    assert f"raftwork node --data {cluster.data(number)} --listen {cluster.listen[number]}" in refused.err
    assert all(cluster.clients[other] in refused.err for other in range(3) if other != number)
    cluster.start(number)
    assert raftwork("jobs").status == 0, "through the node"


def test_what_only_reads_a_directory_works_on_that_of_a_stopped_member(raftwork: Any, cluster: Cluster) -> None:
    number = cluster.follower()
    running = raftwork("doctor", str(cluster.data(number)), "--json").json["data"]
    assert running["in_use_by"] is not None
    cluster.stop(number)
    found = raftwork("doctor", str(cluster.data(number)), "--json")
    assert found.status == 0
    data = found.json["data"]
    assert data["start"]["possible"]
    others = [cluster.listen[other] for other in range(3) if other != number]
    assert len(data["others"]) == 2
    assert all(any(address in words for words in data["others"]) for address in others)
    assert data["salvage"] is None
    assert data["way_out"] == []
    assert "One of several members of a cluster" in raftwork("doctor", str(cluster.data(number))).out
    assert raftwork("cluster", "verify", str(cluster.data(number))).status == 0
    assert msgspec.msgpack.decode(_core.survey(str(cluster.data(number))))["node"] == str(data["identity"]["node"])
    assert raftwork("doctor", str(cluster.data(number)), "--salvage", "--yes").status == 0, (
        "there is nothing to salvage"
    )


def test_a_worker_beside_a_node_waits_while_the_node_is_started_again(shop: Path, cluster: Cluster) -> None:
    number = cluster.follower()
    environment = {"RAFTWORK_STORAGE": f"raft:///{cluster.data(number)}"}
    with Raftwork("shop", cluster.url) as app, start("worker", "shop:app", "--json", cwd=shop, **environment) as worker:
        try:
            assert worker.stdout is not None
            worker.stdout.readline()
            task = app.task(name="shop.send_welcome", queue="mail")(send)
            task.enqueue(1).result(timeout=PATIENCE_S)
            for end in (cluster.stop, cluster.kill):
                end(number)
                job = task.enqueue(2)
                cluster.launch(number)
                assert cluster.wait_until_serving(number)["pid"] == cluster.pid(number), "the lock was free for it"
                assert job.result(timeout=PATIENCE_S) == "sent default to 2"
            assert worker.poll() is None
        finally:
            worker.kill()


def test_calls_beside_a_node_wait_for_it_and_end_when_it_stays_away(cluster: Cluster) -> None:
    number = cluster.follower()
    with beside(cluster, number) as app:
        enqueue(app, 1)
        cluster.stop(number)
        done: list[list[Any]] = []
        asking = threading.Thread(target=lambda: done.append(enqueue(app, 5)))
        asking.start()
        cluster.launch(number)
        asking.join(PATIENCE_S)
        assert len(done[0]) == 5
        assert app.health()["role"] == "attached"
        assert cluster.wait_until_serving(number)["pid"] == cluster.pid(number)
    app = beside(cluster, number)
    assert isinstance(app.storage, RaftStorage)
    app.storage.owner_patience_ms = 100
    with app:
        enqueue(app, 1)
        cluster.stop(number)
        with pytest.raises(ForeignDirectory, match="Start its node"):
            while True:  # The first one may be on its way just then, and is left open.
                app.counts()
        cluster.start(number)
        enqueue(app, 1)
        assert app.counts()["enqueued"] == 8


def test_an_application_that_is_a_member_itself_opens_its_directory_and_takes_it_over(cluster: Cluster) -> None:
    number = cluster.follower()
    cluster.stop(number)
    settings: dict[str, Any] = {"listen": cluster.listen[number], "members": list(cluster.listen)}
    first, second = beside(cluster, number, **settings), beside(cluster, number, **settings)
    with ExitStack() as opened:
        opened.enter_context(first)
        opened.enter_context(second)
        assert first.health()["role"] == "owner"
        assert second.health()["role"] == "attached"
        enqueue(second, 3)
        first.close()
        enqueue(second, 3)
        assert second.health()["role"] == "owner"
