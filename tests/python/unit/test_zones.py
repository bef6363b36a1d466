"""Spans of constant offset against the files of the zones, and schedules when clocks change."""

from __future__ import annotations

import functools
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from zoneinfo import _zoneinfo  # type: ignore[attr-defined]

import pytest

from raftwork import InvalidOption
from raftwork.calendars import Calendar
from raftwork.zones import find_zone, spans, year_start

FIRST, LAST = 2000, 2040
MINUTE, HOUR, DAY = 60, 3600, 86_400


def transitions(name: str) -> Iterator[tuple[int, int, int]]:
    """(instant, offset before, offset after) as the file of the zone has them, without looking at any date."""
    zone = _zoneinfo.ZoneInfo.no_cache(name)
    first, last = year_start(FIRST), year_start(LAST + 1)
    listed = list(zip(zone._trans_utc, zone._ttinfos, strict=True))
    rule = zone._tz_after
    changes = [(at, info.utcoff) for at, info in listed]
    if isinstance(rule, _zoneinfo._TZStr):
        start = max(FIRST, datetime.fromtimestamp(listed[-1][0], UTC).year if listed else FIRST)
        for year in range(start, LAST + 1):
            on, off = rule.transitions(year)
            pair = [
                (on - int(rule.std.utcoff.total_seconds()), rule.dst.utcoff),
                (off - int(rule.dst.utcoff.total_seconds()), rule.std.utcoff),
            ]
            changes += [change for change in sorted(pair) if not listed or change[0] > listed[-1][0]]
    before = int((zone._tti_before or zone._tz_after).utcoff.total_seconds()) if changes else 0
    for at, offset in changes:
        after = int(offset.total_seconds())
        if after != before and first < at < last:
            yield at, before, after
        before = after


@functools.cache
def all_transitions() -> dict[tuple[tuple[int, int, int], ...], str]:
    """The transitions of each zone, and one zone that has them."""
    return {tuple(transitions(name)): name for name in sorted(zoneinfo.available_timezones() - {"localtime"})}


def test_spans_are_what_the_files_say() -> None:
    for listed, name in all_transitions().items():
        found = [span for year in range(FIRST, LAST + 1) for span in spans(find_zone(name), year)]
        for one, following in pairwise(found):
            assert one.start < one.end == following.start, name
        changes = [(b.start, a.offset, b.offset) for a, b in pairwise(found) if a.offset != b.offset]
        assert changes == list(listed), name
        gaps = [(span.start, span.gap) for span in found if span.gap]
        assert gaps == [(at, after - before) for at, before, after in listed if after > before], name


def near(text: str, name: str, at: int, reach: int) -> list[int]:
    """What fires around a transition, both ways of asking."""
    calendar, zone = Calendar.of(text), find_zone(name)
    found = list(calendar.after(zone, at - reach, at + reach))
    assert found == list(calendar.before(zone, at - reach, at + reach))[::-1]
    assert all(a < b for a, b in pairwise(found))
    return found


def expected(minutes: set[int], hours: set[int], name: str, at: int, change: int, reach: int) -> list[int]:
    """The same, minute by minute, by what `zoneinfo` says that clocks show."""
    zone = zoneinfo.ZoneInfo(name)
    shown: dict[datetime, list[int]] = {}
    for instant in range(at - reach, at + reach, MINUTE):
        shown.setdefault(datetime.fromtimestamp(instant, zone).replace(tzinfo=None), []).append(instant)
    matching = {local: instants for local, instants in shown.items() if local.minute in minutes and local.hour in hours}
    if len(hours) == 24:
        return sorted(instant for instants in matching.values() for instant in instants)
    fires = {instants[0] for instants in matching.values()}
    # Before the window began, clocks showed for the first time what the end of a long overlap repeats.
    after = datetime.fromtimestamp(at, zone).replace(tzinfo=None)
    for passed in range(MINUTE, change + MINUTE, MINUTE):
        skipped = datetime.fromtimestamp(int(after.replace(tzinfo=UTC).timestamp()) - passed, UTC)
        if skipped.minute in minutes and skipped.hour in hours:
            fires.add(at)
    return sorted(fires)


def distinct_transitions() -> dict[tuple[int, int, int], tuple[str, int]]:
    """One zone and instant for each way in which clocks change: by how much, at which local time, on whole minutes."""
    found: dict[tuple[int, int, int], tuple[str, int]] = {}
    for listed, name in all_transitions().items():
        for at, before, after in listed:
            if at % MINUTE == before % MINUTE == after % MINUTE == 0:
                found.setdefault((before, after, (at + before) % DAY), (name, at))
    return found


def test_c3_each_way_of_changing_clocks() -> None:
    ways = distinct_transitions()
    assert len(ways) > 100
    for (before, after, _), (name, at) in ways.items():
        change = after - before
        reach = abs(change) + 2 * HOUR
        hour, minute = divmod((at + after) % DAY // MINUTE, 60)
        inside = (at + min(before, after) + abs(change) // 2) % DAY // MINUTE
        cases: list[tuple[str, set[int], set[int]]] = [
            ("*/7 * * * *", set(range(0, 60, 7)), set(range(24))),
            (f"{minute} {hour} * * *", {minute}, {hour}),
            (f"{inside % 60} {inside // 60} * * *", {inside % 60}, {inside // 60}),
            ("*/10 */2 * * *", set(range(0, 60, 10)), set(range(0, 24, 2))),
            ("*/10 1-23/2 * * *", set(range(0, 60, 10)), set(range(1, 24, 2))),
            ("30 0-22 * * *", {30}, set(range(23))),
        ]
        for text, minutes, hours in cases:
            wanted = expected(minutes, hours, name, at, change, reach)
            assert near(text, name, at, reach) == wanted, (text, name, datetime.fromtimestamp(at, UTC))


def local(name: str, instants: list[int]) -> list[str]:
    return [datetime.fromtimestamp(at, zoneinfo.ZoneInfo(name)).isoformat(" ", "minutes") for at in instants]


@pytest.mark.parametrize(
    ("text", "name", "start", "wanted"),
    [
        # 02:00 to 03:00 does not exist: once, at 03:00, however many local times were lost.
        ("*/15 2 * * *", "America/New_York", "2026-03-08T05:00Z", ["2026-03-08 03:00-04:00", "2026-03-09 02:00-04:00"]),
        # A text that means 03:00 as well has no second slot there.
        ("0 2,3 * * *", "America/New_York", "2026-03-08T05:00Z", ["2026-03-08 03:00-04:00", "2026-03-09 02:00-04:00"]),
        # 01:30 is there twice: the first.
        ("30 1 * * *", "America/New_York", "2026-11-01T04:00Z", ["2026-11-01 01:30-04:00", "2026-11-02 01:30-05:00"]),
        # Asked between the two.
        ("30 1 * * *", "America/New_York", "2026-11-01T05:31Z", ["2026-11-02 01:30-05:00"]),
        # Each real hour.
        ("30 * * * *", "America/New_York", "2026-11-01T05:00Z", ["2026-11-01 01:30-04:00", "2026-11-01 01:30-05:00"]),
        ("30 * * * *", "America/New_York", "2026-03-08T06:00Z", ["2026-03-08 01:30-05:00", "2026-03-08 03:30-04:00"]),
        # Half an hour.
        ("9 2 * * *", "Australia/Lord_Howe", "2026-10-03T13:00Z", ["2026-10-04 02:30+11:00", "2026-10-05 02:09+11:00"]),
        # A whole day that was left out.
        ("0 12 30 12 *", "Pacific/Apia", "2011-12-01T00:00Z", ["2011-12-31 00:00+14:00", "2012-12-30 12:00+14:00"]),
        # Midnight does not exist.
        ("0 0 * * *", "America/Havana", "2026-03-08T04:00Z", ["2026-03-08 01:00-04:00", "2026-03-09 00:00-04:00"]),
    ],
)  # fmt: skip
def test_c3_known_days(text: str, name: str, start: str, wanted: list[str]) -> None:
    low = int(datetime.fromisoformat(start).timestamp())
    fires = Calendar.of(text).after(find_zone(name), low)
    assert local(name, [next(fires) for _ in wanted]) == wanted


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Europe/Berln",
        "europe/berlin",
        "America",
        "../etc/passwd",
        "/etc/localtime",
        "localtime",
        "a\0b",
        "x" * 9000,
    ],
)
def test_what_is_no_zone(name: str) -> None:
    with pytest.raises(InvalidOption, match=r"is not a time zone.*IANA"):
        find_zone(name)


def test_a_near_name_is_told() -> None:
    with pytest.raises(InvalidOption, match="Did you mean 'Europe/Berlin'"):
        find_zone("europe/berlin")
