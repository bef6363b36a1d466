"""What goes wrong with processes and networks, one function a kind. Disks, data and clocks have files of their own.

Each does it, sees that it took effect, makes it well, and sees that work goes on.
Nothing waits for a time but where the time is the fault itself: a process that is stopped for longer than its session
lives, links that flap.
"""

from __future__ import annotations

import random
import time

from cluster import pauses
from cluster.lab import Lab
from cluster.parts import TTL_MS
from cluster.steps import GOES_ON, a_follower, back, goes_on, until, without_leader

LONGER_THAN_TTL_S = TTL_MS / 1_000 + 1.0
LOSS_PERCENT = 30
FLAPS = 4
FLAP_S = 0.25


# Processes ------------------------------------------------------------------------------------------------------------


def kill_leader(lab: Lab, chance: random.Random) -> None:
    """SIGKILL to the node that leads; the others go on before it is back."""
    with without_leader(lab) as leader:
        lab.nodes.kill(leader)
        lab.now(pauses.LEADER_LOST)
    back(lab, leader)


def kill_follower(lab: Lab, chance: random.Random) -> None:
    """SIGKILL to a node that does not lead."""
    follower = a_follower(lab, chance)
    lab.nodes.kill(follower)
    lab.now(pauses.STRUCK)
    goes_on(lab)
    back(lab, follower)


def kill_all(lab: Lab, chance: random.Random) -> None:
    """SIGKILL to all nodes at once."""
    lab.nodes.kill()
    lab.now(pauses.RESTARTED)
    back(lab, *range(lab.nodes.count))


def stop_leader(lab: Lab, chance: random.Random) -> None:
    """SIGSTOP to the leader, for longer than sessions live. It comes back and believes for a moment that it leads."""
    with without_leader(lab) as leader:
        lab.nodes.pause(leader)
        lab.now(pauses.LEADER_LOST)
        time.sleep(LONGER_THAN_TTL_S)
    lab.nodes.resume(leader)
    lab.now(pauses.HEALED)
    goes_on(lab)


def stop_follower(lab: Lab, chance: random.Random) -> None:
    """SIGSTOP to a node that does not lead, for longer than sessions live."""
    follower = a_follower(lab, chance)
    lab.nodes.pause(follower)
    lab.now(pauses.STRUCK)
    goes_on(lab)
    time.sleep(LONGER_THAN_TTL_S)
    lab.nodes.resume(follower)
    lab.now(pauses.HEALED)
    goes_on(lab)


# The network ----------------------------------------------------------------------------------------------------------


def isolate_leader(lab: Lab, chance: random.Random) -> None:
    """The leader is cut off from everybody."""
    with without_leader(lab) as leader:
        lab.network.cut_off(leader)
        lab.now(pauses.LEADER_LOST)
    _healed(lab, leader)


def isolate_follower(lab: Lab, chance: random.Random) -> None:
    """A node that does not lead is cut off from everybody."""
    follower = a_follower(lab, chance)
    lab.network.cut_off(follower)
    lab.now(pauses.STRUCK)
    goes_on(lab)
    _healed(lab, follower)


def split(lab: Lab, chance: random.Random) -> None:
    """The leader, with others but no majority, is cut off from the rest. Clients still reach both sides."""
    others = chance.sample(range(lab.nodes.count), lab.nodes.count)
    leader = lab.nodes.who_leads()
    others.remove(leader)
    minority = [leader, *others[: lab.nodes.count // 2 - 1]]
    rest = [number for number in range(lab.nodes.count) if number not in minority]
    for number in minority:
        lab.network.cut_from(number, rest)
    lab.now(pauses.LEADER_LOST)
    lab.nodes.who_leads(but=minority)
    goes_on(lab)
    _healed(lab, *minority)


def one_way(lab: Lab, chance: random.Random) -> None:
    """The leader hears nothing of the others, which hear it."""
    with without_leader(lab) as leader:
        lab.network.deafen(leader, [number for number in range(lab.nodes.count) if number != leader])
        lab.now(pauses.LEADER_LOST)
    _healed(lab, leader)


def one_way_follower(lab: Lab, chance: random.Random) -> None:
    """A node that does not lead hears nothing of the others, which hear it."""
    follower = a_follower(lab, chance)
    lab.network.deafen(follower, [number for number in range(lab.nodes.count) if number != follower])
    lab.now(pauses.STRUCK)
    goes_on(lab)
    _healed(lab, follower)


def flapping(lab: Lab, chance: random.Random) -> None:
    """The links of a node go down and up again and again."""
    number = chance.randrange(lab.nodes.count)
    dropped = 0
    lab.now(pauses.STRUCK)
    for _ in range(FLAPS):
        lab.network.cut_off(number)
        time.sleep(FLAP_S)
        dropped += lab.network.dropped(number)
        lab.network.heal(number)
        time.sleep(FLAP_S)
    assert dropped > 0, f"no packet of node {number} was dropped"
    lab.now(pauses.HEALED)
    goes_on(lab)


def loss(lab: Lab, chance: random.Random) -> None:
    """30 of 100 packets from and to a node are lost."""
    number = chance.randrange(lab.nodes.count)
    lab.network.lose(number, LOSS_PERCENT)
    lab.now(pauses.STRUCK)
    goes_on(lab, GOES_ON * 2)
    _healed(lab, number)


def _healed(lab: Lab, *numbers: int) -> None:
    """Take the rules away, and check that they had something to do."""
    for number in numbers:
        until(lambda number=number: lab.network.dropped(number) > 0, f"a packet of node {number} is dropped")
        lab.network.heal(number)
    lab.now(pauses.HEALED)
    goes_on(lab)
