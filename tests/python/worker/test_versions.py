"""Arguments of older and newer versions of a task: old and new workers side by side, and nothing fails (J6)."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import pytest

from raftwork import InvalidOption, InvalidTask, Raftwork, Retry, Signature
from raftwork.job_info import version_of
from raftwork.storage.base import pack_meta, read_meta
from raftwork.testing import harness
from worker import deploy_jobs
from worker.shop import WAIT_S, Shop

MODULE = "worker.deploy_jobs"


def clients(shop: Shop) -> list[tuple[Any, Any]]:
    """The tasks as an old and as a new process enqueue them."""
    shop.open()
    tasks = []
    for version in (1, 2):
        app = Raftwork("client", shop.client.storage)  # type: ignore[union-attr]
        tasks.append(deploy_jobs.define(app, version))
    return tasks


@pytest.mark.crash
def test_old_and_new_workers_side_by_side(shop: Shop) -> None:
    (old, old_child), (new, new_child) = clients(shop)
    workers = {version: shop.work(MODULE, DEPLOY_VERSION=str(version), DEPLOY_WAIT_MS="300") for version in (1, 2)}
    jobs = []
    for order in range(15):
        jobs += [(old.enqueue(order, order / 100), order, 1), (new.enqueue(order, cents=order), order, 2)]
    for order in range(2):
        jobs += [(old_child.enqueue(order, order / 100), order, 1), (new_child.enqueue(order, cents=order), order, 2)]
    for job, order, version in jobs:
        text = job.result(WAIT_S)
        assert text.startswith(f"{order}: {order} cents"), "migrated or not, it is the same call"
        assert version == 1 or "by version 2" in text
        info = job.info()
        assert (info.version, info.attempt, info.crashes) == (version, 1, 0)
    assert all(worker.poll() is None for worker in workers.values())


@pytest.mark.crash
@pytest.mark.parametrize("kind", [0, 1])
def test_a_newer_job_waits_for_a_newer_worker(shop: Shop, kind: int) -> None:
    _, new = clients(shop)
    shop.work(MODULE, DEPLOY_VERSION="1", DEPLOY_PORT=str(shop.port), DEPLOY_WAIT_MS="300")
    job = new[kind].enqueue(7, cents=500)
    shop.server.accept()[0].close()
    shop.server.accept()[0].close()
    info = job.info()
    assert info.state in ("scheduled", "enqueued", "processing") and (info.crashes, info.error) == (0, None)
    assert info.version == 2
    shown = subprocess.run(
        [sys.executable, "-m", "raftwork", "job", str(job.id), "--storage", shop.url], capture_output=True, text=True
    )
    assert "version   2" in shown.stdout, shown.stderr
    shop.work(MODULE, DEPLOY_VERSION="2")
    assert "500 cents by version 2" in job.result(WAIT_S)
    assert job.info().attempt == 1, "waiting spends no attempt"


def test_a_chain_of_migrations(app: Raftwork) -> None:
    @app.task(name="old")
    def old(dollars: float) -> str:
        return ""

    first = old.using(tags=["a"]).enqueue(5.0).info()

    other = Raftwork("new", "memory://")

    @other.task(name="old", version=3)
    def new(*, cents: int, currency: str = "USD") -> str:
        return f"{cents} {currency}"

    @new.migrate(from_version=2)
    def from_cents(cents: int) -> Signature[str]:
        return new.s(cents=cents)

    @new.migrate(from_version=1)
    def from_dollars(dollars: float) -> Signature[str]:
        return from_cents(round(100 * dollars))

    assert new.migrated(1, first.args, first.kwargs) == ([], {"cents": 500})
    assert new.using(tags=["b"]).migrated(2, [7], {}) == ([], {"cents": 7})
    other.close()


def run_old_job(app: Raftwork, work: Any, function: Any, prepare: Any = lambda task: None) -> Any:
    """A job of version 1, and a worker whose code has version 2."""
    old = Raftwork("old", app.storage)
    job = old.task(name="charge", retry=1)(deploy_jobs.old_charge).enqueue(7, 5.0)
    prepare(app.task(name="charge", version=2)(function))
    work(app)
    app.job_wait(job.id.bytes, WAIT_S)
    return job.info()


def test_without_a_migration_the_attempt_fails_and_says_what_to_do(app: Raftwork, work: Any) -> None:
    info = run_old_job(app, work, deploy_jobs.charge)
    assert info.state == "failed" and info.error.type == "raftwork.errors.MigrationError"
    assert "version 1 of charge, whose version here is 2" in info.error.message
    assert "@charge.migrate(from_version=1)" in info.error.message


@pytest.mark.parametrize("answer", [None, "other", 7])
def test_a_migration_that_answers_no_call_of_the_task(app: Raftwork, work: Any, answer: Any) -> None:
    @app.task(name="other")
    def other() -> None: ...

    def wrong(order: int, dollars: float) -> Any:
        return other.s() if answer == "other" else answer

    info = run_old_job(app, work, deploy_jobs.charge, lambda task: task.migrate(from_version=1)(wrong))
    assert info.error.type == "raftwork.errors.MigrationError" and "wrong" in info.error.message


def test_a_migration_that_raises_is_the_jobs_failure(app: Raftwork, work: Any) -> None:
    def raises(order: int, dollars: float) -> Any:
        raise LookupError("no such order")

    info = run_old_job(app, work, deploy_jobs.charge, lambda task: task.migrate(1)(raises))
    assert info.error.type == "LookupError" and "in raises" in info.error.traceback


def test_the_version_travels_and_a_harness_migrates(app: Raftwork) -> None:
    @app.task(name="charge", version=2)
    def charge(order: int, *, cents: int) -> int:
        return cents

    with harness(app, mode="inline"):
        job = charge.using(retry=3, priority=5).enqueue(7, cents=5)
        assert job.info().version == 2 and job.result() == 5
    assert charge.version == 2 and inspect.isfunction(charge.fn)


def test_meta_of_version_1_has_the_bytes_that_it_always_had() -> None:
    policy = Retry(3)
    assert b"version" not in pack_meta(policy) and version_of(pack_meta(policy)) == 1
    assert read_meta(pack_meta(policy, 7)) == policy and version_of(pack_meta(policy, 7)) == 7


@pytest.mark.parametrize(
    "meta", [b"", b"\xc1", b"\x90", b"anything\0", b"\x81\xa7version\xa1x", b"\x81\xa7version\xc0"]
)
def test_meta_without_a_version_is_version_1(meta: bytes) -> None:
    assert version_of(meta) == 1


@pytest.mark.parametrize("value", [0, -1, 1_000_001, "2", 2.0, True, None])
def test_versions_that_cannot_be(app: Raftwork, value: Any) -> None:
    with pytest.raises(InvalidOption, match=r"version=.* 1 to 1,000,000"):
        app.task(version=value)


@pytest.mark.parametrize("value", [0, 2, 3, -1, "1", True, None])
def test_migrations_from_versions_that_cannot_be(app: Raftwork, value: Any) -> None:
    task = app.task(name="charge", version=2)(deploy_jobs.charge)
    with pytest.raises(InvalidOption, match=r"charge has version 2"):
        task.migrate(from_version=value)


def test_functions_that_cannot_migrate(app: Raftwork) -> None:
    task: Any = app.task(name="charge", version=2)(deploy_jobs.charge)

    async def coroutine() -> None: ...

    for function in (coroutine, 7, print, task):
        with pytest.raises(InvalidTask, match="cannot migrate charge"):
            task.migrate(1)(function)
    task.migrate(1)(deploy_jobs.old_charge)
    with pytest.raises(InvalidOption, match="Two functions"):
        task.migrate(1)(deploy_jobs.old_charge)
