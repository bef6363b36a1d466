"""`raftwork cluster backup | verify | restore | recover`, with real processes."""

import stat
import threading
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from raftwork import Raftwork, _core
from raftwork.errors import ForeignDirectory
from raftwork.testing.cluster import Cluster
from raftwork.worker.scheduler import Scheduler
from support.jobs import send


def enqueue(url: str, numbers: range) -> list[str]:
    """Jobs that are answered, and so on a majority of the disks."""
    app = Raftwork("shop", url)
    task = app.task(name="shop.send", queue="mail")(send)
    with app:
        return [str(job.id) for job in app.enqueue_many(task.s(number) for number in numbers)]


def listed(raftwork: Any, *arguments: str) -> set[str]:
    return {job["id"] for job in raftwork("jobs", "--json", "--limit", "1000", *arguments).json["jobs"]}


def test_a_backup_of_a_running_cluster_becomes_another_cluster(raftwork: Any, tmp_path: Path, cluster: Cluster) -> None:
    jobs = enqueue(cluster.url, range(200))
    file = tmp_path / "shop.rwb"
    answer = raftwork("cluster", "backup", str(file), "--storage", cluster.url, "--json")
    assert answer.status == 0, answer.err
    assert (answer.json["jobs"], answer.json["history"]) == (200, 0)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.glob(".*")] == [], "nothing unfinished is left"
    assert raftwork("cluster", "backup", str(file), "--storage", cluster.url).status == 2, "it is not replaced"
    verified = raftwork("cluster", "verify", str(file))
    assert verified.status == 0
    assert "200 in memory" in verified.out

    data = tmp_path / "new"
    restored = raftwork("cluster", "restore", str(file), "--data", str(data), "--json")
    assert restored.status == 0, restored.err
    old = cluster.health(cluster.leader())
    assert old is not None
    assert restored.json["cluster"] != old["cluster"] == restored.json["origin"]["cluster"]
    assert restored.json["index"] > old["applied"] + (1 << 39), "no index or token comes twice"
    status = raftwork("status", "--storage", f"raft:///{data}", "--json")
    assert status.status == 0, "a restore is no alarm"
    assert status.json["health"]["origin"]["source"] == str(file)
    assert listed(raftwork, "--storage", f"raft:///{data}") == set(jobs)
    again = raftwork("cluster", "restore", str(file), "--data", str(data))
    assert again.status == 3
    assert "is not empty" in again.err


def test_one_node_alone_is_backed_up_while_it_works(raftwork: Any, shop: Path, worker: Any) -> None:
    app = "shop:app"
    assert raftwork("enqueue", "--app", app, "send_welcome", "[7]", "--wait", "--timeout", "30").status == 0
    answer = raftwork("cluster", "backup", "one.rwb", "--json")
    assert answer.status == 0, answer.err
    assert answer.json["jobs"] + answer.json["history"] == 1
    assert raftwork("cluster", "restore", "one.rwb", "--data", "again").status == 0
    found = raftwork("jobs", "--storage", "raft:///again", "--json").json["jobs"]
    assert [(job["state"], job["function"]) for job in found] == [("succeeded", "shop.send_welcome")]


def fire(url: str, more: int) -> list[datetime]:
    """Fire the schedule `tick` until it has so many more jobs. Answers the slots of all its jobs, oldest first."""
    app = Raftwork("shop", url)
    app.task(name="shop.send", queue="mail")(send)
    with app:
        turns = Scheduler(app, lambda: 0.0)
        wanted, end = app.schedules.get("tick").fired + more, time.monotonic() + 60
        while app.schedules.get("tick").fired < wanted:
            assert time.monotonic() < end
            threading.Event().wait(turns.turn(app.storage))
        return sorted(job.slot for job in app.jobs() if job.slot is not None)


def test_c1_a_restored_schedule_goes_on_behind_the_last_slot_that_it_used(raftwork: Any, shop: Path) -> None:
    with Raftwork("shop", "raft:///jobs") as app:
        task = app.task(name="shop.send", queue="mail")(send)
        app.schedules.put("tick", task.s(1), every="1s", misfire="run_all", catchup=1_000)
    before = fire("raft:///jobs", 2)
    assert raftwork("cluster", "backup", "b.rwb", "--storage", "raft:///jobs").status == 0
    assert raftwork("cluster", "restore", "b.rwb", "--data", "new").status == 0
    after = fire("raft:///new", 2)
    assert len(before) >= 2
    assert len(after) >= len(before) + 2
    assert after == [before[0] + timedelta(seconds=n) for n in range(len(after))], "each slot once, and none is missed"


def test_a_damaged_backup_is_refused_by_verify_and_restore(raftwork: Any, shop: Path) -> None:
    enqueue("raft:///jobs", range(50))
    assert raftwork("cluster", "backup", "b.rwb", "--storage", "raft:///jobs").status == 0
    content = bytearray(Path("b.rwb").read_bytes())
    content[len(content) // 2] ^= 1
    Path("b.rwb").write_bytes(content)
    refused = raftwork("cluster", "verify", "b.rwb")
    assert refused.status == 3
    assert refused.err.startswith("RW312 corrupt data in b.rwb at byte ")
    assert "take another one" in refused.err
    told = raftwork("cluster", "verify", "b.rwb", "--json")
    assert (told.status, told.json["whole"]) == (3, False)
    assert raftwork("cluster", "restore", "b.rwb", "--data", "new").status == 3
    assert not Path("new").exists()
    Path("b.rwb").write_text("hello, this is a letter")
    assert "is not a backup of raftwork" in raftwork("cluster", "verify", "b.rwb").err
    whole = raftwork("cluster", "verify", "jobs")
    assert whole.status == 0
    assert "is whole" in whole.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["backup", "b", "--storage", "memory://"], "is no cluster"),
        (["verify", "nothing"], "There is no file or directory nothing"),
        (["restore", "nothing", "--data", "x"], "There is no file nothing"),
        (["recover", "--data", "nothing"], "There is no directory nothing"),
    ],
)
def test_wrong_usage(raftwork: Any, shop: Path, arguments: list[str], words: str) -> None:
    answer = raftwork("cluster", *arguments)
    assert answer.status == 2
    assert words in answer.err
    assert list(shop.glob("*.part")) == []


def test_a_client_of_the_old_cluster_is_refused_by_the_restored_one(
    raftwork: Any, tmp_path: Path, cluster: Cluster
) -> None:
    enqueue(cluster.url, range(5))
    file = tmp_path / "shop.rwb"
    with Raftwork("shop", f"raftwork://{cluster.clients[0]}", submit_timeout="3s") as app:
        app.health()
        assert raftwork("cluster", "backup", str(file), "--storage", cluster.url).status == 0
        cluster.kill()
        for number in range(3):
            cluster.data(number).rename(tmp_path / f"old-{number}")
        assert raftwork("cluster", "restore", str(file), "--data", str(cluster.data(0))).status == 0
        cluster.launch(0)
        cluster.wait_until_serving(0)
        with pytest.raises(ForeignDirectory, match="this process worked with cluster"):
            app.enqueue_many([app.task(name="shop.send")(send).s(1)])
    # The others join the restored one, with new directories.
    cluster.start()
    assert {health["jobs"] for number in range(3) if (health := cluster.health(number))} == {5}


def test_two_of_three_are_lost_and_the_third_goes_on_without_them(
    raftwork: Any, tmp_path: Path, cluster: Cluster
) -> None:
    jobs = enqueue(cluster.url, range(100))
    before = cluster.health(0)
    assert before is not None
    left = cluster.follower()
    cluster.kill()
    lost = [number for number in range(3) if number != left]
    data = str(cluster.data(left))
    asked = raftwork("cluster", "recover", "--data", data)
    assert asked.status == 2
    assert "Given up for good: member " in asked.err
    assert "every write that was answered and is not on this member's disk" in asked.err
    assert "Add --accept-loss" in asked.err
    report = msgspec.msgpack.decode(_core.survey(data))
    answer = raftwork("cluster", "recover", "--data", data, "--accept-loss", "--json")
    assert answer.status == 0, answer.err
    assert answer.json["cluster"] != before["cluster"]
    assert answer.json["origin"]["given_up"] == report["given_up"]
    assert all(cluster.listen[number] in " ".join(report["given_up"]) for number in lost)

    cluster.launch(left)
    cluster.wait_until_serving(left)
    assert listed(raftwork, "--storage", f"raftwork://{cluster.clients[left]}") == set(jobs)
    health = cluster.health(left)
    assert health is not None
    assert health["origin"]["kind"] == "recovered"
    assert "a recovery at entry" in health["alarms"][0]

    # They come back together, and would be a majority of three: each is refused, stops, and stays so.
    for number in lost:
        cluster.launch(number)
    for number in lost:
        said = cluster.wait_for_end(number)
        assert f"goes on as cluster {answer.json['cluster']}" in said
        assert f"--join {cluster.listen[left]}" in said
        assert (cluster.data(number) / "GONE").exists()
    assert listed(raftwork, "--storage", f"raftwork://{cluster.clients[left]}") == set(jobs)

    # What they were told to do helps.
    for number in lost:
        cluster.data(number).rename(tmp_path / f"aside-{number}")
    cluster.start(*lost)
    assert {health["jobs"] for number in range(3) if (health := cluster.health(number))} == {100}
    (cluster.data(left) / "quarantine" / "LOST").unlink()
    cluster.stop(left)
    cluster.start(left)
    assert (cluster.health(left) or {})["alarms"] == []


def test_recover_takes_the_member_with_the_longest_log(raftwork: Any, tmp_path: Path, cluster: Cluster) -> None:
    enqueue(cluster.url, range(10))
    behind = cluster.follower()
    cluster.kill(behind)
    enqueue(cluster.url, range(50))
    ahead = cluster.leader()
    cluster.kill()
    shorter, longer = str(cluster.data(behind)), str(cluster.data(ahead))
    refused = raftwork("cluster", "recover", "--data", shorter, "--compare", longer, "--accept-loss")
    assert refused.status == 2
    assert f"{longer} has more" in refused.err
    answer = raftwork("cluster", "recover", "--data", longer, "--compare", shorter, "--accept-loss", "--json")
    assert answer.status == 0
    assert answer.json["jobs"] == 60
    assert (Path(longer) / "quarantine" / "before" / "IDENTITY").exists(), "nothing is deleted"


def test_recover_refuses_a_directory_in_use(raftwork: Any, cluster: Cluster) -> None:
    answer = raftwork("cluster", "recover", "--data", str(cluster.data(0)), "--accept-loss")
    assert answer.status == 3
    assert answer.err.startswith("RW313")
