"""Wall clocks that jump (T2): the node says that it does not follow, and no session ends because of it."""

from __future__ import annotations

import random
import time

from cluster import pauses
from cluster.lab import Lab
from cluster.parts import TTL_MS
from cluster.steps import GOES_ON, Injection, NotApplied, a_follower, goes_on, still_leads, until_alarmed, until_quiet

WRONG = "the wall clock is"
TRIES = 3
"""A session may end beside a jump, for want of a sign of life on a machine with other work; not three times running."""


def clock_of_leader(where: str) -> Injection:
    """The wall clock of the leader jumps."""

    def jump(lab: Lab, chance: random.Random) -> None:
        leader = lab.nodes.who_leads()
        _jump(lab, leader, where)
        if not still_leads(lab, leader):
            raise NotApplied(f"node {leader} does not lead any more")

    return jump


def clock_of_follower(where: str) -> Injection:
    """The wall clock of a node jumps that does not lead."""

    def jump(lab: Lab, chance: random.Random) -> None:
        _jump(lab, a_follower(lab, chance), where)

    return jump


def _jump(lab: Lab, number: int, where: str) -> None:
    ended: list[set[int]] = []
    while len(ended) < TRIES:
        before = lab.sessions_of_clients()
        assert before, "nobody has a session that could end"
        _stand_wrong(lab, number, where)
        ended.append(before - lab.sessions_of_clients())
        if not ended[-1]:
            return
    raise AssertionError(f"T2: sessions ended each time when the clock of node {number} went to {where}: {ended}")


def _stand_wrong(lab: Lab, number: int, where: str) -> None:
    """The clock is wrong for as long as a session lives, so that each is judged once meanwhile."""
    page, began = lab.nodes.pages[number], time.monotonic()
    page.jump(where)
    lab.now(pauses.STRUCK)
    until_alarmed(lab, number, WRONG)
    goes_on(lab, GOES_ON * 2)
    time.sleep(max(0.0, TTL_MS / 1_000 - (time.monotonic() - began)))
    page.set_right()
    lab.now(pauses.HEALED)
    until_quiet(lab, number, WRONG)
    goes_on(lab)
