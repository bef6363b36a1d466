"""A process that runs the jobs of `model_jobs` until the board says stop: a worker as users have it.

python -m cluster.model_worker SLOT PROCESS NODES FOLDER
"""

from __future__ import annotations

import os
import time

from cluster.model_jobs import app, write
from cluster.parts import Place
from cluster.recording import Board
from raftwork.errors import StorageError
from raftwork.events import Event
from raftwork.worker import Worker

LOOK_S = 0.05
THREADS = 4


def work(board: Board) -> None:
    """Work until the board says stop. While no node answers, a worker does not start, and another one tries."""
    while not board.workers_stop:
        try:
            with Worker(app, threads=THREADS, labels={"kind": "model"}):
                while not board.workers_stop:
                    time.sleep(LOOK_S)
        except StorageError:
            time.sleep(LOOK_S)
    app.close()


def gave_up(event: Event) -> None:
    """A worker that cannot make itself heard gives its jobs back while they run, which counts as no crash."""
    write("gave_up", pid=os.getpid())


if __name__ == "__main__":
    app.subscribe(gave_up, "worker.session_lost")
    work(Board(Place.of_arguments().folder / "board"))
