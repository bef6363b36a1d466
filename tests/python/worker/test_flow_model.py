"""Random programs of flows, batches, limits and crashes do as a model says at each step (J4, J6, J8, J11, J12, J13)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, get_args

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from raftwork import Batch, Job, JobContext, Limit, Raftwork, Rate, Retry
from raftwork.testing import Harness, harness
from worker import flow_model as model
from worker.flow_model import Edge, Ending, Kind, Model, Node
from worker.scripted import end_as

LIMITS = {name: Limit(model.AT_ONCE, name=name) for name in ("limit", "other")}
RATES = {"rate": Rate(model.STARTS, f"{round(model.WINDOW_S * 1_000)}ms", window="sliding", name="rate")}
CALLBACKS: Sequence[Kind] = ("success", "failure", "finish")
STEP_S = 3
QUIET_S = 60
"""So long nothing of a program can go on that is left to itself."""

app = Raftwork("model", "memory://", session_ttl=f"{model.TTL_S}s", max_crashes=model.MAX_CRASHES)
retry = Retry(model.MAX_ATTEMPTS, backoff="fixed", base=f"{model.RETRY_S}s", jitter=0)


class NewJob(NamedTuple):
    """Enqueue a job. Numbers choose among what there is, by their remainder."""

    script: list[Ending]
    parents: list[int]
    on: Kind
    batch: int | None
    limits: frozenset[str]
    delay: int


class Do(NamedTuple):
    """Anything else."""

    what: str
    which: int = 0


# Weighted, so that batches fail, members are retried, and limits are held by the dead in most programs.
scripts_of_jobs = st.sampled_from([[], [], ["discard"], ["add"]]) | st.lists(
    st.sampled_from(get_args(Ending)), max_size=3
)
some_limits = st.sampled_from([(), (), ("limit",), ("limit",), ("rate",), ("limit", "other", "rate")])
jobs = st.builds(
    NewJob,
    script=scripts_of_jobs,
    parents=st.lists(st.integers(0, 30), max_size=2),
    on=st.sampled_from(get_args(Kind)),
    batch=st.none() | st.integers(0, 5) | st.integers(0, 5),
    limits=some_limits.map(frozenset),
    delay=st.sampled_from([0, 0, 0, 1, 2]),
)
numbers = st.integers(0, 30)
verbs = ["batch", "batch", "nested", "seal", "seal", "cancel batch", "cancel", "retry", "retry", "retry", "advance"]
verbs += ["drain", "drain", "drain", "crash", "silent crash", "silent crash"]
programs = st.lists(jobs | st.builds(Do, st.sampled_from(verbs), numbers), min_size=10, max_size=40)


# What random programs come upon too seldom.
limited = NewJob([], [], "success", None, frozenset(["limit"]), 0)
failing = NewJob(["discard"], [], "success", 0, frozenset(), 0)
two_batches = [Do("batch"), Do("nested")]
inner = failing._replace(batch=1)
FAILED, INNER = 3, 6
"""Places of their jobs among those that have ended: before them the callbacks that were cancelled."""


class Stage:
    """One program that is played in a harness and in the model."""

    def __init__(self, h: Harness) -> None:
        self.h = h
        self.model = Model()
        self.count = 0
        self.jobs: dict[int, Job[Any]] = {}
        self.batches: dict[str, Batch] = {}
        self.ran: list[tuple[int, int | None]] = []
        """Each run, and the job that it added."""
        self.runs: dict[int, int] = {}

    def number(self) -> int:
        self.count += 1
        return self.count - 1

    def play(self, step: NewJob | Do) -> None:
        """Do one step, where it can be done, and compare."""
        if isinstance(step, NewJob):
            self.enqueue(step)
        elif step.what in ("batch", "nested"):
            self.open_batch(step.which if step.what == "nested" else None)
        elif step.what in ("seal", "cancel batch"):
            self.end_batch(step)
        elif step.what in ("cancel", "retry"):
            self.change(step)
        elif step.what == "advance":
            self.h.advance(f"{1 + step.which % 3}s")
            self.model.advance(1 + step.which % 3)
        elif step.what == "drain":
            self.drain()
        else:
            self.h.crash_worker(silent=step.what == "silent crash")
            self.model.crashes.append(step.what == "silent crash")
        self.compare()

    def enqueue(self, new: NewJob) -> None:
        batch = self.some_batch(new.batch, "open")
        job = model.Job(self.number(), new.script, new.delay, batch, new.limits)
        nodes: list[Node] = [*self.model.jobs, *self.model.batches]
        chosen = {nodes[which % len(nodes)] for which in new.parents if nodes}
        # A member waits for others, or for what waits for no batch: what else would be no circle needs more thought.
        job.edges = [Edge(parent, new.on) for parent in sorted(chosen, key=str) if self.may_wait(batch, parent)]
        after = [
            self.batches[edge.parent] if isinstance(edge.parent, str) else self.jobs[edge.parent] for edge in job.edges
        ]
        options: dict[str, Any] = {"after": after, "on": new.on} if after else {}
        limits = [LIMITS.get(name) or RATES[name] for name in sorted(new.limits)]
        task = plays.using(delay=f"{new.delay}s", limit=limits or None, **options)
        if batch is None:
            self.jobs[job.number] = task.enqueue(job.number)
        else:
            with app.batch(self.batches[batch].id):
                self.jobs[job.number] = task.enqueue(job.number)
        scripts[job.number] = new.script
        self.model.enqueue(job)

    def handle(self, node: Node) -> Job[Any] | Batch:
        return self.batches[node] if isinstance(node, str) else self.jobs[node]

    def may_wait(self, batch: str | None, parent: Node) -> bool:
        if batch is None:
            return True
        if isinstance(parent, str):
            return False
        other = self.model.jobs[parent].batch
        return (other == batch or other is None) and not self.model.waits_for_batch(parent)

    def some_batch(self, which: int | None, state: str) -> str | None:
        found = [name for name in self.model.batches if self.model.batch_row(name)[0] == state]
        return None if which is None or not found else found[which % len(found)]

    def open_batch(self, outer: int | None) -> None:
        around = self.some_batch(outer, "open")
        name, callbacks = f"b{len(self.batches)}", {on: self.number() for on in CALLBACKS}
        calls = {"complete" if on == "finish" else on: plays.s(number) for on, number in callbacks.items()}
        batch = app.batch(name, **{f"on_{on}": call for on, call in calls.items()})
        if around is None:
            batch.open()
        else:
            with app.batch(self.batches[around].id):
                batch.open()
        self.batches[name] = batch
        self.model.open_batch(name, around)
        for on, number in callbacks.items():
            self.model.enqueue(model.Job(number, edges=[Edge(name, on)]))

    def end_batch(self, step: Do) -> None:
        if self.batches:
            name = list(self.batches)[step.which % len(self.batches)]
            if step.what == "seal":
                self.batches[name].seal()
                self.model.seal(name)
            else:
                self.batches[name].cancel()
                self.model.cancel_batch(name)

    def change(self, step: Do) -> None:
        final = step.what == "retry"
        # What becomes of a batch that was cancelled, when a member of it begins again, the documents do not say.
        some = [
            job.number
            for job in self.model.jobs.values()
            if (job.state in model.FINAL) is final and not (final and self.model.in_cancelled(job.batch))
        ]
        if not some:
            return
        number = some[step.which % len(some)]
        if final:
            assert self.jobs[number].retry()
            self.model.retry(number)
        else:
            self.jobs[number].cancel()
            self.model.cancel(number)

    def drain(self) -> None:
        self.h.drain()
        for number, added in self.ran:
            self.model.run(number, added)
        self.ran.clear()
        assert self.model.next() == [], "nothing that may start is left"

    def finish(self) -> None:
        """Let everything come to its end."""
        for name, batch in self.batches.items():
            batch.seal()
            self.model.seal(name)
        for _ in range(QUIET_S // STEP_S):
            self.drain()
            self.h.advance(f"{STEP_S}s")
            self.model.advance(STEP_S)
        self.compare()
        assert set(self.model.states().values()) <= set(model.FINAL), "J6"
        assert all(batch.info().finished for batch in self.batches.values())

    def compare(self) -> None:
        infos = self.h.jobs()
        self.jobs = {info.args[0]: app.job(info.id) for info in infos}
        assert {info.args[0]: str(info.state) for info in infos} == self.model.states()
        assert len(infos) == self.count, "J12: no job is there twice"
        for name, batch in self.batches.items():
            info = batch.info()
            row = (info.state, info.total, info.pending, info.succeeded, info.failed, info.cancelled)
            assert row == self.model.batch_row(name), name


stages: list[Stage] = []
scripts: dict[int, list[Ending]] = {}


@app.task(name="plays", retry=retry)
def plays(ctx: JobContext, number: int) -> None:
    stage = stages[-1]
    run = stage.runs.get(number, 0)
    stage.runs[number] = run + 1
    script = scripts.get(number, [])
    ending: Ending = script[run] if run < len(script) else "return"
    added = stage.number() if ending == "add" and ctx.batch is not None else None
    stage.ran.append((number, added))
    if added is not None:
        with app.batch(ctx.batch):
            plays.enqueue(added)
    end_as(ending, model.SNOOZE_S)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(program=programs)
@example(program=[Do("silent crash"), limited, limited, Do("drain"), Do("advance", 2), Do("drain")])
@example(program=[Do("batch"), failing, Do("seal"), Do("drain"), Do("retry", FAILED), Do("drain")])
@example(
    program=[Do("batch"), Do("nested"), inner, Do("seal", 1), Do("seal"), Do("drain"), Do("retry", INNER), Do("drain")]
)
def test_flows_and_limits_do_as_the_model_says(program: list[NewJob | Do]) -> None:
    with harness(app, raise_errors=False) as h:
        scripts.clear()
        stages[:] = [Stage(h)]
        for step in program:
            stages[-1].play(step)
        stages[-1].finish()
