"""Compressed payloads through a real directory and a real worker, by the public names only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raftwork import JobContext, JobState, PayloadDamaged, Raftwork
from raftwork.retry import Retry
from raftwork.storage.base import NewJob

WAIT_S = 30
LARGE = "a large text " * 2_000


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Raftwork]:
    app = Raftwork("shop", f"raft:///{tmp_path}/data")
    yield app
    app.close()


def stored_bytes(directory: Path) -> int:
    return sum(path.read_bytes().count(b"a large text a large text") for path in directory.rglob("*") if path.is_file())


def test_large_payloads_are_small_on_disk_and_come_back(shop: Raftwork, tmp_path: Path) -> None:
    @shop.task(name="echo", retry=Retry(2, backoff="fixed", base="1ms"))
    def echo(ctx: JobContext, text: str, *, user_id: int) -> str:
        if ctx.attempt == 1:
            ctx.save([text])
            raise ValueError("again")
        assert ctx.state == [text]
        ctx.progress(1, 2, text)
        return text * 2

    with shop.running(workers=True):
        single = echo.enqueue(LARGE, user_id=7)
        many = shop.enqueue_many([echo.s(LARGE, user_id=8), echo.s(LARGE, user_id=9)])
        assert [job.result(WAIT_S) for job in (single, *many)] == [LARGE * 2] * 3
        info = single.info()
        assert (info.args, info.kwargs, info.result) == ([LARGE], {"user_id": 7}, LARGE * 2)
        assert info.progress is not None
        assert info.progress.note == LARGE
        assert info.call.startswith("echo('a large text")
        assert [job.id for job in shop.jobs("args.user_id:8")] == [many[0].id]
        assert stored_bytes(tmp_path) == 0


def test_without_compression_payloads_are_stored_as_they_are(tmp_path: Path) -> None:
    app = Raftwork("shop", f"raft:///{tmp_path}/data", compress_above=None)

    @app.task(name="echo")
    def echo(text: str) -> str: ...

    with app.running():
        assert echo.enqueue(LARGE).info().args == [LARGE]
        assert stored_bytes(tmp_path) > 0


def test_a_job_whose_arguments_are_damaged_fails_at_once(app: Raftwork, work: Any) -> None:
    called: list[int] = []

    @app.task(name="count")
    def count(number: int) -> None:
        called.append(number)

    id = app.storage.new_ids(1)[0]
    app.storage.enqueue([NewJob(id, count.plan().spec, b"\x92\x91\xc7\x03\x20\x78\x01\xff\x80")])
    work(app)
    info = app.job_wait(id, WAIT_S)
    assert (info.state, info.attempt, called) == (JobState.FAILED, 1, [])
    assert info.error is not None
    assert info.error.type == "raftwork.errors.PayloadDamaged"
    with pytest.raises(PayloadDamaged):
        _ = info.args
    assert info.call.startswith("count(<The stored args")
