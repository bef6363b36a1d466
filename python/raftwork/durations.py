"""Lengths of time as people write them: `"5m"`, `"1h30m"`, `"250ms"` or a `timedelta`, never a bare number.

Units: `ms`, `s`, `m`, `h`, `d` (24 hours), `w` (7 days), largest first, each at most once, whole numbers or one
decimal fraction (`"1.5h"`). A bare number is refused because its unit would have to be guessed.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import TypeAlias

from raftwork import clock
from raftwork.errors import InvalidOption

__all__ = ["DURATION_MS_MAX", "Duration", "duration_ms", "instant_ms", "text"]

Duration: TypeAlias = str | timedelta
"""What every option that is a length of time accepts."""

DURATION_MS_MAX = 3650 * 86_400_000
"""Ten years. Longer waits are better stored as a schedule."""

_UNITS_MS = {"w": 604_800_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
_TEXT = re.compile(
    "".join(rf"(?:(?P<{unit}>[0-9]{{1,15}}(?:\.[0-9]{{1,3}})?){unit})?" for unit in _UNITS_MS), flags=re.ASCII
)


def duration_ms(value: Duration, option: str, *, least_ms: int = 0, most_ms: int = DURATION_MS_MAX) -> int:
    """The milliseconds of a duration.

    Raises:
        InvalidOption: not a duration, or outside `least_ms` to `most_ms`. The message names `option` and the range.
    """
    if isinstance(value, timedelta):
        # Up, so that one microsecond does not become "at once".
        ms = (value.days * 86_400 + value.seconds) * 1_000 - (-value.microseconds // 1_000)
    elif isinstance(value, str):
        ms = _parse(value, option)
    else:
        raise InvalidOption(
            f'{option}={value!r} has no unit. Write a duration such as "5m", "1h30m", "250ms", or a timedelta.'
        )
    if not least_ms <= ms <= most_ms:
        raise InvalidOption(f"{option}={value!r} is out of range: from {text(least_ms)} to {text(most_ms)}.")
    return ms


def instant_ms(value: datetime, option: str) -> int:
    """The milliseconds since 1970 of an aware datetime; the past is fine and means now.

    Raises:
        InvalidOption: not a datetime, or one without a time zone, which would mean another instant on another machine.
    """
    if not isinstance(value, datetime):
        raise InvalidOption(f'{option}={value!r} is not a datetime. Give an aware datetime, or use delay="5m".')
    if value.utcoffset() is None:
        raise InvalidOption(
            f"{option}={value!r} has no time zone, so it names a different instant on each machine. "
            "Add one, for example datetime.now(UTC) + timedelta(hours=1)."
        )
    return clock.to_ms(value)


def text(ms: int) -> str:
    """The shortest text that `duration_ms` reads back as the same length: 90,000 gives `"1m30s"`."""
    parts = []
    rest = ms
    for unit, size in _UNITS_MS.items():
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def _parse(value: str, option: str) -> int:
    found = _TEXT.fullmatch(value.strip())
    if not found or not any(found.groupdict().values()):
        raise InvalidOption(
            f'{option}={value!r} is not a duration. Write numbers with units, such as "5m", "1h30m", "2d", "250ms".'
        )
    total = 0.0
    for unit, number in found.groupdict().items():
        if number is not None:
            total += float(number) * _UNITS_MS[unit]
    return round(total)
