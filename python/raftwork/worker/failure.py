"""What is kept of an exception: its type, its message, its traceback, the last log lines and its fingerprint, within
a bound.

Rules
* Never raises, whatever the exception does in `__str__`, `__repr__` or `__cause__`.
* Never larger than `ERROR_BYTES_MAX` once encoded: every part has a bound of its own, and the sum of the bounds fits.
* The ends matter more than the middle: a text that is too long keeps its beginning and its end and says what was cut.
* A chain is followed for `CHAIN_LINKS_MAX` links. It is shown as Python shows it: the oldest first.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from types import TracebackType
from typing import NamedTuple

from raftwork.job_info import LOG_HEADING
from raftwork.storage.base import ERROR_BYTES_MAX
from raftwork.worker.fingerprint import fingerprint, fingerprint_line

__all__ = ["Failure", "describe", "log_tail", "user_frames"]

TYPE_CHARS_MAX = 200
MESSAGE_BYTES_MAX = 8 << 10
TRACEBACK_BYTES_MAX = 28 << 10
LOG_BYTES_MAX = 16 << 10
LOG_LINES_MAX = 50
"""Lines that are stored of those that a job has logged."""
LINK_MESSAGE_BYTES_MAX = 2 << 10
CHAIN_LINKS_MAX = 10
FRAMES_MAX = 40
GROUP_MEMBERS_MAX = 10

assert 4 * TYPE_CHARS_MAX + MESSAGE_BYTES_MAX + TRACEBACK_BYTES_MAX + LOG_BYTES_MAX + 1024 <= ERROR_BYTES_MAX

_CAUSE = "\nThe above exception was the direct cause of the following exception:\n\n"
_CONTEXT = "\nDuring handling of the above exception, another exception occurred:\n\n"


class Failure(NamedTuple):
    """How an attempt failed, as it is stored."""

    type: str
    message: str
    traceback: str = ""


def describe(error: BaseException, log: Iterable[str] = (), hide: str = "", mark: str = "") -> Failure:
    """Describe an exception within the bounds of this module.

    Args:
        error: what the job raised.
        log: the last lines that the job logged; they follow the traceback.
        hide: leading frames of this directory are the worker's own and are left out.
        mark: the fingerprint, if the exception does not tell it.
    """
    try:
        text = shorten(_chain(error, hide), TRACEBACK_BYTES_MAX)
    except BaseException as trouble:  # Also MemoryError and RecursionError: a failure must not fail to be told.
        text = f"(the traceback could not be formatted: {type(trouble).__name__})"
    text += log_tail(log) + fingerprint_line(mark or fingerprint(error, hide))
    return Failure(type_name(error), shorten(message_of(error), MESSAGE_BYTES_MAX), text)


def type_name(error: BaseException) -> str:
    """The name of the exception's class, with its module unless it is built in."""
    kind = type(error)
    module = kind.__module__
    name = kind.__qualname__ if module in ("builtins", None) else f"{module}.{kind.__qualname__}"
    return _clean(name[:TYPE_CHARS_MAX])


def message_of(error: BaseException) -> str:
    """`str(error)`, or words about why there is none."""
    try:
        return _clean(str(error))
    except BaseException as trouble:
        return f"(str() of this exception raised {type(trouble).__name__})"


def shorten(text: str, bytes_max: int) -> str:
    """Cut the middle out of a text so that it takes at most `bytes_max` bytes as UTF-8."""
    if len(text) * 4 <= bytes_max:
        return text
    if len(text) <= bytes_max and len(text.encode("utf-8", "replace")) <= bytes_max:
        return text
    keep = max(bytes_max - 64, 8)
    # At most `keep` characters can matter: bounding first keeps a text of 50 MB from being copied again and again.
    head = text[: keep // 2].encode("utf-8", "replace")[: keep // 2].decode("utf-8", "ignore")
    tail = text[-(keep // 2) :].encode("utf-8", "replace")[-(keep // 2) :].decode("utf-8", "ignore")
    return f"{head}\n... {len(text) - len(head) - len(tail)} characters cut ...\n{tail}"


def log_tail(log: Iterable[str]) -> str:
    """The last lines of a job's log as the tail of its traceback field; empty when it logged nothing."""
    kept: list[str] = []
    room = LOG_BYTES_MAX - len(LOG_HEADING) - 64
    for line in reversed(list(log)[-LOG_LINES_MAX:]):
        size = len(line.encode("utf-8", "replace")) + 3
        if size > room:
            kept.append("...")
            break
        room -= size
        kept.append(_clean(line))
    return LOG_HEADING + "".join(f"  {line}\n" for line in reversed(kept)) if kept else ""


def _chain(error: BaseException, hide: str) -> str:
    parts: list[str] = []
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen and len(seen) < CHAIN_LINKS_MAX:
        seen.add(id(link))
        parts.append(_one(link, hide))
        if link.__cause__ is not None:
            parts.append(_CAUSE)
            link = link.__cause__
        elif link.__context__ is not None and not link.__suppress_context__:
            parts.append(_CONTEXT)
            link = link.__context__
        else:
            return "".join(reversed(parts))
    parts.append("(older exceptions of the chain are left out)\n")
    return "".join(reversed(parts))


def _one(error: BaseException, hide: str) -> str:
    own = user_frames(error.__traceback__, hide)
    lines = ["Traceback (most recent call last):\n", *traceback.format_tb(own, limit=-FRAMES_MAX)] if own else []
    lines.append(f"{type_name(error)}: {shorten(message_of(error), LINK_MESSAGE_BYTES_MAX)}\n")
    lines.extend(f"{_clean(str(note))[:500]}\n" for note in list(getattr(error, "__notes__", ()))[:10])
    if isinstance(error, BaseExceptionGroup):
        lines.extend(
            f"  + {type_name(member)}: {shorten(message_of(member), 400)}\n"
            for member in error.exceptions[:GROUP_MEMBERS_MAX]
        )
    return _clean("".join(lines))


def user_frames(tb: TracebackType | None, hide: str) -> TracebackType | None:
    """A traceback without its leading frames in the directory `hide`; None if there are no others."""
    while tb is not None and hide and tb.tb_frame.f_code.co_filename.startswith(hide):
        tb = tb.tb_next
    return tb


def _clean(text: str) -> str:
    """Replace lone surrogates, which UTF-8 cannot carry."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text
