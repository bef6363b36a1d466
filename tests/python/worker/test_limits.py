"""Jobs that take more memory or processor time than they may are ended, and nobody else notices (J7)."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from raftwork import ConfigError, InvalidOption, Raftwork, sizes
from raftwork.worker import Worker, limits, server
from raftwork.worker.limits import Limits, Usage, usage_of
from worker import limit_jobs as jobs
from worker.finals import final

WAIT_S = 60


@pytest.fixture
def app() -> Iterator[Raftwork]:
    """The application of these jobs, with an empty memory."""
    yield jobs.app.open()
    jobs.app.close()


@pytest.mark.crash
def test_a_job_over_its_memory_is_ended_and_others_go_on(app: Raftwork, work: Any, door: socket.socket) -> None:
    work(app, processes=2)
    port = door.getsockname()[1]
    other = jobs.grows.enqueue(1, port)
    connection, _ = door.accept()
    connection.recv(16)
    info = final(jobs.grows.enqueue(400, port))
    assert (info.state, info.attempt, info.crashes) == ("failed", 1, 0), "an attempt, and no crash"
    assert info.error is not None and info.error.type == "raftwork.errors.LimitExceeded"
    assert "of memory; its limit is memory='200MB'" in info.error.message
    assert "shop: about to grow" in info.error.traceback, "the last log lines are kept"
    assert other.info().state == "processing" and other.info().crashes == 0
    connection.close()
    assert other.result(WAIT_S) == 1
    assert jobs.grows.enqueue(20).result(WAIT_S) == 20, "the child was replaced"


@pytest.mark.crash
def test_a_job_over_its_processor_time_is_ended(app: Raftwork, work: Any) -> None:
    work(app, processes=1)
    info = final(jobs.burns.enqueue())
    assert (info.state, info.attempt, info.crashes) == ("failed", 1, 0)
    assert info.error is not None and info.error.type == "raftwork.errors.LimitExceeded"
    assert info.error.message == "The job took more processor time than its limit cpu='300ms' allows."


@pytest.mark.crash
def test_a_limit_goes_by_the_retry_policy(app: Raftwork, work: Any, door: socket.socket) -> None:
    work(app, processes=1)
    assert jobs.burns_at_first.enqueue().result(WAIT_S) == 2
    info = final(jobs.grows_once.enqueue(door.getsockname()[1]))
    assert (info.state, info.attempt) == ("failed", 1)


@pytest.mark.crash
def test_processor_time_is_counted_for_each_job(app: Raftwork, work: Any) -> None:
    work(app, processes=1)
    used = 0
    while used < 1_200:
        process = jobs.pid.enqueue().result(WAIT_S)
        assert jobs.modest.enqueue().result(WAIT_S) == 285_715
        usage = usage_of(process)
        assert usage is not None
        used = usage.cpu_ms


@pytest.mark.crash
def test_a_child_is_replaced_after_its_jobs(app: Raftwork, work: Any) -> None:
    worker = work(app, processes=1, jobs_per_child=2)
    pids = [jobs.pid.enqueue().result(WAIT_S) for _ in range(6)]
    assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4] == pids[5] and len(set(pids)) == 3
    worker.stop()
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)


def test_usage_of_a_process() -> None:
    before = usage_of(os.getpid())
    block = b"\x01" * (64 << 20)
    after = usage_of(os.getpid())
    assert before is not None and after is not None
    assert after.memory_bytes - before.memory_bytes > len(block) // 2 and after.cpu_ms >= before.cpu_ms
    assert usage_of(2**22 + 1) is None, "no process has this number"


@pytest.mark.parametrize(
    ("limit", "usage", "words"),
    [
        (Limits(), Usage(1 << 40, 1 << 40), None),
        (Limits(memory_bytes=100), Usage(100, 0), None),
        (Limits(memory_bytes=10**6), Usage(10**6 + 1, 0), "took 1MB of memory"),
        (Limits(cpu_ms=100), Usage(1 << 40, 100), None),
        (Limits(cpu_ms=90_000), Usage(0, 90_001), "cpu='1m30s'"),
    ],
)
def test_what_breaks_a_limit(limit: Limits, usage: Usage, words: str | None) -> None:
    broken = limit.broken_by(usage)
    assert broken is None if words is None else broken is not None and words in broken


@pytest.mark.parametrize(
    ("text", "size"),
    [("32MiB", 32 << 20), ("512MB", 512_000_000), ("1.5GiB", 3 << 29), ("40 MB", 40_000_000), (" 1TiB ", 1 << 40)],
)
def test_sizes(text: str, size: int) -> None:
    assert sizes.size_bytes(text, "memory", least=1, most=1 << 50) == size


@pytest.mark.parametrize("value", ["512", "512M", "MB", "-1MB", "1e3MB", "512mb", "", 512, 512.0, None, b"1MB", "٣MB"])
def test_sizes_that_are_none(value: Any) -> None:
    with pytest.raises(InvalidOption, match=r"memory=.*is not a size.*512MB"):
        sizes.size_bytes(value, "memory", least=1, most=1 << 50)


@pytest.mark.parametrize(
    "option", [{"memory": "1MB"}, {"memory": "2000TiB"}, {"cpu": "0s"}, {"cpu": 30}, {"cpu": "30"}]
)
def test_limits_out_of_range(app: Raftwork, option: Any) -> None:
    with pytest.raises(InvalidOption, match=r"memory|cpu"):
        app.task(executor="process", **option)


@pytest.mark.parametrize("option", [{"memory": "64MB"}, {"cpu": "1s"}])
def test_limits_are_for_processes(option: Any) -> None:
    def plain() -> None: ...
    async def coroutine() -> None: ...

    own = Raftwork("own", "memory://")
    for function, given in ((plain, {}), (plain, {"executor": "thread"}), (coroutine, {})):
        with pytest.raises(InvalidOption, match=r'limits the process of a job.*executor="process"'):
            own.task(name="task", **option, **given)(function)  # type: ignore[arg-type]
    task: Any = own.task(name="task", executor="process", **option)(plain)
    with pytest.raises(ConfigError, match="cannot be set for some calls"):
        task.using(**option)
    assert own.task(name="none", executor="process", memory=None, cpu=None)(plain).options["memory"] is None


def test_where_limits_cannot_be_kept_the_worker_does_not_start(app: Raftwork, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "limits_supported", lambda: False)
    assert limits.supported()
    with pytest.raises(ConfigError, match="Linux only"):
        Worker(app, processes=1).start()


@pytest.mark.parametrize("value", [0, -1, 1.5, "2", True, 1_000_001])
def test_numbers_of_jobs_that_cannot_be(app: Raftwork, value: Any) -> None:
    with pytest.raises(ConfigError, match="jobs_per_child"):
        Worker(app, jobs_per_child=value)
