"""Durations and instants: what is read, what is refused, and what the message says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftwork import InvalidOption, clock, durations
from raftwork.durations import DURATION_MS_MAX, duration_ms, instant_ms


@pytest.mark.parametrize(
    ("value", "ms"),
    [
        ("5m", 300_000),
        ("250ms", 250),
        ("1h30m", 5_400_000),
        ("2d", 172_800_000),
        ("1w", 604_800_000),
        ("1.5h", 5_400_000),
        ("0s", 0),
        (" 10s ", 10_000),
        ("1m500ms", 60_500),
        (timedelta(seconds=2), 2_000),
        (timedelta(microseconds=1), 1),
        (timedelta(0), 0),
    ],
)
def test_durations_are_read(value: str | timedelta, ms: int) -> None:
    assert duration_ms(value, "delay") == ms


@pytest.mark.parametrize(
    "value",
    [
        "", "5", "m", "5 m", "-5m", "5m5h", "5m5m", "1e3s", "٣s", "nan", "infs", "5M", 5, 5.0, float("nan"), True, None,
        b"5m", timedelta(seconds=-1), timedelta.max, timedelta.min, "99999999999999w",
    ],
)  # fmt: skip
def test_everything_else_is_refused_with_the_name_of_the_option(value: object) -> None:
    with pytest.raises(InvalidOption, match="delay"):
        duration_ms(value, "delay")  # type: ignore[arg-type]


def test_the_range_is_in_the_message() -> None:
    with pytest.raises(InvalidOption, match="from 1s to 1m"):
        duration_ms("2m", "grace", least_ms=1_000, most_ms=60_000)


@given(st.integers(0, DURATION_MS_MAX))
def test_text_is_read_back(ms: int) -> None:
    assert duration_ms(durations.text(ms), "delay") == ms


@pytest.mark.parametrize(
    "instant",
    [
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))),
        datetime(1969, 12, 31, tzinfo=UTC),
        datetime(1, 1, 1, tzinfo=UTC),
    ],
)
def test_the_far_past_is_simply_past(instant: datetime) -> None:
    assert instant_ms(instant, "run_at") == 0


def test_the_far_future_is_kept() -> None:
    last = datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)
    assert clock.from_ms(instant_ms(last, "run_at")) == last


def test_the_fold_of_an_ambiguous_time_is_honoured() -> None:
    first = datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Oslo"))
    assert instant_ms(first.replace(fold=1), "run_at") - instant_ms(first, "run_at") == 3_600_000


def test_a_time_in_the_gap_is_the_same_everywhere() -> None:
    gap = datetime(2026, 3, 29, 2, 30, tzinfo=ZoneInfo("Europe/Oslo"))
    assert instant_ms(gap, "run_at") == instant_ms(gap.astimezone(UTC), "run_at")


@pytest.mark.parametrize("value", [datetime(2026, 1, 1), "2026-01-01", 1_767_225_600, None])
def test_times_without_a_zone_are_refused(value: object) -> None:
    with pytest.raises(InvalidOption, match="run_at"):
        instant_ms(value, "run_at")  # type: ignore[arg-type]
