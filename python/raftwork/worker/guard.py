"""Interrupts a Python thread that runs a job past its time.

CPython can raise an exception in another thread (`PyThreadState_SetAsyncExc`). It arrives at the next bytecode, so a
thread that sits in C code gets it when that code returns, and never if it never returns. That is why a time-out of a
job on a thread is soft, and why `executor="process"` exists.

The danger is an exception that arrives after the job has ended, in the worker's own code or in the next job. So:

* `interrupt` and `leave` hold the same lock; after `leave` no exception can be raised any more.
* `leave` takes back an exception that was raised but has not arrived yet.
* At most one exception is raised per job, so a `leave` that is itself interrupted can simply be called again.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import TypeVar

__all__ = ["Interrupt", "ThreadGuard", "call_guarded"]

T = TypeVar("T")

_set_async_exc = ctypes.pythonapi.PyThreadState_SetAsyncExc
_set_async_exc.argtypes = (ctypes.c_ulong, ctypes.py_object)
_set_async_exc.restype = ctypes.c_int


class Interrupt(BaseException):
    """Raised inside a job's thread when its time is over. Not an `Exception`: `except Exception` lets it pass."""


class ThreadGuard:
    """Lets another thread interrupt the job that this thread runs, and only while it runs."""

    __slots__ = ("_inside", "_lock", "_thread_id", "interrupted")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread_id = threading.get_ident()
        self._inside = True
        self.interrupted = False

    def interrupt(self) -> bool:
        """Raise `Interrupt` in the thread, unless the job has ended or was interrupted before."""
        with self._lock:
            if not self._inside or self.interrupted:
                return False
            self.interrupted = True
            threads: int = _set_async_exc(self._thread_id, ctypes.py_object(Interrupt))
            return threads == 1

    def leave(self) -> None:
        """The job has ended: from now on nothing is raised in this thread. May be called again."""
        with self._lock:
            if self._inside and self.interrupted:
                # A null pointer, not None: it takes back what has not arrived yet.
                _set_async_exc(self._thread_id, ctypes.py_object())
            self._inside = False


def call_guarded(guard: ThreadGuard, call: Callable[[], T]) -> T:
    """Call a function that `guard.interrupt` may end. Raises `Interrupt` when it did."""
    try:
        try:
            return call()
        finally:
            guard.leave()
    except Interrupt:
        guard.leave()  # The interrupt may have hit the first `leave`; there is never a second one.
        raise
