"""Time zones as spans of a constant offset: all that the calendar of a schedule has to know of them.

`zoneinfo` answers what a clock shows at one instant. A schedule asks the other way round, for a thousand local times in
a row, so the offsets of a year are worked out once and kept; everything after that is arithmetic on whole seconds.
"""

from __future__ import annotations

import difflib
import functools
import zoneinfo
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final, NamedTuple

from raftwork.errors import InvalidOption

__all__ = ["DAY_S", "Span", "find_zone", "spans", "year_of", "year_start"]

DAY_S: Final = 86_400
_SECOND: Final = timedelta(seconds=1)
_OF_ONE_MACHINE: Final = ("localtime", "posixrules")
"""Files beside the zones that are another zone on each machine."""


class Span(NamedTuple):
    """A stretch of time in which clocks of a zone are ahead of UTC by the same number of seconds.

    Instants are seconds since 1970; local seconds are what a clock shows, counted as if it showed UTC.
    """

    start: int
    end: int
    offset: int
    floor: int
    """Local second before which clocks showed everything already: the end of a repeated hour."""
    gap: int
    """Local seconds that clocks jumped over at the start."""


@functools.lru_cache(maxsize=1024)
def find_zone(name: str) -> tzinfo:
    """The time zone of an IANA name such as `Europe/Berlin`.

    Raises:
        InvalidOption: there is none, or it means another one on each machine.
    """
    if name == "UTC":
        return UTC
    try:
        if name in _OF_ONE_MACHINE:
            raise zoneinfo.ZoneInfoNotFoundError(name)
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        known = {zone.lower(): zone for zone in zoneinfo.available_timezones().difference(_OF_ONE_MACHINE)}
        close = difflib.get_close_matches(name.lower(), known, n=1)
        guess = f" Did you mean {known[close[0]]!r}?" if close else ""
        raise InvalidOption(
            f'tz={name!r:.80} is not a time zone.{guess} Use an IANA name such as "Europe/Berlin", or "UTC".'
        ) from None


def year_of(instant: int) -> int:
    """The year in UTC."""
    return datetime.fromtimestamp(instant, UTC).year


def year_start(year: int) -> int:
    """The first instant of a year in UTC."""
    return (datetime(year, 1, 1, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // _SECOND


@functools.lru_cache(maxsize=4096)
def spans(zone: tzinfo, year: int) -> tuple[Span, ...]:
    """The spans of one year in UTC, in order and without a hole between them."""
    first, last = year_start(year), year_start(year + 1)
    if zone is UTC:
        return (Span(first, last, 0, first, 0),)
    # From two days before, as an hour that repeats may reach into the year.
    probe = first - 2 * DAY_S
    offset = _offset_at(zone, probe)
    start, floor, gap = first, probe + offset, 0
    found: list[Span] = []
    while probe < last:
        # Daily: zones exist that changed twice within a few weeks, none that went back and forth within a day.
        until = min(probe + DAY_S, last)
        if _offset_at(zone, until) == offset:
            probe = until
            continue
        probe = _change(zone, probe, until, offset)
        if start < probe:
            found.append(Span(start, probe, offset, floor, gap))
        before, offset = offset, _offset_at(zone, probe)
        floor = probe + max(before, offset)
        if probe >= first:
            start, gap = probe, max(0, offset - before)
    if start < last:
        found.append(Span(start, last, offset, floor, gap))
    return tuple(found)


def _change(zone: tzinfo, low: int, high: int, offset: int) -> int:
    """The first instant after `low` with another offset, which there is at `high`."""
    while high - low > 1:
        middle = (low + high) // 2
        if _offset_at(zone, middle) == offset:
            low = middle
        else:
            high = middle
    return high


def _offset_at(zone: tzinfo, instant: int) -> int:
    return (datetime.fromtimestamp(instant, zone).utcoffset() or timedelta()) // _SECOND
