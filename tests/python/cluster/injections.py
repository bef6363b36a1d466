"""What goes wrong, one function a kind: do it, see that it took effect, make it well, and see that work goes on.

Nothing waits for a time but where the time is the fault itself: a process that is stopped for longer than its session
lives, links that flap.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cluster.lab import Archives, Lab
from cluster.parts import TTL_MS
from faults.filesystem import run

Injection = Callable[[Lab, random.Random], None]

GOES_ON = 150
"""So many answers show that the cluster works."""
LONGER_THAN_TTL_S = TTL_MS / 1_000 + 1.0
SLOW_SYNC_MS = 200
LOSS_PERCENT = 30
FLAPS = 4
FLAP_S = 0.25


# Processes ------------------------------------------------------------------------------------------------------------


def kill_leader(lab: Lab, chance: random.Random) -> None:
    """SIGKILL to the node that leads; the others go on before it is back."""
    with _without_leader(lab) as leader:
        lab.nodes.kill(leader)
    _back(lab, leader)


def kill_follower(lab: Lab, chance: random.Random) -> None:
    """SIGKILL to a node that does not lead."""
    follower = _follower(lab, chance)
    lab.nodes.kill(follower)
    _goes_on(lab)
    _back(lab, follower)


def kill_all(lab: Lab, chance: random.Random) -> None:
    """SIGKILL to all nodes at once."""
    lab.leader_lost(majority=False)
    lab.nodes.kill()
    _back(lab, *range(lab.nodes.count))


def stop_leader(lab: Lab, chance: random.Random) -> None:
    """SIGSTOP to the leader, for longer than sessions live. It comes back and believes for a moment that it leads."""
    with _without_leader(lab) as leader:
        lab.nodes.pause(leader)
        time.sleep(LONGER_THAN_TTL_S)
    lab.nodes.resume(leader)
    _goes_on(lab)


def stop_follower(lab: Lab, chance: random.Random) -> None:
    """SIGSTOP to a node that does not lead, for longer than sessions live."""
    follower = _follower(lab, chance)
    lab.nodes.pause(follower)
    _goes_on(lab)
    time.sleep(LONGER_THAN_TTL_S)
    lab.nodes.resume(follower)
    _goes_on(lab)


# The network ----------------------------------------------------------------------------------------------------------


def isolate_leader(lab: Lab, chance: random.Random) -> None:
    """The leader is cut off from everybody."""
    with _without_leader(lab) as leader:
        lab.network.cut_off(leader)
    _healed(lab, leader)


def isolate_follower(lab: Lab, chance: random.Random) -> None:
    """A node that does not lead is cut off from everybody."""
    follower = _follower(lab, chance)
    lab.network.cut_off(follower)
    _goes_on(lab)
    _healed(lab, follower)


def split(lab: Lab, chance: random.Random) -> None:
    """The leader, with others but no majority, is cut off from the rest. Clients still reach both sides."""
    others = chance.sample(range(lab.nodes.count), lab.nodes.count)
    leader = lab.nodes.who_leads()
    others.remove(leader)
    minority = [leader, *others[: lab.nodes.count // 2 - 1]]
    rest = [number for number in range(lab.nodes.count) if number not in minority]
    lab.leader_lost()
    for number in minority:
        lab.network.cut_from(number, rest)
    lab.nodes.who_leads(but=minority)
    _goes_on(lab)
    _healed(lab, *minority)


def one_way(lab: Lab, chance: random.Random) -> None:
    """The leader hears nothing of the others, which hear it."""
    with _without_leader(lab) as leader:
        lab.network.deafen(leader, [number for number in range(lab.nodes.count) if number != leader])
    _healed(lab, leader)


def one_way_follower(lab: Lab, chance: random.Random) -> None:
    """A node that does not lead hears nothing of the others, which hear it."""
    follower = _follower(lab, chance)
    lab.network.deafen(follower, [number for number in range(lab.nodes.count) if number != follower])
    _goes_on(lab)
    _healed(lab, follower)


def flapping(lab: Lab, chance: random.Random) -> None:
    """The links of a node go down and up again and again."""
    number = chance.randrange(lab.nodes.count)
    for _ in range(FLAPS):
        lab.network.cut_off(number)
        time.sleep(FLAP_S)
        lab.network.heal(number)
        time.sleep(FLAP_S)
    _goes_on(lab)


def loss(lab: Lab, chance: random.Random) -> None:
    """30 of 100 packets from and to a node are lost."""
    number = chance.randrange(lab.nodes.count)
    lab.network.lose(number, LOSS_PERCENT)
    _goes_on(lab, GOES_ON * 2)
    _healed(lab, number)


# Disks ----------------------------------------------------------------------------------------------------------------


def slow_disk(lab: Lab, chance: random.Random) -> None:
    """Each sync of a node takes 200 ms more."""
    number = chance.randrange(lab.nodes.count)
    page = lab.nodes.pages[number]
    before = page.slowed
    page.slow_syncs(SLOW_SYNC_MS)
    _goes_on(lab, GOES_ON * 2)
    _until(lambda: page.slowed > before + 1, "a sync was slowed")
    page.slow_syncs(0)
    _goes_on(lab)


def disk_full(lab: Lab, chance: random.Random) -> None:
    """A disk is full, of a leader or of another, and then it is not (A3)."""
    number = chance.randrange(lab.nodes.count)
    disk = lab.nodes.disks[number].root
    filler = disk / "filler"
    space = shutil.disk_usage(disk).free
    # First in one piece, then in ever smaller ones: what is free is not all in one place.
    for size in (space, 1 << 26, 1 << 22, 1 << 16, 1 << 12):
        while _allocate(filler, size):
            pass
    try:
        _goes_on(lab, GOES_ON * 3)
    finally:
        filler.unlink()
    _goes_on(lab)


def failing_sync(lab: Lab, chance: random.Random) -> None:
    """A sync of a node fails (D3). It answers nothing more until its log was read again."""
    number = chance.randrange(lab.nodes.count)
    page = lab.nodes.pages[number]
    before = page.failed
    page.fail_syncs(1)
    _until(lambda: page.failed > before, "a sync failed")
    _goes_on(lab)
    _restart_if_stopped(lab, number)


def dead_disk(lab: Lab, chance: random.Random) -> None:
    """A disk stops working under a running node: every access fails until the machine is started anew."""
    number = chance.randrange(lab.nodes.count)
    lab.nodes.disks[number].shutdown()
    _goes_on(lab)
    lab.nodes.kill(number)
    lab.nodes.disks[number].restore()
    _back(lab, number)


def power_cut_one(lab: Lab, chance: random.Random) -> None:
    """The power of one node is cut."""
    _cut_power(lab, [chance.randrange(lab.nodes.count)])


def power_cut_leader(lab: Lab, chance: random.Random) -> None:
    """The power of the leader is cut."""
    _cut_power(lab, [lab.nodes.who_leads()])


def power_cut_minority(lab: Lab, chance: random.Random) -> None:
    """The power of as many nodes as may fail is cut at once."""
    _cut_power(lab, chance.sample(range(lab.nodes.count), lab.nodes.count // 2))


def power_cut_all(lab: Lab, chance: random.Random) -> None:
    """The power of all nodes is cut at once."""
    _cut_power(lab, list(range(lab.nodes.count)))


def _cut_power(lab: Lab, numbers: list[int]) -> None:
    """Stop the processes first: a sync under way must not tell that it was done while the file system dies."""
    if lab.nodes.who_leads() in numbers:
        lab.leader_lost(majority=len(numbers) <= lab.nodes.count // 2)
    for number in numbers:
        lab.nodes.pause(number)
    for number in numbers:
        lab.nodes.disks[number].shutdown()
    lab.nodes.kill(*numbers)
    for number in numbers:
        lab.nodes.disks[number].restore()
    if len(numbers) <= lab.nodes.count // 2:
        _goes_on(lab)
    _back(lab, *numbers)


# Data -----------------------------------------------------------------------------------------------------------------


def deleted_data(lab: Lab, chance: random.Random) -> None:
    """The data directory of a node is deleted (D5): it is refused, then removed, and joins as a new member."""
    number = _follower(lab, chance)
    member = _member(lab, number)
    lab.nodes.kill(number)
    shutil.rmtree(lab.nodes.data(number))
    lab.nodes.launch(number)
    _until(lambda: lab.nodes.ended(number) is not None, "the node without data is refused")
    said = lab.nodes.log(number)
    assert f"raftwork cluster remove {member}" in said, f"the refusal does not say what to do:\n{said}"
    _remove(lab, member)
    shutil.rmtree(lab.nodes.data(number), ignore_errors=True)
    _back(lab, number)


def rolled_back_data(lab: Lab, chance: random.Random) -> None:
    """An old copy of a node's data directory is put back: what it answered since then is gone from its disk."""
    number = _follower(lab, chance)
    data, old = lab.nodes.data(number), lab.nodes.disks[number].root / "old"
    lab.nodes.kill(number)
    shutil.copytree(data, old, ignore=shutil.ignore_patterns("socket"))
    _back(lab, number)
    _goes_on(lab, GOES_ON * 3)
    lab.nodes.kill(number)
    shutil.rmtree(data)
    old.rename(data)
    # Whoever puts a copy back waits until it is on the disk; a later power cut must find it there.
    run("sync", "-f", str(data))
    _back(lab, number)


# Clocks ---------------------------------------------------------------------------------------------------------------


def clock_of_leader(where: str) -> Injection:
    """The wall clock of the leader jumps."""

    def jump(lab: Lab, chance: random.Random) -> None:
        _jump(lab, lab.nodes.who_leads(), where)

    return jump


def clock_of_follower(where: str) -> Injection:
    """The wall clock of a node jumps that does not lead."""

    def jump(lab: Lab, chance: random.Random) -> None:
        _jump(lab, _follower(lab, chance), where)

    return jump


def _jump(lab: Lab, number: int, where: str) -> None:
    lab.nodes.pages[number].jump(where)
    _goes_on(lab, GOES_ON * 2)
    lab.nodes.pages[number].set_right()
    _goes_on(lab)


# Parts ----------------------------------------------------------------------------------------------------------------


@contextmanager
def _without_leader(lab: Lab) -> Iterator[int]:
    """The body takes the leader away; behind it another must lead, and work must go on."""
    leader = lab.nodes.who_leads()
    lab.leader_lost()
    yield leader
    lab.nodes.who_leads(but=[leader])
    _goes_on(lab)


def _follower(lab: Lab, chance: random.Random) -> int:
    leader = lab.nodes.who_leads()
    return chance.choice([number for number in lab.nodes.running() if number != leader])


def _goes_on(lab: Lab, answers: int = GOES_ON) -> None:
    lab.load.wait_for_answers(answers)


def _back(lab: Lab, *numbers: int) -> None:
    """Start nodes again and wait until each serves."""
    for number in numbers:
        lab.nodes.launch(number)
    for number in numbers:
        lab.nodes.wait_until_serving(number)
    _goes_on(lab)


def _restart_if_stopped(lab: Lab, number: int) -> None:
    """A failed sync stops the node, or its archive alone, until its process begins anew."""
    archives: Archives = {}
    until = time.monotonic() + 60.0
    while (ended := lab.nodes.ended(number)) is None and number not in (archives := lab.archives()):
        assert time.monotonic() < until, f"node {number} neither ends nor answers after a failed sync"
    if ended is None:
        archive = archives[number]
        if archive.get("stopped") is None:
            return
        assert any("the archive stopped" in alarm for alarm in archive["alarms"]), f"no alarm tells it: {archive}"
        lab.nodes.kill(number)
    _back(lab, number)


def _healed(lab: Lab, *numbers: int) -> None:
    """Take the rules away, and check that they had something to do."""
    for number in numbers:
        _until(lambda number=number: lab.network.dropped(number) > 0, f"a packet of node {number} is dropped")
        lab.network.heal(number)
    _goes_on(lab)


def _until(holds: Callable[[], bool], what: str, timeout: float = 60.0) -> None:
    until = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < until, f"not within {timeout} s: {what}"
        time.sleep(0.01)


def _allocate(filler: object, size: int) -> bool:
    """Make the filler larger by so many bytes; false when there is no room."""
    end = subprocess.run(["stat", "-c", "%s", str(filler)], capture_output=True, text=True).stdout.strip() or "0"
    command = ["fallocate", "-o", end, "-l", str(size), str(filler)]
    return subprocess.run(command, capture_output=True, timeout=60).returncode == 0


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

    _until(removed, f"member {member} is removed")
