"""Keys of a person at a terminal, one at a time."""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from collections.abc import Callable, Generator
from contextlib import contextmanager

__all__ = ["keyboard"]


@contextmanager
def keyboard(wanted: bool) -> Generator[Callable[[float], str | None] | None]:
    """A function that waits up to so many seconds for a key; None where there is no terminal, or it is not wanted.

    Keys arrive one at a time and are not shown. The terminal is as before at the end, whatever happens.
    """
    if not (wanted and sys.stdin.isatty() and sys.stdout.isatty()):
        yield None
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def poll(seconds: float) -> str | None:
        if not select.select([descriptor], [], [], seconds)[0]:
            return None
        said = os.read(descriptor, 1)
        # The end of the input is that of the program: nobody can press `q` any more.
        return said.decode(errors="replace").lower() if said else "q"

    try:
        tty.setcbreak(descriptor)
        yield poll
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
