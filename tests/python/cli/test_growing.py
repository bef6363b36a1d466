"""Members that come, go, move and are replaced: `raftwork cluster add | replace | remove` against real processes."""

import json
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from raftwork import CrashLoop, DiskError, DiskFull, ForeignDirectory, NotRunning, Raftwork, StateDiffers, StorageError
from raftwork.cli import node
from raftwork.testing.cluster import PATIENCE_S, Cluster
from support.command_line import start


def told(process: "subprocess.Popen[str]") -> str:
    """The command for the new machine, once it is said."""
    assert process.stderr is not None
    for line in process.stderr:
        if line.strip().startswith("raftwork node"):
            return line.strip()
    raise AssertionError(process.communicate())


def ended(process: "subprocess.Popen[str]") -> Any:
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    return json.loads(out)


def voters(raftwork: Any, cluster: Cluster) -> dict[str, str]:
    rows = raftwork("cluster", "members", "--storage", cluster.url, "--json").json
    return {row["raft"]: row["node"] for row in rows if row["role"] == "voter"}


def test_add_says_what_to_run_and_waits_until_it_votes(raftwork: Any, cluster: Cluster, tmp_path: Path) -> None:
    url, first = cluster.url, list(cluster.listen)
    new = cluster.grow()
    answer = raftwork("cluster", "add", cluster.listen[new], "--no-wait", "--storage", url, "--json")
    assert answer.status == 0, answer.err
    with start("cluster", "add", cluster.listen[new], "--storage", url, "--json", cwd=tmp_path) as adding:
        command = told(adding)
        assert command == answer.json["command"]
        assert command.startswith(f"raftwork node --data DIR --listen {cluster.listen[new]} --join ")
        assert sorted(command.split()[-1].split(",")) == sorted(first)
        cluster.launch(new)
        added = ended(adding)["added"]
    assert voters(raftwork, cluster)[cluster.listen[new]] == added
    twice = raftwork("cluster", "add", cluster.listen[new], "--storage", url)
    assert twice.status == 2
    assert f"the address of member {added}" in twice.err
    # It goes again: removed, it ends by itself, and does not come back.
    assert raftwork("cluster", "remove", added, "--storage", url).status == 0
    assert "was removed from the cluster" in cluster.wait_for_end(new)
    cluster.launch(new)
    assert "RW314" in cluster.wait_for_end(new)
    assert set(voters(raftwork, cluster)) == set(first)


def test_replace_puts_a_new_disk_in_the_place_of_a_dead_member(raftwork: Any, cluster: Cluster, tmp_path: Path) -> None:
    dead = cluster.follower()
    old = voters(raftwork, cluster)[cluster.listen[dead]]
    cluster.kill(dead)
    shutil.rmtree(cluster.data(dead))
    # Without the command it is refused, with the command.
    cluster.launch(dead)
    assert f"raftwork cluster replace {old} {cluster.listen[dead]}" in cluster.wait_for_end(dead)
    shutil.rmtree(cluster.data(dead))
    with start("cluster", "replace", old, "--storage", cluster.url, "--json", cwd=tmp_path) as replacing:
        assert f"--listen {cluster.listen[dead]} --join" in told(replacing)
        cluster.launch(dead)
        answer = ended(replacing)
    assert answer["replaced"] == old
    found = voters(raftwork, cluster)
    assert found[cluster.listen[dead]] == answer["by"] != old
    assert len(found) == 3
    acts = raftwork("cluster", "audit", "--storage", cluster.url, "--json").json
    replaced = [act["about"] for act in acts if act["what"] == "member.replace"]
    assert replaced == [f"{old} by the node at {cluster.listen[dead]}"], "once, however often it is asked for"
    status = raftwork("cluster", "status", "--storage", cluster.url, "--json")
    assert (status.status, status.json["problems"]) == (0, [])


def test_a_member_that_differs_exits_and_is_replaced_as_its_words_say(
    raftwork: Any, cluster: Cluster, tmp_path: Path
) -> None:
    odd = cluster.follower()
    old, data = voters(raftwork, cluster)[cluster.listen[odd]], cluster.data(odd)
    cluster.kill(odd)
    # As its node writes it before it stops.
    why = f"the state of node {old} differs from that of a majority of the members; mv {data} {data}.differs"
    (data / "DIFFERS").write_text(f"{why}\n")
    for _ in range(2):
        process = subprocess.run(
            cluster.command(odd), env=cluster.environment_of(odd), capture_output=True, text=True, timeout=PATIENCE_S
        )
        assert process.returncode == 3
        assert f"RW320 {why}" in process.stderr
        assert "Traceback" not in process.stderr
    with pytest.raises(StateDiffers, match=old):
        Raftwork("shop", f"raft:///{data}").open()
    doctor = raftwork("doctor", str(data), "--json")
    assert (doctor.status, doctor.json["data"]["start"]["possible"]) == (3, True)
    assert doctor.json["data"]["problems"] == [f"no node opens it: {why}"]
    recovered = raftwork("cluster", "recover", "--data", str(data), "--accept-loss")
    assert (recovered.status, why in recovered.err) == (3, True)
    data.rename(data.with_name("differs"))
    with start("cluster", "replace", old, "--storage", cluster.url, "--json", cwd=tmp_path) as replacing:
        told(replacing)
        cluster.launch(odd)
        answer = ended(replacing)
    assert voters(raftwork, cluster)[cluster.listen[odd]] == answer["by"] != old


@pytest.mark.parametrize("final", [StateDiffers, CrashLoop, ForeignDirectory])
def test_a_node_that_cannot_go_on_ends_and_one_whose_disk_fails_does_not(
    final: type[StorageError], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told = iter([DiskError("sync failed"), DiskFull("no room"), NotRunning("sought"), final("what to do"), None])
    asked: list[object] = []

    class Storage:
        def health(self) -> dict[str, Any]:
            asked.append(error := next(told))
            if error is not None:
                raise error
            return {}

    monkeypatch.setattr(node, "LOOK_EVERY_S", 0)
    assert not node._wait(Storage(), threading.Event())  # type: ignore[arg-type]
    assert len(asked) == 4, "it looked again after what opening the directory again mends"
    assert "what to do" in caplog.text


def test_replace_lets_the_leader_go_to_another_machine(raftwork: Any, cluster: Cluster, tmp_path: Path) -> None:
    url, leader = cluster.url, cluster.leader()
    old = voters(raftwork, cluster)[cluster.listen[leader]]
    new = cluster.grow()
    with start("cluster", "replace", old, cluster.listen[new], "--storage", url, "--json", cwd=tmp_path) as replacing:
        told(replacing)
        cluster.launch(new)
        answer = ended(replacing)
    assert "was removed from the cluster" in cluster.wait_for_end(leader)
    found = voters(raftwork, cluster)
    assert found[cluster.listen[new]] == answer["by"]
    assert (len(found), old in found.values()) == (3, False)


def test_wrong_use_of_add_and_replace(raftwork: Any, cluster: Cluster) -> None:
    unknown = raftwork("cluster", "replace", "7", "--storage", cluster.url)
    assert unknown.status == 2
    assert "Node 7 is no member. Members are " in unknown.err
    assert raftwork("cluster", "add", "nowhere", "--storage", cluster.url).status == 2
    waited = raftwork("cluster", "add", "127.0.0.1:1", "--timeout", "1ms", "--storage", cluster.url)
    assert waited.status == 3
    assert "run the command again to wait on" in waited.err


def test_a_member_that_moved_is_found_at_its_new_address(raftwork: Any, cluster: Cluster) -> None:
    moved = cluster.follower()
    node = voters(raftwork, cluster)[cluster.listen[moved]]
    cluster.stop(moved)
    cluster.move(moved)
    cluster.start(moved)
    latest = time.monotonic() + PATIENCE_S
    while voters(raftwork, cluster).get(cluster.listen[moved]) != node:
        assert time.monotonic() < latest, "the others did not hear of its new address"
    # The others reach it there: with one of them gone it is one of the majority.
    cluster.kill(next(number for number in range(3) if number not in (moved, cluster.leader())))
    assert raftwork("cluster", "snapshot", "--storage", f"raftwork://{cluster.clients[moved]}").status == 0
