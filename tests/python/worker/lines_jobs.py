"""Tasks that log what the test says, in threads, coroutines and child processes; and a worker process for them."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys

from raftwork.app import Raftwork
from raftwork.worker import Worker

app = Raftwork("lines", os.environ.get("SHOP_STORAGE", "memory://"))
logger = logging.getLogger("shop")
LOGGED = b"logged"


def talk(port: int) -> str:
    """Log each word of the test and say so, until it says how to end."""
    with socket.create_connection(("127.0.0.1", port)) as door:
        door.sendall(str(os.getpid()).encode().ljust(16))
        while True:
            word = door.recv(1_024).decode()
            if word == "fail":
                raise ValueError("as the test said")
            if word in ("end", ""):
                return word
            logger.warning("%s", word)
            door.sendall(LOGGED)


@app.task(name="lines.thread", retry=1)
def thread(port: int) -> str:
    """In a thread of the worker."""
    return talk(port)


@app.task(name="lines.async", retry=1)
async def coroutine(port: int) -> str:
    """In a coroutine."""
    return await asyncio.to_thread(talk, port)


@app.task(name="lines.process", retry=1, executor="process")
def process(port: int) -> str:
    """In a child process."""
    return talk(port)


if __name__ == "__main__":
    with app:
        sys.exit(Worker(app, threads=4, processes=1).run())
