"""Random programs of jobs, keys and rotations: who reads what, and what lies where, is as a model says at each step."""

from __future__ import annotations

import base64
import contextlib
import functools
import random
from typing import Any, NamedTuple, get_args

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from raftwork import (
    Cancel,
    Job,
    JobContext,
    JobInfo,
    KeyMissing,
    Raftwork,
    Retry,
    Secret,
    SecretRefused,
    Snooze,
)
from raftwork.errors import InvalidFilter
from raftwork.testing import Harness, harness
from worker import payload_model as model
from worker.payload_model import Ending, Key, Model, Process, Run, Size, Stored, Value

OLD, KEY, NEW, OTHER = Key("2024"), Key("2025"), Key("2026"), Key("2025", 1)
PROCESSES = [
    model.CLEAR,
    Process(compress_above=200, secrets_in_clear=True),
    Process((OLD,), 200),
    Process((OLD, KEY), None),  # It knows the key to come.
    Process((KEY, OLD)),
    Process((KEY,), 200),
    Process((NEW, KEY, OLD)),
    Process((OTHER,)),  # Somebody made two keys of the same id.
    Process((NEW, OTHER), 200),
]
CLEAR, ALL = 0, 6

retry = Retry(model.MAX_ATTEMPTS, backoff="fixed", base=f"{model.RETRY_S}s", jitter=0)


class NewJob(NamedTuple):
    """A job that is asked for. Numbers choose among what there is, by their remainder."""

    process: int
    value: Value
    parent: int | None
    tag: str | None
    script: list[Run]


class Do(NamedTuple):
    """Anything else."""

    what: str
    which: int = 0


numbers = st.integers(0, 30)
sizes = st.sampled_from(get_args(Size))
values = st.builds(Value, sizes.filter(lambda size: size != "nothing"), st.booleans())
runs = st.builds(
    Run,
    step=st.booleans(),
    note=st.booleans(),
    save=st.none() | values,
    ending=st.sampled_from([*get_args(Ending), "return", "return"]),
    result=st.builds(Value, sizes, st.just(False)) | values,
)
new_jobs = st.builds(
    NewJob,
    process=st.sampled_from([CLEAR, CLEAR, CLEAR, *range(len(PROCESSES))]),
    value=values,
    parent=st.none() | numbers,
    tag=st.none() | st.sampled_from("ab"),
    script=st.lists(runs, min_size=1, max_size=3),
)
verbs = ["worker", "worker", "worker", "drain", "drain", "drain", "second", "seconds"]
programs = st.lists(new_jobs | st.builds(Do, st.sampled_from(verbs), numbers), min_size=10, max_size=30)


def clear(value: Value, number: int) -> Any:
    """The value itself; another for each job."""
    return Secret(of_size(value.size, number)) if value.secret else of_size(value.size, number)


@functools.cache
def of_size(size: Size, number: int) -> Any:
    word = f"{size}-{number:03} "
    match size:
        case "nothing":
            return None
        case "small":
            return word
        case "medium":
            return word * (600 // len(word))
        case "large":
            return word * (4_000 // len(word))
        case "noise":
            return random.Random(number).randbytes(3_000)


def keys(process: Process) -> str | None:
    """As a setting."""
    entries = [
        f"{key.id}:{base64.b64encode(f'{key.id}/{key.version}'.ljust(32).encode()).decode()}" for key in process.keys
    ]
    return ",".join(entries) or None


def application(process: Process) -> Raftwork:
    """A process with these settings."""
    return Raftwork(
        "vault",
        "memory://",
        encryption_keys=keys(process),
        compress_above=process.compress_above,
        secrets_in_clear=process.secrets_in_clear,
    )


apps = [application(process) for process in PROCESSES]
worker = application(PROCESSES[CLEAR])


class Stage:
    """One program that is played in a harness and in the model."""

    def __init__(self, h: Harness) -> None:
        self.h = h
        self.model = Model()
        self.count = 0
        self.jobs: dict[int, Job[Any]] = {}
        self.seen: list[str] = []

    def play(self, step: NewJob | Do) -> None:
        """Do one step, where it can be done, and compare."""
        if isinstance(step, NewJob):
            self.enqueue(step)
        elif step.what == "worker":
            self.begin_worker(step.which % len(PROCESSES))
        elif step.what == "drain":
            self.drain()
        else:
            seconds = 1 if step.what == "second" else model.KEY_WAIT_S
            self.h.advance(f"{seconds}s")
            self.model.advance(seconds)
        self.compare(len(self.jobs) % len(PROCESSES))

    def begin_worker(self, which: int) -> None:
        """The worker is started again, with the settings of this process."""
        self.model.worker = PROCESSES[which]
        worker._codecs = apps[which].codecs

    def enqueue(self, new: NewJob) -> None:
        number, which = self.count, new.process % len(PROCESSES)
        self.count += 1
        parents = list(self.model.jobs)
        parent = None if new.parent is None or not parents else parents[new.parent % len(parents)]
        told = self.model.enqueue(number, new.value, new.script, parent, new.tag, PROCESSES[which])
        value = clear(new.value, number) if parent is None else self.jobs[parent].output
        task = tasks[which].using(unique=None if new.tag is None else "{tag}")
        try:
            job = task.enqueue(value, number=number, tag=new.tag)
        except SecretRefused:
            assert told is None
        else:
            assert told is not None
            assert self.jobs.setdefault(told, job) == job

    def drain(self) -> None:
        self.h.drain()
        self.model.drained()
        assert self.seen == [], "a job was given something else"

    def finish(self) -> None:
        """All that one process can read ends there."""
        for which in (ALL, len(PROCESSES) - 1, ALL):
            self.begin_worker(which)
            for _ in range(2):
                self.drain()
                self.h.advance(f"{model.KEY_WAIT_S}s")
                self.model.advance(model.KEY_WAIT_S)
        self.compare(*range(len(PROCESSES)))
        self.search()

    def compare(self, *readers: int) -> None:
        """The jobs as the model has them, read by these processes."""
        infos = {info.id: info for info in self.h.jobs()}
        assert infos.keys() == {job.id for job in self.jobs.values()}, "nothing is lost"
        for job in self.model.jobs.values():
            info = infos[self.jobs[job.number].id]
            assert str(info.state) == job.state
            for which in readers:
                read(job, apps[which].job(info.id).info(), PROCESSES[which], self.model)
            lies(info.packed_args, job.args, job.number)
            if job.result is not None:
                lies(info.packed_result, job.result, job.number)

    def search(self) -> None:
        """Nodes find jobs by arguments that are small and in clear."""
        for number, job in self.model.jobs.items():
            plain = job.args.key is None and job.parent is None and job.args.what == Value("small")
            for process, app in zip(PROCESSES, apps, strict=True):
                ask = f"args.0:small-{number:03}*"
                if process.keys:
                    with contextlib.suppress(InvalidFilter):
                        raise AssertionError(f"{list(app.jobs(ask))} of what cannot be searched")
                elif process is PROCESSES[CLEAR]:
                    assert [info.id for info in app.jobs(ask)] == [self.jobs[number].id] * plain


def read(job: model.Job, info: JobInfo, process: Process, all: Model) -> None:
    """What a process reads of a job, or why not."""
    value = all.given(job.number) if job.parent is None else None
    if value is not None:
        assert got(lambda: info.args[0]) == wanted(job.args, process, clear(value, job.number))
    shown = info.call
    assert "***" in shown or not (value and value.secret) or model.missing(job.args, process)
    if job.state not in ("succeeded", "cancelled"):
        assert got(lambda: info.steps) == wanted(job.saved, process, ["once"] if job.steps else [])
    if job.state == "succeeded":
        result = None if job.result is None else clear(job.result.what, job.number)  # type: ignore[arg-type]
        assert got(lambda: info.result) == wanted(job.result, process, result)
    if job.error is not None and job.state in ("retrying", "failed"):
        assert info.error is not None
        text(info.error.message, job.error, process)
        text(info.error.traceback, job.error, process, whole=False)
    if job.note is not None:
        note = None if model.missing(job.note, process) else job.note.what
        assert (info.progress and info.progress.note) == note, "what cannot be read hides nothing else"
    if job.reason is not None:
        text(info.reason, job.reason, process)


def got(look: Any) -> Any:
    try:
        return look()
    except KeyMissing as error:
        return "missing", error.key_id


def wanted(stored: Stored | None, process: Process, value: Any) -> Any:
    id = model.missing(stored, process)
    return value if id is None else ("missing", id)


def text(found: str | None, stored: Stored, process: Process, whole: bool = True) -> None:
    """A text, or words about the key that it would take."""
    assert found is not None
    id = model.missing(stored, process)
    if id is not None:
        assert found.startswith("<") and repr(id) in found
    elif stored.what != "refused":  # In words that the documents do not give.
        assert found == stored.what if whole else str(stored.what) in found


def lies(packed: bytes | None, stored: Stored, number: int) -> None:
    """How a payload is stored: its size, and whether anybody can read it."""
    assert packed is not None
    if not isinstance(stored.what, Value):
        return
    value = clear(stored.what._replace(secret=False), number)
    raw = value if isinstance(value, bytes) else value.encode()
    if stored.what.size != "small":
        assert (len(packed) < len(raw) * 0.6) == stored.compressed, "compression"
    if stored.key is not None or stored.compressed:
        assert raw not in packed


stages: list[Stage] = []


def plays(ctx: JobContext, value: Any, number: int, tag: str | None = None) -> Any:
    stage = stages[-1]
    job = stage.model.jobs[number]
    run = stage.model.began(number)
    given_to = number if job.parent is None else job.parent
    if value != clear(stage.model.given(number), given_to):
        stage.seen.append(f"job {number} was given {value!r}")
    saved = None if job.saved_value is None else clear(job.saved_value, number)
    if ctx.state != saved:
        stage.seen.append(f"job {number} had saved {ctx.state!r}")
    stage.model.ended(number, run)
    if run.step and ctx.step("once", lambda: number) != number:
        stage.seen.append(f"job {number} forgot its step")
    if run.save is not None:
        ctx.save(clear(run.save, number))
    if run.note:
        ctx.progress(1, 2, f"note {number}")
    match run.ending:
        case "raise":
            raise ValueError(f"message {number}")
        case "snooze":
            raise Snooze(f"{model.SNOOZE_S}s", reason=f"reason {number}")
        case "cancel":
            raise Cancel(f"reason {number}")
    return clear(run.result, number)


tasks = [app.task(name="plays", retry=retry)(plays) for app in apps]
worker.task(name="plays", retry=retry)(plays)


@pytest.mark.timeout(600)
@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(program=programs)
@example(program=[NewJob(CLEAR, Value("small"), None, None, [Run(save=Value("small", secret=True))]), Do("drain")])
def test_payloads_do_as_the_model_says(program: list[NewJob | Do]) -> None:
    with contextlib.ExitStack() as stack:
        h = stack.enter_context(harness(worker, raise_errors=False))
        for app in apps:
            stack.enter_context(app.standing_in(h._driver.storage))
        stages[:] = [Stage(h)]
        stages[-1].begin_worker(CLEAR)
        for step in program:
            stages[-1].play(step)
        stages[-1].finish()
