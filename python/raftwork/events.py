"""What happens inside this process, for logs and metrics: one table, one list of listeners.

| event              | when                                    | fields                                          |
|--------------------|-----------------------------------------|-------------------------------------------------|
| `job.enqueued`     | after jobs were stored                  | `function`, `count`, `seconds`                  |
| `job.enqueue_lost` | a job with `wait=False` was refused     | `function`, `error`                             |
| `job.started`      | before the function is called           | as `succeeded`, but `waited_seconds`            |
| `job.succeeded`    | after it returned                       | `id`, `function`, `queue`, `attempt`, `seconds` |
| `job.retrying`     | the attempt failed, another will come   | as `failed`, and `delay_seconds`                |
| `job.failed`       | it failed for good                      | as `succeeded`, and `error`                     |
| `job.snoozed`      | it asked to run later                   | `id`, `function`, `queue`, `delay_seconds`      |
| `job.cancelled`    | it ended as cancelled                   | `id`, `function`, `queue`, `reason`             |
| `job.lost`         | its lease was lost while it ran         | `id`, `function`, `queue`                       |
| `worker.started`   | a worker claims jobs                    | `queues`, `functions`                           |
| `worker.draining`  | it claims no more and finishes its jobs | `running`                                       |
| `worker.stopped`   | it has ended                            | `released`                                      |

Listeners run at once, on the thread where the event happens, so they must be quick. One that raises is logged and
goes on listening. Nothing is built when nobody listens: callers check `listening()` first on hot paths.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["NAMES", "Event", "emit", "listening", "subscribe"]

NAMES = frozenset(
    {
        "job.cancelled",
        "job.enqueue_lost",
        "job.enqueued",
        "job.failed",
        "job.lost",
        "job.retrying",
        "job.snoozed",
        "job.started",
        "job.succeeded",
        "worker.draining",
        "worker.started",
        "worker.stopped",
    }
)
"""Every event there is."""

_logger = logging.getLogger("raftwork.events")


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened. `fields` are those of the table above."""

    name: str
    fields: dict[str, Any] = field(default_factory=dict)


Listener = Callable[[Event], None]

_listeners: tuple[Listener, ...] = ()


def subscribe(listener: Listener) -> Callable[[], None]:
    """Call `listener` for every event of this process from now on. Answers a function that ends it."""
    global _listeners
    # A new tuple each time, so that `emit` may run on other threads meanwhile.
    _listeners = (*_listeners, listener)

    def unsubscribe() -> None:
        global _listeners
        _listeners = tuple(other for other in _listeners if other is not listener)

    return unsubscribe


def listening() -> bool:
    """Whether anyone would see an event."""
    return bool(_listeners)


def emit(name: str, **fields: Any) -> None:
    """Tell all listeners."""
    if not _listeners:
        return
    event = Event(name, fields)
    for listener in _listeners:
        try:
            listener(event)
        except Exception:
            _logger.exception("A listener failed on %s.", name)
