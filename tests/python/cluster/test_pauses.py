"""How long no write was answered: the figures, and that what is too long is found (A1)."""

import math

import pytest

from cluster import pauses
from cluster.pauses import HEALED, LEADER_LOST, RESTARTED, STRUCK, Moment
from cluster.test_verdict import B, enqueue, history
from cluster.verdict import History

MS = 1_000_000


def writes(*spans_ms: tuple[int, int]) -> History:
    return history(*(enqueue(B, began * MS, ended=ended * MS, index=9, answer=[0]) for began, ended in spans_ms))


def test_a_pause_is_the_time_until_a_later_write_is_answered() -> None:
    recorded = writes((0, 30), (5, 9), (6, 8), (20, 21))
    moments = [Moment("kill", LEADER_LOST, at * MS) for at in (2, 7, 21)]
    assert pauses.measured(recorded, moments) == {("kill", LEADER_LOST): [6.0, 14.0, math.inf]}


def test_that_no_write_was_answered_any_more_is_found() -> None:
    found = pauses.too_long(pauses.measured(writes((0, 1)), [Moment("split", HEALED, 2 * MS)]))
    assert found == ["A1: no write was answered for inf ms after `split` (healed)"]


@pytest.mark.parametrize("what", [LEADER_LOST, STRUCK, HEALED, RESTARTED])
def test_a_pause_that_is_too_long_is_found_whatever_was_before_it(what: str) -> None:
    most = pauses.LONGEST_MS[what]
    assert pauses.too_long({("kill", what): [1.0, 1.0, most]}) == []
    (found,) = pauses.too_long({("kill", what): [1.0, 1.0, most + 1]})
    assert found.startswith("A1: no write was answered for ")


def test_losses_of_a_leader_that_mostly_take_long_are_found() -> None:
    quick, slow = [100.0] * 4, [pauses.LOST_MEDIAN_MS + 1.0] * 6
    assert len(pauses.too_long({("kill", LEADER_LOST): quick + slow})) == 1
    assert pauses.too_long({("kill", STRUCK): quick + slow, ("stop", LEADER_LOST): quick + quick + slow}) == []
    assert pauses.too_long({("kill", LEADER_LOST): slow}) == [], "of so few it may be chance"


def test_each_kind_has_a_line_with_median_and_longest() -> None:
    lines = pauses.by_kind({("kill", HEALED): [1.0, 2.0, 9.0], ("kill", LEADER_LOST): [500.0], ("cut", STRUCK): [3.0]})
    assert [line.split(maxsplit=1) for line in lines] == [
        ["cut", "struck 1: 3 / 3 ms"],
        ["kill", "leader lost 1: 500 / 500 ms, healed 3: 2 / 9 ms"],
    ]
