"""Stored values as text for people, for lists and pages: loads no class, runs no code of the user, never raises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from raftwork import serde
from raftwork.secret import Secret

__all__ = ["describe", "describe_args"]


def describe_args(packed: bytes, chars_max: int = 200) -> str:
    """The arguments of a job, such as `7, template='vip'`."""
    try:
        args, kwargs = _decode(packed)
        shown = ", ".join([*map(repr, args), *(f"{name}={value!r}" for name, value in kwargs.items())])
    except Exception:  # Whatever is wrong with the bytes, a list of jobs must still be shown.
        return _unreadable(packed)
    return _shorten(shown, chars_max)


def describe(packed: bytes, chars_max: int = 200) -> str:
    """One value, such as a result."""
    try:
        shown = repr(_decode(packed))
    except Exception:  # As above.
        return _unreadable(packed)
    return _shorten(shown, chars_max)


class _Text(str):
    """Text that stands for a value inside a larger one."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _unreadable(packed: bytes) -> str:
    return f"<{len(packed)} unreadable bytes>"


def _shorten(shown: str, chars_max: int) -> str:
    return shown if len(shown) <= chars_max else shown[: chars_max - 3] + "..."


def _extension(code: int, body: memoryview) -> Any:
    if code == 16:
        return Secret(None)  # Not even read.
    if code not in (1, 2, 3, 11, 12, 14, 15):
        return serde.read_extension(code, body)
    content = _decode(bytes(body))
    if code == 1:
        return _Text(repr(tuple(content)))
    if code in (2, 3):
        items = ", ".join(map(repr, content))
        braces = f"{{{items}}}" if content else ""
        return _Text(f"frozenset({braces})" if code == 3 else braces or "set()")
    if code == 15:
        return _Text("{" + ", ".join(f"{key!r}: {value!r}" for key, value in content) + "}")
    reference, inner = content
    name = reference.rpartition(":")[2].rpartition(".")[2]
    if code == 11:
        return _Text(f"{name}.{inner}")
    if code == 14:
        return _Text(f"{name}({inner!r})")
    return _Text(f"{name}(" + ", ".join(f"{field}={value!r}" for field, value in inner.items()) + ")")


_decode: Callable[[bytes], Any] = msgspec.msgpack.Decoder(ext_hook=_extension).decode
