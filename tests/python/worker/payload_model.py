"""How payloads of jobs lie in the storage and who can read them, worked out by hand from the documents, without code of
the package. Time is in whole seconds.

Every payload is remembered with the key that it was written with. Of the keys of a process the first writes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Size = Literal["nothing", "small", "medium", "large", "noise"]
Ending = Literal["return", "raise", "snooze", "cancel"]

MAX_ATTEMPTS = 2
RETRY_S = SNOOZE_S = 1
KEY_WAIT_S = 30
"""So long a job waits that was claimed by a worker without its key."""
COMPRESSES: dict[Size, int] = {"medium": 200, "large": 2_048}
"""What is so large that it is compressed above so many bytes, and gets smaller by that."""

FINAL = ("succeeded", "failed", "cancelled")


class Key(NamedTuple):
    """A key. Two of the same id are not the same."""

    id: str
    version: int = 0


class Process(NamedTuple):
    """The settings of a process."""

    keys: tuple[Key, ...] = ()
    compress_above: int | None = 2_048
    secrets_in_clear: bool = False

    @property
    def takes_secrets(self) -> bool:
        return bool(self.keys) or self.secrets_in_clear


CLEAR = Process()


class Value(NamedTuple):
    """What a job is given, saves, or returns."""

    size: Size
    secret: bool = False


@dataclass(frozen=True)
class Stored:
    """A payload, and what was done to it."""

    what: Value | str
    key: Key | None
    compressed: bool = False


def store(what: Value | str, by: Process) -> Stored:
    """What a process writes."""
    size = what.size if isinstance(what, Value) else "small"
    above = by.compress_above
    small = above is None or size not in COMPRESSES or COMPRESSES[size] < above
    return Stored(what, by.keys[0] if by.keys else None, not small)


def missing(stored: Stored | None, reader: Process) -> str | None:
    """The id of the key that a process would need to read this, if it has it not."""
    return None if stored is None or stored.key is None or stored.key in reader.keys else stored.key.id


class Run(NamedTuple):
    """What a run of a job does."""

    step: bool = False
    note: bool = False
    """Whether it tells its progress."""
    save: Value | None = None
    ending: Ending = "return"
    result: Value = Value("small")


@dataclass
class Job:
    """One job, and all that is stored of it."""

    number: int
    args: Stored
    script: list[Run]
    parent: int | None = None
    """Its output is the argument."""
    key: tuple[Key | None, str] | None = None
    """The unique key: with what its digest was made, and of what."""
    state: str = "enqueued"
    due: int = 0
    runs: int = 0
    attempts: int = 0
    saved: Stored | None = None
    """State and steps, which are one payload."""
    steps: bool = False
    saved_value: Value | None = None
    result: Stored | None = None
    error: Stored | None = None
    reason: Stored | None = None
    note: Stored | None = None


@dataclass
class Model:
    """All jobs, and the process that works."""

    now: int = 0
    jobs: dict[int, Job] = field(default_factory=dict)
    worker: Process = CLEAR

    # What is asked for

    def enqueue(
        self, number: int, value: Value, script: list[Run], parent: int | None, tag: str | None, by: Process
    ) -> int | None:
        """The number of the job that there is now. None: it has a secret that may not be stored."""
        if parent is None and value.secret and not by.takes_secrets:
            return None
        key = None if tag is None else (min(by.keys, default=None), tag)
        for other in self.jobs.values():
            if key is not None and other.key == key and other.state not in FINAL:
                return other.number
        args = store(value if parent is None else Value("small"), by)
        job = self.jobs[number] = Job(number, args, script, parent, key)
        if parent is not None:
            job.state = "awaiting"
            self._look(job)
        return number

    def advance(self, seconds: int) -> None:
        self.now += seconds
        for job in self.jobs.values():
            if job.state in ("scheduled", "retrying") and job.due <= self.now:
                job.state = "enqueued"

    def began(self, number: int) -> Run:
        """The worker called the function of this job."""
        job = self.jobs[number]
        assert job.state == "enqueued", f"job {number} was run"
        assert not self.lacks(job), "it was run without its key"
        job.runs += 1
        job.reason = None
        return job.script[job.runs - 1] if job.runs <= len(job.script) else Run()

    def ended(self, number: int, run: Run) -> None:
        """And this is what it did."""
        job = self.jobs[number]
        refused = self._save(job, run)
        if run.note and not refused:
            job.note = store(f"note {number}", self.worker)
        if refused or run.ending == "raise":
            job.attempts += 1
            job.error = store("refused" if refused else f"message {number}", self.worker)
            if job.attempts >= MAX_ATTEMPTS:
                self._final(job, "failed")
            else:
                self._later(job, "retrying", RETRY_S)
        elif run.ending == "snooze":
            job.reason = store(f"reason {number}", self.worker)
            self._later(job, "scheduled", SNOOZE_S)
        elif run.ending == "cancel":
            job.reason = store(f"reason {number}", self.worker)
            self._final(job, "cancelled")
        elif run.result.secret and not self.worker.takes_secrets:
            job.error = store("refused", self.worker)
            self._final(job, "failed")
        else:
            job.result = None if run.result.size == "nothing" else store(run.result, self.worker)
            self._final(job, "succeeded")

    def drained(self) -> None:
        """What the worker could not read waits for another. It counts for nothing."""
        for job in self.jobs.values():
            if job.state == "enqueued":
                assert self.lacks(job), f"job {job.number} was not run"
                job.reason = None
                self._later(job, "scheduled", KEY_WAIT_S)

    # What is told

    def lacks(self, job: Job) -> bool:
        """Whether the worker cannot read all that the job begins with."""
        parts = [job.args, job.saved, self.jobs[job.parent].result if job.parent is not None else None]
        return any(missing(part, self.worker) for part in parts)

    def given(self, number: int) -> Value:
        """The argument that the job gets."""
        job = self.jobs[number]
        if job.parent is None:
            assert isinstance(job.args.what, Value)
            return job.args.what
        result = self.jobs[job.parent].result
        if result is None:
            return Value("nothing")
        assert isinstance(result.what, Value)
        return result.what

    # How it goes on

    def _save(self, job: Job, run: Run) -> bool:
        """Whether it was refused."""
        if run.step and not job.steps:
            job.steps = True
            job.saved = store("saved", self.worker)
        if run.save is not None:
            if run.save.secret and not self.worker.takes_secrets:
                return True
            job.saved, job.saved_value = store("saved", self.worker), run.save
        return False

    def _later(self, job: Job, state: str, seconds: int) -> None:
        job.state, job.due = state, self.now + seconds

    def _final(self, job: Job, state: str) -> None:
        job.state = state
        for child in list(self.jobs.values()):
            if child.parent == job.number:
                self._look(child)

    def _look(self, job: Job) -> None:
        assert job.parent is not None
        parent = self.jobs[job.parent].state
        if job.state == "awaiting" and parent in FINAL:
            job.state = "enqueued" if parent == "succeeded" else "cancelled"
            if job.state == "cancelled":
                self._final(job, "cancelled")
