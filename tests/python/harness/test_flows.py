"""Flows and batches as users write them, in virtual time and over the same state machine as everywhere (J11)."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import uuid
from dataclasses import dataclass
from typing import Any

import pytest

from raftwork import (
    AccessDenied,
    Batch,
    BatchNotFound,
    FlowCycle,
    FlowInfo,
    InvalidOption,
    InvalidTask,
    Job,
    JobCancelled,
    JobContext,
    JobFailed,
    JobState,
    Limit,
    ParentMissing,
    Raftwork,
    Rate,
    SerializationError,
    WrongState,
    chain,
)
from raftwork.flow_info import Parent
from raftwork.testing import Harness, harness

said: list[Any] = []

KEYS = "2026-11:" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()


@pytest.fixture(autouse=True)
def silence() -> None:
    said.clear()


def say(*words: Any) -> None:
    said.append(words)


def double(number: int) -> int:
    return 2 * number


def add(left: int, right: int = 0, *, more: int = 0) -> int:
    return left + right + more


def total(numbers: list[int], named: dict[str, Any] | None = None) -> int:
    return sum(numbers) + sum((named or {}).values())


@dataclass
class Page:
    text: str


def fetch(url: str) -> Page:
    return Page(url)


def length(page: Page) -> int:
    return len(page.text)


class Trouble:
    on = True


def troubled() -> str:
    if Trouble.on:
        raise ValueError("no")
    return "at last"


def test_j11_a_job_runs_after_another_and_its_delay_counts_from_then(app: Raftwork, h: Harness) -> None:
    first = app.task(name="double")(double).enqueue(1)
    after = app.task(name="say")(say).using(after=first, delay="10m").enqueue("late")
    assert after.state is JobState.AWAITING
    h.advance("1h")
    h.drain()
    assert after.state is JobState.SCHEDULED
    h.advance("9m")
    assert h.drain() == 0
    h.advance("1m")
    h.drain()
    assert said == [("late",)]


def test_j11_after_takes_a_list_and_on_says_which_end(app: Raftwork) -> None:
    say_task, fails = app.task(name="say")(say), app.task(name="fails", retry=1)(troubled)
    Trouble.on = True
    with harness(app, raise_errors=False) as h:
        parents = [fails.enqueue(), app.task(name="double")(double).enqueue(1)]
        good = say_task.using(after=parents).enqueue("success")
        say_task.using(after=parents, on="finish").enqueue("finish")
        say_task.using(after=parents[0], on="failure").enqueue("failure")
        h.drain()
        assert sorted(said) == [("failure",), ("finish",)]
        with pytest.raises(JobCancelled, match=f"parent {parents[0].id} failed"):
            good.result(0)


def test_j11_a_chain_passes_each_result_on_as_the_first_argument(app: Raftwork, h: Harness) -> None:
    double_, add_ = app.task(name="double")(double), app.task(name="add")(add)
    job = chain(double_.s(1), double_, add_.s(10), add_.s(more=100)).enqueue()
    assert job.state is JobState.AWAITING
    assert h.drain() == 4
    assert job.result(0) == 114
    fetched = chain(app.task(name="fetch")(fetch).s("abc"), app.task(name="length")(length)).enqueue()
    h.drain()
    assert fetched.result(0) == 3


def test_j11_a_retry_of_the_failed_job_goes_on_with_the_chain(app: Raftwork) -> None:
    Trouble.on = True
    with harness(app, raise_errors=False) as h:
        first = app.task(name="troubled", retry=1)(troubled).enqueue()
        last = app.task(name="say")(say).enqueue(first.output)
        h.drain()
        assert last.state is JobState.CANCELLED
        Trouble.on = False
        assert first.retry()
        assert last.state is JobState.AWAITING
        h.drain()
        assert said == [("at last",)]


def test_outputs_go_into_lists_tuples_and_dicts(app: Raftwork, h: Harness) -> None:
    double_, total_ = app.task(name="double")(double), app.task(name="total")(total)
    parents = [double_.enqueue(number) for number in range(4)]
    job = total_.enqueue([one.output for one in parents], {"twice": parents[3].output})
    pair = app.task(name="say")(say).enqueue((parents[0].output, parents[1].output), 7)
    outputs = [f"<the output of parent {number}>" for number in range(1, 5)]
    assert job.info().call == f"total([{', '.join(outputs)}], {{'twice': {outputs[3]}}})"
    h.drain()
    assert job.result(0) == 2 * (0 + 1 + 2 + 3) + 6
    assert said == [((0, 2), 7)]
    assert pair.state is JobState.SUCCEEDED


def test_a_job_and_a_batch_tell_their_flow(app: Raftwork, h: Harness) -> None:
    double_ = app.task(name="double")(double)
    alone = double_.enqueue(1)
    with app.batch("both") as batch:
        member = double_.enqueue(2)
    child = double_.using(after=[member, batch], on="finish").enqueue(3)
    flow = child.flow()
    assert flow.parents == (Parent(member.id, "finish", "open"), Parent(batch.id, "finish", "open"))
    assert (flow.batch, flow.parents_count, flow.children, flow.children_counted) == (None, 2, 0, True)
    assert member.flow() == FlowInfo(batch.id, (), 0, 1)
    assert batch.flow() == FlowInfo(None, (), 0, 1)
    assert alone.flow() == FlowInfo(None, (), 0, 0)
    assert [job.info().in_flow for job in (alone, member, child)] == [False, True, True]
    h.drain()
    assert [parent.standing for parent in child.flow().parents] == ["met", "met"]
    assert member.flow().children == 0


def test_a_flow_can_be_asked_in_coroutines(app: Raftwork, h: Harness) -> None:
    async def ask() -> None:
        with app.batch("one") as batch:
            member = app.task(name="double")(double).enqueue(2)
        assert await member.aflow() == FlowInfo(batch.id, (), 0, 0)
        assert await batch.aflow() == batch.flow()

    asyncio.run(ask())


def test_an_output_inside_of_a_set_or_a_dataclass_is_refused(app: Raftwork, h: Harness) -> None:
    output = app.task(name="double")(double).enqueue(1).output
    for value in ({output}, Page(output)):  # type: ignore[arg-type]
        with pytest.raises(SerializationError, match="can be an argument of `enqueue`"):
            app.task(name="say")(say).enqueue(value)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"limit": Limit(1, per="numbers")}, "limit"),
        ({"limit": Rate(1, "1m", per=("named", "numbers"))}, "limit"),
        ({"unique": "{numbers}"}, "unique"),
        ({"unique": "{numbers[0]}"}, "unique"),
        ({"unique": "args"}, "unique"),
        ({"unique": lambda numbers: f"total of {numbers}"}, "unique"),
        ({"unique": lambda numbers: json.dumps(numbers, default=str)}, "unique"),
        ({"unique": lambda numbers: hashlib.sha256(repr(numbers).encode()).hexdigest()}, "unique"),
    ],
)
def test_no_key_is_made_of_an_output_that_nobody_knows_yet(app: Raftwork, h: Harness, options: Any, named: str) -> None:
    double_, keyed = app.task(name="double")(double), app.task(name="total", **options)(total)
    parent = double_.enqueue(1)
    words = f"{named} of total makes a key of 'numbers'.*when the result is there"
    for refused in (
        lambda: keyed.enqueue(parent.output),
        lambda: keyed.enqueue([1, {"deep": (parent.output,)}]),
        lambda: app.enqueue_many([keyed.s(parent.output)]),
        lambda: chain(double_.s(1), keyed).enqueue(),
    ):
        with pytest.raises(InvalidOption, match=words):
            refused()
    assert keyed.enqueue([1]).state is JobState.ENQUEUED


def test_a_key_of_other_parameters_goes_with_an_output(app: Raftwork, h: Harness) -> None:
    double_, add_ = app.task(name="double")(double), app.task(name="add", limit=Limit(1, per="right"))(add)
    job = add_.using(unique="{right}").enqueue(double_.enqueue(1).output, 3)
    other = add_.using(unique=lambda left, right: f"of {right}").enqueue(left=double_.enqueue(1).output, right=4)
    assert other.info().unique_key == "add:of 4"
    h.drain()
    assert (job.result(0), other.result(0)) == (5, 6)


@pytest.mark.parametrize(
    "look",
    [
        *(str, repr, hash, len, bool, list, int, abs),
        *(lambda it: it + 1, lambda it: 1 - it, lambda it: it["id"], lambda it: it.id, lambda it: it == 1),
        *(lambda it: it < 1, lambda it: f"{it:>3}", lambda it: "x" in it, lambda it: -it),
    ],
)
def test_a_function_that_makes_a_key_cannot_look_at_an_output(app: Raftwork, h: Harness, look: Any) -> None:
    keyed = app.task(name="add", unique=lambda left, right: f"{look(left)}:{right}")(add)
    with pytest.raises(InvalidOption, match=r"unique of add makes a key of 'left'.*when the result is there"):
        keyed.enqueue(app.task(name="double")(double).enqueue(1).output, 3)


def test_a_parent_without_a_result_gives_none_to_whoever_runs_all_the_same(app: Raftwork) -> None:
    Trouble.on = True
    with harness(app, raise_errors=False) as h:
        failing = app.task(name="troubled", retry=1)(troubled).enqueue()
        say_ = app.task(name="say", retry=1)(say)
        say_.using(on="finish").enqueue(failing.output)
        forced = say_.enqueue(failing.output)
        h.drain()
        assert said == [(None,)]
        assert forced.retry(), "in spite of its parent"
        h.drain()
        with pytest.raises(JobFailed, match="output of parent 1, which ended without one") as raised:
            forced.result(0)
        assert raised.value.error is not None and raised.value.error.type.endswith("ParentMissing")


def test_j11_results_pass_through_encryption() -> None:
    sealed = Raftwork("sealed", "memory://", encryption_keys=KEYS)
    with harness(sealed) as h:
        first = sealed.task(name="double")(double).enqueue(4)
        sealed.task(name="say")(say).enqueue(first.output, [first.output])
        h.drain()
    assert said == [(8, [8])]


def test_wrong_options_and_steps_are_refused_where_they_stand(app: Raftwork, h: Harness) -> None:
    task = app.task(name="double")(double)
    with pytest.raises(InvalidOption, match="is not a job, a batch"):
        task.using(after="job")  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match='Use "success", "failure" or "finish"'):
        task.using(on="error")  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match="what one job waits for"):
        app.task(name="other", after=task.enqueue(1))  # type: ignore[call-overload]
    with pytest.raises(InvalidTask):
        chain(task.s(1), "x")  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="argument"):
        chain(task.s(1), task.s(2))
    with pytest.raises(TypeError, match="number"):
        chain(task)
    with pytest.raises(TypeError, match="number"):
        app.enqueue_many([task.s()])  # type: ignore[call-arg]
    with pytest.raises(ParentMissing):
        task.using(after=app.job(uuid.uuid4())).enqueue(1)
    with pytest.raises(InvalidOption, match="when it is opened"):
        app.batch(uuid.uuid4(), on_success=task.s(1))


def test_j11_a_batch_runs_its_callbacks_when_all_members_ended(app: Raftwork, h: Harness) -> None:
    double_, say_ = app.task(name="double")(double), app.task(name="say")(say)
    calls = {name: say_.s(name) for name in ("on_success", "on_failure", "on_complete")}
    with app.batch("night", **calls) as batch:  # type: ignore[arg-type]
        jobs = [double_.enqueue(number) for number in range(3)]
        jobs += app.enqueue_many(double_.s(number) for number in range(3))
        assert batch.info().state == "open"
    assert batch.info().state == "sealed" and batch.info().total == 6
    assert all(job.info().batch == batch.id for job in jobs)
    h.drain()
    assert sorted(said) == [("on_complete",), ("on_success",)]
    info = batch.wait(0)
    assert (info.state, info.succeeded, info.pending, info.finished) == ("succeeded", 6, 0, True)
    assert app.batches() == [info] and repr(batch).startswith("<Batch 'night'")
    assert double_.enqueue(1).info().batch is None, "the block is left"


def test_a_running_member_adds_others(app: Raftwork, h: Harness) -> None:
    say_ = app.task(name="say")(say)

    def spread(ctx: JobContext) -> None:
        assert ctx.batch is not None
        with app.batch(ctx.batch):
            say_.enqueue("child")

    spread_ = app.task(name="spread")(spread)
    with app.batch("night", on_success=say_.s("all")) as batch:
        spread_.enqueue()
    h.drain()
    assert said == [("child",), ("all",)]
    assert batch.info().total == 2
    with pytest.raises(WrongState, match="is finished"), app.batch(batch.id):
        say_.enqueue("late")


def test_batches_inside_of_each_other_finish_from_the_inside(app: Raftwork, h: Harness) -> None:
    say_ = app.task(name="say")(say)
    with app.batch("outer", on_success=say_.s("outer")) as outer:
        with app.batch("inner", on_success=say_.s("inner")) as inner:
            say_.enqueue("member")
    assert inner.info().outer == outer.id
    h.drain()
    assert said[0] == ("member",) and outer.info().state == "succeeded"
    assert sorted(said[1:]) == [("inner",), ("outer",)]


def test_an_error_in_the_block_cancels_the_batch(app: Raftwork, h: Harness) -> None:
    say_ = app.task(name="say")(say)
    with pytest.raises(KeyError), app.batch("night", on_success=say_.s("good"), on_failure=say_.s("bad")) as batch:
        member = say_.enqueue("member")
        raise KeyError("half made")
    assert batch.info().state == "cancelled"
    assert member.info().reason == "KeyError inside of the `with` block"
    h.drain()
    assert said == [("bad",)]


def test_a_batch_whose_callbacks_cannot_be_stored_is_cancelled(app: Raftwork, h: Harness) -> None:
    say_ = app.task(name="say")(say)
    batch = app.batch("night", on_success=say_.s("good"), on_complete=say_.s(object()))
    with pytest.raises(SerializationError), batch:
        raise AssertionError("the block does not begin")
    assert batch.info().state == "cancelled"
    h.drain()
    (callback,) = app.jobs("function:say")
    assert callback.state == "cancelled", "and nobody waits for it any more"


def test_who_may_not_cancel_a_batch_sees_the_error_of_the_block(
    app: Raftwork, h: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object) -> None:
        raise AccessDenied("lacks the capability operate", "token/web", "operate")

    monkeypatch.setattr(app.storage, "cancel_batch", denied)
    with pytest.raises(KeyError) as raised, app.batch("night") as batch:
        raise KeyError("half made")
    (note,) = raised.value.__notes__
    assert str(batch.id) in note and "operate" in note
    assert batch.info().state == "open"


def test_a_batch_that_was_left_open_is_sealed_or_cancelled_by_its_id(app: Raftwork, h: Harness) -> None:
    say_ = app.task(name="say")(say)
    batch = app.batch("night").open()
    h.drain()
    assert batch.info().state == "open"
    assert app.batch(batch.id).seal() and not batch.seal()
    assert app.batch("another").open().cancel("not wanted")
    with pytest.raises(WrongState, match="was opened before"):
        batch.open()
    with pytest.raises(BatchNotFound):
        app.batch(uuid.uuid4()).info()
    say_.using(after=batch).enqueue("after")
    h.drain()
    assert said == [("after",)]


def test_no_member_waits_for_its_own_batch(app: Raftwork, h: Harness) -> None:
    say_ = app.task(name="say")(say)
    with pytest.raises(FlowCycle, match="wait for itself"), app.batch("night") as batch:
        say_.using(after=batch).enqueue("never")


def test_coroutines_have_the_same(app: Raftwork) -> None:
    async def main(h: Harness) -> tuple[Job[int], Batch]:
        double_, say_ = app.task(name="double")(double), app.task(name="say")(say)
        async with app.batch("night", on_complete=say_.s("done")) as batch:
            await double_.aenqueue(1)
        job = await chain(double_.s(1), double_).aenqueue()
        await h.adrain()
        assert (await batch.await_finished(0)).state == "succeeded"
        assert await job.aresult(0) == 4
        return job, batch

    async def run() -> None:
        with harness(app) as h:
            await main(h)

    asyncio.run(run())
    assert said == [("done",)]
