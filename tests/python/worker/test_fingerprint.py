"""The same mistake has the same fingerprint, another one another."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from raftwork import Raftwork, RemoteError
from raftwork.storage.base import ERROR_BYTES_MAX, TRACEBACK_BYTES_MAX, pack_error
from raftwork.testing import harness
from raftwork.worker.failure import describe
from raftwork.worker.fingerprint import fingerprint, fingerprint_line, fingerprint_of

SOURCE = """
def outer(value):
    inner(value)

def inner(value):
    raise ValueError(f"no {value}")

def other(value):
    raise ValueError(f"no {value}")

def wraps(value):
    try:
        inner(value)
    except ValueError as error:
        raise LookupError(value) from error

def wraps_other(value):
    try:
        other(value)
    except ValueError as error:
        raise LookupError(value) from error

def deep(value):
    deep(value - 1) if value else inner(value)

def listed(value):
    return [inner(one) for one in [value]]

def plain(value):
    for one in [value]:
        inner(one)

def decodes(value):
    import json
    json.loads(value)
"""


def module(before: str = "", name: str = "shop.orders") -> dict[str, Any]:
    space: dict[str, Any] = {"__name__": name}
    exec(compile(before + SOURCE, f"/somewhere/{len(before)}.py", "exec"), space)
    return space


def mark(function: Callable[[Any], Any], value: Any = 1) -> str:
    with pytest.raises(Exception) as caught:
        function(value)
    return fingerprint(caught.value, hide=__file__)


def test_lines_files_values_and_messages_do_not_count() -> None:
    first, later = module(), module("\n" * 50 + "# a comment\n")
    assert mark(first["outer"], 1) == mark(later["outer"], "0x7f001234")
    assert len(mark(first["outer"])) == 16


def test_functions_modules_types_and_causes_do() -> None:
    space, elsewhere = module(), module(name="shop.mails")
    names = ("outer", "inner", "other", "wraps", "wraps_other")
    marks = [mark(space[name]) for name in names] + [mark(elsewhere["outer"])]
    assert len(set(marks)) == len(marks)


def test_how_deep_a_function_called_itself_does_not_count() -> None:
    deep = module()["deep"]
    assert mark(deep, 1) == mark(deep, 50)


def test_a_comprehension_counts_as_its_function() -> None:
    space = module()
    space["listed"].__code__ = space["listed"].__code__.replace(co_name="plain", co_qualname="plain")
    assert mark(space["listed"]) == mark(space["plain"])


def test_frames_of_libraries_count_only_if_there_are_no_others() -> None:
    decodes = module()["decodes"]
    assert mark(decodes, "{") == mark(decodes, "[1,"), "they fail in different functions of the decoder"
    in_library = fingerprint(_caught(lambda: json.loads("{")), hide=__file__)
    assert in_library != fingerprint_of("json.decoder.JSONDecodeError")


def test_a_group_counts_the_types_of_its_members() -> None:
    def group(*members: Exception) -> str:
        return fingerprint(ExceptionGroup("several", members))

    assert group(ValueError(1), KeyError(2)) == group(KeyError(3), ValueError(4), ValueError(5))
    assert group(ValueError(1)) != group(KeyError(1))


def test_an_exception_that_raises_when_it_is_looked_at_has_one_all_the_same() -> None:
    class Vicious(Exception):
        @property
        def __cause__(self) -> BaseException:
            raise MemoryError

    assert fingerprint(Vicious()) == fingerprint_of("Vicious")


def test_it_survives_the_longest_traceback_and_is_no_ones_words() -> None:
    failure = describe(ValueError("x" * 100_000), ["y" * 1_000] * 100)
    error = RemoteError(*_unpacked(pack_error(failure.type, failure.message, failure.traceback)))
    assert error.fingerprint == fingerprint_of("builtins.ValueError")
    cut = pack_error("E", "m", "z" * 2 * TRACEBACK_BYTES_MAX + fingerprint_line("0" * 16))
    assert RemoteError(*_unpacked(cut)).fingerprint == "0" * 16
    assert len(cut) <= ERROR_BYTES_MAX
    assert RemoteError("E", "m", "\nFingerprint: said in the middle\nand more\n").fingerprint is None
    assert RemoteError("E", "m").fingerprint is None


def test_jobs_that_fail_alike_have_the_same() -> None:
    app = Raftwork("shop", "memory://")
    space = module()

    @app.task(name="shop.one", retry=1)
    def one(value: str) -> None:
        space["outer"](value)

    @app.task(name="shop.two", retry=1)
    def two(value: str) -> None:
        space["other"](value)

    with harness(app, raise_errors=False) as h:
        jobs = [one.enqueue("a"), one.enqueue("b"), two.enqueue("a")]
        h.drain()
        errors = [job.info().error for job in jobs]
        marks = [error.fingerprint for error in errors if error is not None]
        assert len(marks) == 3
        assert marks[0] == marks[1] != marks[2]
        assert errors[0] is not None
        assert errors[0].traceback.endswith(f"\nFingerprint: {marks[0]}\n")


def _caught(call: Callable[[], Any]) -> BaseException:
    with pytest.raises(Exception) as caught:
        call()
    return caught.value


def _unpacked(packed: bytes) -> tuple[str, str, str]:
    kind, message, traceback = msgspec.msgpack.decode(packed)
    return kind, message, traceback
