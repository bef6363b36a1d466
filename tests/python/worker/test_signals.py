"""Signals of a worker process are heard at once, whatever its main thread waits for."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

from raftwork.worker.signals import SignalWatch

pytestmark = pytest.mark.crash

CHILD = """
import queue, signal, threading
from raftwork.worker.signals import STOP_SIGNALS, SignalWatch

# The kernel may give a signal to any thread. Here it always takes this one, so that the main thread's wait is never
# interrupted.
threading.Thread(target=threading.Event().wait, daemon=True).start()
signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)

with SignalWatch(STOP_SIGNALS, lambda number: print(number.name, flush=True)):
    print("ready", flush=True)
    queue.SimpleQueue().get()
"""


def test_a_signal_is_heard_while_the_main_thread_sleeps() -> None:
    with subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        # The first may still find the main thread awake; each waits for the answer of the one before.
        for number in [signal.SIGTERM, signal.SIGINT] * 10:
            child.send_signal(number)
            assert child.stdout.readline() == f"{number.name}\n"
        child.kill()


def test_the_host_gets_its_handlers_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with SignalWatch([signal.SIGTERM], lambda number: None):
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
    assert signal.set_wakeup_fd(-1) == -1
    assert not [thread for thread in threading.enumerate() if thread.name == "raftwork-signals"]


def test_only_the_main_thread_can_watch() -> None:
    errors: list[str] = []

    def watch() -> None:
        try:
            SignalWatch([signal.SIGTERM], lambda number: None)
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=watch)
    thread.start()
    thread.join()
    assert errors == ["Only the main thread can handle signals. Use Worker.start() and stop() elsewhere."]
