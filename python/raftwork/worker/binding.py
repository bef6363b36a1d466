"""A task as the worker runs it: the function, how to call it, and which executor it belongs to."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from raftwork import serde
from raftwork.context import JobContext
from raftwork.options import Executor
from raftwork.retry import Retry
from raftwork.storage.base import ClaimedJob, read_meta

if TYPE_CHECKING:
    from raftwork.app import Raftwork
    from raftwork.task import Task

__all__ = ["Binding", "bindings_of", "retry_of"]

_NO_ARGUMENTS = serde.encode_args((), {})


class Binding:
    """What the hot path needs of a task, looked up once."""

    __slots__ = ("function", "kind", "name", "queue", "takes_context")

    def __init__(self, task: Task[..., Any]) -> None:
        self.name = task.name
        self.function: Callable[..., Any] = task.fn
        self.takes_context = task.takes_context
        self.queue = task.plan().spec.queue
        self.kind: Executor = task.executor

    def arguments(self, job: ClaimedJob, context: JobContext) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of one job. Raises SerializationError when they cannot be read here."""
        args: list[Any]
        kwargs: dict[str, Any]
        args, kwargs = ([], {}) if job.args == _NO_ARGUMENTS else serde.decode_args(job.args)
        if self.takes_context:
            args.insert(0, context)
        return args, kwargs


def bindings_of(app: Raftwork) -> dict[str, Binding]:
    """The registered tasks of an application by name."""
    return {name: Binding(task) for name, task in app.tasks.items()}


def retry_of(job: ClaimedJob) -> Retry:
    """The retry policy that travels with a job; the default one when it cannot be read."""
    try:
        return read_meta(job.meta)
    except Exception:  # Written by a newer version: a job must not be lost over how to repeat it.
        return Retry()
