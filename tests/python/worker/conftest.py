"""An application in memory, and workers that end with the test."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raftwork.app import Raftwork
from raftwork.worker import Worker
from worker.shop import Shop

Work = Callable[..., Worker]


@pytest.fixture
def app() -> Iterator[Raftwork]:
    """An application on `memory://`."""
    app = Raftwork("test", "memory://")
    yield app
    app.close()


@pytest.fixture
def still(request: pytest.FixtureRequest) -> Iterator[Raftwork]:
    """An application whose time moves only by `app.storage.advance(ms)`."""
    app = Raftwork("test", "memory://?clock=manual")
    yield app
    app.close()


@pytest.fixture
def work() -> Iterator[Work]:
    """Start a worker; it is stopped when the test ends, without waiting for its jobs."""
    workers: list[Worker] = []

    def start(app: Raftwork, queues: Any = None, **options: Any) -> Worker:
        worker = Worker(app, queues, **{"threads": 2, "concurrency": 10, "processes": 1, **options})
        workers.append(worker)
        return worker.start()

    yield start
    for worker in workers:
        worker.stop("0s")


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """A directory and worker processes, which are killed when the test ends."""
    shop = Shop(tmp_path)
    yield shop
    shop.close()


@pytest.fixture
def door() -> Iterator[socket.socket]:
    """Where running jobs knock."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        door.settimeout(60)
        yield door
