"""What is due and cannot be fired here, however much of it, holds up no other, and is not tried at full speed."""

from __future__ import annotations

import math
from typing import Any

import pytest

from raftwork import Raftwork
from raftwork.cron import define
from raftwork.errors import AccessDenied, InvalidOption, Overloaded
from raftwork.storage.base import JobSpec
from raftwork.worker import scheduler
from worker.test_scheduler import HOUR, advance, eager, jobs_of, task_of

FOREIGN = b"\x91\x02"
"""A definition of another version."""


def crowd(app: Raftwork, number: int, args: bytes = b"", definition: bytes = FOREIGN, queue: str = "default") -> None:
    """So many schedules whose slot comes before that of others."""
    at = app.storage.now_ms()
    for place in range(number):
        app.storage.put_schedule(f"stale-{place}", JobSpec("tick", queue=queue), args, definition, at)


class Asked:
    """Notes what a storage is asked for, and says so."""

    def __init__(self, app: Raftwork, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pages: list[int] = []
        """Rows of each page."""
        whole = app.storage.due_schedules

        def watched(limit: int, after: Any = None) -> Any:
            found = whole(limit, after)
            self.pages.append(len(found.rows))
            return found

        monkeypatch.setattr(app.storage, "due_schedules", watched)

    def told(self) -> list[int]:
        pages, self.pages[:] = list(self.pages), []
        return pages


@pytest.mark.parametrize(
    ("number", "args", "pages"),
    [(1_001, b"", [1_000, 2, 0]), (20, bytes(256 << 10), [16, 5, 0])],
    ids=["many", "large"],
)
def test_c2_more_than_a_page_that_cannot_be_fired_holds_up_no_other(
    still: Raftwork, monkeypatch: pytest.MonkeyPatch, number: int, args: bytes, pages: list[int]
) -> None:
    app, turns = still, eager(still)
    crowd(app, number, args)
    app.schedules.put("tick", task_of(app), every="1h")
    advance(app, HOUR)
    now = 0.0
    monkeypatch.setattr(scheduler.clock, "monotonic", lambda: now)
    monkeypatch.setattr(scheduler, "STALE_MS", math.inf)
    asked = Asked(app, monkeypatch)
    turns._fired_last = True
    assert turns.turn(app.storage) == 0.0
    assert len(jobs_of(app)) == 1
    assert asked.told() == pages
    for _ in range(3):
        assert turns.turn(app.storage) > 0.0, "nothing is left that could be fired"
    assert asked.told() == [0, 0, 0], "and what cannot be is not even looked at"
    now += 2 * scheduler.IDLE_S
    turns._fired_last = True
    assert turns.turn(app.storage) > 0.0
    assert asked.told() == [pages[0], pages[1] - 1, 0], "it is tried again after a second for each page"


def test_schedules_of_a_queue_that_is_not_its_own_hold_up_no_other(
    still: Raftwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, turns = still, eager(still)
    crowd(app, 1_001, definition=define(every="1h").pack(), queue="foreign")
    app.schedules.put("tick", task_of(app), every="1h")
    whole, tried = app.storage.fire_schedules, 0

    def fire(firings: Any) -> Any:
        nonlocal tried
        answers: list[Any] = []
        for firing in firings:
            if firing.name == "tick":
                answers += whole([firing])
            else:
                tried += 1
                answers.append(AccessDenied("Not yours."))
        return answers

    monkeypatch.setattr(app.storage, "fire_schedules", fire)
    monkeypatch.setattr(scheduler.clock, "monotonic", lambda: 0.0)
    for hour in range(1, 4):
        advance(app, HOUR)
        while turns.turn(app.storage) == 0.0:
            pass
        assert len(jobs_of(app)) == hour
    assert tried == 1_001, "refused once, and not again before a second has passed"


def test_what_may_pass_is_tried_again_in_a_second_however_many_pages_there_are(
    still: Raftwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, turns = still, eager(still)
    crowd(app, 1_001)
    app.schedules.put("tick", task_of(app), every="1h")
    advance(app, HOUR)
    now, whole = 0.0, app.storage.fire_schedules
    monkeypatch.setattr(scheduler.clock, "monotonic", lambda: now)
    monkeypatch.setattr(app.storage, "fire_schedules", lambda firings: [Overloaded("Not now.")] * len(firings))
    turns.turn(app.storage)
    monkeypatch.setattr(app.storage, "fire_schedules", whole)
    turns.turn(app.storage)
    assert jobs_of(app) == []
    now += scheduler.IDLE_S
    turns.turn(app.storage)
    assert len(jobs_of(app)) == 1


def test_a_node_of_an_earlier_version_is_asked_for_the_first_page_only(
    still: Raftwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, turns = still, eager(still)
    crowd(app, 3)
    app.schedules.put("tick", task_of(app), every="1h")
    view, refused = app.storage._view, 0  # type: ignore[attr-defined]

    def earlier(question: Any, reading: Any) -> Any:
        nonlocal refused
        if question[0] == 33 and len(question) == 3:
            refused += 1
            raise InvalidOption("invalid request: question 33 has 2 items, not 3. Nothing was sent.")
        return view(question, reading)

    monkeypatch.setattr(app.storage, "_view", earlier)
    advance(app, HOUR)
    assert turns.turn(app.storage) == 0.0
    assert len(jobs_of(app)) == 1
    assert turns.turn(app.storage) == scheduler.IDLE_S
    assert refused == 2
