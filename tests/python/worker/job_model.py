"""What becomes of one job, worked out by hand from the documents: no code of the package is used here.

Time is in whole seconds. A run calls steps, saves, and ends somehow; what it calls is remembered by the later ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Ending = Literal["return", "raise", "snooze", "retry_after", "discard", "cancel", "crash"]


class Run(NamedTuple):
    """What a run of the job does."""

    steps: tuple[str, ...] = ()
    save: int | None = None
    ending: Ending = "return"
    seconds: int = 1
    """Of `snooze` and `retry_after`."""


class Seen(NamedTuple):
    """What a run of the job saw."""

    second: int
    attempt: int
    crashes: int
    state: int | None
    steps: tuple[tuple[str, int], ...]
    """Each step and the number of the run that did it."""


@dataclass
class Script:
    """One job: its options, and what each run does. When there are no more runs, it returns."""

    runs: list[Run]
    delay: int = 0
    max_attempts: int = 1
    max_crashes: int = 3
    backoff: list[int] = field(default_factory=lambda: [1])

    def run(self, number: int) -> Run:
        """What the run of this number does."""
        return self.runs[number] if number < len(self.runs) else Run()


def predict(script: Script) -> tuple[str, list[Seen]]:
    """The final state of the job, and what each of its runs saw."""
    second, attempts, crashes, number = script.delay, 0, 0, 0
    state: int | None = None
    remembered: dict[str, int] = {}
    seen: list[Seen] = []
    while True:
        run = script.run(number)
        for name in run.steps:
            remembered.setdefault(name, number)
        steps = tuple((name, remembered[name]) for name in run.steps)
        seen.append(Seen(second, attempts + 1, crashes, state, steps))
        if run.save is not None:
            state = run.save
        number += 1
        if run.ending == "return":
            return "succeeded", seen
        if run.ending == "cancel":
            return "cancelled", seen
        if run.ending == "discard":
            return "failed", seen
        if run.ending == "snooze":
            second += run.seconds
            continue
        if run.ending == "crash":
            crashes += 1
            if crashes >= script.max_crashes:
                return "failed", seen
            continue
        attempts += 1
        if attempts >= script.max_attempts:
            return "failed", seen
        second += run.seconds if run.ending == "retry_after" else script.backoff[min(attempts, len(script.backoff)) - 1]
