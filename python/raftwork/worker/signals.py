"""Signals of a process that is nothing but a worker.

| signal                    | effect                                                                        |
|---------------------------|-------------------------------------------------------------------------------|
| first SIGTERM or SIGINT   | drain: claim nothing more, finish what runs, release the rest at the time-out |
| second                    | release at once what still runs, then exit                                    |
| third                     | exit without a word; the leases are found lost                                |

A library must not touch its host's signals: only `Worker.run()` and `Supervisor.run()` install these, on the main
thread, and put the old handlers back when they return.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

__all__ = ["STOP_SIGNALS", "SignalWatch", "StopSignals"]

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class SignalWatch:
    """While entered, calls a function for each signal of some kinds, in the order of their arrival.

    The calls come from a thread of its own. Python runs a signal's handler on the main thread between two steps of the
    interpreter, and a signal that the kernel gave to another thread, or that came just before the main thread went to
    sleep in a lock, does not wake it. The byte that the interpreter's own C handler writes to the wake-up descriptor is
    never late.
    """

    def __init__(self, numbers: Iterable[signal.Signals], heard: Callable[[signal.Signals], None]) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("Only the main thread can handle signals. Use Worker.start() and stop() elsewhere.")
        self._numbers = tuple(numbers)
        self._heard = heard
        self._old: dict[signal.Signals, Any] = {}
        self._old_descriptor = -1

    def __enter__(self) -> SignalWatch:
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._write_end, False)
        self._thread = threading.Thread(target=self._listen, name="raftwork-signals", daemon=True)
        self._thread.start()
        self._old_descriptor = signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        for number in self._numbers:
            self._old[number] = signal.signal(number, lambda number, frame: None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, old in self._old.items():
            signal.signal(number, signal.SIG_DFL if old is None else old)
        signal.set_wakeup_fd(self._old_descriptor)
        os.close(self._write_end)
        self._thread.join()
        os.close(self._read_end)

    def _listen(self) -> None:
        while arrived := os.read(self._read_end, 64):
            for number in arrived:
                if number in self._numbers:
                    self._heard(signal.Signals(number))


class StopSignals:
    """While entered, SIGTERM and SIGINT ask for a stop instead of ending the process."""

    def __init__(self, drain: Callable[[], None], now: Callable[[], None]) -> None:
        self._watch = SignalWatch(STOP_SIGNALS, self._take)
        self._left = [now, drain]
        self.last: signal.Signals | None = None

    @property
    def received(self) -> int:
        """How many stop signals were acted upon, two at most."""
        return 2 - len(self._left)

    def __enter__(self) -> StopSignals:
        self._watch.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watch.__exit__(kind, error, trace)

    def _take(self, number: signal.Signals) -> None:
        self.last = number
        if not self._left:
            os._exit(128 + number)
        self._left.pop()()
