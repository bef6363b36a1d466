"""Limits in a harness: what may not start waits, and time that the test moves opens rates."""

from __future__ import annotations

from raftwork import Fair, JobState, Limit, Raftwork, Rate
from raftwork.testing import Harness


def noop(tenant: str) -> None: ...


def test_j13_jobs_of_a_limit_run_one_after_the_other(app: Raftwork, h: Harness) -> None:
    task = app.task(name="sync", limit=Limit(1, per="tenant"))(noop)
    for tenant in ("acme", "acme", "other"):
        task.enqueue(tenant)
    assert h.drain() == 3
    assert h.counts() == {"succeeded": 3}


def test_j8_tenants_take_turns(app: Raftwork, h: Harness) -> None:
    ran: list[str] = []

    @app.task(name="convert", limit=Fair(per="tenant"))
    def convert(tenant: str) -> None:
        ran.append(tenant)

    for tenant in ("acme", "acme", "acme", "other", "other", "other"):
        convert.enqueue(tenant)
    assert h.drain() == 6
    assert ran == ["acme", "other"] * 3


def test_j13_a_rate_opens_when_the_test_moves_time(app: Raftwork, h: Harness) -> None:
    task = app.task(name="sync", limit=Rate(2, "1m", window="sliding"))(noop)
    for _ in range(5):
        task.enqueue("acme")
    assert h.drain() == 2
    assert len(h.jobs(task, JobState.ENQUEUED)) == 3
    h.advance("59s")
    assert h.drain() == 0
    h.advance("2s")
    assert h.drain() == 2
