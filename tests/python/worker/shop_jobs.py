"""Tasks for tests with several processes on one directory. A job knocks at the test and waits for its word."""

from __future__ import annotations

import asyncio
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


@app.task(name="shop.poison", max_crashes=2)
def poison() -> None:
    """Kill the worker that runs it."""
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(name="shop.poison_child", max_crashes=3, executor="process")
def poison_child() -> None:
    """Kill the child process that runs it."""
    os.kill(os.getpid(), signal.SIGKILL)


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


def once(path: str) -> int:
    """Write a line, and tell how many there are now: more than one if it was repeated."""
    with open(path, "a+") as ledger:
        ledger.write("once\n")
        ledger.flush()
        ledger.seek(0)
        return len(ledger.readlines())


@app.task(name="shop.steps", max_crashes=100)
def steps(ctx: JobContext, path: str) -> list[int]:
    """Two steps, and the worker is killed right after the first was remembered."""
    first = ctx.step("first", once, path)
    if ctx.crashes == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return [first, ctx.step("second", once, path)]


@app.task(name="shop.asteps", max_crashes=100)
async def asteps(ctx: JobContext, path: str) -> list[int]:
    """The same on an event loop."""
    first = await ctx.astep("first", asyncio.to_thread, once, path)
    if ctx.crashes == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return [first, await ctx.astep("second", asyncio.to_thread, once, path)]


@app.task(name="shop.child_steps", max_crashes=100, executor="process")
def child_steps(ctx: JobContext, path: str) -> list[int]:
    """The same in a child process, which alone is killed."""
    first = ctx.step("first", once, path)
    if ctx.crashes == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return [first, ctx.step("second", once, path)]


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
