"""What recurring schedules do, worked out by hand from the documents, without code of the package.

Time is in half hours. Slots come on whole hours, and everything is asked half an hour later.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Overlap = Literal["allow", "skip", "queue_one"]
Misfire = Literal["skip", "run_once", "run_all"]
CATCHUP = 3
"""Slots that `run_all` makes up for, the newest."""
HOUR = 2


@dataclass
class Schedule:
    """One schedule, and the next slot that it fires."""

    every: int
    overlap: Overlap
    misfire: Misfire
    next: int
    paused: bool = False


@dataclass
class Job:
    """A job of a schedule. One that was triggered has no slot."""

    slot: int | None
    done: bool = False


@dataclass
class Model:
    """All schedules by name, and all jobs that they ever had."""

    now: int = 0
    schedules: dict[str, Schedule] = field(default_factory=dict)
    jobs: dict[str, list[Job]] = field(default_factory=dict)

    def pause(self, name: str) -> None:
        self.schedules[name].paused = True

    def resume(self, name: str) -> None:
        """Slots of the pause are not made up for."""
        schedule = self.schedules[name]
        if schedule.paused:
            schedule.paused = False
            self.skip_to_now(schedule)

    def trigger(self, name: str) -> None:
        """Whatever the others do."""
        self.jobs.setdefault(name, []).append(Job(None))

    def advance(self, span: int) -> None:
        """Each slot fires when it comes."""
        end = self.now + span
        while self.now < end:
            self.now += 1
            for name, schedule in self.schedules.items():
                if not schedule.paused and schedule.next == self.now:
                    self.fire(name, schedule, schedule.next)
                    schedule.next += schedule.every * HOUR

    def outage(self, span: int) -> None:
        """Nobody looks for so long. Then what was missed becomes what the policy says."""
        self.now += span
        for name, schedule in self.schedules.items():
            missed = range(schedule.next, self.now + 1, schedule.every * HOUR)
            kept = {"skip": 0, "run_once": 1, "run_all": CATCHUP}[schedule.misfire]
            if not schedule.paused:
                for slot in list(missed)[max(0, len(missed) - kept) :]:
                    self.fire(name, schedule, slot)
                self.skip_to_now(schedule)

    def drain(self) -> None:
        """All that wait are run."""
        for job in (job for jobs in self.jobs.values() for job in jobs):
            job.done = True

    def fire(self, name: str, schedule: Schedule, slot: int) -> None:
        """No job ever runs while a slot is fired, so that all which are not done wait."""
        jobs = self.jobs.setdefault(name, [])
        if schedule.overlap == "allow" or all(job.done for job in jobs):
            jobs.append(Job(slot))

    def skip_to_now(self, schedule: Schedule) -> None:
        while schedule.next <= self.now:
            schedule.next += schedule.every * HOUR
