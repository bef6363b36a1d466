"""The core's log lines, handed on to `logging` as `raftwork.core.PART`.

Threads of the core never call Python: they write lines into a pipe, and one thread here reads it. So whoever configures
`logging` gets them like any others; without configuration warnings reach the error stream, as those of any library.
"""

from __future__ import annotations

import logging
import os
import threading

from raftwork import _core

__all__ = ["start", "stop"]

LEVELS = {"ERROR": logging.ERROR, "WARN": logging.WARNING, "INFO": logging.INFO}

_lock = threading.Lock()
_thread: threading.Thread | None = None
_piped = False
"""Whether the core has been asked for its pipe."""


def start() -> None:
    """Begin to hand lines on. Harmless when it has begun."""
    global _piped, _thread
    with _lock:
        if _thread is None:
            reader, _ = _core.log_pipe()
            _piped = True
            _thread = threading.Thread(target=_hand_on, args=(reader,), name="raftwork-log", daemon=True)
            _thread.start()


def stop(timeout: float) -> None:
    """Hand on what was logged until now, within the time-out in seconds, and end. Harmless when it has ended."""
    global _thread
    with _lock:
        thread, _thread = _thread, None
        if thread is not None:
            os.write(_core.log_pipe()[1], b"\n")  # An empty line, which the core never writes, is the end.
            thread.join(timeout)


def _hand_on(reader: int) -> None:
    rest = b""
    while True:
        *lines, rest = (rest + os.read(reader, 65_536)).split(b"\n")
        for line in lines:
            if not line:
                return
            tell(line.decode("utf-8", "replace"))


def tell(line: str) -> None:
    """Log one line `LEVEL TARGET MESSAGE`; a target is the path of a module of the core."""
    level, _, rest = line.partition(" ")
    target, _, message = rest.partition(" ")
    part = target.removeprefix("raftwork::").removeprefix("_core::").partition("::")[0]
    logging.getLogger(f"raftwork.core.{part}").log(LEVELS.get(level, logging.WARNING), "%s", message)


def _in_forked_child() -> None:
    """The pipe is the parent's, and so is the thread: a pipe of its own takes the same numbers."""
    global _lock, _thread
    _lock, _thread = threading.Lock(), None
    if not _piped:
        return
    for own, inherited in zip(os.pipe(), _core.log_pipe(), strict=True):
        os.set_blocking(own, os.get_blocking(inherited))
        os.dup2(own, inherited, inheritable=False)
        os.close(own)


os.register_at_fork(after_in_child=_in_forked_child)
