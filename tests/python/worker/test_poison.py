"""Jobs that kill whatever runs them end after `max_crashes`, and everything else goes on (J4, J7)."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from worker.finals import final
from worker.shop import FOLDER, WAIT_S, Shop

pytestmark = pytest.mark.crash


def command(shop: Shop, *arguments: str) -> str:
    """What an operator sees."""
    done = subprocess.run(
        [sys.executable, "-m", "raftwork", *arguments, "--storage", shop.url],
        capture_output=True,
        text=True,
        cwd=FOLDER,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_job_that_kills_its_worker_ends_after_its_crashes(shop: Shop) -> None:
    shop.open()
    poison = shop.tasks["shop.poison"].enqueue()
    for crashes in range(2):
        assert shop.work().wait(WAIT_S) == -signal.SIGKILL
        assert crashes < 1 or final(poison)
    info = final(poison)
    assert (info.state, info.attempt, info.crashes, info.max_crashes) == ("failed", 0, 2, 2), "J7"
    assert "crash" in f"{info.error} {info.reason}"
    assert str(poison.id) in command(shop, "jobs", "state:failed", "fn:shop.poison")
    assert "crashes 2 of 2" in command(shop, "job", str(poison.id))
    survivor = shop.work()
    waits = shop.tasks["shop.waits"].enqueue(shop.port)
    shop.knock().say("alive")
    assert waits.result(WAIT_S) == "alive" and survivor.poll() is None


def test_a_job_that_kills_its_child_ends_and_the_worker_survives(shop: Shop) -> None:
    shop.open()
    worker = shop.work()
    poison = [shop.tasks["shop.poison_child"].enqueue() for _ in range(2)]
    for job in poison:
        info = final(job)
        assert (info.state, info.attempt, info.crashes) == ("failed", 0, 3)
        assert info.error.type == "ProcessCrashed" and "killed by signal 9 (SIGKILL)" in info.error.message
    child = shop.tasks["shop.child"].enqueue(shop.port)
    shop.knock().say("alive")
    assert child.result(WAIT_S) == "alive" and worker.poll() is None


def test_a_poison_job_may_run_again_by_hand(shop: Shop) -> None:
    shop.open()
    shop.work()
    poison = shop.tasks["shop.poison_child"].enqueue()
    assert final(poison).crashes == 3
    before = poison.info().generation
    assert poison.retry()
    info = final(poison)
    assert (info.state, info.crashes, info.generation) == ("failed", 3, before + 1), "with fresh crashes, J4"
