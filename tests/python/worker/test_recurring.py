"""Worker processes that fire the schedules of one directory, and are killed: each slot has one job (C1)."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from raftwork.app import Raftwork
from raftwork.job_info import JobInfo

pytestmark = pytest.mark.crash
WAIT_S = 60
SLOTS = 8
PROGRAM = """
import sys
from raftwork import Raftwork
from raftwork.worker import Worker

app = Raftwork("clock", sys.argv[1])


@app.every("1s", name="tick")
@app.task(name="tick")
def tick() -> str:
    return "tick"


Worker(app, threads=1).run()
"""

Start = Callable[[Raftwork], "subprocess.Popen[bytes]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a worker process on the directory of an application."""
    workers: list[subprocess.Popen[bytes]] = []
    (tmp_path / "clock.py").write_text(PROGRAM)

    def start(app: Raftwork) -> subprocess.Popen[bytes]:
        workers.append(subprocess.Popen([sys.executable, str(tmp_path / "clock.py"), app.setting("storage")]))
        return workers[-1]

    yield start
    for worker in workers:
        worker.kill()
        worker.wait()


def fired(app: Raftwork, least: int) -> list[JobInfo]:
    """The jobs of the schedule, oldest slot first, when there are so many."""
    end = time.monotonic() + WAIT_S
    while True:
        jobs = list(app.jobs())
        if len(jobs) >= least:
            return sorted(jobs, key=lambda job: job.slot or job.created_at)
        assert time.monotonic() < end, "nobody fires"
        threading.Event().wait(0.05)


def test_c1_each_slot_fires_once_while_workers_are_killed(tmp_path: Path, start: Start) -> None:
    with Raftwork("client", f"raft:///{tmp_path / 'jobs'}") as app:
        workers = [start(app) for _ in range(3)]
        seen = 2
        fired(app, seen)
        while seen < SLOTS:
            workers.pop(0).kill()
            workers.append(start(app))
            seen = len(fired(app, seen + 2))
        slots = [job.slot for job in fired(app, SLOTS)]
        assert None not in slots
        first = slots[0]
        assert first is not None
        assert slots == [first + timedelta(seconds=number) for number in range(len(slots))]
        assert {job.schedule for job in app.jobs()} == {"tick"}
