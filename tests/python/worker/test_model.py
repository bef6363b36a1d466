"""Random jobs end as a small model says: options, retries, snoozes, crashes, steps and saved state (J4, J7, J8, J9)."""

from __future__ import annotations

from typing import Any, NoReturn, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raftwork import Cancel, Discard, JobContext, Raftwork, Retry, RetryAfter, Snooze, Unique
from raftwork.testing import Harness, harness
from worker.job_model import Ending, Run, Script, Seen, predict

RUNS_MAX = 8
SECONDS_MAX = 3
app = Raftwork("model", "memory://")

runs = st.builds(
    Run,
    steps=st.lists(st.sampled_from("abcd"), unique=True, max_size=3).map(tuple),
    save=st.none() | st.integers(0, 9),
    ending=st.sampled_from(get_args(Ending)),
    seconds=st.integers(1, SECONDS_MAX),
)
scripts = st.builds(
    Script,
    runs=st.lists(runs, max_size=RUNS_MAX),
    delay=st.integers(0, SECONDS_MAX),
    max_attempts=st.integers(1, 4),
    max_crashes=st.integers(1, 3),
    backoff=st.lists(st.integers(1, SECONDS_MAX), min_size=1, max_size=3),
)


class Stage:
    """The script that is played, and what its runs saw."""

    script: Script
    harness: Harness
    began: Any
    seen: list[Seen]


stage = Stage()


def end(run: Run) -> None:
    match run.ending:
        case "raise":
            raise ValueError("of the script")
        case "snooze":
            raise Snooze(f"{run.seconds}s")
        case "retry_after":
            raise RetryAfter(f"{run.seconds}s")
        case "discard":
            raise Discard("of the script")
        case "cancel":
            raise Cancel("of the script")


def never() -> NoReturn:
    raise AssertionError("a remembered step was called")


@app.task(name="plays")
def plays(ctx: JobContext) -> None:
    number = len(stage.seen)
    run = stage.script.run(number)
    done = {name for earlier in stage.script.runs[:number] for name in earlier.steps}
    state = ctx.state
    results = [(name, ctx.step(name, never if name in done else lambda: number)) for name in run.steps]
    if run.save is not None:
        ctx.save(run.save)
    second = round((stage.harness.now - stage.began).total_seconds())
    stage.seen.append(Seen(second, ctx.attempt, ctx.crashes, state, tuple(results)))
    end(run)


@app.task(name="aplays")
async def aplays(ctx: JobContext) -> None:
    number = len(stage.seen)
    run = stage.script.run(number)
    done = {name for earlier in stage.script.runs[:number] for name in earlier.steps}
    state, results = ctx.state, []

    async def now() -> int:
        return number

    async def anever() -> int:
        never()

    for name in run.steps:
        results.append((name, await ctx.astep(name, anever if name in done else now)))
    if run.save is not None:
        await ctx.asave(run.save)
    second = round((stage.harness.now - stage.began).total_seconds())
    stage.seen.append(Seen(second, ctx.attempt, ctx.crashes, state, tuple(results)))
    end(run)


def crashes_from(script: Script, number: int) -> int:
    """How many runs in a row die, from this one on."""
    count = 0
    while script.run(number + count).ending == "crash":
        count += 1
    return count


def play(script: Script, task: Any) -> tuple[str, list[Seen]]:
    """Run a job with a worker, a second after the other."""
    with harness(app, raise_errors=False) as h:
        stage.script, stage.harness, stage.began, stage.seen = script, h, h.now, []
        retry = Retry(script.max_attempts, backoff=[f"{seconds}s" for seconds in script.backoff], jitter=0)
        job = task.using(delay=f"{script.delay}s", retry=retry, max_crashes=script.max_crashes).enqueue()
        for _ in range((RUNS_MAX + 2) * SECONDS_MAX):
            crashes = crashes_from(script, len(stage.seen))
            if crashes and h._driver.storage.due(["default"], [task.name]):
                h.crash_worker(min(crashes, script.max_crashes - job.info().crashes))
            h.drain()
            if job.info().state.final:
                break
            h.advance("1s")
        return str(job.info().state), stage.seen


@pytest.mark.parametrize("task", [plays, aplays], ids=["thread", "async"])
@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(script=scripts)
def test_a_job_ends_as_the_model_says(task: Any, script: Script) -> None:
    assert play(script, task) == predict(script)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(jobs=st.lists(st.tuples(st.integers(-100, 100), st.booleans()), max_size=30))
def test_jobs_run_by_priority_and_then_in_their_order(jobs: list[tuple[int, bool]]) -> None:
    ran: list[int] = []
    own = Raftwork("order", "memory://")

    @own.task(name="notes")
    def notes(number: int) -> None:
        ran.append(number)

    with harness(own) as h:
        for number, (priority, at_once) in enumerate(jobs):
            task = notes.using(priority=priority)
            if at_once:
                own.enqueue_many([task.s(number)])
            else:
                task.enqueue(number)
        h.drain()
    assert ran == sorted(range(len(jobs)), key=lambda number: (-jobs[number][0], number)), "J8"


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(keys=st.lists(st.integers(0, 4), max_size=20), conflict=st.sampled_from(["skip", "replace"]))
def test_of_jobs_with_the_same_key_one_waits(keys: list[int], conflict: Any) -> None:
    ran: list[tuple[int, int]] = []
    own = Raftwork("unique", "memory://")

    @own.task(name="notes", unique=Unique("{key}", on_conflict=conflict))
    def notes(key: int, number: int) -> None:
        ran.append((key, number))

    with harness(own) as h:
        for number, key in enumerate(keys):
            notes.enqueue(key, number)
        h.drain()
    places = {key: [number for number, other in enumerate(keys) if other == key] for key in keys}
    wanted = {(key, numbers[0 if conflict == "skip" else -1]) for key, numbers in places.items()}
    assert set(ran) == wanted and len(ran) == len(wanted), "J10"
