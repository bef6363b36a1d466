"""The commands of docs/operations/upgrade.md, in its order, against real processes. The next version plays its part in
tests/rust/upgrade.rs."""

import re
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from raftwork.testing.cluster import PATIENCE_S, Cluster

RELEASE = version("raftwork")
PAGE = Path(__file__).parents[3] / "docs/operations/upgrade.md"


class Operator:
    """Runs commands, and remembers which."""

    def __init__(self, raftwork: Any, cluster: Cluster) -> None:
        self.raftwork, self.cluster = raftwork, cluster
        self.ran: set[str] = set()

    def __call__(self, verb: str, *arguments: str) -> Any:
        self.ran.add(f"raftwork cluster {verb}")
        return self.raftwork("cluster", verb, *arguments, "--storage", self.cluster.url)

    def wait_until_safe(self) -> dict[str, Any]:
        latest = time.monotonic() + PATIENCE_S
        while True:
            report: dict[str, Any] = self("status", "--json").json
            known = [member.get("knows_level") for member in report["members"]]
            if report["verdict"].startswith("SAFE to take 1 more away") and report["knows_level"] and all(known):
                return report
            assert time.monotonic() < latest, report


def test_the_page_about_upgrades_works_command_by_command(raftwork: Any, cluster: Cluster, tmp_path: Path) -> None:
    run = Operator(raftwork, cluster)
    assert run("backup", str(tmp_path / "before.rwb"), "--no-history").status == 0
    run.wait_until_safe()
    last = cluster.leader()
    for number in (*(number for number in range(3) if number != last), last):
        cluster.stop(number)
        cluster.start(number)
        report = run.wait_until_safe()
    level = report["feature_level"]
    assert report["knows_level"] == level, "a new cluster begins with everything"
    assert {(member["version"], member["knows_level"]) for member in report["members"]} == {(RELEASE, level)}
    shown = run("status").out
    assert f"level     {level}\n" in shown
    assert shown.count(f" {RELEASE} ") == 3

    rows = run("members", "--json").json
    assert {(row["version"], row["knows_level"]) for row in rows} == {(RELEASE, level)}
    assert run("members").out.count(f" {RELEASE} ") == 3
    assert run("finalize", "--json").json == {"level": level}
    assert f"feature level {level}" in run("finalize").out

    # One is gone for good.
    gone = cluster.follower()
    listen = cluster.listen[gone]
    cluster.kill(gone)
    latest = time.monotonic() + PATIENCE_S
    while (row := next(row for row in run("members", "--json").json if row["raft"] == listen))["version"]:
        assert time.monotonic() < latest, row
    assert row["knows_level"] is None, "it may come back with anything"
    assert run("remove", row["node"]).status == 0
    assert run("finalize").status == 0
    cited = set(re.findall(r"raftwork cluster \w+", PAGE.read_text()))
    assert cited <= run.ran, "every command of the page is run here"


def test_a_follower_sends_who_finalizes_to_the_leader(raftwork: Any, cluster: Cluster) -> None:
    """Asked beside the node that follows, as somebody does who is logged in there."""
    follower, leader = cluster.follower(), cluster.leader()
    answer = raftwork("cluster", "finalize", "--storage", f"raft:///{cluster.data(follower)}")
    assert answer.status == 3
    assert f"raftwork cluster finalize --storage raftwork://{cluster.clients[leader]}" in answer.err
