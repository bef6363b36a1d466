"""The context of a running job: what it knows, what it says, and how it is told to stop."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from raftwork import Cancel, JobContext, LeaseLost, NotRunning, PayloadTooLarge, current_job, serde
from raftwork.context import StopFlag, activate
from raftwork.storage.base import ClaimedJob


class Link:
    def __init__(self) -> None:
        self.sent: list[tuple[Any, Any]] = []
        self.settled_on: list[threading.Thread] = []

    def settle(self) -> None:
        self.settled_on.append(threading.current_thread())

    def send(self, progress: bytes | None, state: bytes | None) -> None:
        self.sent.append(tuple(None if part is None else serde.decode(part) for part in (progress, state)))  # type: ignore[arg-type]


def job(**changes: Any) -> ClaimedJob:
    plain = ClaimedJob(b"i" * 16, 9, "shop.f", "mail", b"", 2, 1, 0, 0, 0, 0, None, 10, 3, ("crm",), b"", None)
    return msgspec.structs.replace(plain, **changes)


@pytest.fixture
def link() -> Link:
    return Link()


def test_it_knows_its_job(link: Link) -> None:
    context = JobContext(job(timeout_ms=1_000), link, StopFlag())
    assert (context.id.bytes, context.function, context.queue, context.tags) == (b"i" * 16, "shop.f", "mail", ("crm",))
    assert (context.attempt, context.max_attempts, context.crashes, context.token) == (2, 10, 1, 9)
    assert context.deadline is not None
    assert JobContext(job(), link, StopFlag()).deadline is None


def test_it_knows_its_schedule_and_slot(link: Link) -> None:
    fired = JobContext(job(extras={3: ["nightly", 1_780_000_000_000]}), link, StopFlag())
    assert (fired.schedule, fired.slot, fired.batch) == ("nightly", datetime(2026, 5, 28, 20, 26, 40, tzinfo=UTC), None)
    triggered = JobContext(job(extras={3: ["nightly", None]}), link, StopFlag())
    assert (triggered.schedule, triggered.slot) == ("nightly", None)
    for extras in (None, {1: [], 2: b"b" * 16}):
        other = JobContext(job(extras=extras), link, StopFlag())
        assert (other.schedule, other.slot) == (None, None)


def test_progress_and_state_are_sent(link: Link) -> None:
    context = JobContext(job(), link, StopFlag())
    context.progress(1, 10, "rows")
    context.save({"next": (1, 2)})
    assert link.sent == [([1, 10, "rows"], None), (None, {"next": (1, 2)})]
    assert context.state == {"next": (1, 2)}
    with pytest.raises(PayloadTooLarge):
        context.save(b"x" * (64 << 10))


def test_save_waits_and_on_an_event_loop_asave_does(link: Link) -> None:
    context = JobContext(job(), link, StopFlag())
    context.save(1)
    assert link.settled_on == [threading.current_thread()]

    async def coroutine() -> None:
        context.save(2)
        assert len(link.settled_on) == 1, "a loop is not blocked"
        await context.asave(3)

    asyncio.run(coroutine())
    assert len(link.settled_on) == 2 and link.settled_on[1] is not threading.current_thread()
    assert [state for _, state in link.sent] == [1, 2, 3]
    assert context.state == 3


def test_a_lost_lease_saves_nothing(link: Link) -> None:
    stop = StopFlag()
    context = JobContext(job(), link, stop)
    context.save(1)
    stop.lose()
    with pytest.raises(LeaseLost):
        context.save(2)
    with pytest.raises(LeaseLost):
        asyncio.run(context.asave(3))
    assert [state for _, state in link.sent] == [1]
    assert context.state == 1


def test_a_lease_that_is_lost_while_saving_is_told(link: Link) -> None:
    stop = StopFlag()
    context = JobContext(job(), link, stop)
    link.settle = stop.lose  # type: ignore[method-assign]
    with pytest.raises(LeaseLost):
        context.save(1)


def test_the_state_of_an_earlier_attempt_is_there(link: Link) -> None:
    assert JobContext(job(), link, StopFlag()).state is None
    assert JobContext(job(state=serde.encode([1])), link, StopFlag()).state == [1]


def test_a_cancelled_job_leaves_where_it_checks(link: Link) -> None:
    stop = StopFlag()
    context = JobContext(job(), link, stop)
    context.check_cancelled()
    assert not context.cancelled
    stop.cancel("enough")
    assert context.cancelled
    with pytest.raises(Cancel) as caught:
        context.check_cancelled()
    assert caught.value.reason == "enough"
    stop.lose()
    with pytest.raises(LeaseLost):
        context.check_cancelled()


def test_track_reports_and_stops(link: Link) -> None:
    stop = StopFlag()
    context = JobContext(job(), link, stop)
    assert list(context.track([7, 8])) == [7, 8]
    assert [progress for progress, _ in link.sent] == [[0, 2, ""], [1, 2, ""], [2, 2, ""]]
    seen = []
    with pytest.raises(Cancel):
        for item in context.track(iter([1, 2, 3])):
            seen.append(item)
            stop.cancel("enough")
    assert seen == [1]


def test_the_current_job_is_that_of_the_running_code(link: Link) -> None:
    with pytest.raises(NotRunning):
        current_job()
    context = JobContext(job(), link, StopFlag())

    def inside() -> None:
        activate(context)
        assert current_job() is context

    contextvars.copy_context().run(inside)
    with pytest.raises(NotRunning):
        current_job()


def test_its_log_carries_the_job(link: Link, caplog: pytest.LogCaptureFixture) -> None:
    context = JobContext(job(), link, StopFlag())
    with caplog.at_level("INFO", logger="raftwork.job"):
        context.log("read %d rows", 7)
    (record,) = caplog.records
    assert record.getMessage() == "read 7 rows"
    assert (record.__dict__["job_id"], record.__dict__["attempt"]) == (str(context.id), 2)
    assert record.funcName == "test_its_log_carries_the_job"
