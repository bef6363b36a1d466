"""What happens inside this process, for logs and metrics: one table, one list of listeners.

`EVENTS` is the table: whatever is told is in it, with the fields that it always has. `docs/reference/events.md` shows
it, and says what the fields are.

Listeners run at once, on the thread where the event happens, so they must be quick. One that raises is logged and
goes on listening. Nothing is built for nobody: `listeners` says who hears of an event, and hot paths look there first.
"""

from __future__ import annotations

import difflib
import functools
import logging
import threading
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec

from raftwork.errors import InvalidOption

__all__ = ["EVENTS", "Event", "EventKind", "emit", "failed", "listeners", "listening", "subscribe", "tell"]


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
        "job.enqueued": EventKind(
            "after jobs were stored, not those that a unique key held back", ("function", "count")
        ),
        "job.enqueue_lost": EventKind("a job with `wait=False` is not known to be stored", ("function", "error")),
        "job.started": EventKind("before the function is called", (*JOB, "attempt", "waited_seconds")),
        "job.succeeded": EventKind("after it returned", RAN),
        "job.retrying": EventKind("the attempt failed, another will come", (*RAN, "error", "delay_seconds")),
        "job.failed": EventKind("it failed for good", (*RAN, "error")),
        "job.snoozed": EventKind("it asked to run later", (*JOB, "delay_seconds", "reason")),
        "job.cancelled": EventKind("it ended as cancelled", (*JOB, "reason")),
        "job.lost": EventKind("its lease was lost while it ran", JOB),
        "bulk.changed": EventKind(
            "jobs that fit a filter were changed", ("verb", "filter", "matched", "changed", "skipped")
        ),
        "outbox.relayed": EventKind("jobs of an outbox were stored", ("function", "count")),
        "outbox.refused": EventKind("a job of an outbox was set aside", ("id", "error")),
        "schedule.fired": EventKind("this worker made the jobs of a schedule", ("schedule", "slot", "count")),
        "schedule.skipped": EventKind("it made none for a slot that had come", ("schedule", "slot", "count", "reason")),
        "schedule.orphaned": EventKind("code of a worker that starts no longer defines it", ("schedule", "function")),
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


class Event(msgspec.Struct, frozen=True, dict=True):
    """One thing that happened, with the fields of its row in `EVENTS`."""

    name: str
    given: Any
    """The fields, or what `make` makes them of once they are read: a listener that counts jobs reads none."""
    make: Callable[..., dict[str, Any]] | None = None

    @functools.cached_property
    def fields(self) -> dict[str, Any]:
        """What is said about it, by name."""
        fields: dict[str, Any] = self.given if self.make is None else self.make(*self.given)
        return fields

    def __repr__(self) -> str:
        return f"Event({self.name!r}, {self.fields!r})"


Listener = Callable[[Event], object]


class _Subscription(NamedTuple):
    listener: Listener
    names: frozenset[str]
    """Empty: all."""


listeners: Final[dict[str, tuple[Listener, ...]]] = {}
"""Who hears of an event; those of which nobody does are not in it, so it is empty while nobody listens at all.

`subscribe` puts new tuples in, so that one may be gone through meanwhile.
"""

_subscriptions: list[_Subscription] = []
_changing = threading.Lock()


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
    for name in names:
        if name not in EVENTS:
            near = difflib.get_close_matches(name, EVENTS, n=1)
            guess = f" Did you mean {near[0]}?" if near else ""
            raise InvalidOption(f"{name!r} is not an event.{guess} Events: {', '.join(EVENTS)}.")
    own = _Subscription(listener, frozenset(names))
    with _changing:
        _subscriptions.append(own)
        _share_out()

    def unsubscribe() -> None:
        # By identity: whoever subscribes twice is told twice, until each is ended.
        with _changing:
            _subscriptions[:] = [other for other in _subscriptions if other is not own]
            _share_out()

    return unsubscribe


def _share_out() -> None:
    for name in EVENTS:
        found = tuple(own.listener for own in _subscriptions if not own.names or name in own.names)
        if found:
            listeners[name] = found
        else:
            listeners.pop(name, None)


def listening() -> bool:
    """Whether anyone listens to anything."""
    return bool(listeners)


def emit(name: str, /, **fields: Any) -> None:
    """Tell all who listen to this event."""
    if hearing := listeners.get(name):
        tell(Event(name, fields), hearing)


def tell(event: Event, hearing: tuple[Listener, ...], survives: type[BaseException] = Exception) -> None:
    """Tell an event that was built.

    Args:
        event: what happened.
        hearing: those of `listeners`.
        survives: what a listener may raise without harm: it is logged. Anything else ends this call.
    """
    for listener in hearing:
        try:
            listener(event)
        except survives:
            failed(event)


def failed(event: Event) -> None:
    """Log the exception that a listener raises at the moment."""
    _logger.exception("A listener failed on %s.", event.name)
