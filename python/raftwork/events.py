"""What happens inside this process, for logs and metrics: one table, one list of listeners.

`EVENTS` is the table: whatever is told is in it, with the fields that it always has. `docs/reference/events.md` shows
it, and says what the fields are.

Listeners run at once, on the thread where the event happens, so they must be quick. One that raises is logged and
goes on listening. Nothing is built when nobody listens: callers check `listening()` first on hot paths.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from raftwork.errors import InvalidOption

__all__ = ["EVENTS", "Event", "EventKind", "emit", "listening", "subscribe"]


class EventKind(NamedTuple):
    """One row of the table."""

    when: str
    """When it is told."""
    fields: tuple[str, ...] = ()
    """What it says, always all of it."""


JOB: Final = ("id", "function", "queue")
RAN: Final = (*JOB, "attempt", "seconds")

EVENTS: Final[Mapping[str, EventKind]] = MappingProxyType(
    {
        "job.enqueued": EventKind("after jobs were stored", ("function", "count")),
        "job.enqueue_lost": EventKind("a job with `wait=False` was refused", ("function", "error")),
        "job.started": EventKind("before the function is called", (*JOB, "attempt", "waited_seconds")),
        "job.succeeded": EventKind("after it returned", RAN),
        "job.retrying": EventKind("the attempt failed, another will come", (*RAN, "error", "delay_seconds")),
        "job.failed": EventKind("it failed for good", (*RAN, "error")),
        "job.snoozed": EventKind("it asked to run later", (*JOB, "delay_seconds")),
        "job.cancelled": EventKind("it ended as cancelled", (*JOB, "reason")),
        "job.lost": EventKind("its lease was lost while it ran", JOB),
        "bulk.changed": EventKind(
            "jobs that fit a filter were changed", ("verb", "filter", "matched", "changed", "skipped")
        ),
        "outbox.relayed": EventKind("jobs of an outbox were stored", ("function", "count")),
        "outbox.refused": EventKind("a job of an outbox was set aside", ("id", "error")),
        "schedule.fired": EventKind("this worker made the jobs of a schedule", ("schedule", "slot", "count")),
        "schedule.skipped": EventKind("it made none for a slot that had come", ("schedule", "slot", "count", "reason")),
        "lock.acquired": EventKind("a lock is held from here on", ("lock", "token", "waited_seconds")),
        "lock.released": EventKind("it was given back", ("lock", "token")),
        "lock.lost": EventKind("this process found that it was lost", ("lock", "token")),
        "worker.started": EventKind("a worker claims jobs", ("queues", "functions")),
        "worker.session_lost": EventKind("one of its sessions was lost, and all leases with it", ("lane", "running")),
        "worker.reconnected": EventKind("it has a new session after that", ("lane", "seconds")),
        "worker.draining": EventKind("it claims no more and finishes its jobs", ("running",)),
        "worker.stopped": EventKind("it has ended", ("released",)),
    }
)
"""Every event there is, by name."""

_logger = logging.getLogger("raftwork.events")


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened. `fields` are those of its row in `EVENTS`."""

    name: str
    fields: dict[str, Any] = field(default_factory=dict)


Listener = Callable[[Event], object]

_listeners: tuple[Listener, ...] = ()


def subscribe(listener: Listener, *names: str) -> Callable[[], None]:
    """Call `listener` for events of this process from now on. Answers a function that ends it.

    Args:
        listener: called with an `Event`, on the thread where it happens.
        names: which events; none means all.

    Raises:
        InvalidOption: there is no event of such a name.

    Example:
        >>> stop = subscribe(lambda event: print(event.fields["error"]), "job.failed")
        >>> stop()
    """
    global _listeners
    for name in names:
        if name not in EVENTS:
            near = difflib.get_close_matches(name, EVENTS, n=1)
            guess = f" Did you mean {near[0]}?" if near else ""
            raise InvalidOption(f"{name!r} is not an event.{guess} Events: {', '.join(EVENTS)}.")
    wanted = frozenset(names)

    def only(event: Event) -> None:
        if event.name in wanted:
            listener(event)

    # Its own object for each call: whoever subscribes twice is told twice, until each is ended.
    own: Listener = only if wanted else lambda event: listener(event)
    # A new tuple each time, so that `emit` may run on other threads meanwhile.
    _listeners = (*_listeners, own)

    def unsubscribe() -> None:
        global _listeners
        _listeners = tuple(other for other in _listeners if other is not own)

    return unsubscribe


def listening() -> bool:
    """Whether anyone would see an event."""
    return bool(_listeners)


def emit(name: str, /, **fields: Any) -> None:
    """Tell all listeners."""
    if not _listeners:
        return
    event = Event(name, fields)
    for listener in _listeners:
        try:
            listener(event)
        except Exception:
            _logger.exception("A listener failed on %s.", name)
