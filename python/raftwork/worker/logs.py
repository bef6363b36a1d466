"""Keeps the last log lines of each running job, so that a failure is stored with what led to it.

Records of the standard library are seen by a record factory around the one in place. Unlike a handler on the root
logger it changes nothing else: `basicConfig` still works, and a warning still reaches stderr when nothing is set up.
A record belongs to the job that runs in the context (`contextvars`) it was made in.
"""

from __future__ import annotations

import collections
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from raftwork.errors import ConfigError

__all__ = ["Capture", "LINES_MAX", "LINE_CHARS_MAX", "Ring", "check_level", "line_of", "set_up_logging"]

LINES_MAX = 500
"""Lines kept of each running job. With a failure fewer are stored."""
LINE_CHARS_MAX = 500
"""Characters kept of each line."""


class Ring:
    """The last lines of one job, numbered from 0 on. May be used by many threads."""

    __slots__ = ("_lines", "_lock", "_next")

    def __init__(self) -> None:
        self._lines: collections.deque[str] = collections.deque(maxlen=LINES_MAX)
        self._next = 0
        self._lock = threading.Lock()

    def append(self, line: str) -> None:
        """Keep one line more; the oldest go when there are too many."""
        with self._lock:
            self._lines.append(line)
            self._next += 1

    def numbered(self) -> tuple[int, list[str]]:
        """The number of the first line that is kept, and all that are."""
        with self._lock:
            return self._next - len(self._lines), list(self._lines)

    def __iter__(self) -> Iterator[str]:
        return iter(self.numbered()[1])


def line_of(level: str, text: str) -> str:
    """One line as it is kept: the time of day in UTC, the level, and the text on one line."""
    stamp = time.strftime("%H:%M:%S", time.gmtime())
    return f"{stamp} {level} {text[:LINE_CHARS_MAX]}".replace("\n", "\\n")


def check_level(level: str) -> str:
    """The name of a level of `logging`, as given.

    Raises:
        ConfigError: there is no such level.
    """
    if level not in logging.getLevelNamesMapping():
        raise ConfigError(f'log_level={level!r} is not the name of a level of logging, such as "INFO".')
    return level


def set_up_logging(level: str) -> None:
    """Let a process that is nothing but ours log to standard error from this level on, unless it does already."""
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s %(message)s")


class Capture:
    """Puts the record factory in place while at least one worker runs."""

    _lock = threading.Lock()
    _users = 0
    _inner: Callable[..., logging.LogRecord] | None = None

    def __init__(self, sink: Callable[[], Callable[[str], None] | None]) -> None:
        """`sink()` answers where the lines of the running job go, or None outside of jobs."""
        self._sink = sink

    def install(self) -> None:
        """Start capturing. May be called by several workers."""
        with Capture._lock:
            Capture._users += 1
            if Capture._users > 1:
                return
            inner = logging.getLogRecordFactory()
            Capture._inner = inner
            sink = self._sink

            def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
                record = inner(*args, **kwargs)
                write = sink()
                if write is not None:
                    try:
                        write(line_of(record.levelname, f"{record.name}: {record.getMessage()}"))
                    except Exception:
                        write(line_of(record.levelname, f"{record.name}: (a log line that cannot be formatted)"))
                return record

            Capture._factory = factory
            logging.setLogRecordFactory(factory)

    def remove(self) -> None:
        """Stop capturing when the last worker has stopped."""
        with Capture._lock:
            Capture._users -= 1
            # Somebody may have wrapped ours meanwhile; then it stays in the middle, and does nothing outside of jobs.
            if Capture._users == 0 and Capture._inner and logging.getLogRecordFactory() is Capture._factory:
                logging.setLogRecordFactory(Capture._inner)

    _factory: Callable[..., logging.LogRecord] | None = None
