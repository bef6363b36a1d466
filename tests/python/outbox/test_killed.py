"""J1: relays are killed with SIGKILL at the worst moments; each committed job runs once, and no other does."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from outbox.conftest import Shop
from raftwork import Raftwork
from support.command_line import start

pytestmark = pytest.mark.crash
PATIENCE_S = 60
KILLS = 12

DIES = """
import os, signal, sys
from raftwork import Raftwork

storage, url, when = sys.argv[1:]
app = Raftwork("relay", storage)
enqueue = app.storage.enqueue

def deadly(jobs):
    if when == "after":
        enqueue(jobs)
    os.kill(os.getpid(), signal.SIGKILL)

app.storage.enqueue = deadly
app.outbox(url).relay()
"""

runs: list[int] = []


def ship(number: int) -> None:
    runs.append(number)


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Raftwork]:
    """An application on a directory, whose job says that it ran."""
    runs.clear()
    with Raftwork("shop", f"raft:///{tmp_path}/jobs") as app:
        app.task(name="ship")(ship)
        yield app


def put(app: Raftwork, shop: Shop, numbers: range) -> list[Any]:
    """Every third order is rolled back."""
    jobs = []
    for number in numbers:
        connection = shop.connect()
        job = app.tasks["ship"].using(connection=connection).enqueue(number)
        connection.rollback() if number % 3 == 0 else connection.commit()
        connection.close()
        jobs += [job] if number % 3 else []
    return jobs


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_relay_dies_around_its_write(app: Raftwork, shop: Shop, tmp_path: Path, when: str) -> None:
    jobs = put(app, shop, range(10))
    storage = f"raft:///{tmp_path}/jobs"
    script = textwrap.dedent(DIES)
    done = subprocess.run([sys.executable, "-c", script, storage, shop.url, when], timeout=PATIENCE_S, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [tries for _, tries, _ in shop.rows()] == [1] * len(jobs)
    assert app.counts(consistency="linearizable")["enqueued"] == (len(jobs) if when == "after" else 0)
    with app.running(workers=True, outbox=shop.url):
        for job in jobs:
            wait_until_relayed(app, shop, job)
    app.open()
    app.outbox(shop.url).relay()
    assert shop.rows() == []
    assert sorted(runs) == [1, 2, 4, 5, 7, 8]
    assert app.counts(consistency="linearizable")["total_succeeded"] == len(jobs)


def wait_until_relayed(app: Raftwork, shop: Shop, job: Any) -> None:
    """Return when the job has run. It may not be stored yet, and then nobody could wait for it."""
    app.outbox(shop.url).relay()
    while str(job.id) in {id for id, *_ in shop.rows()}:
        app.outbox(shop.url).relay()
    job.result(timeout=PATIENCE_S)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_relays_die_at_any_moment(app: Raftwork, shop: Shop, tmp_path: Path) -> None:
    chance = random.Random(20261130)
    command = ["outbox", "relay", shop.url, "--storage", f"raft:///{tmp_path}/jobs", "--batch", "3", "--poll", "10ms"]
    jobs: list[Any] = []

    def relay() -> subprocess.Popen[str]:
        process = start(*command, "--json", cwd=tmp_path)
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["event"] == "relay.started"
        return process

    relays = [relay(), relay()]
    try:
        for turn in range(KILLS):
            jobs += put(app, shop, range(turn * 30, turn * 30 + 30))
            victim = chance.randrange(2)
            os.kill(relays[victim].pid, signal.SIGKILL)
            relays[victim].communicate()
            relays[victim] = relay()
    finally:
        for process in relays:
            process.kill()
            process.communicate()
    with app.running(workers=True, outbox=shop.url):
        for job in jobs:
            wait_until_relayed(app, shop, job)
    app.open()
    assert shop.rows() == []
    assert sorted(runs) == [number for number in range(KILLS * 30) if number % 3]
    assert app.counts(consistency="linearizable")["total_succeeded"] == len(jobs)
