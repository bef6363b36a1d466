"""How to read: what an answer must have, how old it may be, and how old it is.

    local          what the node at hand has: at most 2 seconds old unless you allow more. Never waits
    session        what this process wrote, and read before, at least (the default)
    linearizable   all that anybody was answered before the call. Waits for a majority of the cluster

With a single node all three are the same, and no answer is ever old.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal, NamedTuple, TypeAlias, TypeVar, get_args

from raftwork.durations import Duration, duration_ms
from raftwork.errors import InvalidOption

__all__ = [
    "LOCAL_STALENESS_MS_MAX",
    "NOWHERE",
    "SESSION",
    "AsOf",
    "Consistency",
    "Counts",
    "Reading",
    "Rows",
    "read_as",
]

Consistency: TypeAlias = Literal["local", "session", "linearizable"]
"""What an answer must have."""

LOCAL_STALENESS_MS_MAX: Final = 2_000
"""How old a local answer may be when nothing else is said."""

T = TypeVar("T")


class Reading(NamedTuple):
    """How to read, checked."""

    consistency: Consistency = "session"
    staleness_ms_max: int | None = None
    """An answer that could be older is refused. None: its age is told, whatever it is."""


SESSION: Final = Reading()


@dataclass(frozen=True, slots=True)
class AsOf:
    """Which state an answer is of."""

    index: int
    """The entry of the log that the state ends with."""
    staleness: timedelta | None
    """All that was answered anywhere so long ago is in it. None: nobody knows, as no majority was heard yet."""


NOWHERE: Final = AsOf(0, None)


class _Answer:
    """What every answer tells of the state that it is of."""

    as_of: AsOf = NOWHERE

    @property
    def as_of_index(self) -> int:
        """The entry of the log that the state ends with."""
        return self.as_of.index

    @property
    def staleness(self) -> timedelta | None:
        """All that was answered anywhere so long ago is in it. None: nobody knows."""
        return self.as_of.staleness


class Counts(_Answer, dict[str, int]):
    """Figures by name, and the state that they are of."""


class Rows(_Answer, list[T]):
    """A list, and the state that it is of."""


def read_as(consistency: Consistency = "session", max_staleness: Duration | None = None) -> Reading:
    """Check what a caller said about a read.

    Raises:
        InvalidOption: no such consistency, a bad duration, or a bound for an answer that is never old.
    """
    if consistency not in get_args(Consistency):
        raise InvalidOption(f"consistency={consistency!r} is not one of {', '.join(get_args(Consistency))}.")
    if max_staleness is None:
        return Reading(consistency, LOCAL_STALENESS_MS_MAX if consistency == "local" else None)
    if consistency == "linearizable":
        raise InvalidOption("max_staleness makes no sense with consistency='linearizable': it misses nothing at all.")
    return Reading(consistency, duration_ms(max_staleness, "max_staleness"))
