"""Definitions of schedules: what is read and refused, which slots they name, and what an outage makes of them."""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from croniter import croniter
from cronsim import CronSim
from hypothesis import given
from hypothesis import strategies as st

from raftwork import InvalidOption, RaftworkError, clock
from raftwork.cron import CATCHUP_MAX, GRACE_MS, Definition, define, job_id
from raftwork.zones import spans

SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000
NOW = clock.to_ms(datetime(2026, 11, 30, 12, 0, 30, tzinfo=UTC))
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca", "Asia/Kathmandu"]


def ms(text: str) -> int:
    return clock.to_ms(datetime.fromisoformat(text).astimezone(UTC))


# What is read and refused


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "either cron or every"),
        ({"cron": "* * * * *", "every": "5m"}, "either cron or every"),
        ({"cron": 5}, "not a text"),
        ({"cron": ""}, "0 fields"),
        ({"cron": "* * * *"}, "4 fields.*five: minute"),
        ({"cron": "* * * * * * *"}, "7 fields"),
        ({"cron": "60 * * * *"}, "the minute cannot be read.*0 to 59"),
        ({"cron": "60 * * * * *"}, "the second cannot be read.*0 to 59"),
        ({"cron": "* 24 * * *"}, "the hour cannot be read"),
        ({"cron": "* * 0 * *"}, "the day-of-month cannot be read"),
        ({"cron": "* * * 13 *"}, "the month cannot be read"),
        ({"cron": "* * * * 8"}, "the day-of-week cannot be read"),
        ({"cron": "* * * * FRI-SUN"}, "must not go backwards"),
        ({"cron": "*/0 * * * *"}, "the minute cannot be read"),
        ({"cron": "0 0 30 2 *"}, "the day-of-month cannot be read"),
        ({"cron": "0 0 */31 2 1#5"}, "never fires"),
        ({"cron": "@reboot"}, "not one of @yearly"),
        ({"cron": "٣ * * * *"}, "ASCII"),
        ({"cron": "0," * 200 + "0 * * * *"}, "at most 250"),
        ({"every": "999ms"}, "out of range: from 1s"),
        ({"every": 60}, "no unit"),
        ({"cron": "@daily", "tz": "Mars"}, "not a time zone"),
        ({"cron": "@daily", "tz": None}, "not a name"),
        ({"cron": "@daily", "start": datetime(2026, 1, 1)}, "no time zone"),
        ({"every": "1m", "start": datetime(2026, 1, 1, tzinfo=UTC), "end": datetime(2026, 1, 1, tzinfo=UTC)}, "never"),
        ({"cron": "@daily", "misfire": "fire"}, "skip, run_once, run_all"),
        ({"cron": "@daily", "catchup": 5}, "leave it out"),
        ({"cron": "@daily", "misfire": "run_all", "catchup": 0}, "1 to 1,000"),
        ({"cron": "@daily", "misfire": "run_all", "catchup": True}, "1 to 1,000"),
        ({"cron": "@daily", "misfire": "run_all", "catchup": False}, "1 to 1,000"),
        ({"cron": "@daily", "catchup_window": "59s"}, "out of range: from 1m"),
        ({"cron": "@daily", "catchup_window": 6}, "no unit"),
        ({"cron": "@daily", "misfire": "skip", "catchup_window": "6h"}, "leave catchup_window out"),
        ({"cron": "@daily", "jitter": "25h"}, "out of range"),
    ],
)  # fmt: skip
def test_bad_definitions(given: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidOption, match=says):
        define(**given)


@given(st.text(alphabet="0123456789*/,-#LWMONSUJA@ ", max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        definition = define(text)
    except InvalidOption:
        return
    following = definition.next(NOW)
    assert following is None or following > NOW


@pytest.mark.parametrize(
    ("text", "fields"), [("@hourly", "0 * * * *"), ("@weekly", "0 0 * * 0"), ("@yearly", "0 0 1 1 *")]
)
def test_aliases(text: str, fields: str) -> None:
    assert define(text).slots(NOW, None, 20) == define(fields).slots(NOW, None, 20)


DEFINITIONS = [
    define("30 4 * * MON", tz="Europe/Berlin", misfire="run_all", catchup=7, jitter="30s"),
    define("30 4 * * MON", misfire="run_once", catchup=False),
    define(every="90s", start=datetime(2026, 1, 1, tzinfo=UTC), end=datetime(2027, 1, 1, tzinfo=UTC), misfire="skip"),
    define("30 4 * * MON", catchup_window="6h"),
    define(every="90s", misfire="run_all", catchup=7, catchup_window="1m"),
]


@pytest.mark.parametrize("definition", DEFINITIONS, ids=str)
def test_packed_definitions_come_back(definition: Definition) -> None:
    packed = definition.pack()
    assert Definition.unpack(packed) == definition
    assert Definition.unpack(packed).pack() == packed


def test_only_a_window_makes_a_definition_that_earlier_versions_leave_to_others() -> None:
    fields = ["@daily", None, "UTC", None, None, 1, None, 0]
    assert msgspec.msgpack.decode(define("@daily").pack()) == [1, *fields]
    assert msgspec.msgpack.decode(define("@daily", catchup_window="6h").pack()) == [2, *fields, 6 * HOUR]


@pytest.mark.parametrize(
    "packed",
    [b"", b"\xc1", b"\x01"]
    + [
        msgspec.msgpack.encode(fields)
        for fields in (
            [1],
            [3, "later"],
            [2],
            [2, "@daily", None, "UTC", None, None, 1, None, 0],
            [2, "@daily", None, "UTC", None, None, 1, None, 0, None],
            [2, "@daily", None, "UTC", None, None, 1, None, 0, 59_999],
            [1, "@daily", None, "UTC", None, None, 1, None, 0, 60_000],
            [1, None, 0, "UTC", None, None, 0, None, 0],
            [1, None, None, "UTC", None, None, 0, None, 0],
            [1, "@daily", 5_000, "UTC", None, None, 0, None, 0],
            [1, "@daily", None, "UTC", None, None, 3, None, 0],
            [1, "@daily", None, "UTC", None, None, 2, 1_001, 0],
        )
    ],
)
def test_foreign_definitions_are_refused(packed: bytes) -> None:
    with pytest.raises(InvalidOption, match=r"newer version|cannot be read"):
        Definition.unpack(packed)


@given(st.binary(max_size=60))
def test_bytes_of_a_definition_raise_nothing_else(packed: bytes) -> None:
    with pytest.raises(RaftworkError):
        Definition.unpack(packed)


# Slots


def field(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    return st.one_of(
        st.just("*"),
        number.map(str),
        st.integers(2, high).map(lambda step: f"*/{step}"),
        # croniter reads 0-0 as all.
        st.sets(number, min_size=2, max_size=2).map(lambda pair: f"{min(pair)}-{max(pair)}"),
        st.lists(number, min_size=2, max_size=4).map(lambda numbers: ",".join(map(str, numbers))),
    )


# Both day fields at once mean something else to each library: see the next test.
DAYS = st.one_of(field(1, 28).map(lambda day: (day, "*")), field(0, 6).map(lambda day: ("*", day)))
TEXTS = st.builds(
    lambda minute, hour, days, month: f"{minute} {hour} {days[0]} {month} {days[1]}",
    field(0, 59), field(0, 23), DAYS, field(1, 12),
)  # fmt: skip
INSTANTS = st.integers(ms("2000-01-01T00:00Z"), ms("2040-01-01T00:00Z"))


@given(TEXTS, INSTANTS)
def test_slots_are_those_of_croniter(text: str, after: int) -> None:
    theirs = croniter(text, clock.from_ms(after))
    wanted = [clock.to_ms(theirs.get_next(datetime)) for _ in range(5)]
    assert define(text).slots(after, None, 5) == wanted


@given(TEXTS, field(0, 59), field(1, 28), field(0, 6), INSTANTS)
def test_slots_are_those_of_cronsim(text: str, second: str, day: str, weekday: str, after: int) -> None:
    minute, hour, _, month, _ = text.split()
    text = f"{second} {minute} {hour} {day} {month} {weekday}"
    theirs = CronSim(text, clock.from_ms(after))
    wanted = [clock.to_ms(next(theirs)) for _ in range(5)]
    assert define(text).slots(after, None, 5) == wanted


SCHEDULES = st.one_of(
    st.builds(define, TEXTS, tz=st.sampled_from(ZONES)),
    st.builds(lambda ms: define(every=timedelta(milliseconds=ms)), st.integers(1_000, 10 * DAY)),
    st.builds(
        lambda ms, start: define(every=timedelta(milliseconds=ms), start=clock.from_ms(start)),
        st.integers(1_000, 10 * DAY), INSTANTS,
    ),
)  # fmt: skip


@given(SCHEDULES, INSTANTS)
def test_c2_no_slot_is_missed_or_named_twice(schedule: Definition, after: int) -> None:
    slots = schedule.slots(after, None, 6)
    assert all(a < b for a, b in pairwise([after, *slots]))
    walked = [after]
    for _ in slots:
        following = schedule.next(walked[-1])
        assert following is not None
        walked.append(following)
    assert walked[1:] == slots
    # From anywhere between two slots, the next is the same.
    for before, slot in zip(walked, slots, strict=False):
        assert schedule.next((before + slot) // 2) == slot
        assert schedule.next(slot - 1) == slot
    assert schedule.latest(after, slots[-1], 6) == slots
    assert schedule.latest(after, slots[-1] - 1, 3) == slots[-4:-1]


def test_start_and_end_bound_the_slots() -> None:
    start, end = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 4, tzinfo=UTC)
    daily = define("@daily", start=start, end=end)
    assert daily.slots(0, None, 10) == [ms(f"2026-03-0{day}T00:00Z") for day in (1, 2, 3)]
    assert daily.next(ms("2026-03-03T00:00Z")) is None
    assert daily.latest(0, ms("2030-01-01T00:00Z"), 2) == [ms("2026-03-02T00:00Z"), ms("2026-03-03T00:00Z")]


def test_an_interval_begins_at_its_start() -> None:
    start = datetime(2026, 3, 1, 0, 0, 7, 500_000, tzinfo=UTC)
    assert define(every="1m", start=start).slots(0, None, 2) == [clock.to_ms(start), clock.to_ms(start) + MINUTE]


def test_c3_an_interval_takes_no_notice_of_clocks() -> None:
    slots = define(every="1h", tz="America/New_York").slots(ms("2026-03-08T00:00Z"), None, 48)
    assert {b - a for a, b in pairwise(slots)} == {HOUR}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("0 0 29 2 *", "2028-02-29T00:00Z"),
        ("0 0 29 2 */7", "2032-02-29T00:00Z"),  # On a Sunday: both must match.
        ("0 0 L * *", "2026-11-30T00:00Z"),
        ("0 0 * * 5L", "2026-11-27T00:00Z"),
        ("0 0 * * MON#1", "2026-11-02T00:00Z"),
        ("*/15 * * * * *", "2026-11-01T00:00:15Z"),
    ],
)
def test_rare_slots(text: str, wanted: str) -> None:
    assert define(text).next(ms("2026-11-01T00:00Z")) == ms(wanted)


# Outages


def test_a_slot_on_time_fires_under_each_policy() -> None:
    for misfire in ("skip", "run_once", "run_all"):
        minutely = define("* * * * *", misfire=misfire)  # type: ignore[arg-type]
        assert minutely.due(NOW - 30 * SECOND, NOW) == ([NOW - 30 * SECOND], NOW + 30 * SECOND)
    secondly = define(every="1s", misfire="skip")
    assert secondly.due(NOW - 5 * SECOND, NOW) == ([NOW - late * SECOND for late in range(5, -1, -1)], NOW + SECOND)


@pytest.mark.parametrize(
    ("misfire", "catchup", "jobs"), [("skip", None, 0), ("run_once", None, 1), ("run_all", 3, 3), ("run_all", None, 5)]
)
def test_c2_an_outage_of_five_hours(misfire: Any, catchup: int | None, jobs: int) -> None:
    hourly = define("10 * * * *", misfire=misfire, catchup=catchup)
    newest = ms("2026-11-30T11:10Z")
    missed = [newest - n * HOUR for n in range(4, -1, -1)]
    assert hourly.due(missed[0], NOW) == (missed[5 - jobs :], newest + HOUR)


@pytest.mark.parametrize(
    ("misfire", "window", "jobs"),
    [
        ("run_once", "51m", 1),
        ("run_once", "50m", 0),
        ("run_all", "50m", 0),
        ("run_all", "2h51m", 3),
        ("run_all", timedelta(hours=2, minutes=50, seconds=30), 3),
        ("run_all", timedelta(hours=2, minutes=50, seconds=29), 2),
        ("run_all", "30d", 5),
        ("run_once", None, 1),
    ],
)
def test_c2_slots_older_than_the_window_are_dropped(misfire: Any, window: Any, jobs: int) -> None:
    hourly = define("10 * * * *", misfire=misfire, catchup_window=window)
    newest = ms("2026-11-30T11:10Z")
    missed = [newest - n * HOUR for n in range(4, -1, -1)]
    assert hourly.due(missed[0], NOW) == (missed[5 - jobs :], newest + HOUR)


def test_a_window_drops_nothing_that_is_on_time() -> None:
    secondly = define(every="1s", misfire="run_all", catchup_window="1m")
    assert secondly.due(NOW - GRACE_MS + SECOND, NOW).slots == list(range(NOW - GRACE_MS + SECOND, NOW + 1, SECOND))


def test_an_outage_that_ends_at_a_slot() -> None:
    hourly = ms("2026-11-30T12:00Z")
    assert define("@hourly", misfire="skip").due(hourly - 5 * HOUR, NOW).slots == [hourly]
    assert define("@hourly", misfire="run_once").due(hourly - 5 * HOUR, NOW).slots == [hourly]


def test_the_bound_of_lateness() -> None:
    hourly = define("@hourly", misfire="skip")
    slot = ms("2026-11-30T12:00Z")
    assert hourly.due(slot, slot + GRACE_MS - 1).slots == [slot]
    assert hourly.due(slot, slot + GRACE_MS).slots == []


def test_an_outage_over_the_end() -> None:
    ended = define("@hourly", misfire="run_all", end=datetime(2026, 11, 30, 9, 30, tzinfo=UTC))
    assert ended.due(ms("2026-11-30T08:00Z"), NOW) == ([ms("2026-11-30T08:00Z"), ms("2026-11-30T09:00Z")], None)


@pytest.mark.parametrize("tz", ["UTC", "Europe/Berlin"])
@pytest.mark.parametrize("misfire", ["skip", "run_once", "run_all"])
def test_a_month_away_costs_little(misfire: Any, tz: str) -> None:
    catchup = CATCHUP_MAX if misfire == "run_all" else None
    spent = []
    for _ in range(3):  # One of them may meet the garbage of other tests.
        spans.cache_clear()
        began = time.process_time()
        minutely = define("* * * * *", tz=tz, misfire=misfire, catchup=catchup)
        due = minutely.due(NOW - 30 * SECOND - 30 * DAY, NOW)
        spent.append(time.process_time() - began)
    assert min(spent) < 0.010
    assert len(due.slots) == {"skip": 1, "run_once": 1, "run_all": CATCHUP_MAX}[misfire]
    assert (due.slots[-1], due.next) == (NOW - 30 * SECOND, NOW + 30 * SECOND)


# Jobs


def test_ids_say_their_slot_and_are_the_same_everywhere() -> None:
    id = uuid.UUID(bytes=job_id("report", NOW))
    # Written down: a process of another version that made another id would run the slot twice.
    assert id == uuid.UUID("01a22c53-f730-7d7e-820d-67f2ece9ff65")
    assert (id.version, id.variant, id.int >> 80) == (7, uuid.RFC_4122, NOW)
    assert len({job_id(name, slot) for name in "abc" for slot in range(NOW, NOW + 100)}) == 300


def test_jitter_is_bounded_and_the_same_everywhere() -> None:
    spread = define("@hourly", jitter="1m")
    late = [spread.run_at("report", slot) or 0 for slot in range(NOW, NOW + 500)]
    assert all(0 <= at - slot < MINUTE for at, slot in zip(late, range(NOW, NOW + 500), strict=True))
    assert len(set(late)) > 400
    assert late == [define("@hourly", jitter="1m").run_at("report", slot) for slot in range(NOW, NOW + 500)]
    assert define("@hourly").run_at("report", NOW) is None
