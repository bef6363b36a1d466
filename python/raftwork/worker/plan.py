"""Which lanes a worker has: one for each way of running jobs, and one more for each queue with a number of its own.

    Worker(app, {"mail": 4, "reports": None}, threads=8)

runs plain functions of `mail` on 4 threads and those of `reports` on 8. A queue's number counts for each kind of task.
Kinds without a task have no lane, so a worker of coroutines only has no idle threads.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from raftwork import known
from raftwork.errors import ConfigError
from raftwork.options import Executor, check_name
from raftwork.worker.binding import Binding

__all__ = ["Kind", "LanePlan", "QueueChoice", "plan_lanes", "read_queues"]

Kind: TypeAlias = Executor
QueueChoice: TypeAlias = "str | Iterable[str] | Mapping[str, int | None] | None"
"""Queues by name, with a number of jobs at once if they have one of their own: `["mail:4", "reports"]` or a mapping."""

SLOTS_MAX = 10_000
WEIGHT_MAX = 1_000_000
KINDS: tuple[Kind, ...] = ("thread", "async", "process")


@dataclass(frozen=True, slots=True)
class LanePlan:
    """One lane before it exists."""

    name: str
    kind: Kind
    queues: tuple[tuple[str, int], ...]
    functions: tuple[str, ...]
    slots: int


def read_queues(choice: QueueChoice, bindings: Mapping[str, Binding]) -> dict[str, int | None]:
    """The queues to serve, each with its own number of slots or None. None: the queues of the tasks, and `default`."""
    if choice is None:
        found = dict.fromkeys(binding.queue for binding in bindings.values())
        return dict.fromkeys([*found, "default"])
    if isinstance(choice, Mapping):
        queues = dict(choice)
    elif isinstance(choice, Iterable):
        queues = dict(_named(text) for text in ([choice] if isinstance(choice, str) else choice))
    else:
        raise ConfigError(f"queues={choice!r} is neither names nor a mapping of names to numbers of jobs at once.")
    if not queues:
        raise ConfigError("The worker has no queue to serve. Name at least one, or leave queues out for all.")
    for name, slots in queues.items():
        check_name(name, "The queue")
        if slots is not None:
            check_slots(slots, f"The number of jobs at once of queue {name!r}")
    return queues


def check_slots(value: object, what: str) -> int:
    """A whole number of slots, or ConfigError."""
    return check_whole(value, what, 1, SLOTS_MAX)


def check_whole(value: object, what: str, least: int, most: int) -> int:
    """A whole number within these bounds, or ConfigError."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ConfigError(f"{what} is {value!r}; it must be a whole number from {least:,} to {most:,}.")
    return value


def check_labels(labels: object) -> dict[str, str]:
    """Names and values to show with a session, or ConfigError."""
    if not isinstance(labels, Mapping) or not all(isinstance(text, str) for pair in labels.items() for text in pair):
        raise ConfigError(f"labels={labels!r} is not a mapping of texts to texts.")
    taken = sorted(name for name in labels if name.startswith(known.PREFIX))
    if taken:
        raise ConfigError(f"labels has {taken[0]!r}, and names that begin with {known.PREFIX!r} are the worker's own.")
    return dict(labels)


def plan_lanes(
    queues: Mapping[str, int | None],
    bindings: Mapping[str, Binding],
    weights: Mapping[str, int],
    slots: Mapping[Kind, int],
) -> list[LanePlan]:
    """The lanes of a worker."""
    for name, weight in weights.items():
        check_whole(weight, f"The weight of queue {name!r}", 1, WEIGHT_MAX)
    unknown = set(weights) - set(queues)
    if unknown:
        raise ConfigError(f"There are weights for queues that are not served: {', '.join(sorted(unknown))}.")
    for name in weights:
        if queues[name] is not None:
            raise ConfigError(f"Queue {name} has a number of jobs at once of its own, so it takes no turns by weight.")
    shared = tuple((name, weights.get(name, 1)) for name, own in queues.items() if own is None)
    lanes = []
    for kind in KINDS:
        functions = tuple(sorted(name for name, binding in bindings.items() if binding.kind == kind))
        if not functions:
            continue
        if shared:
            lanes.append(LanePlan(f"{kind}", kind, shared, functions, slots[kind]))
        for name, own in queues.items():
            if own is not None:
                lanes.append(LanePlan(f"{kind}-{name}", kind, ((name, 1),), functions, own))
    return lanes


def default_processes() -> int:
    """As many children as processors that this process may use."""
    try:
        return max(1, len(os.sched_getaffinity(0)))
    except AttributeError:
        return max(1, os.cpu_count() or 1)


def _named(text: object) -> tuple[str, int | None]:
    if not isinstance(text, str):
        raise ConfigError(f"{text!r} is not the name of a queue.")
    name, colon, number = text.rpartition(":")
    if not colon:
        return text, None
    if not number.isdigit():
        raise ConfigError(f"{text!r} is not a queue. Write NAME, or NAME:NUMBER for a number of jobs at once.")
    return name, int(number)
