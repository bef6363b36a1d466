"""A task that logs in a child process, and waits."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator

from raftwork import Raftwork
from worker.child_jobs import knock

app = Raftwork("logs", "memory://")
WAIT_S = 60


@app.task(executor="process")
def talks(port: int) -> None:
    """Log, and wait until somebody hangs up."""
    logging.getLogger("shop").warning("in a child")
    with contextlib.suppress(OSError):
        knock(port).recv(1)


@contextlib.contextmanager
def door() -> Iterator[tuple[int, Callable[[], socket.socket]]]:
    """A port, and what waits for a knock at it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(WAIT_S)
        yield server.getsockname()[1], lambda: server.accept()[0]


def wait_until(holds: Callable[[], bool]) -> bool:
    """Look until something holds, or it has taken too long."""
    until = time.monotonic() + WAIT_S
    while not holds() and time.monotonic() < until:
        threading.Event().wait(0.01)
    return holds()
