"""A child process of the process executor: runs one job at a time and speaks with its worker over a pipe.

| from the worker                   | meaning                                                        |
|-----------------------------------|----------------------------------------------------------------|
| `["load", target, sys.path, level]` | first message: import the application, log from this level on |
| `["job", claim]`                  | run this job, unread bytes of the core                         |
| `["stop", token, cause]`          | tell the job on this lease to end, also if it comes later      |
| `["saved", problem]`              | the state of one `write` is stored, or `[type, message]` says why not |
| `["exit"]`                        | end when idle                                                  |

| to the worker                     | meaning                                                        |
|-----------------------------------|----------------------------------------------------------------|
| `["ready", [function...]]`        | the application is imported                                    |
| `["unusable", type, message, traceback]` | it cannot be imported                                   |
| `["write", progress, state]`      | store this for the running job; state is answered by `saved`   |
| `["line", text]`                  | the job logged a line                                          |
| `["done", report]`                | how the job ended, bytes for the core; empty: say nothing      |

The main thread runs jobs, so that a time-out can interrupt it and code that insists on the main thread works. A second
thread reads the pipe. When the pipe ends while a job runs, or while the application is imported, the worker is dead and
the process ends at once: nobody may run a job whose lease nobody holds.
"""

from __future__ import annotations

import os
import queue
import signal
import socket
import sys
import threading
from typing import Any

from raftwork import errors
from raftwork.worker.binding import Binding, bindings_of
from raftwork.worker.failure import describe
from raftwork.worker.held import Held
from raftwork.worker.leases import Board
from raftwork.worker.logs import Capture, set_up_logging
from raftwork.worker.pipe import Pipe, PipeClosed
from raftwork.worker.run import Cause, Run
from raftwork.worker.runner import Runner, line_sink
from raftwork.worker.target import load
from raftwork.worker.timekeeper import Timekeeper

__all__ = ["main"]

NOT_SHARED = (
    "The jobs of this application are in the memory of the worker's own process, and this code runs in a child process "
    'of it (executor="process"). Keep them in a directory, storage="raft:///jobs", or run the task on a thread.'
)
"""Why a child may not use a storage that it would have for itself alone."""


class _Host:
    """Runs the jobs that come through the pipe. It is their channel, too."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._bindings: dict[str, Binding] = {}
        self._board = Board()
        self._held = Held()
        self._runner = Runner(self._bindings, self._board, self, Timekeeper())
        self._idle = False
        self._jobs: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._told = threading.Condition()
        self._states_sent = 0
        self._states_answered = 0
        self._problem: list[str] | None = None
        """Why the state that was answered last is not stored."""

    def prepare(self, first: list[Any]) -> bool:
        """Import the application. False when that is impossible; the worker is told."""
        # From now on somebody notices when the worker dies, also during an import that takes long.
        threading.Thread(target=self._listen, name="raftwork-pipe", daemon=True).start()
        try:
            _, target, path, log_level = first
            if log_level is not None:
                set_up_logging(log_level)
            sys.path[:] = path
            app = load(target)
            if not app.storage.capabilities.shared:
                app.put_out_of_reach(NOT_SHARED)
            self._bindings.update(bindings_of(app, self._held))
            self._runner.use(app.codecs)
            self._held.open(app.middleware.of_worker)
        except BaseException as error:
            self._pipe.send("unusable", *describe(error))
            return False
        self._pipe.send("ready", sorted(self._bindings))
        return True

    def serve(self) -> None:
        """Run jobs on this thread until the worker says that it is enough."""
        try:
            while (raw := self._next()) is not None:
                self._pipe.send("done", self._runner.run(raw) or b"")
        finally:
            self._held.close()

    def _next(self) -> bytes | None:
        self._idle = True
        raw = self._jobs.get()
        self._idle = False
        return raw

    def write(self, run: Run, progress: bytes | None, state: bytes | None) -> None:
        """Hand progress or state to the worker, which answers for each state."""
        if state is not None:
            with self._told:
                self._states_sent += 1
        self._pipe.send("write", progress, state)

    def settle(self, run: Run) -> None:
        """Wait until the worker has answered for all states. It does so within its own time-out, or is dead."""
        with self._told:
            sent = self._states_sent
            self._told.wait_for(lambda: self._states_answered >= sent)
            if self._problem is not None:
                kind, message = self._problem
                raise getattr(errors, kind, errors.StorageError)(message)

    def line(self, run: Run, line: str) -> None:
        """Hand a log line to the worker, which needs it if this process crashes."""
        self._pipe.send("line", line)

    def _listen(self) -> None:
        try:
            while True:
                match self._pipe.receive():
                    case ["job", bytes() as raw]:
                        self._jobs.put(raw)
                    case ["stop", int() as token, int() as cause]:
                        self._board.stop(token, Cause(cause))
                    case ["saved", problem]:
                        with self._told:
                            self._states_answered += 1
                            self._problem = problem
                            self._told.notify_all()
                    case _:
                        break
        except PipeClosed:
            if not self._idle:
                os._exit(1)
        self._jobs.put(None)


def main(descriptor: int) -> int:
    """Serve the worker at the other end of this socket; returns the exit status."""
    # Ctrl-C and a service manager signal the whole group; the worker alone decides when its children end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pipe = Pipe(socket.socket(fileno=descriptor))
    try:
        host = _Host(pipe)
        if not host.prepare(pipe.receive()):
            return 1
        Capture(line_sink).install()
        host.serve()
    except PipeClosed:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
