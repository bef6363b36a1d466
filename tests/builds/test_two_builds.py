"""docs/operations/upgrade.md with two real builds: a cluster goes from one to the other under load, back in between.

All the while a client of each build enqueues and a worker of each build runs jobs. What was acknowledged and what ran
is written down outside of the cluster.
"""

import contextlib
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from builds.fleet import MEMBERS, NEWER, OLDER, Fleet
from builds.load import Load
from raftwork import Raftwork


@pytest.mark.crash
@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_a_cluster_goes_from_one_build_to_the_other_and_loses_nothing(
    pythons: Mapping[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    with contextlib.closing(Fleet(tmp_path, pythons)) as fleet:
        fleet.bring_all(OLDER)
        fleet.wait_until_safe()
        with Load(tmp_path, fleet.url, pythons) as load:
            load.wait_for_more()
            levels = upgrade(fleet, load)
            go_back(fleet, load)
            finalize(fleet, levels)
            load.wait_for_more()
            if levels[OLDER] != levels[NEWER]:
                refuse_older(fleet, levels)
            load.stop("client")
            load.wait_until_all_ran()
            load.stop("worker")
        figures = judge(fleet, load)
        compare(fleet)
    with capsys.disabled():
        print(f"\n{figures} Feature levels {levels[OLDER]} and {levels[NEWER]}, {time.monotonic() - began:.0f} s.")


@pytest.mark.crash
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_cluster_that_was_killed_as_a_whole_goes_on_with_the_newer_build(
    pythons: Mapping[str, str], tmp_path: Path
) -> None:
    """What the older build left on the disks is read and run by the newer one, also where the two cannot talk."""
    with contextlib.closing(Fleet(tmp_path, pythons)) as fleet:
        fleet.bring_all(OLDER)
        with Load(tmp_path, fleet.url, {OLDER: pythons[OLDER]}) as load:
            load.wait_for_more()
            load.stop("worker")
            load.wait_for_more()
            load.stop("client")
        fleet.kill()
        fleet.bring_all(NEWER)
        answer = fleet.run("cluster", "finalize", "--json")
        assert json.loads(answer.stdout) == {"level": fleet.wait_until_safe()["knows_level"]}, answer.stderr
        with Load(tmp_path, fleet.url, {NEWER: pythons[NEWER]}) as load:
            load.wait_for_more()
            load.stop("client")
            load.wait_until_all_ran()
            load.stop("worker")
        judge(fleet, load)
        compare(fleet)


def upgrade(fleet: Fleet, load: Load) -> dict[str, int]:
    """One member after the other, the leader last; answers the feature level that each build knows."""
    last = fleet.leader()
    first, second = (number for number in range(MEMBERS) if number != last)
    levels = {OLDER: fleet.level_of(first)}

    fleet.change(first, NEWER)
    levels[NEWER] = fleet.level_of(first)
    survive(fleet, load)
    fleet.replace(first, giver=second)
    finalize_early(fleet, levels)

    fleet.change(second, NEWER)
    survive(fleet, load)
    fleet.replace(last, giver=first)
    finalize_early(fleet, levels)

    fleet.change(last, NEWER)
    load.wait_for_more()
    return levels


def go_back(fleet: Fleet, load: Load) -> None:
    """Before `finalize` a member may have the older build again, and even lead."""
    number = fleet.follower()
    fleet.change(number, OLDER)
    survive(fleet, load)
    fleet.change(number, NEWER)
    load.wait_for_more()


def survive(fleet: Fleet, load: Load) -> None:
    """Whichever build leads: the leader is killed and comes back, and clients and workers of both builds go on."""
    for build in sorted(set(fleet.builds)):
        leader = fleet.builds.index(build)
        fleet.lead(leader)
        load.wait_for_more()
        fleet.kill(leader)
        load.wait_for_more()
        fleet.bring(leader)
    load.wait_for_more()


def finalize_early(fleet: Fleet, levels: Mapping[str, int]) -> None:
    """While one member would stop at the newer level, the cluster does not get it."""
    answer = fleet.run("cluster", "finalize", "--json")
    if levels[OLDER] == levels[NEWER]:
        assert json.loads(answer.stdout) == {"level": levels[OLDER]}, answer.stderr
        return
    assert answer.returncode == 3, answer.stdout
    older = f"knows feature level {levels[OLDER]}: upgrade it"
    assert answer.stderr.count(older) == fleet.builds.count(OLDER), answer.stderr
    assert fleet.wait_until_safe()["feature_level"] == levels[OLDER]


def finalize(fleet: Fleet, levels: Mapping[str, int]) -> None:
    """All run the newer build."""
    assert fleet.builds == [NEWER] * MEMBERS
    before = fleet.wait_until_safe()
    assert (before["feature_level"], before["knows_level"]) == (levels[OLDER], levels[NEWER])
    answer = fleet.run("cluster", "finalize", "--json")
    assert json.loads(answer.stdout) == {"level": levels[NEWER]}, answer.stderr
    assert fleet.wait_until_safe()["feature_level"] == levels[NEWER]


def refuse_older(fleet: Fleet, levels: Mapping[str, int]) -> None:
    """Behind `finalize` the older build is refused over the directory of a member, and as a new one."""
    number = fleet.follower()
    fleet.stop(number)
    before = fleet.kept(number)
    fleet.builds[number] = OLDER
    fleet.launch(number)
    said = fleet.wait_for_end(number)
    words = f"feature level {levels[NEWER]} is not known to this version of raftwork, which knows feature level"
    assert "RW314" in said, said
    assert f"{words} {levels[OLDER]}: upgrade this node" in said, said
    assert fleet.kept(number) == before, "its directory has what it had"
    fleet.builds[number] = NEWER
    fleet.bring(number)

    newcomer = fleet.grow()
    fleet.launch(newcomer)
    said = fleet.wait_for_end(newcomer)
    assert f"which knows feature level {levels[OLDER]}, and the cluster is at level {levels[NEWER]}" in said, said


def judge(fleet: Fleet, load: Load) -> str:
    """Every acknowledged job is there once and ran to its end, and there are no others; answers the figures."""
    stored, runs, jobs, doubtful = load.stored(), load.runs(), load.jobs("stored"), load.jobs("doubt")
    with Raftwork("builds", fleet.url) as app:
        found = [(str(info.id), info.state.value) for info in app.jobs() if info.schedule is None]
        ticks = sum(info.state.value == "succeeded" for info in app.jobs("schedule:builds.tick"))
    ids = Counter(id for id, _ in found)
    assert set(ids.values()) == {1}
    assert ids.keys() >= set(stored.values()), "every acknowledged job is there"
    assert {state for _, state in found} == {"succeeded"}
    assert jobs <= len(found) <= jobs + doubtful, "and none that nobody asked for"
    assert runs.keys() >= stored.keys()
    assert ticks > 0
    return (
        f"{jobs:,} jobs acknowledged, 0 lost; {doubtful} without an answer, of which {len(found) - jobs} are there; "
        f"{sum(runs.values()) - len(runs)} runs repeated; {ticks} of a schedule."
    )


def compare(fleet: Fleet) -> None:
    """All members have the same state, and their directories are whole."""
    assert len(fleet.digests()) == 1
    fleet.kill()
    for number in range(MEMBERS):
        verified = subprocess.run([sys.executable, "-m", "raftwork", "cluster", "verify", str(fleet.data(number))])
        assert verified.returncode == 0
