"""Retry policies: the delays they give, what they apply to, and their ranges."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftwork import InvalidOption, Retry


def delays(policy: Retry, draw: float = 0.5) -> list[int]:
    return [policy.delay_ms(failures, lambda: draw) for failures in (1, 2, 3, 4)]


def test_exponential_doubles_up_to_the_cap() -> None:
    assert delays(Retry(base="1s", cap="5s")) == [1_000, 2_000, 4_000, 5_000]


def test_fixed_stays() -> None:
    assert delays(Retry(backoff="fixed", base="7s")) == [7_000] * 4


def test_a_list_repeats_its_last_delay() -> None:
    assert delays(Retry(backoff=["1s", "1m"])) == [1_000, 60_000, 60_000, 60_000]


def test_jitter_spreads_both_ways_and_never_beyond_the_cap() -> None:
    policy = Retry(base="10s", cap="10s", jitter=0.5)
    assert policy.delay_ms(1, lambda: 0.0) == 5_000
    assert policy.delay_ms(1, lambda: 1.0) == 10_000


@given(st.integers(-5, 10**9), st.floats(0, 1, exclude_max=True))
def test_no_number_of_failures_overflows(failures: int, draw: float) -> None:
    assert 0 <= Retry(jitter=1.0).delay_ms(failures, lambda: draw) <= 3_600_000


@pytest.mark.parametrize(
    ("policy", "retried"),
    [
        (Retry(), True),
        (Retry(on=ValueError), True),
        (Retry(on=(OSError, LookupError)), False),
        (Retry(on=Exception, unless=ValueError), False),
        (Retry(unless=(KeyError,)), True),
        (Retry(unless=(Exception,)), False),
    ],
)
def test_a_policy_looks_at_the_whole_class_hierarchy(policy: Retry, retried: bool) -> None:
    assert policy.applies_to(UnicodeError("x")) is retried


@pytest.mark.parametrize(
    "policy", [Retry(), Retry(3, "fixed", base="1s"), Retry(2, ["1s"], on=OSError, unless=ConnectionError, jitter=0)]
)
def test_a_policy_travels(policy: Retry) -> None:
    assert Retry.unpack(policy.pack()) == policy


@pytest.mark.parametrize("attempts", [-1, 0, 10_001, 10**9, True, 1.0, "3", None, float("nan")])
def test_attempts_outside_their_range_are_refused(attempts: Any) -> None:
    with pytest.raises(InvalidOption, match="10,000"):
        Retry(attempts)


@pytest.mark.parametrize(
    "options",
    [
        {"backoff": "linear"},
        {"backoff": []},
        {"backoff": 5},
        {"backoff": [5]},
        {"base": "-1s"},
        {"cap": 10},
        {"jitter": -0.1},
        {"jitter": 1.1},
        {"jitter": float("nan")},
        {"jitter": True},
        {"jitter": "0.2"},
        {"on": "ValueError"},
        {"unless": [1]},
    ],
)
def test_other_values_outside_their_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption):
        Retry(**options)
