"""A member's directory is damaged: the runbook of docs/operations/cluster.md, by the commands that doctor tells."""

import shlex
import subprocess
from pathlib import Path
from typing import Any

from raftwork import Raftwork
from raftwork.testing.cluster import PATIENCE_S, Cluster
from support.command_line import start
from support.jobs import send


def damage(directory: Path) -> None:
    """Flip a bit in the middle of what the log holds."""
    log = max((directory / "wal").glob("w-*"))
    content = bytearray(log.read_bytes())
    content[len(content.rstrip(b"\0")) // 2] ^= 1
    log.write_bytes(content)


def steps_in(told: str, directory: Path) -> list[list[str]]:
    """The commands of the lines with steps."""
    lines = [line.strip().removeprefix("- ") for line in told.splitlines() if line.startswith("  - ")]
    assert len(lines) == 4
    found = [shlex.split(line.rpartition(": ")[2]) for line in lines[:3]]
    assert found[0] == ["mv", str(directory), f"{directory}.damaged"]
    return found


def test_a_damaged_member_is_not_salvaged_and_comes_back_by_the_commands_that_are_told(
    raftwork: Any, tmp_path: Path, cluster: Cluster
) -> None:
    with Raftwork("shop", cluster.url) as app:
        task = app.task(name="shop.send")(send)
        app.enqueue_many(task.s(number) for number in range(30))
    number = cluster.follower()
    directory = cluster.data(number)
    cluster.stop(number)
    damage(directory)
    cluster.launch(number)
    assert "RW312 " in cluster.wait_for_end(number)
    status = raftwork("cluster", "status", "--storage", cluster.url)
    assert f"{cluster.clients[number]} does not answer" in status.out + status.err

    for words in (["--salvage"], ["--salvage", "--yes"], ["--salvage", "--accept-loss", "--yes"]):
        refused = raftwork("doctor", str(directory), *words)
        assert refused.status == 3
        assert refused.err.startswith("RW314 ")
        assert "raftwork cluster replace " in refused.err
    report = raftwork("doctor", str(directory))
    assert report.status == 3
    assert "It is not salvaged: " in report.out
    move, replace, anew = steps_in(report.out, directory)

    subprocess.run(move, check=True)
    with start(*replace[1:], cwd=tmp_path, **cluster.environment) as replacing:
        assert replacing.stdout is not None
        told = replacing.stdout.readline() + replacing.stdout.readline()
        assert f"--listen {cluster.listen[number]}" in told
        with start(*anew[1:], "--json", cwd=tmp_path, **cluster.environment) as node:
            try:
                assert node.stdout is not None
                assert '"event":"node.serving"' in node.stdout.readline().replace(" ", "")
                out, err = replacing.communicate(timeout=PATIENCE_S)
                assert replacing.returncode == 0, err
                assert "votes in the place of node" in out
                status = raftwork("cluster", "status", "--storage", cluster.url)
                assert status.out.startswith("SAFE to take 1 more away: 3 of 3 voters answer"), status.out + status.err
                found = raftwork("jobs", "--json", "--limit", "100", "--storage", f"raft:///{directory}").json["jobs"]
                assert len(found) == 30, "nothing was lost"
            finally:
                node.kill()
                node.communicate()
    assert Path(f"{directory}.damaged").is_dir()


def test_a_damaged_member_may_be_removed_first(raftwork: Any, cluster: Cluster) -> None:
    number = cluster.follower()
    cluster.stop(number)
    damage(cluster.data(number))
    id = raftwork("doctor", str(cluster.data(number)), "--json").json["data"]["identity"]["node"]
    cluster.data(number).rename(f"{cluster.data(number)}.damaged")
    assert raftwork("cluster", "remove", str(id), "--storage", cluster.url).status == 0
    cluster.start(number)
    assert raftwork("cluster", "status", "--storage", cluster.url).out.startswith("SAFE to take 1 more away: 3 of 3")
