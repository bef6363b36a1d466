"""An application in memory, and workers that end with the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from raftwork.app import Raftwork
from raftwork.worker import Worker

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
