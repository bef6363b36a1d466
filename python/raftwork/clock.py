"""The one place that reads the time. Milliseconds since 1970 in UTC are the unit of the wire."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

__all__ = ["from_ms", "monotonic", "ms_at", "now", "now_ms", "to_ms"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)

monotonic = time.monotonic


def now_ms() -> int:
    """The time of this machine's clock, in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def ms_at(instant: float) -> int:
    """What `now_ms` was when `monotonic` was this."""
    return now_ms() - int((monotonic() - instant) * 1000)


def now() -> datetime:
    """The time of this machine's clock, aware, in UTC."""
    return datetime.now(UTC)


def from_ms(ms: int) -> datetime:
    """The aware datetime in UTC for milliseconds of the wire. Beyond the year 9999: its last instant."""
    try:
        return _EPOCH + ms * _MS
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)


def to_ms(instant: datetime) -> int:
    """Milliseconds of the wire for an aware datetime; an instant before 1970 gives 0."""
    return max(0, (instant - _EPOCH) // _MS)
