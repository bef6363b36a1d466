"""When a recurring schedule fires: its definition, the slots that it names, and what an outage makes of them.

A slot is the instant that the definition names, in milliseconds since 1970, whatever the time at which its job runs.
All here is a function of the definition and of instants that are given: every process works out the same slots, as long
as it has the same rules of time zones.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeAlias, TypedDict, get_args

import msgspec

from raftwork.calendars import Calendar
from raftwork.durations import DURATION_MS_MAX, Duration, duration_ms, instant_ms, text
from raftwork.errors import InvalidOption
from raftwork.zones import find_zone

__all__ = ["CATCHUP_MAX", "GRACE_MS", "Definition", "Due", "Misfire", "When", "define", "job_id"]

Misfire: TypeAlias = Literal["skip", "run_once", "run_all"]
"""What becomes of slots whose time came while no scheduler could fire them."""

GRACE_MS: Final = 60_000
"""A slot that is younger is on time: a change of leader or a restart must not cost it."""
CATCHUP_MAX: Final = 1_000
"""Jobs of one command, and so the most that an outage can cost."""
CATCHUP_DEFAULT: Final = 100
EVERY_LEAST_MS: Final = 1_000
JITTER_MS_MAX: Final = 86_400_000
_FORMAT: Final = 1
_FORMAT_WINDOW: Final = 2
"""With a catch-up window. Versions that do not know it leave such a schedule to others and make up for nothing."""
_MISFIRES: Final = get_args(Misfire)


class When(TypedDict, total=False):
    """What may be said about a schedule beside its times. Meanings and ranges: `define`."""

    tz: str
    start: datetime | None
    end: datetime | None
    misfire: Misfire
    catchup: int | None
    catchup_window: Duration | None
    jitter: Duration | None


class Due(NamedTuple):
    """What a schedule that is due has to do."""

    slots: list[int]
    """The slots that become jobs, oldest first."""
    next: int | None
    """The first slot that is still to come."""


@dataclass(frozen=True, slots=True)
class Definition:
    """When a schedule fires, in plain numbers. Made and checked by `define`, or read by `unpack`."""

    cron: str | None
    every_ms: int | None
    tz: str
    start_ms: int | None
    end_ms: int | None
    misfire: Misfire
    catchup: int | None
    jitter_ms: int
    catchup_window_ms: int | None = None

    def next(self, after: int) -> int | None:
        """The first slot after an instant. None: there is none any more."""
        return next(iter(self.slots(after, None, 1)), None)

    def slots(self, after: int, upto: int | None, limit: int) -> list[int]:
        """The first `limit` slots after one instant, up to and with the other."""
        low, end = self._bounds(after, upto)
        if self.every_ms is not None:
            every, anchor = self.every_ms, self.start_ms or 0
            first = anchor - (anchor - low) // every * every
            last = first + limit * every
            return list(range(first, last if end is None else min(end, last), every))
        assert self.cron is not None
        found = Calendar.of(self.cron).after(find_zone(self.tz), _seconds(low), _seconds_or_none(end))
        return [second * 1_000 for second in islice(found, limit)]

    def latest(self, after: int, upto: int, limit: int) -> list[int]:
        """The last `limit` slots after one instant, up to and with the other, oldest first."""
        low, end = self._bounds(after, upto)
        assert end is not None
        if self.every_ms is not None:
            every, anchor = self.every_ms, self.start_ms or 0
            first = anchor - (anchor - max(low, end - limit * every)) // every * every
            return list(range(first, end, every))
        assert self.cron is not None
        found = Calendar.of(self.cron).before(find_zone(self.tz), _seconds(low), _seconds(end))
        return [second * 1_000 for second in islice(found, limit)][::-1]

    def due(self, slot: int, now: int) -> Due:
        """What has to happen at `now`, when `slot` is the first one that did not fire yet.

        On time is what is younger than `GRACE_MS`; all of it fires. What is older was missed: `skip` drops it,
        `run_once` makes one job of it, and of what is on time, for the newest slot, and `run_all` makes one of each, of
        the newest `catchup` if there are more. Of both, what is older than the catch-up window is dropped first.
        """
        if slot > now - GRACE_MS:
            # The stored slot was promised, even if the rules of its time zone have changed since.
            slots = [slot, *self.slots(slot, now, CATCHUP_MAX - 1)]
        elif self.misfire == "skip":
            slots = self.latest(now - GRACE_MS, now, CATCHUP_MAX)
        else:
            after = slot - 1
            if self.catchup_window_ms is not None:
                after = max(after, now - self.catchup_window_ms - 1)
            slots = self.latest(after, now, 1 if self.misfire == "run_once" else self.catchup or CATCHUP_DEFAULT)
        return Due(slots, self.next(now))

    def run_at(self, name: str, slot: int) -> int | None:
        """When the job of a slot becomes due. Jitter delays it, in each process by the same amount. None: at once."""
        if not self.jitter_ms:
            return None
        return slot + int.from_bytes(_digest("jitter", name, slot)[:8], "big") % self.jitter_ms

    def pack(self) -> bytes:
        """The bytes that are stored with the schedule. Equal definitions have equal ones."""
        fields = (
            self.cron, self.every_ms, self.tz, self.start_ms, self.end_ms,
            _MISFIRES.index(self.misfire), self.catchup, self.jitter_ms,
        )  # fmt: skip
        if self.catchup_window_ms is None:
            return msgspec.msgpack.encode((_FORMAT, *fields))
        return msgspec.msgpack.encode((_FORMAT_WINDOW, *fields, self.catchup_window_ms))

    @classmethod
    def unpack(cls, packed: bytes) -> Definition:
        """What `pack` has made.

        Raises:
            InvalidOption: a newer version has made it, or this machine does not know its time zone.
        """
        try:
            version, *fields = msgspec.msgpack.decode(packed)
            if version not in (_FORMAT, _FORMAT_WINDOW):
                raise InvalidOption("The schedule was stored by a newer version of raftwork. Update this process.")
            window = msgspec.convert(fields.pop(), _Window) if version == _FORMAT_WINDOW else None
            row: Any = msgspec.convert(fields, _Row)
            if (row[0] is None) == (row[1] is None):
                raise ValueError("neither cron nor an interval, or both")
        except (msgspec.MsgspecError, ValueError, TypeError, IndexError) as error:
            if isinstance(error, InvalidOption):
                raise
            raise InvalidOption(f"The definition of the schedule cannot be read: {error}. Put it again.") from None
        cron, every_ms, tz, start_ms, end_ms, misfire, catchup, jitter_ms = row
        if cron is not None:
            Calendar.of(cron)
        find_zone(tz)
        return cls(cron, every_ms, tz, start_ms, end_ms, _MISFIRES[misfire], catchup, jitter_ms, window)

    def __str__(self) -> str:
        if self.every_ms is not None:
            return f"every {text(self.every_ms)}"
        return f"{self.cron} {self.tz}"

    def _bounds(self, after: int, upto: int | None) -> tuple[int, int | None]:
        """The first instant that counts, and the first that does not any more."""
        low = after + 1 if self.start_ms is None else max(after + 1, self.start_ms)
        ends = [end for end in (self.end_ms, None if upto is None else upto + 1) if end is not None]
        return low, min(ends, default=None)


_Every = Annotated[int, msgspec.Meta(ge=EVERY_LEAST_MS, le=DURATION_MS_MAX)]
_Place = Annotated[int, msgspec.Meta(ge=0, lt=len(_MISFIRES))]
_Catchup = Annotated[int, msgspec.Meta(ge=1, le=CATCHUP_MAX)]
_Jitter = Annotated[int, msgspec.Meta(ge=0, le=JITTER_MS_MAX)]
_Window = Annotated[int, msgspec.Meta(ge=GRACE_MS, le=DURATION_MS_MAX)]
_Row = tuple[str | None, _Every | None, str, int | None, int | None, _Place, _Catchup | None, _Jitter]
"""What another process may have packed, with the bounds of `define`."""


def define(
    cron: str | None = None,
    every: Duration | None = None,
    *,
    tz: str = "UTC",
    start: datetime | None = None,
    end: datetime | None = None,
    misfire: Misfire = "run_once",
    catchup: int | None = None,
    catchup_window: Duration | None = None,
    jitter: Duration | None = None,
) -> Definition:
    """Check a definition.

    Args:
        cron: five fields, six with the second first, or an alias such as `"@daily"`. See `calendars.Calendar`.
        every: in place of `cron`, a fixed length of time from one slot to the next, from `start` or else from 1970 on.
        tz: IANA name of the zone whose local time `cron` means.
        start: no slot is before it.
        end: no slot is at it or after it.
        misfire: what becomes of slots that nobody could fire, see `Definition.due`.
        catchup: with `misfire="run_all"`, the most jobs that an outage makes, 1 to 1,000; 100 if not given. False says
            that nothing is caught up, as the other policies do by themselves.
        catchup_window: slots that are older than this when somebody is there to fire again make no job, from 1 minute
            up. None: however old they are. Not with `misfire="skip"`, which drops all of them.
        jitter: each job starts later than its slot by less than this, as its name and slot say.

    Raises:
        InvalidOption: one of them is out of range, or they do not go together.
    """
    if (cron is None) == (every is None):
        raise InvalidOption("A schedule has either cron or every. Give one of the two.")
    if misfire not in _MISFIRES:
        raise InvalidOption(f"misfire={misfire!r} is unknown. Use one of {', '.join(_MISFIRES)}.")
    if not isinstance(tz, str):
        raise InvalidOption(f'tz={tz!r:.80} is not a name. Use one such as "Europe/Berlin".')
    find_zone(tz)
    if cron is not None:
        if isinstance(cron, str):
            cron = " ".join(cron.split())
        Calendar.of(cron)
    start_ms = None if start is None else instant_ms(start, "start")
    end_ms = None if end is None else instant_ms(end, "end")
    if start_ms is not None and end_ms is not None and end_ms <= start_ms:
        raise InvalidOption(f"end={end} is not after start={start}, so the schedule would never fire.")
    return Definition(
        cron=cron,
        every_ms=None if every is None else duration_ms(every, "every", least_ms=EVERY_LEAST_MS),
        tz=tz,
        start_ms=start_ms,
        end_ms=end_ms,
        misfire=misfire,
        catchup=_catchup(catchup, misfire),
        jitter_ms=0 if jitter is None else duration_ms(jitter, "jitter", most_ms=JITTER_MS_MAX),
        catchup_window_ms=None if catchup_window is None else _window(catchup_window, misfire),
    )


def job_id(name: str, slot: int) -> bytes:
    """The id of the job of one slot: a UUID version 7, the same in each process, so that no slot has two jobs."""
    random = bytearray(_digest("job", name, slot)[:10])
    random[0] = 0x70 | random[0] & 0x0F
    random[2] = 0x80 | random[2] & 0x3F
    return slot.to_bytes(6, "big") + bytes(random)


def _catchup(catchup: object, misfire: Misfire) -> int | None:
    if misfire != "run_all":
        if catchup is not None and catchup is not False:
            raise InvalidOption(f'catchup bounds misfire="run_all"; with misfire={misfire!r} leave it out.')
        return None
    if catchup is None:
        return CATCHUP_DEFAULT
    if isinstance(catchup, bool) or not isinstance(catchup, int) or not 1 <= catchup <= CATCHUP_MAX:
        raise InvalidOption(f"catchup={catchup!r} is not a whole number from 1 to {CATCHUP_MAX:,}.")
    return catchup


def _window(window: Duration, misfire: Misfire) -> int:
    if misfire == "skip":
        raise InvalidOption('misfire="skip" drops what was missed, however old it is; leave catchup_window out.')
    return duration_ms(window, "catchup_window", least_ms=GRACE_MS)


def _digest(use: str, name: str, slot: int) -> bytes:
    return hashlib.blake2b(f"{use}:{slot}:{name}".encode(), digest_size=16).digest()


def _seconds(ms: int) -> int:
    """The first whole second that is not before."""
    return -(-ms // 1_000)


def _seconds_or_none(ms: int | None) -> int | None:
    return None if ms is None else _seconds(ms)
