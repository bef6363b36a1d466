"""Tasks for tests with several processes on one directory. A job knocks at the test and waits for its word."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
from typing import Any

from raftwork import events
from raftwork.app import Raftwork
from raftwork.context import JobContext
from raftwork.worker import Worker

app = Raftwork(
    "shop",
    os.environ.get("SHOP_STORAGE", "memory://"),
    session_ttl=os.environ.get("SHOP_TTL", "15s"),
)


def knock(ctx: JobContext, port: int) -> socket.socket:
    """Tell the test which process runs which attempt with which token."""
    door = socket.create_connection(("127.0.0.1", port))
    door.sendall(f"{os.getpid()} {ctx.attempt} {ctx.crashes} {ctx.token}".encode().ljust(64))
    return door


@app.task(name="shop.waits", max_crashes=100)
def waits(ctx: JobContext, port: int) -> str:
    """Return what the test says."""
    with knock(ctx, port) as door:
        return door.recv(64).decode()


@app.task(name="shop.holds")
def holds(ctx: JobContext, port: int, seconds: float) -> int:
    """Keep the interpreter lock: no other thread of this process runs meanwhile."""
    with knock(ctx, port):
        ctypes.PyDLL(None).usleep(int(seconds * 1_000_000))
    return ctx.crashes


@app.task(name="shop.child", executor="process", max_crashes=100)
def child(ctx: JobContext, port: int) -> str:
    """The same in a child process."""
    with knock(ctx, port) as door:
        return door.recv(64).decode()


@app.task(name="shop.saves", max_crashes=100)
def saves(ctx: JobContext, page: int) -> int:
    """Save, and be killed at once; the next attempt has it."""
    if ctx.state is None:
        ctx.save(page)
        os.kill(os.getpid(), signal.SIGKILL)
    return int(ctx.state)


@app.task(name="shop.asaves", max_crashes=100)
async def asaves(ctx: JobContext, page: int) -> int:
    """The same on an event loop."""
    if ctx.state is None:
        await ctx.asave(page)
        os.kill(os.getpid(), signal.SIGKILL)
    return int(ctx.state)


@app.task(name="shop.notes", max_crashes=100)
def notes(ctx: JobContext, path: str, number: int) -> int:
    """Write one line to a ledger outside of raftwork."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, f"{number}\n".encode())
    finally:
        os.close(descriptor)
    return number


@app.task(name="shop.follows", executor="process")
def follows(path: str) -> str:
    """A child process stores a job, too."""
    return str(notes.enqueue(path, 7).id)


def tell_of_draining(port: int) -> None:
    """Connect to the test when the worker has stopped claiming."""

    def heard(event: events.Event) -> None:
        if event.name == "worker.draining":
            socket.create_connection(("127.0.0.1", port)).close()

    events.subscribe(heard)


def main() -> int:
    """One worker process."""
    if "SHOP_DRAINING" in os.environ:
        tell_of_draining(int(os.environ["SHOP_DRAINING"]))
    options: dict[str, Any] = {"threads": 2, "processes": 1, "drain_timeout": os.environ.get("SHOP_DRAIN", "30s")}
    worker = Worker(app, **options)
    try:
        return worker.run()
    finally:
        app.close()


if __name__ == "__main__":
    sys.exit(main())
