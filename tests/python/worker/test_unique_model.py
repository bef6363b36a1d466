"""Random programs of jobs with unique keys do as a model says at each step: who has which key, and what others get."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any, NamedTuple, get_args

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from raftwork import Job, JobContext, Raftwork, Retry, Unique, UniqueConflict, WrongState
from raftwork.testing import Harness, harness
from worker import unique_model as model
from worker.scripted import end_as
from worker.unique_model import By, Conflict, Ending, Model, Taken, Value

LONG = "long " * 60
"""Too long to be stored as a key."""

app = Raftwork("unique", "memory://", session_ttl=f"{model.TTL_S}s", max_crashes=model.MAX_CRASHES)
retry = Retry(model.MAX_ATTEMPTS, backoff="fixed", base=f"{model.RETRY_S}s", jitter=0)


class NewJob(NamedTuple):
    """A job that is asked for."""

    by: By
    first: Value
    second: Value
    named: bool
    """Whether arguments are passed by name, and defaults left out."""
    conflict: Conflict
    window: int | None
    delay: int
    script: list[Ending]


class Many(NamedTuple):
    """Several, with one call."""

    jobs: list[NewJob]


class Do(NamedTuple):
    """Anything else. Numbers choose among what there is, by their remainder."""

    what: str
    which: int = 0


# Few values, so that most programs have jobs with the same key.
new_jobs = st.builds(
    NewJob,
    by=st.sampled_from(get_args(By)),
    first=st.sampled_from([1, 1, "1", LONG, f"{LONG}!", "a\nb"]),
    second=st.sampled_from([0, 0, 0, "0"]),
    named=st.booleans(),
    conflict=st.sampled_from(get_args(Conflict)),
    window=st.sampled_from([None, None, 1, 3]),
    delay=st.sampled_from([0, 0, 1, 3]),
    script=st.lists(st.sampled_from(get_args(Ending)), max_size=3),
)
verbs = ["cancel", "delete", "retry", "retry", "retry", "advance", "advance", "drain", "drain", "drain"]
verbs += ["crash", "silent crash"]
steps = (
    new_jobs
    | new_jobs
    | st.builds(Many, st.lists(new_jobs, max_size=4))
    | st.builds(Do, st.sampled_from(verbs), st.integers(0, 30))
)
programs = st.lists(steps, min_size=15, max_size=50)

# What random programs come upon too seldom.
failing = NewJob("template", 1, 0, False, "skip", None, 0, ["discard"])
windowed = failing._replace(window=3, script=[])


Store = Callable[[list[NewJob]], list[Job[Any]]]


class Stage:
    """One program that is played in a harness and in the model."""

    def __init__(self, h: Harness) -> None:
        self.h = h
        self.model = Model()
        self.count = 0
        self.numbers: dict[uuid.UUID, int] = {}
        """The number of each job by its id, as arguments are what keys are made of."""

    def play(self, step: NewJob | Many | Do) -> None:
        """Do one step, where it can be done, and compare."""
        if isinstance(step, NewJob):
            self.enqueue([step], enqueue_alone)
        elif isinstance(step, Many):
            self.enqueue(step.jobs, enqueue_many)
        elif step.what == "advance":
            self.h.advance(f"{1 + step.which % 3}s")
            self.model.advance(1 + step.which % 3)
        elif step.what == "drain":
            self.h.drain()
        elif step.what in ("crash", "silent crash"):
            self.h.crash_worker(silent=step.what == "silent crash")
            self.model.crashes.append(step.what == "silent crash")
        elif self.model.jobs:
            numbers = list(self.model.jobs)
            self.change(step.what, numbers[step.which % len(numbers)])
        self.compare()

    def enqueue(self, new: list[NewJob], store: Store) -> None:
        """The same jobs to the product and to the model; what both answer."""
        jobs = []
        for one in new:
            jobs.append(
                model.Job(self.count, one.by, one.first, one.second, one.conflict, one.window, one.delay, one.script)
            )
            self.count += 1
        try:
            told = self.model.enqueue(jobs)
        except Taken as taken:
            self.refused(new, store, taken.number)
            return
        found = store(new)
        pairs = zip(found, jobs, strict=True)
        assert [self.numbers.setdefault(job.id, own.number) for job, own in pairs] == told

    def refused(self, new: list[NewJob], store: Store, number: int) -> None:
        try:
            store(new)
        except UniqueConflict as conflict:
            other = conflict.job_id
            # One of the same call was not stored either.
            assert other and self.numbers.get(other) == (number if number in self.model.jobs else None)
        else:
            raise AssertionError(f"job {number} has the key")

    def change(self, what: str, number: int) -> None:
        job = app.job(next(id for id, other in self.numbers.items() if other == number))
        if what == "cancel":
            self.model.cancel(number)
            job.cancel()
        elif what == "retry":
            assert job.retry() == self.model.retry(number)
        elif self.model.delete(number):
            job.delete()
        else:
            try:
                job.delete()
            except WrongState:
                return
            raise AssertionError("it was deleted while it ran")

    def finish(self) -> None:
        """Let everything come to its end: then each key is free, or will be."""
        for _ in range(8):
            self.h.drain()
            self.model.advance(1)
            self.h.advance("1s")
        self.compare()
        assert set(self.model.states().values()) <= set(model.FINAL)
        assert not self.model.held

    def compare(self) -> None:
        infos = self.h.jobs()
        assert {self.numbers[info.id]: str(info.state) for info in infos} == self.model.states()
        assert len(infos) == len(self.model.jobs)


stages: list[Stage] = []


def plays(ctx: JobContext, by: By, first: Value, second: Value) -> None:
    stage = stages[-1]
    number = stage.numbers[ctx.id]
    ending = stage.model.began(number)
    if ending == "again":
        own = stage.model.jobs[number]
        new = NewJob(by, first, second, False, own.conflict, own.window, 0, [])
        stage.enqueue([new], enqueue_alone)
    stage.model.ended(number, ending)
    end_as(ending, model.SNOOZE_S)


@app.task(name="args", retry=retry, unique="args")
def by_args(ctx: JobContext, first: Value, second: Value = 0) -> None:
    plays(ctx, "args", first, second)


@app.task(name="template", retry=retry, unique="for {first}")
def by_template(ctx: JobContext, first: Value, second: Value = 0) -> None:
    plays(ctx, "template", first, second)


def key_of(first: Value, second: Value = 0) -> str:
    return f"for {len(str(first))}"


@app.task(name="function", retry=retry, unique=key_of)
def by_function(ctx: JobContext, first: Value, second: Value = 0) -> None:
    plays(ctx, "function", first, second)


TASKS: dict[By, tuple[Any, Any]] = {
    "args": (by_args, "args"),
    "template": (by_template, "for {first}"),
    "function": (by_function, key_of),
}


def call(new: NewJob) -> tuple[Any, list[Value], dict[str, Value]]:
    """The task, with its options, and its arguments."""
    task, key = TASKS[new.by]
    window = None if new.window is None else f"{new.window}s"
    using = task.using(unique=Unique(key, window, new.conflict), delay=f"{new.delay}s")
    if not new.named:
        return using, [new.first, new.second], {}
    return using, [], {"first": new.first} if new.second == 0 else {"second": new.second, "first": new.first}


def enqueue_alone(new: list[NewJob]) -> list[Job[Any]]:
    return [using.enqueue(*args, **kwargs) for using, args, kwargs in map(call, new)]


def enqueue_many(new: list[NewJob]) -> list[Job[Any]]:
    return app.enqueue_many([using.s(*args, **kwargs) for using, args, kwargs in map(call, new)])


@pytest.mark.timeout(600)
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(program=programs)
@example(program=[failing, Do("drain"), failing, Do("retry"), Do("drain"), Do("retry")])
@example(program=[windowed, Do("drain"), windowed, Do("advance", 1), windowed, Do("advance"), windowed, Do("delete")])
def test_j10_unique_keys_do_as_the_model_says(program: list[NewJob | Many | Do]) -> None:
    with harness(app, raise_errors=False) as h:
        stages[:] = [Stage(h)]
        for step in program:
            stages[-1].play(step)
        stages[-1].finish()
