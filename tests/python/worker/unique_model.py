"""What becomes of jobs with unique keys, worked out by hand from the documents, without code of the package.

The model is told which jobs run, in their order, which other models look at. Time is in whole seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Conflict = Literal["skip", "replace", "raise"]
Ending = Literal["return", "raise", "snooze", "discard", "cancel", "again"]
"""How a run ends. `again` asks for the very same job once more, and returns."""
By = Literal["args", "template", "function"]
"""What keys are made of. Each is a task of its own."""
Value = int | str

MAX_ATTEMPTS, MAX_CRASHES = 2, 2
RETRY_S = SNOOZE_S = 1
TTL_S = 2
"""So long the job of a worker that died silently is nobody's."""

WAITING = ("scheduled", "enqueued", "retrying")
FINAL = ("succeeded", "failed", "cancelled")


def key_of(by: By, first: Value, second: Value) -> tuple[object, ...]:
    """What the keys of two calls have in common that are for the same."""
    match by:
        case "args":
            return by, type(first), first, type(second), second
        case "template":
            return by, f"for {first}"
        case "function":
            return by, f"for {len(str(first))}"


@dataclass
class Job:
    """One job: its options, and how it stands."""

    number: int
    by: By
    first: Value
    second: Value
    conflict: Conflict = "skip"
    window: int | None = None
    delay: int = 0
    script: list[Ending] = field(default_factory=list)
    state: str = "enqueued"
    due: int = 0
    runs: int = 0
    attempts: int = 0
    crashes: int = 0
    lapses: int = 0
    asked_to_stop: bool = False

    @property
    def key(self) -> tuple[object, ...]:
        return key_of(self.by, self.first, self.second)


class Taken(Exception):
    """What `raise` answers: the number of the job that has the key."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Model:
    """All jobs, which job has which key, and the time."""

    def __init__(self) -> None:
        self.now = 0
        self.jobs: dict[int, Job] = {}
        self.held: dict[tuple[object, ...], int] = {}
        """Until the job is final."""
        self.windows: dict[tuple[object, ...], tuple[int, int]] = {}
        """For so long: the job, and when it ends."""
        self.crashes: list[bool] = []
        """Of the next runs; true for the silent ones."""

    # What is asked for

    def enqueue(self, jobs: list[Job]) -> list[int]:
        """Jobs of one call; all or none. The numbers of the jobs that there are now."""
        asked: dict[tuple[object, ...], int] = {}
        for job in jobs:
            holder = asked.setdefault(job.key, self.holder(job.key, job.number))
            if holder != job.number and job.conflict == "raise":
                raise Taken(holder)
        return [self._enqueue(job) for job in jobs]

    def _enqueue(self, job: Job) -> int:
        holder = self.jobs.get(self.holder(job.key, job.number))
        if holder is not None:
            if job.conflict != "replace" or holder.state not in WAITING:
                return holder.number
            self._final(holder, "cancelled")
        self.jobs[job.number] = job
        self._later(job, "scheduled" if job.delay else "enqueued", job.delay)
        self._take(job)
        return job.number

    def cancel(self, number: int) -> None:
        """A job that waits is cancelled, one that runs is told."""
        job = self.jobs[number]
        if job.state in WAITING:
            self._final(job, "cancelled")
        elif job.state == "processing":
            job.asked_to_stop = True

    def delete(self, number: int) -> bool:
        """The job is forgotten, and so is the time for which it has its key. False: it runs."""
        job = self.jobs[number]
        if job.state == "processing":
            return False
        del self.jobs[number]
        self._free(job)
        if self.windows.get(job.key, (None, 0))[0] == number:
            del self.windows[job.key]
        return True

    def retry(self, number: int) -> bool:
        """A final job runs again, unless another has its key by now; one that waits for its time runs now."""
        job = self.jobs[number]
        if job.state in ("enqueued", "processing"):
            return False
        if job.state in FINAL:
            if self.holder(job.key, number) != number:
                return False
            job.attempts = job.crashes = 0
            if not self.taken(job.key):
                self._take(job)
        self._later(job, "enqueued", 0)
        return True

    def advance(self, seconds: int) -> None:
        """Time goes on: what is due becomes enqueued, and sessions of dead workers lapse."""
        for _ in range(seconds):
            self.now += 1
            for job in self.jobs.values():
                if job.state in ("scheduled", "retrying") and job.due <= self.now:
                    job.state = "enqueued"
                elif job.state == "processing" and job.lapses <= self.now:
                    self._crashed(job)

    def began(self, number: int) -> Ending:
        """A worker took this job."""
        job = self.jobs[number]
        assert job.state == "enqueued", f"job {number} was run"
        job.state = "processing"
        job.runs += 1
        return job.script[job.runs - 1] if job.runs <= len(job.script) else "return"

    def ended(self, number: int, ending: Ending) -> None:
        """And this is how its run ended."""
        job = self.jobs[number]
        if self.crashes:
            if self.crashes.pop(0):
                job.lapses = self.now + TTL_S
            else:
                self._crashed(job)
        elif ending in ("return", "again"):
            self._final(job, "succeeded")
        elif ending == "snooze":
            self._later(job, "scheduled", SNOOZE_S)
        elif ending == "cancel":
            self._final(job, "cancelled")
        elif ending == "raise" and job.attempts + 1 < MAX_ATTEMPTS:
            job.attempts += 1
            self._later(job, "retrying", RETRY_S)
        else:
            self._final(job, "failed")

    # What is told

    def holder(self, key: tuple[object, ...], own: int) -> int:
        """The job that has the key, or would have it."""
        if key in self.held:
            return self.held[key]
        number, until = self.windows.get(key, (own, 0))
        return number if until > self.now else own

    def taken(self, key: tuple[object, ...]) -> bool:
        """Whether a job has the key."""
        return self.holder(key, -1) != -1

    def states(self) -> dict[int, str]:
        """The state of each job."""
        return {number: job.state for number, job in self.jobs.items()}

    # How it goes on

    def _take(self, job: Job) -> None:
        if job.window is None:
            self.held[job.key] = job.number
        else:
            self.windows[job.key] = job.number, self.now + job.window

    def _free(self, job: Job) -> None:
        if self.held.get(job.key) == job.number:
            del self.held[job.key]

    def _later(self, job: Job, state: str, seconds: int) -> None:
        job.state, job.due, job.asked_to_stop = state, self.now + seconds, False

    def _final(self, job: Job, state: str) -> None:
        job.state = state
        self._free(job)

    def _crashed(self, job: Job) -> None:
        job.crashes += 1
        if job.asked_to_stop:
            self._final(job, "cancelled")
        elif job.crashes >= MAX_CRASHES:
            self._final(job, "failed")
        else:
            self._later(job, "enqueued", 0)
