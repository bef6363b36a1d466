"""Worker processes that are stopped, killed and frozen while they run jobs of one directory (J3, J6, J7)."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from worker.finals import final
from worker.shop import WAIT_S, Shop

pytestmark = pytest.mark.crash


@pytest.mark.parametrize("name", ["shop.saves", "shop.asaves"])
def test_saved_state_outlives_a_kill_right_after_it(shop: Shop, name: str) -> None:
    shop.open()
    job = shop.tasks[name].enqueue(7)
    assert shop.work().wait(WAIT_S) == -signal.SIGKILL
    shop.work()
    assert job.result(WAIT_S) == 7
    assert job.info().crashes == 1


@pytest.mark.parametrize("name", ["shop.steps", "shop.asteps"])
def test_a_step_outlives_a_kill_right_after_it(shop: Shop, tmp_path: Path, name: str) -> None:
    shop.open()
    job = shop.tasks[name].enqueue(str(tmp_path / "ledger"))
    assert shop.work().wait(WAIT_S) == -signal.SIGKILL
    shop.work()
    assert job.result(WAIT_S) == [1, 2], "the first step was not repeated"
    assert job.info().crashes == 1


def test_a_step_outlives_its_child_process(shop: Shop, tmp_path: Path) -> None:
    shop.open()
    worker = shop.work()
    job = shop.tasks["shop.child_steps"].enqueue(str(tmp_path / "ledger"))
    assert job.result(WAIT_S) == [1, 2]
    assert job.info().crashes == 1 and worker.poll() is None


def test_a_child_process_stores_jobs_in_the_same_directory(shop: Shop, tmp_path: Path) -> None:
    shop.open()
    shop.work()
    assert shop.client is not None
    id = shop.tasks["shop.follows"].enqueue(str(tmp_path / "notes")).result(WAIT_S)
    assert shop.client.job(id).result(WAIT_S) == 7


def test_sigterm_drains(shop: Shop) -> None:
    waits = shop.open()
    worker = shop.work(SHOP_DRAIN="10m", SHOP_DRAINING=str(shop.port))
    jobs = [waits.enqueue(shop.port) for _ in range(3)]
    knocks = [shop.knock(), shop.knock()]
    worker.send_signal(signal.SIGTERM)
    # Before the worker has heard it, a job that ends makes room for the third.
    shop.server.accept()[0].close()
    for knock in knocks:
        knock.say("drained")
    assert worker.wait(WAIT_S) == 0
    states = sorted((job.info().state.value, job.info().attempt) for job in jobs)
    assert states == [("enqueued", 0), ("succeeded", 1), ("succeeded", 1)]


def test_sigterm_releases_what_does_not_end(shop: Shop) -> None:
    waits = shop.open()
    worker = shop.work(SHOP_DRAIN="100ms")
    job = waits.enqueue(shop.port)
    shop.knock()
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(WAIT_S) == 0
    info = job.info()
    assert (info.state, info.attempt, info.crashes) == ("enqueued", 0, 0)
    shop.work()
    again = shop.knock()
    assert (again.attempt, again.crashes) == (1, 0)
    again.say("second")
    assert job.result(WAIT_S) == "second"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_does_not_wait(shop: Shop, number: signal.Signals) -> None:
    waits = shop.open()
    worker = shop.work(SHOP_DRAIN="10m")
    job = waits.enqueue(shop.port)
    shop.knock()
    worker.send_signal(number)
    worker.send_signal(signal.SIGTERM if number is signal.SIGINT else signal.SIGINT)
    assert worker.wait(WAIT_S) in (128 + signal.SIGTERM, 128 + signal.SIGINT)
    info = job.info()
    assert (info.state, info.attempt, info.crashes) == ("enqueued", 0, 0), "released, not crashed"


@pytest.mark.parametrize("owner", ["test", "victim"])
def test_jobs_of_a_killed_worker_run_again_soon(shop: Shop, owner: str) -> None:
    ttl = "15s" if owner == "test" else "4s"
    if owner == "test":
        waits = shop.open(ttl)
        victim = shop.work(SHOP_TTL=ttl)
    else:
        victim = shop.work(SHOP_TTL=ttl)
        waits = wait_for_owner(shop, ttl)
    job = waits.enqueue(shop.port)
    first = shop.knock()
    assert first.pid == victim.pid
    shop.work(SHOP_TTL=ttl)
    killed_at = time.monotonic()
    victim.kill()
    second = shop.knock()
    took = time.monotonic() - killed_at
    assert second.pid != first.pid and (second.attempt, second.crashes) == (1, 1)
    assert second.token > first.token, "J2"
    second.say("rescued")
    assert job.result(WAIT_S) == "rescued"
    # The owner sees the end of a worker's socket, so nobody waits for its 15 s. Where the owner died, the next one
    # counts every session's time from the start: 4 s and 2 s more. The rest is for the start of the other worker.
    assert took < 10, f"it took {took:.1f} s"


def wait_for_owner(shop: Shop, ttl: str) -> Any:
    """Open the client after another process owns the directory."""
    socket_file = Path(shop.url.removeprefix("raft:///")) / "socket"
    for _ in range(2_000):
        if socket_file.exists():
            break
        time.sleep(0.01)
    return shop.open(ttl)


def test_a_child_ends_with_its_killed_worker(shop: Shop) -> None:
    shop.open()
    victim = shop.work()
    job = shop.tasks["shop.child"].enqueue(shop.port)
    first = shop.knock()
    assert first.pid != victim.pid
    victim.kill()
    assert first.door.recv(1) == b"", "nobody runs a job whose lease nobody holds"
    shop.work()
    second = shop.knock()
    assert (second.attempt, second.crashes) == (1, 1)
    second.say("by another child")
    assert job.result(WAIT_S) == "by another child"


def test_a_busy_interpreter_keeps_its_lease(shop: Shop) -> None:
    shop.open(ttl="2s")
    shop.work(SHOP_TTL="2s")
    job = shop.tasks["shop.holds"].enqueue(shop.port, 7.0)
    shop.knock()
    info = final(job)
    assert (info.state, info.result, info.attempt, info.crashes) == ("succeeded", 0, 1, 0)


def test_a_frozen_worker_is_fenced_off(shop: Shop) -> None:
    waits = shop.open(ttl="2s")
    frozen = shop.work(SHOP_TTL="2s")
    job = waits.enqueue(shop.port)
    first = shop.knock()
    frozen.send_signal(signal.SIGSTOP)
    shop.work(SHOP_TTL="2s")
    second = shop.knock()
    assert second.crashes == 1 and second.token > first.token
    frozen.send_signal(signal.SIGCONT)
    first.say("zombie")
    other = waits.enqueue(shop.port)
    third = shop.knock()  # The thawed worker or the other: both work again.
    third.say("other")
    assert other.result(WAIT_S) == "other"
    assert job.info().state == "processing", "J3: the zombie's answer changed nothing"
    second.say("owner")
    assert job.result(WAIT_S) == "owner"


def test_nothing_is_lost_while_workers_are_killed(shop: Shop, tmp_path: Path) -> None:
    shop.open()
    assert shop.client is not None
    ledger = tmp_path / "ledger"
    notes = shop.tasks["shop.notes"]
    jobs = shop.client.enqueue_many(notes.s(str(ledger), number) for number in range(3_000))
    shop.work()
    shop.work()
    for turn in range(1, 5):
        wait_for_lines(ledger, turn * 400)
        shop.workers[-2].kill()
        shop.work()
    for job in jobs:
        assert final(job).state == "succeeded"
    numbers = [int(line) for line in ledger.read_text().split()]
    assert set(numbers) == set(range(3_000)), "lost must be 0"
    assert len(numbers) - 3_000 <= 4 * 512, "run twice: at most what the killed ones held"
    counts = shop.client.counts()
    assert counts["succeeded"] + counts["archived"] == 3_000 and counts["processing"] == 0


def wait_for_lines(path: Path, count: int) -> None:
    """Return when a ledger has this many lines. Bounded."""
    for _ in range(6_000):
        if path.exists() and path.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.01)
    raise AssertionError(f"{path} has fewer than {count} lines")
