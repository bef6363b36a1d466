"""How long no write was answered after something went wrong, and after it was made well again (A1).

The figure of a moment is the time until the first answer to a write that began behind it, whoever of the clients asked.
The bounds are for slow machines that do other work besides: promised are 2 s, and what was measured is in the report.
"""

from __future__ import annotations

import bisect
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from cluster.verdict import History

LEADER_LOST, STRUCK, HEALED, RESTARTED = "leader lost", "struck", "healed", "restarted"
"""What a moment is: a leader is gone, others are left; something else is wrong; all is well; all nodes are started."""

LONGEST_MS = {LEADER_LOST: 20_000, STRUCK: 20_000, HEALED: 20_000, RESTARTED: 40_000}
LOST_MEDIAN_MS = 5_000
"""After the loss of a leader. An election takes one to two seconds, or less where the end of its process is noticed."""
LOST_FEW = 10
"""Of fewer losses the median is chance."""


class Moment(NamedTuple):
    """From here on writes must be answered soon."""

    kind: str
    """Of the fault."""
    what: str
    at: int
    """Nanoseconds of CLOCK_MONOTONIC."""


Pauses = Mapping[tuple[str, str], Sequence[float]]
"""Milliseconds, by kind of fault and by what the moment was. Infinite: no write was answered any more."""


def measured(history: History, moments: Iterable[Moment]) -> Pauses:
    """How long after each moment a write was answered that began behind it."""
    writes = sorted((int(op["began"]), int(op["ended"])) for op in history.answered("enqueue", "cancel"))
    began = [write[0] for write in writes]
    earliest = [math.inf]
    """From each write on, counted from the end: the first answer."""
    for _, ended in reversed(writes):
        earliest.append(min(earliest[-1], ended))
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for moment in moments:
        left = len(writes) - bisect.bisect_left(began, moment.at)
        found[moment.kind, moment.what].append((earliest[left] - moment.at) / 1e6)
    return found


def of(pauses: Pauses, *whats: str) -> list[float]:
    """The figures of all kinds of faults."""
    return [figure for (_, what), figures in pauses.items() if what in whats for figure in figures]


def too_long(pauses: Pauses) -> list[str]:
    """What took longer than it may, each in words."""
    found = [
        f"A1: no write was answered for {max(figures):,.0f} ms after `{kind}` ({what})"
        for (kind, what), figures in pauses.items()
        if max(figures) > LONGEST_MS[what]
    ]
    lost = of(pauses, LEADER_LOST)
    if len(lost) >= LOST_FEW and statistics.median(lost) > LOST_MEDIAN_MS:
        found.append(f"A1: half of {len(lost)} losses of a leader took longer than {statistics.median(lost):,.0f} ms")
    return found


def spread(figures: Sequence[float]) -> str:
    """What is between them, in words."""
    if not figures:
        return "never"
    ordered = sorted(figures)
    high = ordered[min(len(ordered) - 1, int(len(ordered) * 0.9))]
    return f"median {statistics.median(ordered):,.0f} ms, p90 {high:,.0f} ms, longest {ordered[-1]:,.0f} ms"


def by_kind(pauses: Pauses) -> list[str]:
    """A line for each kind of fault: median and longest after each sort of moment."""
    found: dict[str, list[str]] = defaultdict(list)
    for (kind, what), figures in sorted(pauses.items(), key=lambda item: list(LONGEST_MS).index(item[0][1])):
        found[kind].append(_short(what, figures))
    return [f"{kind:28}{', '.join(found[kind])}" for kind in sorted(found)]


def _short(what: str, figures: Sequence[float]) -> str:
    return f"{what} {len(figures)}: {statistics.median(figures):,.0f} / {max(figures):,.0f} ms"
