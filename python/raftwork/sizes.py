"""Amounts of memory as people write them: `"512MB"`, `"1.5GiB"`, never a bare number, whose unit would be guessed."""

from __future__ import annotations

import re

from raftwork.errors import InvalidOption

__all__ = ["size_bytes", "text"]

_UNITS = {"kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_TEXT = re.compile(rf"([0-9]{{1,12}}(?:\.[0-9]{{1,3}})?) ?({'|'.join(_UNITS)})", flags=re.ASCII)


def size_bytes(value: object, option: str, *, least: int, most: int) -> int:
    """The bytes of a size.

    Raises:
        InvalidOption: not a size, or outside `least` to `most`. The message names `option` and the range.
    """
    found = _TEXT.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise InvalidOption(f'{option}={value!r} is not a size. Write a number with a unit, such as "512MB" or "2GiB".')
    size = round(float(found[1]) * _UNITS[found[2]])
    if not least <= size <= most:
        raise InvalidOption(f"{option}={value!r} is out of range: from {text(least)} to {text(most)}.")
    return size


def text(size: int) -> str:
    """A size for people, to three digits: 536,870,912 gives `"537MB"`."""
    for unit in ("TB", "GB", "MB", "kB"):
        if size >= _UNITS[unit]:
            return f"{size / _UNITS[unit]:.3g}{unit}"
    return f"{size} bytes"
