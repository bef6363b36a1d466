"""`raftwork status`, `queues` and `top` tell which jobs no connected worker knows."""

import subprocess
from pathlib import Path
from typing import Any

from raftwork import Raftwork


def put_old(count: int) -> None:
    """Jobs of a task that the application here has lost."""
    with Raftwork("yesterday") as before:

        @before.task(name="shop.old", queue="mail")
        def old(number: int) -> None: ...

        before.enqueue_many(old.s(number) for number in range(count))


def test_jobs_that_no_worker_knows_are_shown(raftwork: Any, worker: "subprocess.Popen[str]", shop: Path) -> None:
    done = raftwork("enqueue", "--app", "shop:app", "send_welcome", "[7]", "--wait")
    assert done.status == 0, done.err
    for command in ("status", "queues"):
        assert "knows it" not in raftwork(command).out
    put_old(2)
    line = "2 jobs of shop.old wait and no connected worker knows it."
    assert line in raftwork("status").out.splitlines()
    assert line in raftwork("queues").out.splitlines()
    status = raftwork("status", "--json").json
    assert status["unknown_jobs"] == [{"function": "shop.old", "waiting": 2}]
    assert all(set(one["labels"]) == {"lane"} for one in status["workers"])
    assert {queue["name"]: queue["unknown"] for queue in raftwork("queues", "--json").json} == {"mail": 2}
    top = raftwork("top", "--once", "--interval", "100ms").out
    assert "2 jobs wait and no connected worker knows them: shop.old" in top
    assert raftwork("top", "--json", "--interval", "100ms").json["unknown_jobs"] == status["unknown_jobs"]
    assert raftwork("cancel", "--task", "shop.old", "--yes").status == 0
    assert "knows it" not in raftwork("status").out


def test_many_are_counted(raftwork: Any, worker: "subprocess.Popen[str]", shop: Path) -> None:
    assert raftwork("enqueue", "--app", "shop:app", "send_welcome", "[7]", "--wait").status == 0
    with Raftwork("yesterday") as before:
        for number in range(12):
            before.task(name=f"shop.old{number}", queue="mail")(send).enqueue()
    lines = raftwork("status").out.splitlines()
    assert sum("waits and no connected worker knows it." in line for line in lines) == 10
    assert lines[-1] == "And those of 2 other functions; --json has them all."
    assert len(raftwork("status", "--json").json["unknown_jobs"]) == 12


def test_without_a_worker_that_is_all_that_is_said(raftwork: Any, shop: Path) -> None:
    assert raftwork("enqueue", "--app", "shop:app", "send_welcome", "[7]").status == 0
    said = raftwork("status")
    assert "No worker is connected." in said.out and "knows it" not in said.out
    assert "knows it" not in raftwork("queues").out
    assert raftwork("status", "--json").json["unknown_jobs"] == [{"function": "shop.send_welcome", "waiting": 1}]


def send() -> None: ...
