"""What faults are made of: find who is to suffer, wait for an effect, make it well, and see that work goes on."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cluster import pauses
from cluster.lab import Lab

Injection = Callable[[Lab, random.Random], None]

GOES_ON = 150
"""So many answers show that the cluster works."""
PATIENCE_S = 60.0


class NotApplied(Exception):
    """The fault had no effect, by chance: somebody else led meanwhile, for example. All is well again."""


@contextmanager
def without_leader(lab: Lab) -> Iterator[int]:
    """The body takes the leader away and says when; behind it another must lead, and work must go on."""
    leader = lab.nodes.who_leads()
    yield leader
    lab.nodes.who_leads(but=[leader])
    goes_on(lab)


def a_follower(lab: Lab, chance: random.Random) -> int:
    """A node that does not lead."""
    leader = lab.nodes.who_leads()
    return chance.choice([number for number in lab.nodes.running() if number != leader])


def still_leads(lab: Lab, number: int) -> bool:
    """Whether this node leads."""
    return lab.nodes.who_leads() == number


def goes_on(lab: Lab, answers: int = GOES_ON) -> None:
    """Wait until so many more operations were answered."""
    lab.load.wait_for_answers(answers)


def back(lab: Lab, *numbers: int) -> None:
    """Start nodes again and wait until each serves."""
    for number in numbers:
        lab.nodes.launch(number)
    for number in numbers:
        lab.nodes.wait_until_serving(number)
    lab.now(pauses.HEALED)
    goes_on(lab)


def until(holds: Callable[[], object], what: str, timeout: float = PATIENCE_S) -> None:
    """Look until it holds."""
    late = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < late, f"not within {timeout} s: {what}"
        time.sleep(0.01)


def until_alarmed(lab: Lab, number: int, alarm: str) -> None:
    """Wait until a node tells this alarm itself, as its users would see it."""
    until(lambda: has_alarm(lab, number, alarm), f"node {number} has the alarm `{alarm}`")


def until_quiet(lab: Lab, number: int, alarm: str) -> None:
    """Wait until a node answers and does not tell this alarm any more."""
    until(
        lambda: lab.nodes.look(number) is not None and not has_alarm(lab, number, alarm),
        f"the alarm `{alarm}` of node {number} ends",
    )


def has_alarm(lab: Lab, number: int, alarm: str) -> bool:
    """Whether a node tells this alarm now."""
    return any(told.startswith(alarm) for told in lab.nodes.alarms(number))


def until_caught_up(lab: Lab, number: int) -> None:
    """Wait until a node has applied what had been committed anywhere by now."""
    upto = max(health["committed"] for health in lab.nodes.all_health().values())

    def has() -> bool:
        health = lab.nodes.look(number)
        return health is not None and health["applied"] >= upto

    until(has, f"node {number} has applied entry {upto}")
