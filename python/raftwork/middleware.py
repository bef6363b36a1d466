"""Code of the application around what raftwork does: around storing a job, around a run, around a worker.

A middleware is a generator function with one `yield`, where the thing itself happens. What happens raises there, so
`try` and `finally` work as they look. It sees and may refuse, and cannot change: an exception that it swallows goes on.

| registered with           | is given      | an exception before `yield`            | runs                          |
|---------------------------|---------------|----------------------------------------|-------------------------------|
| `@app.middleware.enqueue` | `EnqueueCall` | refuses the enqueue: nothing is stored | where the job is enqueued     |
| `@app.middleware.run`     | `JobContext`  | is the job's failure, or its `Outcome` | where the job runs            |
| `@app.middleware.worker`  | nothing       | the worker does not start              | in each worker and each child |

The first registered is the outermost. Async generators run where an event loop does: around `aenqueue`, coroutine jobs,
and the loops of a worker.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from raftwork.around import Around, aenter, enter
from raftwork.context import JobContext
from raftwork.errors import InvalidTask
from raftwork.storage.base import JobSpec

__all__ = ["EnqueueCall", "Middleware"]


@dataclass(frozen=True, slots=True)
class EnqueueCall:
    """A job that is about to be stored. Its arguments are encoded already, so changing them changes nothing."""

    function: str
    """The name of the task."""
    queue: str
    priority: int
    tags: tuple[str, ...]
    args: tuple[Any, ...] = field(repr=False)
    kwargs: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, spec: JobSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> EnqueueCall:
        """One call of a task."""
        return cls(spec.function, spec.queue, spec.priority, spec.tags, args, kwargs)


OfEnqueue = TypeVar("OfEnqueue", bound=Callable[[EnqueueCall], Iterator[None] | AsyncIterator[None]])
OfRun = TypeVar("OfRun", bound=Callable[[JobContext], Iterator[None] | AsyncIterator[None]])
OfWorker = TypeVar("OfWorker", bound=Callable[[], Iterator[None] | AsyncIterator[None]])


class Middleware:
    """What `app.middleware` is: three decorators, each of which answers its function unchanged.

    Example:
        >>> @app.middleware.run
        ... def timed(job: JobContext) -> Iterator[None]:
        ...     started = time.monotonic()
        ...     yield
        ...     job.log("took %.3f s", time.monotonic() - started)
    """

    def __init__(self) -> None:
        self.of_enqueue: tuple[Around, ...] = ()
        self.of_run: tuple[Around, ...] = ()
        self.of_worker: tuple[Around, ...] = ()

    def enqueue(self, function: OfEnqueue, /) -> OfEnqueue:
        """Around storing jobs by `enqueue`, `enqueue_many` and their async twins; not those that a schedule fires.

        Of `enqueue_many` each job has its own, and an exception refuses the whole write. With an async one, jobs are
        enqueued by `aenqueue` only: `enqueue` raises InvalidTask.

        Raises:
            InvalidTask: it is no generator function of one parameter.
        """
        self.of_enqueue = (*self.of_enqueue, _checked(function, 1))
        return function

    def run(self, function: OfRun, /) -> OfRun:
        """Around each run of a job, on its thread or task and within its time-out, also in child processes.

        An async one is around coroutine jobs only. Registered before the worker starts.

        Raises:
            InvalidTask: it is no generator function of one parameter.
        """
        self.of_run = (*self.of_run, _checked(function, 1))
        return function

    def worker(self, function: OfWorker, /) -> OfWorker:
        """Around a worker: before its first job, and after its last. Child processes are workers of their own.

        An async one is run on each event loop on which a worker runs coroutine jobs.

        Raises:
            InvalidTask: it is no generator function without parameters.
        """
        self.of_worker = (*self.of_worker, _checked(function, 0))
        return function

    @contextlib.contextmanager
    def storing(self, calls: Iterable[EnqueueCall]) -> Generator[None, None, None]:
        """Enter what is around an enqueue, for each of these."""
        for function in self.of_enqueue:
            if inspect.isasyncgenfunction(function):
                raise InvalidTask(
                    f"The middleware {function.__qualname__} is async, so it cannot be around a plain enqueue. Use "
                    "await task.aenqueue(...), or make it a plain generator."
                )
        with contextlib.ExitStack() as stack:
            for call in calls:
                for function in self.of_enqueue:
                    enter(stack, function, call)
            yield

    @contextlib.asynccontextmanager
    async def astoring(self, calls: Iterable[EnqueueCall]) -> AsyncGenerator[None, None]:
        """`storing` for a running event loop."""
        async with contextlib.AsyncExitStack() as stack:
            for call in calls:
                for function in self.of_enqueue:
                    await aenter(stack, function, call)
            yield


def _checked(function: Any, parameters: int) -> Around:
    if not (inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)):
        raise InvalidTask(
            f"{function!r} cannot be a middleware: it is no generator function. Write `yield` once, where the thing "
            "itself happens."
        )
    taken = inspect.signature(function).parameters.values()
    needed = [parameter for parameter in taken if parameter.default is parameter.empty]
    if len(needed) > parameters or len(taken) < parameters:
        raise InvalidTask(f"The middleware {function.__qualname__} takes {len(needed)} parameters, not {parameters}.")
    found: Around = function
    return found
