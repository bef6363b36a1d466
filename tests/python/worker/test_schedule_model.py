"""Random programs of recurring schedules, pauses, outages and triggers do as a model says at each step (C1, C2)."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from typing import NamedTuple, get_args

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raftwork import JobState, Raftwork
from raftwork.testing import Harness, harness
from worker import schedule_model as model
from worker.schedule_model import Misfire, Model, Overlap, Schedule

HALF_HOUR = timedelta(minutes=30)
NAMES = ("daily", "hourly")

app = Raftwork("schedules", "memory://")


@app.task(name="tick")
def tick() -> None: ...


class Put(NamedTuple):
    """Define a schedule, if there is none of this name."""

    name: str
    every: int
    overlap: Overlap
    misfire: Misfire


class Do(NamedTuple):
    """Something else, to a schedule of this name or for so many hours."""

    what: str
    name: str
    hours: int


names = st.sampled_from(NAMES)
puts = st.builds(Put, names, st.integers(1, 3), st.sampled_from(get_args(Overlap)), st.sampled_from(get_args(Misfire)))
verbs = ["pause", "resume", "trigger", "delete", "advance", "advance", "advance", "outage", "outage", "drain"]
programs = st.lists(puts | st.builds(Do, st.sampled_from(verbs), names, st.integers(1, 9)), min_size=5, max_size=30)


class Stage:
    """One program that is played in a harness and in the model."""

    def __init__(self, h: Harness) -> None:
        self.h = h
        self.model = Model()
        self.began = h.now

    def put(self, step: Put) -> None:
        if step.name in self.model.schedules:
            return
        first = self.h.now + HALF_HOUR
        app.schedules.put(
            step.name,
            tick,
            every=f"{step.every}h",
            start=first,
            overlap=step.overlap,
            misfire=step.misfire,
            **({"catchup": model.CATCHUP} if step.misfire == "run_all" else {}),
        )
        self.model.schedules[step.name] = Schedule(step.every, step.overlap, step.misfire, self.model.now + 1)

    def do(self, step: Do) -> None:
        known = step.name in self.model.schedules
        match step.what:
            case "advance":
                self.h.advance(step.hours * 2 * HALF_HOUR)
                self.model.advance(step.hours * model.HOUR)
            case "outage":
                self.h.advance(step.hours * 2 * HALF_HOUR, workers=False)
                self.model.outage(step.hours * model.HOUR)
            case "drain":
                self.h.drain()
                self.model.drain()
            case "delete" if known:
                app.schedules.delete(step.name)
                del self.model.schedules[step.name]
            case verb if known:
                getattr(app.schedules, verb)(step.name)
                getattr(self.model, verb)(step.name)

    def slot(self, at: datetime | None) -> int | None:
        return None if at is None else (at - self.began) // HALF_HOUR

    def compare(self) -> None:
        found = {one.name: one for one in app.schedules.list()}
        assert found.keys() == self.model.schedules.keys()
        for name, schedule in self.model.schedules.items():
            assert found[name].paused == schedule.paused
            if not schedule.paused:
                assert self.slot(found[name].next_at) == schedule.next, name
        seen = Counter(
            (info.schedule, self.slot(info.slot), info.state is JobState.SUCCEEDED) for info in self.h.jobs(tick)
        )
        told = Counter((name, job.slot, job.done) for name, jobs in self.model.jobs.items() for job in jobs)
        assert seen == told


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(programs)
def test_c1_c2_schedules_do_as_the_model_says(program: list[Put | Do]) -> None:
    with harness(app) as h:
        stage = Stage(h)
        for step in program:
            if isinstance(step, Put):
                stage.put(step)
            else:
                stage.do(step)
            stage.compare()
