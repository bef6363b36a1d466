"""How a worker shares among its queues while all of them have jobs."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from raftwork.app import Raftwork
from raftwork.errors import ConfigError
from raftwork.worker import Worker

WAIT_S = 30.0


@pytest.mark.parametrize("kind", ["thread", "async"])
@pytest.mark.parametrize(
    ("weights", "shares"),
    [
        ({}, {"mail": 20, "reports": 20}),
        ({"mail": 3}, {"mail": 30, "reports": 10}),
        ({"reports": 7}, {"mail": 5, "reports": 35}),
    ],
    ids=str,
)
def test_queues_share_by_weight_under_a_backlog(
    app: Raftwork, work: Any, kind: str, weights: dict[str, int], shares: dict[str, int]
) -> None:
    order: list[str] = []

    def plain(queue: str) -> None:
        order.append(queue)

    async def coroutine(queue: str) -> None:
        order.append(queue)

    notes = app.task(name="notes")(plain if kind == "thread" else coroutine)
    jobs = [notes.using(queue=queue).enqueue(queue) for queue in ("reports", "mail") for _ in range(40)]
    work(app, ["mail", "reports"], weights=weights, threads=1, concurrency=1, prefetch=0)
    for job in jobs:
        job.result(WAIT_S)
    assert Counter(order[:40]) == shares
    assert Counter(order) == {"mail": 40, "reports": 40}, "what one has no jobs for goes to the other"


def test_a_weight_of_a_queue_with_slots_of_its_own_is_refused(app: Raftwork) -> None:
    app.task(name="noop")(noop)
    with pytest.raises(ConfigError, match="mail has a number of jobs at once of its own"):
        Worker(app, ["default", "mail:3"], weights={"mail": 2}).start()
    assert app.workers == []


def noop() -> None: ...
