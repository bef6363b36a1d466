"""Keeps N whole worker processes running: `raftwork worker --processes N`.

* Each child is a complete worker with its own interpreter, session and leases. Nothing is shared, so one that crashes
  takes only its own running jobs with it, and those are given to the others.
* A child that ends by itself is started again, at first at once, then later and later if it keeps ending soon.
* `restart` replaces all of them: each drains, and the next one starts when it has ended.
* SIGTERM and SIGINT are passed on, each time they arrive; the supervisor ends when its children have ended.
* A child outlives a killed supervisor only until it sees the end of the pipe it inherited: `end_with_parent`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence

from raftwork.worker.signals import STOP_SIGNALS, SignalWatch

__all__ = ["Supervisor", "end_with_parent"]

logger = logging.getLogger("raftwork.worker")

PARENT_PIPE = "RAFTWORK_SUPERVISOR_PIPE"
HEALTHY_S = 10.0
BACKOFF_S = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class _Child:
    """One place in the set of processes, with the history that decides when it is filled again."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: subprocess.Popen[bytes] | None = None
        self.started_at = 0.0
        self.start_at = 0.0
        self.early_ends = 0
        self.replaced = False
        """It was told to end because another is to take its place."""


class Supervisor:
    """Starts worker processes and keeps them running until it is told to stop."""

    def __init__(
        self,
        command: Sequence[str],
        processes: int,
        *,
        env: Mapping[str, str] | None = None,
        backoff_s: Sequence[float] = BACKOFF_S,
    ) -> None:
        """Prepare; nothing starts before `run`.

        Args:
            command: the command line of one worker process.
            processes: how many to keep running.
            env: the environment of the children; the own one when left out.
            backoff_s: seconds to wait before a child that ended early is started again, by how often it did.
        """
        if processes < 1:
            raise ValueError(f"A supervisor needs at least one process, not {processes}.")
        self._command = list(command)
        self._children = [_Child(number) for number in range(processes)]
        self._env = dict(os.environ if env is None else env)
        self._backoff_s = tuple(backoff_s)
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._signals: list[signal.Signals] = []
        self._stopping = False
        self._restart = False
        self._pipe = os.pipe()

    def pids(self) -> list[int]:
        """The ids of the children that run now."""
        return [child.process.pid for child in self._children if child.process is not None]

    def restart(self) -> None:
        """Replace every child by a new one, and start at once what waits after an early end. From any thread."""
        self._restart = True
        self._wake.put(None)

    def run(self) -> int:
        """Keep the children running until a stop signal came and all have ended; returns the exit status to use."""
        try:
            with SignalWatch((*STOP_SIGNALS, signal.SIGCHLD), self._on_signal):
                while True:
                    self._reap()
                    self._forward()
                    self._replace()
                    if self._stopping and not self.pids():
                        return 0
                    pause = self._start_due()
                    with contextlib.suppress(queue.Empty):
                        self._wake.get(timeout=pause)
        finally:
            for end in self._pipe:
                os.close(end)

    def _on_signal(self, number: signal.Signals) -> None:
        if number is not signal.SIGCHLD:
            self._stopping = True
            self._signals.append(number)
        self._wake.put(None)

    def _forward(self) -> None:
        while self._signals:
            number = self._signals.pop(0)
            for child in self._children:
                if child.process is not None:
                    child.process.send_signal(number)

    def _replace(self) -> None:
        if not self._restart or self._stopping:
            return
        self._restart = False
        for child in self._children:
            if child.process is None:
                child.start_at, child.early_ends = 0.0, 0
            elif not child.replaced:  # A second signal would cut short what it still runs.
                child.replaced = True
                child.process.send_signal(signal.SIGTERM)

    def _reap(self) -> None:
        now = time.monotonic()
        for child in self._children:
            if child.process is None or child.process.poll() is None:
                continue
            status, child.process = child.process.returncode, None
            if self._stopping:
                continue
            if child.replaced:
                child.start_at, child.early_ends, child.replaced = now, 0, False
                continue
            child.early_ends = child.early_ends + 1 if now - child.started_at < HEALTHY_S else 0
            wait = self._backoff_s[min(child.early_ends, len(self._backoff_s) - 1)]
            child.start_at = now + wait
            logger.warning(
                "Worker process %d ended with %s. It is started again in %.1f s.", child.number, status, wait
            )

    def _start_due(self) -> float:
        """Start the children whose time has come; returns how long nothing needs to be done."""
        pause = 60.0
        now = time.monotonic()
        for child in self._children:
            if child.process is not None or self._stopping:
                continue
            if child.start_at > now:
                pause = min(pause, child.start_at - now)
                continue
            read_end = self._pipe[0]
            child.process = subprocess.Popen(
                self._command,
                env={**self._env, PARENT_PIPE: str(read_end)},
                stdin=subprocess.DEVNULL,
                pass_fds=(read_end,),
                # Ctrl-C in a terminal reaches the whole group; the children must get it once, from here.
                start_new_session=True,
            )
            child.started_at = now
        return pause


def end_with_parent() -> bool:
    """In a supervised child: watch the supervisor, and stop this process when it is gone.

    Sends the own process a SIGTERM, so that it drains. Returns whether there is a supervisor to watch.
    """
    descriptor = os.environ.pop(PARENT_PIPE, "")
    if not descriptor.isdigit():
        return False

    def watch() -> None:
        try:
            os.read(int(descriptor), 1)  # Nothing is ever written: it returns at the end of the pipe.
        except OSError:
            return
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="raftwork-parent", daemon=True).start()
    return True
