"""Generators around a call: what they see of it, and what goes on whatever they do."""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from raftwork.around import Around, aenter, alayered, enter, layered

Runs = Callable[[Around, Callable[[], Any]], Any]


def by_layer(around: Around, body: Callable[[], Any]) -> Any:
    return layered([around], lambda context, args, kwargs: body())("context", [], {})


def by_awaited_layer(around: Around, body: Callable[[], Any]) -> Any:
    async def call(context: Any, args: Any, kwargs: Any) -> Any:
        return body()

    return asyncio.run(alayered([around], call)("context", [], {}))


def by_stack(around: Around, body: Callable[[], Any]) -> Any:
    with contextlib.ExitStack() as stack:
        enter(stack, around, "context")
        return body()


def by_async_stack(around: Around, body: Callable[[], Any]) -> Any:
    async def main() -> Any:
        async with contextlib.AsyncExitStack() as stack:
            await aenter(stack, around, "context")
            return body()

    return asyncio.run(main())


WAYS: dict[str, Runs] = {
    "layer": by_layer,
    "awaited layer": by_awaited_layer,
    "stack": by_stack,
    "async stack": by_async_stack,
}


@pytest.fixture(params=WAYS)
def runs(request: pytest.FixtureRequest) -> Runs:
    return WAYS[request.param]


def fail() -> None:
    raise ValueError("the body's")


def test_it_sees_the_end_and_the_value_comes_back(runs: Runs) -> None:
    seen: list[Any] = []

    def around(context: str) -> Iterator[None]:
        seen.append(context)
        yield
        seen.append("after")

    assert runs(around, lambda: 7) == 7
    assert seen == ["context", "after"]


def test_what_it_swallows_goes_on_without_its_lines(runs: Runs) -> None:
    seen: list[BaseException] = []

    def swallows(context: str) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            seen.append(error)

    with pytest.raises(ValueError, match="the body's") as raised:
        runs(swallows, fail)
    assert seen == [raised.value]
    assert "swallows" not in [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]


def test_what_it_lets_pass_is_the_same(runs: Runs) -> None:
    ended: list[str] = []

    def passes(context: str) -> Iterator[None]:
        try:
            yield
        finally:
            ended.append("yes")

    for error in (ValueError("no"), KeyboardInterrupt()):

        def body(error: BaseException = error) -> None:
            raise error

        with pytest.raises(type(error)) as raised:
            runs(passes, body)
        assert raised.value is error
    assert ended == ["yes", "yes"]


@pytest.mark.parametrize("way", [by_layer, by_stack])
def test_an_exception_that_no_generator_can_raise_goes_on(way: Runs) -> None:
    def passes(context: str) -> Iterator[None]:
        yield

    def stop() -> None:
        raise StopIteration("the body's")

    with pytest.raises(StopIteration, match="the body's"):
        way(passes, stop)


def test_what_it_raises_takes_its_place(runs: Runs) -> None:
    def turns(context: str) -> Iterator[None]:
        try:
            yield
        except ValueError:
            raise KeyError("its own") from None

    with pytest.raises(KeyError, match="its own") as raised:
        runs(turns, fail)
    assert isinstance(raised.value.__context__, ValueError)


@pytest.mark.parametrize("body", [fail, list])
def test_a_second_yield_is_an_error_that_names_it(runs: Runs, body: Callable[[], Any]) -> None:
    closed: list[str] = []

    def twice(context: str) -> Iterator[None]:
        with contextlib.suppress(ValueError):
            yield
        try:
            yield
        finally:
            closed.append("yes")

    with pytest.raises(RuntimeError, match=r"twice came to a second yield"):
        runs(twice, body)
    assert closed == ["yes"]


def test_no_yield_is_an_error_that_names_it(runs: Runs) -> None:
    def never(context: str) -> Iterator[None]:
        if context == "":
            yield

    with pytest.raises(RuntimeError, match=r"never ended without a yield"):
        runs(never, fail)


@pytest.mark.parametrize("way", [by_awaited_layer, by_async_stack])
def test_async_generators_are_treated_alike(way: Runs) -> None:
    seen: list[str] = []

    async def around(context: str) -> AsyncIterator[None]:
        await asyncio.sleep(0)
        try:
            yield
        except ValueError as error:
            seen.append(str(error))
        else:
            seen.append("after")

    async def twice(context: str) -> AsyncIterator[None]:
        yield
        yield

    async def never(context: str) -> AsyncIterator[None]:
        if context == "":
            yield

    async def turns(context: str) -> AsyncIterator[None]:
        try:
            yield
        finally:
            raise KeyError("its own")

    assert way(around, lambda: 7) == 7
    with pytest.raises(ValueError, match="the body's"):
        way(around, fail)
    assert seen == ["after", "the body's"]
    with pytest.raises(RuntimeError, match="second yield"):
        way(twice, list)
    with pytest.raises(RuntimeError, match="without a yield"):
        way(never, list)
    with pytest.raises(KeyError, match="its own"):
        way(turns, fail)


def test_the_first_is_the_outermost() -> None:
    seen: list[str] = []

    def named(name: str) -> Around:
        def around(context: str) -> Iterator[None]:
            seen.append(name)
            yield
            seen.append(f"/{name}")

        return around

    layered([named("a"), named("b")], lambda context, args, kwargs: seen.append("call"))("context", [], {})
    assert seen == ["a", "b", "call", "/b", "/a"]
