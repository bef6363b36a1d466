"""The fingerprint of an error: the same for the same mistake, so that errors can be counted and told apart.

It is made of the types of the exception and of its causes, and of the functions that they went through, each as
`module.qualname`. Rules:
* No line numbers, files, addresses or values, and no message: a message mostly holds what differs from job to job.
* A function that calls itself counts once in a row, however deep it went. Comprehensions count as their function, as
  they have no frame of their own in newer versions of Python.
* Frames of the standard library and of installed packages do not count, so that an upgrade changes nothing; unless
  there are no others.
* Never raises.
"""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterator
from itertools import groupby, islice
from types import CodeType, TracebackType

from raftwork.remote_error import FINGERPRINT_HEADING

__all__ = ["fingerprint", "fingerprint_line", "fingerprint_of"]

LINKS_MAX = 10
FRAMES_MAX = 1_000
GROUP_MEMBERS_MAX = 10

_DIGITS = 16
_COMPREHENSIONS = ("<listcomp>", "<setcomp>", "<dictcomp>")
_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def fingerprint(error: BaseException, hide: str = "") -> str:
    """The fingerprint of what a job raised; leading frames of the directory `hide` do not count."""
    try:
        return fingerprint_of(*_parts(error, hide))
    except BaseException:  # Attributes of an exception may raise whatever they like.
        return fingerprint_of(type(error).__name__)


def fingerprint_of(*parts: str) -> str:
    """The fingerprint of an error without a traceback, such as a type and the function of the job."""
    whole = "\n".join(parts).encode("utf-8", "backslashreplace")
    return hashlib.sha256(whole).hexdigest()[:_DIGITS]


def fingerprint_line(fingerprint: str) -> str:
    """How it ends the text of a traceback: the one place that every version stores."""
    return f"{FINGERPRINT_HEADING}{fingerprint}\n"


def _parts(error: BaseException, hide: str) -> Iterator[str]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen and len(seen) < LINKS_MAX:
        seen.add(id(link))
        yield _type(link)
        if isinstance(link, BaseExceptionGroup):
            yield from sorted({f"+ {_type(member)}" for member in islice(link.exceptions, GROUP_MEMBERS_MAX)})
        yield from _functions(link.__traceback__, hide)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _functions(tb: TracebackType | None, hide: str) -> list[str]:
    frames = list(islice(_frames(tb, hide), FRAMES_MAX))
    own = [name for name, code in frames if not code.co_filename.startswith((*_LIBRARIES, "<frozen "))]
    return [name for name, _ in groupby(own or [name for name, _ in frames])]


def _frames(tb: TracebackType | None, hide: str) -> Iterator[tuple[str, CodeType]]:
    leading = bool(hide)
    while tb is not None:
        frame, code = tb.tb_frame, tb.tb_frame.f_code
        leading = leading and code.co_filename.startswith(hide)
        if not leading and code.co_name not in _COMPREHENSIONS:
            yield f"{frame.f_globals.get('__name__')}.{code.co_qualname}", code
        tb = tb.tb_next


def _type(error: BaseException) -> str:
    return f"{type(error).__module__}.{type(error).__qualname__}"
