"""Encryption through real directories and workers: what is on disk, who can read it, and what waits for a key."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raftwork import (
    Cancel,
    Job,
    JobCancelled,
    JobFailed,
    JobInfo,
    JobState,
    KeyMissing,
    PayloadDamaged,
    Raftwork,
    Secret,
    events,
    filters,
)
from raftwork.errors import InvalidFilter
from raftwork.storage.base import NewJob
from raftwork.storage.memory import MemoryStorage
from worker import vault_jobs as vault
from worker.finals import final
from worker.vault_jobs import WORD

WAIT_S = 60
NEW, OLD = (f"{id}:{base64.b64encode(id.encode() * 8).decode()}" for id in ("2026", "2025"))


def files_with(directory: Path, word: str) -> list[str]:
    """The files anywhere below that contain the word."""
    files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    assert files
    return [str(path.relative_to(directory)) for path in files if word.encode() in path.read_bytes()]


def run_all(app: Raftwork) -> dict[str, JobInfo]:
    """One job of each kind, run; what is known about each, once all of them are in the archive."""
    with app.running(workers=True, processes=1, threads=2):
        text = f"{WORD} {'and more ' * 600}"
        jobs: dict[str, Job[Any]] = {
            "echo": vault.echo.enqueue(text, numbers=[1, 2]),
            "fail": vault.fail.enqueue(WORD),
            "crash": vault.crash.enqueue(WORD),
            "leave": vault.leave.enqueue(WORD),
            "once": vault.single.enqueue(WORD),
            "pay": vault.pay.enqueue(Secret(WORD), pin=Secret(4_111)),
        }
        assert vault.single.enqueue(WORD) == jobs["once"]
        (jobs["many"],) = app.enqueue_many([vault.echo.s(WORD, numbers=[])])
        assert jobs["echo"].result(WAIT_S) == [text, [1, 2], {"state": text}]
        for job in jobs.values():
            app.job_wait(job.id.bytes, WAIT_S)
        until = time.monotonic() + WAIT_S
        while app.counts()["archived"] != len(jobs):
            assert time.monotonic() < until, "a job stays in memory"
        return {name: job.info() for name, job in jobs.items()}


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the vault keeps its data; its settings are read anew."""
    monkeypatch.setenv("RAFTWORK_STORAGE", f"raft:///{tmp_path}/data")
    monkeypatch.setattr(vault.app, "_config", None)
    monkeypatch.setattr(vault.app, "_codecs", None)
    for task in vault.app.tasks.values():
        monkeypatch.setattr(task, "_plan", None)
    yield tmp_path / "data"
    vault.app.close()


@pytest.mark.crash
def test_nothing_in_clear_is_on_disk(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"{NEW}\n{OLD}\n")
    keys.chmod(0o600)
    monkeypatch.setenv("RAFTWORK_ENCRYPTION_KEY_FILE", str(keys))
    found = run_all(vault.app)
    assert (
        files_with(directory, WORD) == files_with(directory, WORD.upper()) == files_with(directory, WORD.title()) == []
    )
    assert files_with(directory, "vault_jobs") == [], "a traceback names its file"
    assert files_with(directory, base64.b64encode(WORD.encode()).decode()[:8]) == []

    failed, crashed, left = found["fail"], found["crash"], found["leave"]
    assert all(info.archived for info in found.values())
    assert failed.error is not None and crashed.error is not None
    assert (failed.error.type, failed.error.message) == ("RuntimeError", f"message {WORD}")
    assert f"cause {WORD}" in failed.error.traceback
    assert f"line {WORD}" in failed.error.traceback
    assert f"line {WORD}" in crashed.error.traceback
    assert failed.steps == ["fetch"]
    assert left.reason == f"reason {WORD}"
    echo = found["echo"]
    assert [run.error.message[:17] for run in echo.attempts if run.error] == [f"message {WORD}"]
    assert echo.progress is not None
    assert echo.progress.note.startswith(f"note {WORD}")
    assert found["many"].args == [WORD]
    paid = found["pay"]
    assert (paid.args, paid.kwargs, paid.result) == ([Secret(WORD)], {"pin": Secret(4_111)}, Secret(WORD.upper()))
    assert (paid.call, paid.result_text) == ("pay(Secret('***'), pin=Secret('***'))", "Secret('***')")
    assert paid.progress is not None
    assert paid.progress.note == "with ***"

    vault.app.open()
    with pytest.raises(JobFailed, match=f"message {WORD}"):
        vault.app.job(failed.id).result(WAIT_S)
    with pytest.raises(JobCancelled, match=f"reason {WORD}"):
        vault.app.job(left.id).result(WAIT_S)


@pytest.mark.crash
def test_without_keys_the_same_words_are_on_disk(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAFTWORK_SECRETS_IN_CLEAR", "true")
    run_all(vault.app)
    assert {place.partition("/")[0] for place in files_with(directory, WORD)} >= {"archive", "wal"}
    assert files_with(directory, WORD.upper())
    assert files_with(directory, "vault_jobs")


@pytest.fixture
def shared() -> Iterator[MemoryStorage]:
    """A storage for several applications, whose time stands still."""
    storage = MemoryStorage(manual_clock=True)
    yield storage
    storage.close()


def app_with(storage: MemoryStorage, *keys: str) -> Raftwork:
    app = Raftwork("shop", storage, encryption_keys=",".join(keys) or None)

    @app.task(name="double", retry=1)
    def double(number: int) -> int:
        return number * 2

    return app


class Snoozed:
    """Counts the jobs that were put off."""

    def __init__(self) -> None:
        self._seen = threading.Semaphore(0)
        self.stop = events.subscribe(lambda event: event.name == "job.snoozed" and self._seen.release())

    def wait(self, job: Job[Any]) -> None:
        """Until a worker has put the job off, and the storage knows it: the report follows the event."""
        assert self._seen.acquire(timeout=WAIT_S)
        until = time.monotonic() + WAIT_S
        while job.state is not JobState.SCHEDULED:
            assert time.monotonic() < until, "the report does not arrive"


@pytest.mark.parametrize("wrong", [(), (OLD,), (NEW.replace("2026:", "2025:"),)], ids=["none", "other", "same id"])
def test_a_job_waits_for_a_worker_with_its_key_and_spends_nothing(
    shared: MemoryStorage, work: Any, wrong: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    sender, without = app_with(shared, NEW), app_with(shared, *wrong)
    if wrong and wrong != (OLD,):
        sender = app_with(shared, OLD)
    job = sender.tasks["double"].enqueue(21)
    snoozed = Snoozed()
    try:
        worker = work(without)
        for _ in range(3):
            snoozed.wait(job)
            shared.advance(30_000)
        snoozed.wait(job)
        worker.stop("1s")
    finally:
        snoozed.stop()
    info = job.info()
    assert (info.state, info.attempt, info.error) == (JobState.SCHEDULED, 0, None)
    assert [record.getMessage()[:25] for record in caplog.records if "RW801" in record.message] == [
        "A job of double waits, an"
    ]
    work(sender)
    shared.advance(30_000)
    assert job.result(WAIT_S) == 42
    assert job.info().attempt == 1


def test_who_lacks_the_key_sees_the_job_but_not_what_it_carries(shared: MemoryStorage, work: Any) -> None:
    sender, without = app_with(shared, NEW), app_with(shared)

    @sender.task(name="fails", retry=1)
    def fails(text: str) -> None:
        raise ValueError(text)

    work(sender)
    done, failed = sender.tasks["double"].enqueue(21), fails.enqueue("tangerine")
    assert (final(done).result, final(failed).state) == (42, JobState.FAILED)
    seen = without.job(done.id).info()
    assert seen.function == "double"
    for read in ("args", "kwargs", "result"):
        with pytest.raises(KeyMissing, match="RW801"):
            getattr(seen, read)
    with pytest.raises(KeyMissing):
        without.job(done.id).result(WAIT_S)
    assert seen.call == f"double(<{_missing('args')}>)"
    assert seen.result_text == f"<{_missing('result')}>"
    error = without.job(failed.id).info().error
    assert error is not None
    assert (error.type, error.message) == ("ValueError", f"<{_missing('message')}>")
    assert next(without.jobs("error:ValueError")).id == failed.id


def _missing(what: str) -> str:
    return (
        f"The stored {what} is encrypted with the key '2026', and this process runs without that key. Give it all keys "
        "that are in use: encryption_key_file or RAFTWORK_ENCRYPTION_KEYS."
    )


def test_keys_rotate_while_jobs_wait(shared: MemoryStorage, work: Any) -> None:
    jobs = [app_with(shared, *keys).tasks["double"].enqueue(1) for keys in ((OLD,), (OLD, NEW), (NEW, OLD), ())]
    work(app_with(shared, NEW, OLD))
    reader = app_with(shared, NEW, OLD)
    assert [reader.job(job.id).result(WAIT_S) for job in jobs] == [2] * 4


def test_a_payload_that_was_moved_to_another_job_does_not_run(shared: MemoryStorage, work: Any) -> None:
    app = app_with(shared, NEW)
    job = app.tasks["double"].using(delay="1h").enqueue(21)
    moved = app.storage.new_ids(1)[0]
    shared.enqueue([NewJob(moved, app.tasks["double"].plan().spec, job.info().packed_args or b"")])
    work(app)
    info = app.job_wait(moved, WAIT_S)
    assert (info.state, info.attempt) == (JobState.FAILED, 1)
    assert info.error is not None
    assert info.error.type == "raftwork.errors.PayloadDamaged"
    assert "belongs to another job" in info.error.message
    with pytest.raises(PayloadDamaged):
        _ = info.args


def test_arguments_cannot_be_searched_and_unique_keys_only_whole(shared: MemoryStorage) -> None:
    app = app_with(shared, NEW, OLD)
    double = app.tasks["double"]
    by_template, by_args = double.using(unique="n:{number}"), double.using(unique="args")
    job = by_template.enqueue(7)
    assert by_template.enqueue(7) == job
    assert by_args.enqueue(8) == by_args.enqueue(number=8)
    before = app_with(shared).tasks["double"].using(unique="n:{number}").enqueue(9)
    assert [found.id for found in app.jobs("unique:double:n:7")] == [job.id]
    assert [found.id for found in app.jobs("unique:double:n:9")] == [before.id]
    assert (job.info().unique_key or "").startswith("hmac:")
    with pytest.raises(InvalidFilter, match=r"arguments are encrypted.*tag:NAME"):
        list(app.jobs("args.0:7"))
    with pytest.raises(InvalidFilter, match=r"tracebacks are encrypted.*error:TimeoutError"):
        app.bulk("fingerprint:0123456789abcdef").count()
    assert list(app_with(shared).jobs("fingerprint:0123456789abcdef")) == []
    with pytest.raises(InvalidFilter, match="whole key"):
        list(app.jobs("unique:double*"))
    assert filters.parse("unique:double:n:7") == [("unique", "=", ["double:n:7"])]


def test_errors_of_any_size_are_whole(shared: MemoryStorage, work: Any) -> None:
    app = app_with(shared, NEW)

    @app.task(name="noisy", retry=1)
    def noisy(text: str) -> None:
        try:
            raise ValueError(text)
        except ValueError as error:
            for turn in range(9):
                error.add_note(f"{turn} {text[turn * 499 : turn * 499 + 499]}")
            raise RuntimeError(text + "\ud800") from error

    work(app)
    noise = "".join(chr(33 + number * number * 7_919 % 5_000) for number in range(20_000))
    error = final(noisy.enqueue(noise)).error
    assert error is not None
    assert error.message.startswith(noise[:100])
    assert "characters cut" in error.message
    assert error.traceback.startswith("Traceback")
    assert "RuntimeError" in error.traceback


@pytest.mark.parametrize("keys", [(), (NEW,)], ids=["clear", "sealed"])
@pytest.mark.parametrize("reason", ["\u00e9" * 1_000, "\u20ac" * 400, "x" * 1_024, "odd \ud800", "short"])
def test_a_job_may_cancel_itself_with_any_reason(
    shared: MemoryStorage, work: Any, keys: tuple[str, ...], reason: str
) -> None:
    app = app_with(shared, *keys)

    @app.task(name="leave")
    def leave() -> None:
        raise Cancel(reason)

    work(app)
    info = final(leave.enqueue())
    assert info.state is JobState.CANCELLED
    assert (info.reason or "")[:4] == reason[:4]
    assert info.reason == reason or len(reason.encode("utf-8", "replace")) > 600 or "\ud800" in reason
