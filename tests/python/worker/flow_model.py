"""What becomes of jobs that depend on each other, worked out by hand from the documents, without code of the package.

The model is told which job runs next, and says whether that was allowed: of jobs that became enqueued by one and the
same write, the documents promise no order. All else follows. Time is in whole seconds.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

Ending = Literal["return", "add", "raise", "snooze", "discard", "cancel"]
"""How a run ends. `add` puts one more job into the batch of this one, and returns."""
Kind = Literal["success", "failure", "finish"]
Node = int | str
"""A job, by its number, or a batch, by its name."""

MAX_ATTEMPTS, MAX_CRASHES = 2, 2
RETRY_S = SNOOZE_S = 1
TTL_S = 2
"""So long the job of a worker that died silently is nobody's."""
AT_ONCE, STARTS, WINDOW_S = 1, 2, 2.5
"""Jobs of a limit at once; starts of a rate in a window that slides, which ends between two seconds."""

WAITING = ("awaiting", "scheduled", "enqueued", "retrying")
FINAL = ("succeeded", "failed", "cancelled")


@dataclass
class Edge:
    """What a job waits for."""

    parent: Node
    on: Kind
    standing: Literal["open", "met", "unmet"] = "open"


@dataclass
class Job:
    """One job: its options, and how it stands."""

    number: int
    script: list[Ending] = field(default_factory=list)
    delay: int = 0
    batch: str | None = None
    limits: frozenset[str] = frozenset()
    """Names: `rate` is one, all others are limits."""
    edges: list[Edge] = field(default_factory=list)
    state: str = "awaiting"
    due: int = 0
    enqueued: tuple[int, int] = (0, 0)
    """When it became enqueued: the second, and which write of it."""
    runs: int = 0
    attempts: int = 0
    crashes: int = 0
    lapses: int = 0
    asked_to_stop: bool = False


@dataclass
class Batch:
    """Jobs, and batches, that finish together."""

    name: str
    outer: str | None
    members: list[Node] = field(default_factory=list)
    sealed: bool = False
    cancelled: bool = False
    finished: bool = False


class Model:
    """All jobs and batches, and the time."""

    def __init__(self) -> None:
        self.now = 0
        self.jobs: dict[int, Job] = {}
        self.batches: dict[str, Batch] = {}
        self.starts: dict[str, list[int]] = {}
        self.crashes: list[bool] = []
        """Of the next runs; true for the silent ones."""
        self._write = 0

    # What is asked for

    def enqueue(self, job: Job) -> None:
        """A job whose parents may have ended already."""
        self._begin_write()
        self._add(job)
        for edge in job.edges:
            if (how := self._how(edge.parent)) is not None:
                self._settle_edge(edge, how)
        self._look(job)

    def open_batch(self, name: str, outer: str | None) -> None:
        """A batch that takes members. Its callbacks are jobs like others, enqueued behind it."""
        self._begin_write()
        self.batches[name] = Batch(name, outer)
        if outer is not None:
            self.batches[outer].members.append(name)

    def seal(self, name: str) -> None:
        """It may finish."""
        self._begin_write()
        self.batches[name].sealed = True
        self._look_at_batch(name)

    def cancel_batch(self, name: str) -> None:
        """Its members are cancelled or told, and those of batches inside."""
        self._begin_write()
        self._cancel_batch(name)

    def cancel(self, number: int) -> None:
        """A job that waits is cancelled, one that runs is told."""
        self._begin_write()
        self._cancel(self.jobs[number])

    def retry(self, number: int) -> None:
        """A job that has ended runs again, in spite of parents that ended otherwise, after those that did not end."""
        self._begin_write()
        job = self.jobs[number]
        job.edges = [edge for edge in job.edges if edge.standing != "unmet"]
        job.attempts = job.crashes = 0
        if any(edge.standing == "open" for edge in job.edges):
            job.state = "awaiting"
        else:
            self._enqueued(job)
        self._begun_again(number)

    def advance(self, seconds: int) -> None:
        """Time goes on: what is due becomes enqueued, and sessions of dead workers lapse."""
        for _ in range(seconds):
            self.now += 1
            self._write = 0
            for job in self.jobs.values():
                if job.state in ("scheduled", "retrying") and job.due <= self.now:
                    self._enqueued(job)
            self._write = 1
            for job in list(self.jobs.values()):
                if job.state == "processing" and job.lapses <= self.now:
                    self._crashed(job)
        self._write = 2

    def run(self, number: int, added: int | None) -> None:
        """A worker took this job. `added`: the number of the job that it added to its batch."""
        allowed = self.next()
        assert number in allowed, f"job {number} was run, and {allowed} come first"
        job = self.jobs[number]
        ending = job.script[job.runs] if job.runs < len(job.script) else "return"
        job.runs += 1
        for limit in job.limits:
            self.starts.setdefault(limit, []).append(self.now)
        assert (added is not None) == (ending == "add" and job.batch is not None)
        if added is not None:
            self.enqueue(Job(added, batch=job.batch))
        self._begin_write()
        if self.crashes:
            if self.crashes.pop(0):
                job.state, job.lapses = "processing", self.now + TTL_S
            else:
                self._crashed(job)
            return
        self._ended(job, ending)

    # What is told

    def next(self) -> list[int]:
        """The jobs of which one is run next."""
        ready = [job for job in self.jobs.values() if job.state == "enqueued" and self._has_room(job)]
        first = min((job.enqueued for job in ready), default=None)
        return [job.number for job in ready if job.enqueued == first]

    def states(self) -> dict[int, str]:
        """The state of each job."""
        return {number: job.state for number, job in self.jobs.items()}

    def batch_row(self, name: str) -> tuple[str, int, int, int, int, int]:
        """State, total, pending, succeeded, failed, cancelled."""
        batch = self.batches[name]
        counts = Counter(self._state(member) for member in batch.members)
        ended = tuple(counts[state] for state in FINAL)
        return self._state(name), len(batch.members), len(batch.members) - sum(ended), *ended

    def in_cancelled(self, name: str | None) -> bool:
        """Whether a batch, or one around it, was cancelled."""
        return name is not None and (self.batches[name].cancelled or self.in_cancelled(self.batches[name].outer))

    def waits_for_batch(self, number: int) -> bool:
        """Whether a job waits, or waited, for a batch, if only through others."""
        parents = [edge.parent for edge in self.jobs[number].edges]
        return any(isinstance(parent, str) or self.waits_for_batch(parent) for parent in parents)

    # How it goes on

    def _begin_write(self) -> None:
        self._write += 1

    def _add(self, job: Job) -> None:
        self.jobs[job.number] = job
        if job.batch is not None:
            self.batches[job.batch].members.append(job.number)

    def _enqueued(self, job: Job) -> None:
        job.state, job.enqueued, job.asked_to_stop = "enqueued", (self.now, self._write), False

    def _later(self, job: Job, state: str, seconds: int) -> None:
        job.state, job.due = state, self.now + seconds

    def _has_room(self, job: Job) -> bool:
        for name in job.limits:
            if name != "rate":
                running = [
                    other for other in self.jobs.values() if other.state == "processing" and name in other.limits
                ]
                if len(running) >= AT_ONCE:
                    return False
            elif sum(start > self.now - WINDOW_S for start in self.starts.get(name, [])) >= STARTS:
                return False
        return True

    def _ended(self, job: Job, ending: Ending) -> None:
        if ending in ("return", "add"):
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

    def _crashed(self, job: Job) -> None:
        job.crashes += 1
        if job.asked_to_stop:
            self._final(job, "cancelled")
        elif job.crashes >= MAX_CRASHES:
            self._final(job, "failed")
        else:
            self._enqueued(job)

    def _cancel(self, job: Job) -> None:
        if job.state in WAITING:
            job.edges.clear()  # Nothing that its parents do begins it again.
            self._final(job, "cancelled")
        elif job.state == "processing":
            job.asked_to_stop = True

    def _cancel_batch(self, name: str) -> None:
        batch = self.batches[name]
        if batch.finished or batch.cancelled:
            return
        batch.sealed = batch.cancelled = True
        for member in list(batch.members):
            if isinstance(member, str):
                self._cancel_batch(member)
            else:
                self._cancel(self.jobs[member])
        self._look_at_batch(name)

    def _final(self, job: Job, state: str) -> None:
        job.state = state
        self._settle(job.number)
        if job.batch is not None:
            self._look_at_batch(job.batch)

    def _look_at_batch(self, name: str) -> None:
        batch = self.batches[name]
        if batch.finished or not batch.sealed or any(self._how(member) is None for member in batch.members):
            return
        batch.finished = True
        self._settle(name)
        if batch.outer is not None:
            self._look_at_batch(batch.outer)

    def _settle(self, parent: Node) -> None:
        """Tell those that wait for it how it ended."""
        how = self._how(parent)
        assert how is not None
        for job in list(self.jobs.values()):
            edges = [edge for edge in job.edges if edge.parent == parent and edge.standing == "open"]
            for edge in edges:
                self._settle_edge(edge, how)
            if edges:
                self._look(job)

    def _settle_edge(self, edge: Edge, how: Kind) -> None:
        edge.standing = "met" if edge.on in ("finish", how) else "unmet"

    def _look(self, job: Job) -> None:
        """Cancel a job one of whose parents ended otherwise, or let it run when all ended as they should."""
        if job.state != "awaiting":
            return
        if any(edge.standing == "unmet" for edge in job.edges):
            self._final(job, "cancelled")
        elif all(edge.standing == "met" for edge in job.edges):
            if job.delay:
                self._later(job, "scheduled", job.delay)
            else:
                self._enqueued(job)

    def _begun_again(self, node: Node) -> None:
        """What a parent cancelled that had ended waits again, and so do the batches around it."""
        for job in list(self.jobs.values()):
            edges = [edge for edge in job.edges if edge.parent == node and edge.standing == "unmet"]
            for edge in edges:
                edge.standing = "open"
            if edges and job.state == "cancelled" and all(edge.standing != "unmet" for edge in job.edges):
                job.state = "awaiting"
                self._begun_again(job.number)
        outer = self.batches[node].outer if isinstance(node, str) else self.jobs[node].batch
        if outer is not None and self.batches[outer].finished:
            self.batches[outer].finished = False
            self._begun_again(outer)

    def _state(self, node: Node) -> str:
        if isinstance(node, int):
            return self.jobs[node].state
        batch = self.batches[node]
        if not batch.finished:
            return "sealed" if batch.sealed else "open"
        if batch.cancelled:
            return "cancelled"
        states = {self._state(member) for member in batch.members}
        return "succeeded" if states <= {"succeeded"} else "failed"

    def _how(self, node: Node) -> Kind | None:
        state = self._state(node)
        return None if state not in FINAL else "success" if state == "succeeded" else "failure"
