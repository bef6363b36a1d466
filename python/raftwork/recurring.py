"""Schedules that code defines: `@app.cron(...)` and `@app.every(...)`, and which of two versions of the code is newer.

Generations
    A worker puts the schedules of its code when it starts. In a rolling deployment workers of the old code still run,
    and may start again: what they put must not undo the new code. The storage compares generations and keeps the
    greater one, so a generation has to grow from one deployment to the next. Nothing in the code itself does: a hash
    has no order, and a counter beside the definition is forgotten. So the generation is an instant, in milliseconds:

    1. the setting `release` (`RAFTWORK_RELEASE`), the time of the deployment or of the commit, if it is given;
    2. else the time at which the file of the task's function was last changed, as deploying new code writes new files.
       A process that starts again has the same file and so the same generation.

    Only a changed definition counts: putting what is stored changes nothing, whatever the generation. Going back to
    older code is a deployment too, but its files may be older: give `release` then. A worker that finds a newer
    definition says so in its log and goes on; jobs of either definition are run by whoever knows the task.

Orphans
    A schedule whose decorator is gone goes on firing until somebody deletes it: no process can tell code that was
    removed from code that it does not import. It is reported if it looks like the former. Code put it, of a generation
    that is not newer than this code; this code does not define it; and its task is here, or was in a module that is, or
    in one that is gone from a package that is.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable, Container, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from raftwork import references
from raftwork.cron import Definition, When
from raftwork.durations import Duration
from raftwork.errors import InvalidOption, InvalidTask, RaftworkError
from raftwork.schedules import Overlap, Planned, define
from raftwork.storage.base import PutAnswer, ScheduleRow, Storage
from raftwork.task import Task

__all__ = ["Recurring"]

T = TypeVar("T", bound=Task[..., Any])

logger = logging.getLogger("raftwork.schedules")


class Recurring:
    """The part of an application that is about recurring schedules."""

    def __init__(self) -> None:
        super().__init__()
        self._planned: dict[str, Planned] = {}

    if TYPE_CHECKING:

        def setting(self, name: str) -> Any:
            """The value of one setting."""

        @property
        def tasks(self) -> Mapping[str, Task[..., Any]]:
            """All registered tasks by name."""
            ...

    def cron(
        self,
        cron: str,
        *,
        name: str | None = None,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        overlap: Overlap = "allow",
        **when: Unpack[When],
    ) -> Callable[[T], T]:
        """Run a task again and again, at the times of a cron text. Answers the task unchanged.

        Args:
            cron: five fields, six with the second first, or an alias such as `"@daily"`.
            name: of the schedule. Default: that of the task. A task may have several, each with a name of its own.
            args, kwargs: arguments of each job.
            overlap: as for `Schedules.put`.
            when: tz, start, end, misfire, catchup, catchup_window, jitter: see `raftwork.cron.define`.

        Raises:
            InvalidTask: it is not above `@app.task`, or the task does not accept these arguments.
            InvalidOption: the definition is wrong.

        Example:
            >>> @app.cron("30 3 * * *", tz="Europe/Berlin", overlap="skip")
            ... @app.task
            ... def report() -> None: ...
        """
        return self._decorator("cron", define(cron, None, when), name, args, kwargs, overlap)

    def every(
        self,
        every: Duration,
        *,
        name: str | None = None,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        overlap: Overlap = "allow",
        **when: Unpack[When],
    ) -> Callable[[T], T]:
        """Run a task again and again, a fixed time after its last slot. Answers the task unchanged.

        Args:
            every: from 1 second up. Slots are counted from `start`, or else from 1970 on: `"1h"` means full hours.
            name, args, kwargs, overlap, when: as for `cron`.

        Raises:
            As `cron`.

        Example:
            >>> @app.every("15m")
            ... @app.task
            ... def sweep() -> None: ...
        """
        return self._decorator("every", define(None, every, when), name, args, kwargs, overlap)

    def _decorator(
        self,
        verb: str,
        definition: Definition,
        name: str | None,
        args: Sequence[Any],
        kwargs: Mapping[str, Any] | None,
        overlap: Overlap,
    ) -> Callable[[T], T]:
        def decorate(task: T) -> T:
            if not isinstance(task, Task):
                called = getattr(task, "__name__", repr(task))
                raise InvalidTask(
                    f"{called} is no task yet. Put @app.{verb}(...) above @app.task, so that it gets the task."
                )
            call = task.s(*args, **(kwargs or {})) if args or kwargs else task
            planned = Planned(name, call, overlap, definition)
            known = self._planned.get(planned.name)
            # Another function of the same origin is a reloaded module.
            if known is not None and (known.call.task.fn is task.fn or known.call.task.origin != task.origin):
                raise InvalidOption(
                    f"{known.call.task.name} has a schedule {planned.name!r} already. Give this one another name: "
                    f"@app.{verb}(..., name=...)."
                )
            self._planned[planned.name] = planned
            return task

        return decorate

    @property
    def planned(self) -> Mapping[str, Planned]:
        """What the decorators defined, by the names of the schedules."""
        return MappingProxyType(self._planned)

    def put_planned(self, storage: Storage, names: Container[str] | None = None) -> list[str]:
        """Store what the decorators defined; answers the names of those that newer code defines.

        Args:
            names: only these; None for all.

        Raises:
            RaftworkError: one could not be stored, the others were.
        """
        older: list[str] = []
        errors: list[RaftworkError] = []
        now = storage.now_ms() if self._planned else 0
        for planned in [each for each in self._planned.values() if names is None or each.name in names]:
            try:
                if planned.put(storage, now, self._generation(planned.call.task)) is PutAnswer.OLDER:
                    older.append(planned.name)
            except RaftworkError as error:
                error.add_note(f"The schedule is {planned.name!r}.")
                errors.append(error)
        if older:
            logger.warning(
                "Newer code defines the schedules %s, so those of this process are not used. To go back to older code, "
                "deploy it with a setting `release` that is now.",
                ", ".join(older),
            )
        if errors:
            raise errors[0]
        return older

    def orphaned(self, storage: Storage) -> list[ScheduleRow]:
        """Stored schedules of code that this application, whose they seem to be, no longer defines; by name."""
        tasks = list(self.tasks.values())
        if not tasks:
            return []
        rows = [row for row in storage.schedules() if row.source == "code" and row.name not in self._planned]
        return [row for row in rows if self._is_ours(row, tasks)]

    def _is_ours(self, row: ScheduleRow, tasks: Sequence[Task[..., Any]]) -> bool:
        known = [task for task in tasks if task.name == row.function]
        near = known or [task for task in tasks if _shares_module(row.function, task)]
        return any(row.generation <= self._generation(task) for task in near)

    def _generation(self, task: Task[..., Any]) -> int:
        release: int | None = self.setting("release")
        if release is not None:
            return release
        try:
            return os.stat(task.fn.__code__.co_filename).st_mtime_ns // 1_000_000
        except OSError:
            return 0  # No file: the code came out of an archive, or from a prompt.


def _shares_module(function: str, task: Task[..., Any]) -> bool:
    """Whether a function that is not registered was in the module of a task, or in one beside it that is gone."""
    module, theirs = references.module_name(task.fn), function.rpartition(".")[0]
    if module == "__main__" or not theirs:
        return False
    package = theirs.rpartition(".")[0]
    return theirs == module or (package != "" and package == module.rpartition(".")[0] and not _is_there(theirs))


def _is_there(module: str) -> bool:
    """Whether a module can be imported. Its package has been."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
