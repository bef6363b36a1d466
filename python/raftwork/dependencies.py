"""Parameters of a task that a worker fills in, and that are not part of a job's arguments.

    def session() -> Iterator[Session]:
        with Session(engine) as session:
            yield session

    @app.task
    def charge(order: int, *, db: Session = depends(session)) -> None: ...

    charge.enqueue(7)

To a type checker `depends` gives what the factory makes, so that the parameter has a default and may be left out.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Literal, TypeAlias, TypeVar, overload

from raftwork import signatures
from raftwork.context import JobContext
from raftwork.errors import InvalidTask

__all__ = ["Dependency", "Scope", "dependencies_of", "depends"]

T = TypeVar("T")
Scope: TypeAlias = Literal["job", "worker"]
"""How long a value is used: for one run of one job, or as long as the worker runs."""


class Dependency:
    """The default of a parameter that a worker fills in."""

    __slots__ = ("factory", "is_async", "is_generator", "scope", "takes_context")

    def __init__(self, factory: Callable[..., Any], scope: Scope) -> None:
        if not callable(factory):
            raise InvalidTask(f"depends({factory!r}): it is not a function that makes the value.")
        if scope not in ("job", "worker"):
            raise InvalidTask(f'depends(scope={scope!r}) is unknown. Use "job" or "worker".')
        self.factory = factory
        self.scope = scope
        self.is_generator = inspect.isgeneratorfunction(factory) or inspect.isasyncgenfunction(factory)
        self.is_async = inspect.iscoroutinefunction(factory) or inspect.isasyncgenfunction(factory)
        needed = _needed(factory)
        self.takes_context = bool(needed) and signatures.wants(factory, needed[0], JobContext)
        if len(needed) > self.takes_context or (needed and scope == "worker"):
            raise InvalidTask(
                f"depends({self.name}): a factory takes no argument, or for a job one that is annotated JobContext."
            )

    @property
    def name(self) -> str:
        """The name of the factory."""
        return getattr(self.factory, "__qualname__", repr(self.factory))

    def __repr__(self) -> str:
        return f"depends({self.name})"


@overload
def depends(factory: Callable[..., AsyncIterator[T]], *, scope: Scope = "job") -> T: ...
@overload
def depends(factory: Callable[..., Iterator[T]], *, scope: Scope = "job") -> T: ...
@overload
def depends(factory: Callable[..., Awaitable[T]], *, scope: Scope = "job") -> T: ...
@overload
def depends(factory: Callable[..., T], *, scope: Scope = "job") -> T: ...
def depends(factory: Callable[..., Any], *, scope: Scope = "job") -> Any:
    """The default of a parameter that the worker fills in, so that it is no argument of the job.

    Args:
        factory: makes the value, without arguments; that of a job may take its JobContext. A generator function yields
            it, and goes on when it is not used any more. Async ones are for coroutine functions.
        scope: `"job"` makes a value for each run of a job. `"worker"` makes one on first use and keeps it until the
            worker ends: one in each process for plain functions, one on each event loop for coroutine functions.

    A plain call of the task gives the value itself: `charge(7, db=fake)`.

    Raises:
        InvalidTask: the factory takes other arguments, or the scope is unknown.

    Example:
        >>> @app.task
        ... def charge(order: int, *, db: Session = depends(session)) -> None: ...
    """
    return Dependency(factory, scope)


def dependencies_of(function: Callable[..., Any], parameters: list[inspect.Parameter]) -> dict[str, Dependency]:
    """Those of a task by the name of their parameter.

    Raises:
        InvalidTask: an argument of the job could be taken for one, or it is async and the function is not.
    """
    found: dict[str, Dependency] = {}
    name = getattr(function, "__qualname__", "task")
    for parameter in parameters:
        if isinstance(parameter.default, Dependency):
            found[parameter.name] = parameter.default
            if parameter.kind is parameter.POSITIONAL_ONLY:
                raise InvalidTask(f"{name}: {parameter.name} is filled in by name. Put it after a `*`.")
            if parameter.default.is_async and not inspect.iscoroutinefunction(function):
                raise InvalidTask(f"{name} is a plain function, and {parameter.default!r} needs an event loop.")
        elif found and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.VAR_POSITIONAL):
            raise InvalidTask(
                f"{name}: {parameter.name} follows {', '.join(found)}, so an argument of the job could be taken for "
                "it. Put what is filled in after a `*`."
            )
    return found


def _needed(factory: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except ValueError:  # Written in C: it says nothing about its parameters.
        return []
    return [
        parameter
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
