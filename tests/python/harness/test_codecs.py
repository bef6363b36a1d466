"""A harness of an application that compresses and encrypts: what a test sees is clear."""

import base64

import pytest

from raftwork import InvalidOption, JobContext, JobFailed, Raftwork, Retry, Secret
from raftwork.testing import harness

KEYS = "2026-11:" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()


@pytest.fixture
def app() -> Raftwork:
    return Raftwork("shop", "memory://", encryption_keys=KEYS, compress_above=200)


def test_arguments_results_and_errors_are_clear_in_a_test(app: Raftwork) -> None:
    @app.task(name="shop.length")
    def length(text: str) -> int:
        return len(text)

    @app.task(name="shop.fail", retry=Retry(1))
    def fail(word: str) -> None:
        raise ValueError(word)

    text = "many words " * 1_000
    with harness(app) as h:
        job = length.enqueue(text)
        h.assert_enqueued(length, text)
        h.drain()
        assert job.result() == len(text)
        fail.enqueue("harbour")
        with pytest.raises(ValueError, match="harbour") as raised:
            h.drain()
        assert "fail('harbour')" in raised.value.__notes__[0]
        assert "harbour" in str(h.jobs(fail)[0].error)
        h.crash_worker(4)
        length.enqueue("crashes")
        with pytest.raises(JobFailed):
            h.drain()


def test_nothing_is_stored_for_a_result_that_is_none(app: Raftwork) -> None:
    @app.task(name="shop.note")
    def note(ctx: JobContext) -> None:
        ctx.progress(1, 2)

    with harness(app) as h:
        note.enqueue()
        h.drain()
        (info,) = h.jobs(note)
        assert info.packed_result is None, "so that also who has no key reads it"


def test_a_secret_reaches_its_job(app: Raftwork) -> None:
    seen = []

    @app.task(name="shop.send")
    def send(token: Secret[str]) -> None:
        seen.append(token.reveal())

    with harness(app, mode="inline"):
        send.enqueue(Secret("harbour"))
    assert seen == ["harbour"]


def test_a_schedule_stores_no_arguments_in_clear(app: Raftwork) -> None:
    @app.task(name="shop.report")
    def report(month: str = "last") -> None: ...

    with harness(app):
        with pytest.raises(InvalidOption, match="'monthly' has arguments, and this application encrypts"):
            app.schedules.put("monthly", report.s("last"), cron="0 6 1 * *")
        assert app.schedules.put("monthly", report, cron="0 6 1 * *").call == "report()"
