"""Cron text as the instants at which it fires. `cronsim` reads the text and knows which days it means."""

from __future__ import annotations

import functools
from bisect import bisect_left
from collections.abc import Iterator
from datetime import MAXYEAR, date, tzinfo
from typing import Final

from cronsim import CronSim, CronSimError

from raftwork import clock
from raftwork.errors import InvalidOption
from raftwork.zones import DAY_S, Span, spans, year_of, year_start

__all__ = ["ALIASES", "CRON_CHARS_MAX", "Calendar"]

CRON_CHARS_MAX: Final = 250
ALIASES: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()
_LAST_INSTANT: Final = year_start(MAXYEAR - 1)
_HORIZON_S: Final = 41 * 366 * DAY_S
"""Further than two occurrences of any date can be apart: 29 February on a Sunday, over the year 2100."""


class Calendar:
    """What a cron text means, and the instants that it names in a time zone.

    The five fields are minute, hour, day of month, month, day of week; with six, the first is the second. As in cron of
    Debian, a day must match both day fields if one of them begins with `*`, and otherwise one of the two.

    When clocks change:
    * A local time that does not exist fires once, at the first instant after the gap.
    * A local time that there is twice fires once, at the first.
    * A text whose hours are all 24 is not about local times of a day: it fires whenever clocks match, each real hour.

    Instants here are whole seconds since 1970.
    """

    __slots__ = ("_every_hour", "_months", "_rule", "_times", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self._rule = _rule_of(text)
        self._months = self._rule.months
        self._every_hour = len(self._rule.hours) == 24
        self._times = _times_of(
            frozenset(self._rule.hours), frozenset(self._rule.minutes), frozenset(self._rule.seconds)
        )
        # 28 years hold every date on every day of the week.
        first = date(2000, 1, 1).toordinal() - _EPOCH_DAY
        if next(self._days(first, first + 28 * 366), None) is None:
            raise InvalidOption(f"cron={text!r} never fires: no date matches its day, month and day of week.")

    @classmethod
    @functools.lru_cache(maxsize=10_000)
    def of(cls, text: str) -> Calendar:
        """The calendar of a text.

        Raises:
            InvalidOption: it cannot be read, or never fires.
        """
        return cls(text)

    def after(self, zone: tzinfo, start: int, end: int | None = None) -> Iterator[int]:
        """The instants from `start` on and before `end`, in order."""
        low, high = _bounds(start, end)
        for year in range(year_of(low), year_of(high) + 1):
            for span in spans(zone, year):
                if span.start < high and low < span.end:
                    yield from self._within(span, low, high, 1)

    def before(self, zone: tzinfo, start: int, end: int) -> Iterator[int]:
        """The same instants, newest first."""
        low, high = _bounds(start, end)
        for year in range(year_of(high), year_of(low) - 1, -1):
            for span in reversed(spans(zone, year)):
                if span.start < high and low < span.end:
                    yield from self._within(span, low, high, -1)

    def _within(self, span: Span, low: int, high: int, step: int) -> Iterator[int]:
        offset = span.offset
        low, high = max(low, span.start) + offset, min(high, span.end) + offset
        at_gap = False
        if not self._every_hour:
            low = max(low, span.floor)
            start = span.start + offset
            at_gap = low == start and next(self._local(start - span.gap, start, 1), None) is not None
        if at_gap:
            low += 1
            if step > 0:
                yield span.start
        for local in self._local(low, high, step):
            yield local - offset
        if at_gap and step < 0:
            yield span.start

    def _local(self, low: int, high: int, step: int) -> Iterator[int]:
        """Local seconds from `low` on and before `high` that match."""
        times = self._times
        if high <= low:
            return
        for day in self._days(low // DAY_S, (high - 1) // DAY_S, step):
            midnight = day * DAY_S
            places = range(bisect_left(times, low - midnight), bisect_left(times, high - midnight))
            for place in places[::step]:
                yield midnight + times[place]

    def _days(self, first: int, last: int, step: int = 1) -> Iterator[int]:
        """Days since 1970 that match, `first` to `last` or, with a step of -1, the other way."""
        match, months = self._rule.match_day, self._months
        days = range(first, last + 1)[::step]
        place = 0
        while place < len(days):
            day = date.fromordinal(_EPOCH_DAY + days[place])
            if day.month not in months:
                # At least as many days as the month still has in this direction, and never past the next one's first.
                place += max(1, 28 - day.day) if step > 0 else day.day
                continue
            if match(day):
                yield days[place]
            place += 1


def _rule_of(text: str) -> CronSim:
    if not isinstance(text, str):
        raise InvalidOption(f'cron={text!r:.80} is not a text. Write five fields, such as cron="30 4 * * *".')
    fields = ALIASES.get(text, text)
    if text.startswith("@") and text not in ALIASES:
        raise InvalidOption(f"cron={text!r:.80} is not one of {', '.join(ALIASES)}.")
    if len(text) > CRON_CHARS_MAX:
        raise InvalidOption(f"cron has {len(text)} characters; at most {CRON_CHARS_MAX} are allowed.")
    if not text.isascii():
        raise InvalidOption(f"cron={text!r} has characters that are not ASCII.")
    count = len(fields.split())
    if count not in (5, 6):
        raise InvalidOption(
            f"cron={text!r} has {count} fields. Write five: minute, hour, day of month, month, day of week; "
            "or six, with the second first."
        )
    try:
        return CronSim(fields, clock.from_ms(0))
    except CronSimError as error:
        field = str(error).removeprefix("Bad ")
        raise InvalidOption(f"cron={text!r}: the {field} cannot be read. {_HELP.get(field, '')}".rstrip()) from None


_HELP: Final = {
    "second": "It goes from 0 to 59.",
    "minute": "It goes from 0 to 59.",
    "hour": "It goes from 0 to 23.",
    "day-of-month": "It goes from 1 to 31, as far as the month has so many days; L is the last, LW the last from "
    "Monday to Friday.",
    "month": "It goes from 1 to 12, or JAN to DEC.",
    "day-of-week": "It goes from 0 (Sunday) to 7 (Sunday again), or SUN to SAT; MON#2 is the second Monday, 5L the "
    "last Friday. A range must not go backwards.",
}


@functools.lru_cache(maxsize=256)
def _times_of(hours: frozenset[int], minutes: frozenset[int], seconds: frozenset[int]) -> tuple[int, ...]:
    """Seconds since midnight, in order. Shared: those of each second are many."""
    return tuple(
        hour * 3600 + minute * 60 + second
        for hour in sorted(hours)
        for minute in sorted(minutes)
        for second in sorted(seconds)
    )


def _bounds(start: int, end: int | None) -> tuple[int, int]:
    """What is looked through: never endlessly, and nothing that a date cannot say."""
    low = max(0, min(start, _LAST_INSTANT))
    high = low + _HORIZON_S if end is None else end
    return low, max(low, min(high, _LAST_INSTANT))
