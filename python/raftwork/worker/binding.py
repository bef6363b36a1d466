"""A task as the worker runs it: the function, how to call it, what is around it, and which executor it belongs to."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from raftwork import serde
from raftwork.around import alayered, layered
from raftwork.context import JobContext
from raftwork.job_info import version_of
from raftwork.options import Executor
from raftwork.retry import Retry
from raftwork.storage.base import ClaimedJob, read_meta
from raftwork.worker.held import AsyncHeld, Held, amake, make
from raftwork.worker.limits import Limits

if TYPE_CHECKING:
    from raftwork.app import Raftwork
    from raftwork.task import Task

__all__ = ["Binding", "bindings_of", "retry_of"]

Call: TypeAlias = Callable[[JobContext, list[Any], dict[str, Any]], Any]
AsyncCall: TypeAlias = Callable[[JobContext, list[Any], dict[str, Any]], Awaitable[Any]]

_NO_ARGUMENTS = serde.encode_args((), {})


class Binding:
    """What the hot path needs of a task, looked up once."""

    __slots__ = (
        "_dependencies",
        "_held",
        "_task",
        "acall",
        "call",
        "function",
        "kind",
        "limits",
        "meta",
        "name",
        "queue",
        "takes_context",
        "version",
    )

    call: Call
    """Calls the function, with what is around it. Of a plain function only."""
    acall: AsyncCall
    """The same of a coroutine function."""

    def __init__(self, task: Task[..., Any], held: Held | AsyncHeld | None = None) -> None:
        self.name = task.name
        self.function: Callable[..., Any] = task.fn
        self.takes_context = task.takes_context
        self.queue = task.plan().spec.queue
        self.meta = task.plan().spec.meta
        self.version = task.version
        self._task = task
        self.kind: Executor = task.executor
        self.limits = Limits(task.options.get("memory"), task.options.get("cpu"))
        self._held = held
        """Where values of the worker are; without one they are made for each job."""
        self._dependencies = task.dependencies
        around = task.middleware.of_run
        if self.kind == "async":
            self.acall = alayered(around, self._afilled if self._dependencies else self._abare)
        else:
            # What needs an event loop is around coroutine functions only.
            plain = [function for function in around if not inspect.isasyncgenfunction(function)]
            self.call = layered(plain, self._filled if self._dependencies else self._bare)

    def arguments(self, job: ClaimedJob, context: JobContext) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of one job, as the function takes them today.

        Raises:
            SerializationError: they cannot be read here.
            MigrationError: they are of an older version, and nothing migrates them.
        """
        args: list[Any]
        kwargs: dict[str, Any]
        args, kwargs = ([], {}) if job.args == _NO_ARGUMENTS else serde.decode_args(job.args)
        if job.meta != self.meta and (version := version_of(job.meta)) != self.version:
            args, kwargs = self._task.migrated(version, args, kwargs)
        if self.takes_context:
            args.insert(0, context)
        return args, kwargs

    def _bare(self, context: JobContext, args: list[Any], kwargs: dict[str, Any]) -> Any:
        return self.function(*args, **kwargs)

    def _abare(self, context: JobContext, args: list[Any], kwargs: dict[str, Any]) -> Awaitable[Any]:
        found: Awaitable[Any] = self.function(*args, **kwargs)
        return found

    def _filled(self, context: JobContext, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """Call the function with its dependencies, made anew or those of the worker."""
        with contextlib.ExitStack() as stack:
            made: dict[Any, Any] = {}
            for name, dependency in self._dependencies.items():
                if isinstance(self._held, Held) and dependency.scope == "worker":
                    kwargs[name] = self._held.value(dependency)
                    continue
                if dependency.factory not in made:
                    made[dependency.factory] = make(stack, dependency, context)
                kwargs[name] = made[dependency.factory]
            return self.function(*args, **kwargs)

    async def _afilled(self, context: JobContext, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """`_filled` for a coroutine function."""
        async with contextlib.AsyncExitStack() as stack:
            made: dict[Any, Any] = {}
            for name, dependency in self._dependencies.items():
                if isinstance(self._held, AsyncHeld) and dependency.scope == "worker":
                    kwargs[name] = await self._held.value(dependency)
                    continue
                if dependency.factory not in made:
                    made[dependency.factory] = await amake(stack, dependency, context)
                kwargs[name] = made[dependency.factory]
            return await self.function(*args, **kwargs)


def bindings_of(app: Raftwork, held: Held | AsyncHeld | None = None) -> dict[str, Binding]:
    """The registered tasks of an application by name."""
    return {name: Binding(task, held) for name, task in app.tasks.items()}


def retry_of(job: ClaimedJob) -> Retry:
    """The retry policy that travels with a job; the default one when it cannot be read."""
    try:
        return read_meta(job.meta)
    except Exception:  # Written by a newer version: a job must not be lost over how to repeat it.
        return Retry()
