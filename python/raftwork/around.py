"""Runs generator functions with one `yield` around something: middleware, and dependencies that are put away again.

The thing itself happens at the `yield`. What it raises is raised there, and goes on in any case: a generator sees an
exception, and may raise another one instead, but cannot swallow it.

* `layered` and `alayered` put generators around one call, once; then it is called for each job. This is their hot path.
* `enter` and `aenter` put one on an exit stack, where what it is around is no single call.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, TypeAlias

__all__ = ["Around", "aenter", "alayered", "enter", "layered"]

Around: TypeAlias = "Callable[..., Iterator[None] | AsyncIterator[None]]"
"""A generator function with one `yield`."""

_OVER = object()
"""What `next` answers when a generator has ended; an exception would cost more."""


def layered(layers: Sequence[Around], call: Callable[..., Any]) -> Callable[..., Any]:
    """A call of context, arguments and keywords with plain generators of the context around it, the first outermost."""
    for function in reversed(layers):
        call = _layer(function, call)
    return call


def alayered(layers: Sequence[Around], call: Callable[..., Any]) -> Callable[..., Any]:
    """`layered` for a call that is awaited; generators of both kinds may be around it."""
    for function in reversed(layers):
        call = _async_layer(function, call) if inspect.isasyncgenfunction(function) else _awaited_layer(function, call)
    return call


def _layer(function: Callable[..., Any], call: Callable[..., Any]) -> Callable[..., Any]:
    def run(context: Any, args: Any, kwargs: Any) -> Any:
        generator = function(context)
        if next(generator, _OVER) is _OVER:
            raise _no_yield(function)
        try:
            value = call(context, args, kwargs)
        except BaseException as error:
            _throw(function, generator, error)
            raise
        if next(generator, _OVER) is not _OVER:
            generator.close()
            raise _second_yield(function)
        return value

    return run


def _awaited_layer(function: Callable[..., Any], call: Callable[..., Any]) -> Callable[..., Any]:
    async def run(context: Any, args: Any, kwargs: Any) -> Any:
        generator = function(context)
        if next(generator, _OVER) is _OVER:
            raise _no_yield(function)
        try:
            value = await call(context, args, kwargs)
        except BaseException as error:
            _throw(function, generator, error)
            raise
        if next(generator, _OVER) is not _OVER:
            generator.close()
            raise _second_yield(function)
        return value

    return run


def _async_layer(function: Callable[..., Any], call: Callable[..., Any]) -> Callable[..., Any]:
    async def run(context: Any, args: Any, kwargs: Any) -> Any:
        async with _AsyncEntered(function, context):
            return await call(context, args, kwargs)

    return run


def enter(stack: contextlib.ExitStack | contextlib.AsyncExitStack, function: Callable[..., Any], *args: Any) -> Any:
    """Run a generator up to its `yield`; answers what it yields. It goes on when the stack is left."""
    return stack.enter_context(_Entered(function, *args))


async def aenter(stack: contextlib.AsyncExitStack, function: Callable[..., Any], *args: Any) -> Any:
    """`enter`, also for an async generator."""
    if not inspect.isasyncgenfunction(function):
        return enter(stack, function, *args)
    return await stack.enter_async_context(_AsyncEntered(function, *args))


class _Entered:
    """A generator as a context manager that cannot swallow exceptions."""

    __slots__ = ("_function", "_generator")

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self._function = function
        self._generator = function(*args)

    def __enter__(self) -> Any:
        value = next(self._generator, _OVER)
        if value is _OVER:
            raise _no_yield(self._function)
        return value

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            _throw(self._function, self._generator, error)
        elif next(self._generator, _OVER) is not _OVER:
            self._generator.close()
            raise _second_yield(self._function)


class _AsyncEntered:
    """The same of an async generator."""

    __slots__ = ("_function", "_generator")

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self._function = function
        self._generator = function(*args)

    async def __aenter__(self) -> Any:
        value = await anext(self._generator, _OVER)
        if value is _OVER:
            raise _no_yield(self._function)
        return value

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            if await anext(self._generator, _OVER) is _OVER:
                return
        else:
            try:
                await self._generator.athrow(error)
            except BaseException as raised:
                if _goes_on(error, raised, trace):
                    return
                raise
        await self._generator.aclose()
        raise _second_yield(self._function)


def _throw(function: Callable[..., Any], generator: Any, error: BaseException) -> None:
    """Raise an exception at the `yield`. Returns for the caller to let it go on, unless another one takes its place."""
    trace = error.__traceback__
    try:
        generator.throw(error)
    except BaseException as raised:
        if _goes_on(error, raised, trace):
            return
        raise
    generator.close()
    raise _second_yield(function)


def _goes_on(error: BaseException, raised: BaseException, trace: TracebackType | None) -> bool:
    """Whether a generator in which an exception was raised has ended over it, or let it pass: then that one goes on."""
    ends = (StopIteration, StopAsyncIteration)
    # What means the end of a generator cannot be raised by one: it leaves it as the cause of a RuntimeError.
    goes_on = isinstance(raised, ends) or raised is error or (isinstance(error, ends) and raised.__cause__ is error)
    if goes_on:
        error.__traceback__ = trace  # Without the lines of the generator, where it only came by.
    return goes_on


def _no_yield(function: Callable[..., Any]) -> RuntimeError:
    return RuntimeError(f"{function.__qualname__} ended without a yield. Write `yield` where the thing itself happens.")


def _second_yield(function: Callable[..., Any]) -> RuntimeError:
    return RuntimeError(f"{function.__qualname__} came to a second yield. Write one, where the thing itself happens.")
