"""Whether a stored job is the call that a test expects, and how to say which jobs there are instead."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from raftwork import clock, durations
from raftwork.job_info import JobInfo, JobState
from raftwork.signatures import parameters_of
from raftwork.task import Task

__all__ = ["Expected", "listed"]

LISTED_MAX = 10
WAITING = frozenset({JobState.AWAITING, JobState.SCHEDULED, JobState.ENQUEUED, JobState.RETRYING})


class Expected:
    """A call of a task, or a part of one: arguments that are not given may be anything.

    Raises:
        TypeError: the function would not accept these arguments.
    """

    def __init__(
        self, task: Task[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], within_ms: int | None
    ) -> None:
        parameters = parameters_of(task.fn)
        self._signature = inspect.Signature(parameters[1:] if task.takes_context else parameters)
        self._wanted = self._signature.bind_partial(*args, **kwargs).arguments
        self._within_ms = within_ms
        shown = [*map(repr, args), *(f"{name}={value!r}" for name, value in kwargs.items())]
        due = "" if within_ms is None else f", due within {durations.text(within_ms)}"
        self.text = f"{task.name}({', '.join(shown)}){due}"
        """The call as a person reads it."""

    def fits(self, info: JobInfo, now: datetime) -> bool:
        """Whether this job of the task waits, is that call, and is due in time."""
        if info.state not in WAITING:
            return False
        if self._within_ms is not None and _due_in_ms(info, now) > self._within_ms:
            return False
        # The same call, whether an argument was passed by position or by name, or left to its default.
        bound = self._signature.bind(*info.args, **info.kwargs)
        bound.apply_defaults()
        return all(self._same(name, value, bound.arguments[name]) for name, value in self._wanted.items())

    def _same(self, name: str, wanted: Any, found: Any) -> bool:
        if self._signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            return all(key in found and wanted[key] == found[key] for key in wanted)
        return bool(wanted == found)


def listed(jobs: Sequence[JobInfo], now: datetime) -> str:
    """Jobs for the text of a failed assertion, a line for each."""
    lines = [f"  {info.call}: {info.state}{_due(info, now)}" for info in jobs[-LISTED_MAX:]]
    if len(jobs) > LISTED_MAX:
        lines.insert(0, f"  ({len(jobs) - LISTED_MAX} older ones)")
    return "\n".join(lines)


def _due(info: JobInfo, now: datetime) -> str:
    return f", due in {durations.text(ms)}" if info.state in WAITING and (ms := _due_in_ms(info, now)) else ""


def _due_in_ms(info: JobInfo, now: datetime) -> int:
    if info.run_at is None or info.state is JobState.ENQUEUED:
        return 0
    return max(0, clock.to_ms(info.run_at) - clock.to_ms(now))
