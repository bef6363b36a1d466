"""Tasks that take memory and processor time in child processes."""

from __future__ import annotations

import hashlib
import logging
import os

from raftwork import JobContext, LimitExceeded, Raftwork, Retry
from worker.child_jobs import knock

app = Raftwork("limits", "memory://")
MIB = 1 << 20


@app.task(executor="process", memory="200MB", retry=1)
def grows(mebibytes: int, port: int = 0) -> int:
    """Take memory; with a port, keep it until somebody ends the job."""
    logging.getLogger("shop").warning("about to grow")
    blocks = [b"\x01" * MIB for _ in range(mebibytes)]
    if port:
        knock(port).recv(1)
    return len(blocks)


@app.task(executor="process", cpu="300ms", retry=1)
def burns() -> None:
    """Take processor time, in C code as well."""
    block = b"x" * (64 * MIB)
    while True:
        hashlib.sha256(block)


@app.task(executor="process", cpu="300ms", memory="1GB", retry=Retry(2, base="0s"))
def burns_at_first(ctx: JobContext) -> int:
    """The second attempt is modest."""
    while ctx.attempt == 1:
        pass
    return ctx.attempt


@app.task(executor="process", memory="200MB", retry=Retry(5, unless=(LimitExceeded,)))
def grows_once(port: int) -> None:
    """A policy that takes a limit for an answer."""
    grows.fn(400, port)


@app.task(executor="process")
def pid() -> int:
    """The process."""
    return os.getpid()


@app.task(executor="process", cpu="1s")
def modest() -> int:
    """Some processor time; many of them take more than the limit of one."""
    return len([number for number in range(2_000_000) if number % 7 == 0])
