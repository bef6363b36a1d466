"""What a test sees of its jobs, and that the application is itself again afterwards."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest import mock

import pytest

from raftwork import JobContext, JobState, Raftwork, SerializationError, TimedOut, UniqueConflict
from raftwork.errors import InvalidOption, NotRunning, TaskNotRegistered
from raftwork.testing import Harness, HarnessMisused, harness


@dataclass
class Address:
    """An argument that travels by the name of its class."""

    city: str


def test_the_tour(app: Raftwork) -> None:
    sent = []

    @app.task(name="send_welcome", queue="mail")
    def send_welcome(user_id: int, template: str = "plain") -> str:
        sent.append((user_id, template))
        return template

    with harness(app) as h:
        job = send_welcome.enqueue(1)
        info = h.assert_enqueued(send_welcome, user_id=1, within="1s")
        assert info.id == job.id
        assert sent == [] and h.counts() == {"enqueued": 1}
        assert h.drain("other") == 0
        assert h.drain("mail") == 1
        assert h.counts() == {"succeeded": 1}
        assert job.result() == "plain"
    assert sent == [(1, "plain")]


def test_the_own_storage_is_neither_opened_nor_asked(app: Raftwork, tmp_path: Path) -> None:
    task = app.task(name="t")(noop)
    with harness(app):
        task.enqueue()
        assert app.counts()["enqueued"] == 1
    assert list(tmp_path.iterdir()) == []
    assert app.counts()["enqueued"] == 0
    assert list(tmp_path.iterdir()) != []


def test_an_open_storage_is_back_afterwards_also_after_an_error(app: Raftwork) -> None:
    task = app.task(name="t")(noop)
    kept = task.enqueue()
    own = app.storage
    with pytest.raises(ZeroDivisionError):
        with harness(app):
            assert app.storage is not own
            app.close()
            raise ZeroDivisionError
    assert app.storage is own
    assert [info.id for info in app.jobs()] == [kept.id]


def test_a_closed_application_is_open_inside_and_closed_afterwards(app: Raftwork) -> None:
    task = app.task(name="t")(noop)
    app.close()
    with harness(app) as h:
        task.enqueue()
        h.assert_enqueued(task)
    with pytest.raises(NotRunning):
        task.enqueue()


def test_an_application_that_closes_leaves_its_jobs_to_the_test(app: Raftwork, h: Harness) -> None:
    task = app.task(name="t")(noop)
    with app.running():
        task.enqueue()
    with pytest.raises(NotRunning):
        task.enqueue()
    h.assert_enqueued(task)
    assert h.drain() == 1
    app.open()
    task.enqueue()
    assert h.counts() == {"succeeded": 1, "enqueued": 1}


def test_a_worker_that_the_application_starts_takes_no_job_from_the_test(app: Raftwork, h: Harness) -> None:
    task = app.task(name="t")(noop)
    with app.running(workers=True, threads=1):
        task.enqueue()
        fetcher = app.storage.fetcher([("default", 1)], ["t"], prefetch=0)
        assert fetcher.next(0.2) is None
        fetcher.close(5)
    assert h.counts() == {"enqueued": 1}


def test_a_harness_inside_of_another_is_refused(app: Raftwork) -> None:
    other = Raftwork("other", "memory://")
    with harness(app), harness(other):
        with pytest.raises(HarnessMisused, match=r"'shop'.*is in a harness already"):
            with harness(app):
                pass
        assert app.counts()["enqueued"] == 0
    with harness(app):
        pass


def test_a_harness_is_used_once(app: Raftwork) -> None:
    once = harness(app)
    with once:
        pass
    with pytest.raises(NotRunning), once:
        pass
    with harness(app):
        pass


def test_arguments_that_cannot_travel_fail_as_in_production(app: Raftwork, h: Harness) -> None:
    task = app.task(name="t")(noop)
    with pytest.raises(SerializationError) as inside:
        task.enqueue(object())
    assert h.counts() == {}
    with pytest.raises(SerializationError) as outside:
        Raftwork("t", "memory://").task(name="t")(noop).enqueue(object())
    assert str(inside.value) == str(outside.value)


def test_a_result_that_cannot_travel_fails_the_job(app: Raftwork, h: Harness) -> None:
    task = app.task(name="t")(make_object)
    task.enqueue()
    with pytest.raises(SerializationError, match="Result is an object"):
        h.drain()
    assert h.counts() == {"failed": 1}


def test_arguments_are_copies(app: Raftwork, h: Harness) -> None:
    got: list[object] = []

    @app.task(name="t")
    def t(items: list[int], address: Address) -> None:
        got.extend([items, address])

    items, address = [1], Address("Ulm")
    t.enqueue(items, address)
    items.append(2)
    h.drain()
    assert got == [[1], Address("Ulm")] and got[1] is not address


@pytest.mark.parametrize("given", [((7,), {}), ((), {"user": 7}), ((7, "plain"), {}), ((), {"template": "plain"})])
def test_it_does_not_matter_how_an_argument_was_passed(
    app: Raftwork, h: Harness, given: tuple[tuple[object, ...], dict[str, object]]
) -> None:
    @app.task(name="t")
    def t(ctx: JobContext, user: int, template: str = "plain") -> None: ...

    t.enqueue(user=7)
    h.assert_enqueued(t, *given[0], **given[1])
    h.assert_not_enqueued(t, 8)


def test_variable_arguments_are_compared(app: Raftwork, h: Harness) -> None:
    @app.task(name="t")
    def t(*numbers: int, **names: str) -> None: ...

    t.enqueue(1, 2, a="x", b="y")
    h.assert_enqueued(t, 1, 2, b="y")
    h.assert_enqueued(t, a=mock.ANY)
    h.assert_not_enqueued(t, 1)
    h.assert_not_enqueued(t, c="z")


def test_an_argument_that_the_task_lacks_is_a_mistake_of_the_test(app: Raftwork, h: Harness) -> None:
    task = app.task(name="t")(noop)
    with pytest.raises(TypeError):
        h.assert_not_enqueued(task, valeu=1)


def test_a_failed_assertion_lists_what_there_is(app: Raftwork, h: Harness) -> None:
    @app.task(name="shop.send")
    def send(user: int) -> None: ...

    @app.task(name="shop.other")
    def other() -> None: ...

    with pytest.raises(AssertionError, match=r"shop\.send\(user=1\)\. It has no job at all\. No job was enqueued\."):
        h.assert_enqueued(send, user=1)
    other.enqueue()
    with pytest.raises(AssertionError, match=r"It has no job at all\. There are jobs of shop\.other\."):
        h.assert_enqueued(send)
    send.using(delay="10m").enqueue(2)
    with pytest.raises(AssertionError, match=r"Jobs of this task:\n  send\(2\): scheduled, due in 10m$"):
        h.assert_enqueued(send, user=1)
    with pytest.raises(AssertionError, match=r"shop\.send\(2\), due within 9m\. "):
        h.assert_enqueued(send, 2, within="9m")
    with pytest.raises(AssertionError, match=r"No job should wait that is shop\.send\(\), but:\n  send\(2\): sched"):
        h.assert_not_enqueued(send)
    h.assert_not_enqueued(send, within="9m")
    for user in range(20):
        send.enqueue(user)
    with pytest.raises(AssertionError, match=r"\(11 older ones\)\n  send\(10\): enqueued\n"):
        h.assert_enqueued(send, 99)


def test_a_job_that_has_run_waits_no_more(app: Raftwork, h: Harness) -> None:
    task = app.task(name="t")(noop)
    task.enqueue(1)
    h.drain()
    h.assert_not_enqueued(task)
    with pytest.raises(AssertionError, match=r"  t\(1\): succeeded$"):
        h.assert_enqueued(task)


def test_jobs_come_with_all_that_is_known(app: Raftwork, h: Harness) -> None:
    double = app.task(name="double")(twice)
    other = app.task(name="other")(noop)
    app.enqueue_many([double.s(number) for number in range(1_100)])
    other.enqueue("x")
    h.drain(max_jobs=2_000)
    other.using(delay="1h").enqueue("y")
    assert [(info.args, info.result) for info in h.jobs(double)] == [([n], 2 * n) for n in range(1_100)]
    assert [info.args for info in h.jobs("other")] == [["x"], ["y"]]
    assert [info.args for info in h.jobs(other, "scheduled")] == [["y"]]
    assert len(h.jobs(None, JobState.SCHEDULED, JobState.SUCCEEDED)) == 1_102
    with pytest.raises(TaskNotRegistered, match="Did you mean double"):
        h.jobs("duble")
    with pytest.raises(ValueError):
        h.jobs(double, "done")


def test_an_instant_from_the_clock_of_python_is_met(app: Raftwork, h: Harness) -> None:
    task = app.task(name="t")(noop)
    assert abs(h.now - datetime.now(UTC)) < timedelta(seconds=60)
    task.using(run_at=datetime.now(UTC) + timedelta(hours=1)).enqueue()
    h.assert_not_enqueued(task, within="58m")
    assert h.drain() == 0
    began = h.now
    h.advance("1h1m")
    assert h.now - began == timedelta(minutes=61)
    assert h.drain() == 1


def test_waiting_for_a_result_does_not_hang(app: Raftwork, h: Harness) -> None:
    task = app.task(name="t")(noop)
    job = task.enqueue(3)
    with pytest.raises(TimedOut, match=r"t\(3\) is enqueued, and in a harness nothing runs while one waits"):
        job.result()
    h.drain()
    assert job.result() is None


def test_enqueued_without_waiting_is_there_at_once(app: Raftwork, h: Harness) -> None:
    task = app.task(name="t", unique="args")(noop)
    task.using(wait=False).enqueue(1)
    h.assert_enqueued(task, 1)
    task.using(wait=False).enqueue(1)
    assert h.counts() == {"enqueued": 1}


def test_unique_keys_hold(app: Raftwork, h: Harness) -> None:
    from raftwork import Unique

    task = app.task(name="t", unique=Unique("args", on_conflict="raise"))(noop)
    task.enqueue(1)
    with pytest.raises(UniqueConflict):
        task.enqueue(1)
    h.drain()
    task.enqueue(1)


@pytest.mark.parametrize("mistake", [{"mode": "eager"}, {"max_jobs": 0}, {"max_jobs": True}])
def test_options_are_checked(app: Raftwork, mistake: dict[str, object]) -> None:
    with pytest.raises(InvalidOption):
        harness(app, **mistake)  # type: ignore[arg-type]


def test_a_duration_needs_a_unit(h: Harness) -> None:
    with pytest.raises(InvalidOption):
        h.advance(10)  # type: ignore[arg-type]


def test_importing_it_changes_nothing_and_needs_no_pytest() -> None:
    code = (
        "import logging, sys, threading; before = logging.getLogRecordFactory();"
        "import raftwork.testing;"
        "assert 'pytest' not in sys.modules and logging.getLogRecordFactory() is before;"
        "assert threading.active_count() == 1"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def noop(value: object = None) -> None:
    """A task that does nothing."""


def twice(value: int) -> int:
    """A task with a result."""
    return 2 * value


def make_object() -> object:
    """A task whose result cannot travel."""
    return object()
