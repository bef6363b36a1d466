"""Data directories that are gone or old (D5): what a node does that is started with one, and the way out."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

from cluster import pauses
from cluster.lab import Lab
from cluster.steps import GOES_ON, NotApplied, a_follower, back, goes_on, until
from faults.filesystem import run

REFUSED = "RW314 "
EXIT_REFUSED = 3
FOUND_OUT = re.compile(
    r"this log ends at (\d+), and leader (\w+) was told that it reaches (\d+): an older copy of the data directory\? "
    r"This member votes for nobody until it has those entries again"
)


def deleted_data(lab: Lab, chance: random.Random) -> None:
    """The data directory of a node is deleted (D5): it is refused, then removed, and joins as a new member."""
    number = a_follower(lab, chance)
    member, said = _member(lab, number), lab.nodes.said(number)
    lab.nodes.kill(number)
    lab.now(pauses.STRUCK)
    shutil.rmtree(lab.nodes.data(number))
    lab.nodes.launch(number)
    ended: list[int] = []
    until(lambda: _has_ended(lab, number, ended), "the node without data is refused")
    told = lab.nodes.log(number, said)
    assert ended == [EXIT_REFUSED], f"it ended with {ended}:\n{told}"
    assert REFUSED in told, f"the refusal has another code:\n{told}"
    assert f"raftwork cluster remove {member}" in told, f"the refusal does not say what to do:\n{told}"
    _remove(lab, member)
    shutil.rmtree(lab.nodes.data(number), ignore_errors=True)
    back(lab, number)
    assert _member(lab, number) != member, "it passes for the member that it was"


def rolled_back_data(lab: Lab, chance: random.Random) -> None:
    """An old copy of a node's data directory is put back: what it answered since then is gone from its disk.

    Its leader's first words tell it, and it is brought up. What it must not do meanwhile: `test_old_copy.py`.
    """
    number, leader = a_follower(lab, chance), lab.nodes.who_leads()
    term, leading = _term(lab, leader), _member(lab, leader)
    keep_copy(lab, number)
    back(lab, number)
    goes_on(lab, GOES_ON * 3)
    said = lab.nodes.said(number)
    put_back(lab, number)
    lab.now(pauses.STRUCK)
    back(lab, number)
    if lab.nodes.who_leads() != leader or _term(lab, leader) != term:
        raise NotApplied(f"node {leader} led no more, and another leader looks for the end of each log by itself")
    until(
        lambda: FOUND_OUT.search(lab.nodes.log(number, said)), f"node {number} is told that its data is an older copy"
    )
    found = FOUND_OUT.search(lab.nodes.log(number, said))
    assert found is not None
    assert int(found[1]) < int(found[3]), f"that is no older copy: {found[0]}"
    assert found[2] == leading, f"member {leading} leads: {found[0]}"


def keep_copy(lab: Lab, number: int) -> None:
    """Kill a node and copy its data directory."""
    lab.nodes.kill(number)
    shutil.copytree(lab.nodes.data(number), _old(lab, number), ignore=shutil.ignore_patterns("socket"))


def put_back(lab: Lab, number: int) -> None:
    """Kill a node and put the copy in the place of its data directory."""
    data = lab.nodes.data(number)
    lab.nodes.kill(number)
    shutil.rmtree(data)
    _old(lab, number).rename(data)
    # Whoever puts a copy back waits until it is on the disk; a later power cut must find it there.
    run("sync", "-f", str(data))


def _old(lab: Lab, number: int) -> Path:
    return lab.nodes.disks[number].root / "old"


def _has_ended(lab: Lab, number: int, statuses: list[int]) -> bool:
    status = lab.nodes.ended(number)
    if status is not None:
        statuses.append(status)
    return status is not None


def _term(lab: Lab, number: int) -> int:
    health = lab.nodes.look(number)
    return 0 if health is None else int(health["term"])


def _member(lab: Lab, number: int) -> str:
    health = lab.nodes.look(number)
    assert health is not None, f"node {number} does not answer"
    return str(health["node"])


def _remove(lab: Lab, member: str) -> None:
    """`raftwork cluster remove`, as the refusal says, until a leader does it."""
    url = f"raftwork://{','.join(lab.nodes.clients)}"
    command = [sys.executable, "-m", "raftwork", "cluster", "remove", member, "--storage", url]

    def removed() -> bool:
        done = subprocess.run(command, env=lab.load.environment, capture_output=True, text=True, timeout=120)
        return done.returncode == 0

    until(removed, f"member {member} is removed")
