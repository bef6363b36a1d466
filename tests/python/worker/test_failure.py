"""What is kept of an exception is bounded, whatever the exception does (bad-input rows of jobs that raise)."""

from __future__ import annotations

import msgspec
import pytest

from raftwork.storage.base import ERROR_BYTES_MAX, pack_error
from raftwork.worker.failure import Failure, describe, log_tail


def caught(raiser: object) -> BaseException:
    try:
        raiser()  # type: ignore[operator]
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def packed(failure: Failure) -> bytes:
    return pack_error(failure.type, failure.message, failure.traceback)


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Vicious(Exception):
    def __str__(self) -> str:
        raise KeyboardInterrupt

    @property
    def __notes__(self) -> list[str]:
        raise MemoryError


def fifty_megabytes() -> None:
    raise ValueError("x" * 50_000_000)


def a_thousand_links() -> None:
    error: Exception = ValueError(0)
    for number in range(1, 1_000):
        follower = ValueError(number)
        follower.__cause__ = error
        error = follower
    raise error


def a_circle() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__context__, second.__context__ = second, first
    raise first


def recursion() -> None:
    def deeper() -> None:
        deeper()

    deeper()


def group() -> None:
    raise ExceptionGroup("many", [ValueError(number) for number in range(10_000)])


def surrogates() -> None:
    raise ValueError("\udc80 and \ud800" * 9_000)


def raising(kind: type[BaseException]) -> object:
    def call() -> None:
        raise kind("told")

    return call


@pytest.mark.parametrize(
    "raiser",
    [fifty_megabytes, a_thousand_links, a_circle, recursion, group, surrogates]
    + [raising(kind) for kind in (KeyboardInterrupt, SystemExit, StopIteration, MemoryError, BaseException)]
    + [raising(lambda _: Unprintable()), raising(lambda _: Vicious())],  # type: ignore[list-item,arg-type]
)
def test_every_exception_fits(raiser: object) -> None:
    failure = describe(caught(raiser), ["line"] * 50)
    encoded = packed(failure)
    assert len(encoded) <= ERROR_BYTES_MAX
    assert msgspec.msgpack.decode(encoded) == list(failure), "and nothing of it was cut again"
    text, _, mark = failure.traceback.rpartition("\nFingerprint: ")
    assert failure.type and text.endswith("line\n") and len(mark.rstrip()) == 16


def test_a_long_message_keeps_both_ends() -> None:
    failure = describe(ValueError("begin" + "x" * 100_000 + "end"))
    assert failure.message.startswith("begin") and failure.message.endswith("end")
    assert "characters cut" in failure.message


def test_the_traceback_shows_the_cause_first() -> None:
    def call() -> None:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ValueError("outer") from error

    text = describe(caught(call)).traceback
    assert text.index("KeyError: 'inner'") < text.index("direct cause") < text.index("ValueError: outer")


def test_frames_of_the_worker_are_hidden() -> None:
    text = describe(caught(fifty_megabytes), hide=__file__).traceback
    assert "in fifty_megabytes" not in text and "Traceback" not in text


def test_the_log_tail_keeps_the_newest_lines() -> None:
    tail = log_tail([f"{number} " + "y" * 498 for number in range(100)])
    assert "  99 y" in tail and "  0 y" not in tail and "...\n" in tail
    assert log_tail([]) == ""
