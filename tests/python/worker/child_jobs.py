"""Tasks that run in child processes; each test makes an application of them."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import socket
import sys
import time
from typing import Any

from raftwork.app import Raftwork
from raftwork.context import JobContext, current_job
from raftwork.errors import ConfigError

app = Raftwork("children", "memory://")
remembered: list[int] = []


def knock(port: int) -> socket.socket:
    """Tell the test that the job runs, and in which process."""
    door = socket.create_connection(("127.0.0.1", port))
    door.sendall(str(os.getpid()).encode().ljust(16))
    return door


@app.task(executor="process")
def add(a: int, b: int) -> int:
    return a + b


@app.task(executor="process")
def pid() -> int:
    return os.getpid()


@app.task(executor="process", retry=1)
def fails() -> None:
    logging.getLogger("shop").warning("the last words")
    raise KeyError("in a child")


@app.task(executor="process")
def remembers(number: int) -> list[int]:
    remembered.append(number)
    return remembered


@app.task(executor="process")
def contexts(ctx: JobContext) -> Any:
    for done in range(100):
        ctx.progress(done, 100)
    ctx.progress(100, 100, "all")
    if ctx.state is None:
        ctx.save({"from": os.getpid()})
        os.kill(os.getpid(), signal.SIGKILL)
    return [ctx.state, ctx.attempt, ctx.crashes]


@app.task(executor="process", retry=1)
def saves(number: int) -> int:
    current_job().save(number)
    return number


@app.task(executor="process")
def saves_on_a_loop() -> int:
    async def save() -> None:
        current_job().save(1)
        await current_job().asave(2)

    asyncio.run(save())
    state: int = current_job().state
    return state


@app.task(executor="process", retry=1)
def enqueues() -> str:
    return str(add.enqueue(1, 2).id)


@app.task(executor="process")
def reads() -> list[str]:
    refused = []
    for read in (app.counts, app.open, current_job_of_the_app):
        try:
            read()
        except ConfigError as error:
            refused.append(error.code)
    return refused


def current_job_of_the_app() -> None:
    app.job(current_job().id).info()


@app.task(executor="process", max_crashes=2)
def dies(how: str) -> None:
    logging.getLogger("shop").warning("about to die")
    if how == "exit":
        os._exit(3)
    if how == "segfault":
        ctypes.string_at(0)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "fork":
        if os.fork() == 0:
            time.sleep(20)  # Keeps the pipe open while its parent is dead.
            os._exit(0)
        os._exit(4)
    sys.exit(5)


@app.task(executor="process", timeout="200ms", retry=1)
def spins() -> None:
    while True:
        pass


@app.task(executor="process", timeout="200ms", retry=1)
def sleeps(port: int) -> None:
    with knock(port):
        time.sleep(20)


@app.task(executor="process")
def polite(ctx: JobContext, port: int) -> None:
    with knock(port):
        while True:
            ctx.check_cancelled()
            time.sleep(0.005)


@app.task(executor="process")
def deaf(port: int) -> None:
    with knock(port):
        while True:
            try:
                time.sleep(20)
            except BaseException:
                pass


@app.task(name="child_jobs.acts", executor="async")
async def acts() -> int:
    await asyncio.sleep(0)
    return os.getpid()
