"""Which job failed and why stands in the log of its worker."""

from __future__ import annotations

import base64
import logging
from typing import Any

import pytest

from raftwork import ConfigError, Discard, JobFailed, Raftwork, Retry
from raftwork.worker import Worker

WAIT_S = 60
LOGGER = "raftwork.failures"
ONCE_MORE = Retry(2, backoff="fixed", base="1ms", jitter=0.0)


def fail(job: Any) -> None:
    with pytest.raises(JobFailed):
        job.result(WAIT_S)


@pytest.mark.parametrize("kind", ["thread", "async"])
def test_each_attempt_that_failed_is_told(
    app: Raftwork, work: Any, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    @app.task(name="thread", retry=ONCE_MORE)
    def plain() -> None:
        logging.getLogger("shop").warning("of the job")
        raise ValueError("no such order")

    @app.task(name="async", retry=ONCE_MORE)
    async def coroutine() -> None:
        plain()

    work(app)
    job = (plain if kind == "thread" else coroutine).enqueue()
    fail(job)
    told = [record for record in caplog.records if record.name == LOGGER]
    assert [record.levelno for record in told] == [logging.WARNING, logging.ERROR]
    first, last = (record.getMessage() for record in told)
    assert first.startswith(f"{kind} {job.id} failed in attempt 1 of 2 and runs again in 1ms.\nTraceback ")
    assert last.startswith(f"{kind} {job.id} failed in attempt 2 of 2 and is not run again.\nTraceback ")
    assert first.endswith("ValueError: no such order") and 'raise ValueError("no such order")' in last
    assert all(line.endswith("shop: of the job") for line in job.info().log_lines), "what is told is no line of the job"


def test_a_job_that_gives_up_is_told_and_one_that_does_not_fail_is_not(
    app: Raftwork, work: Any, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task(name="good")
    def good() -> None: ...

    @app.task(name="gives_up")
    def gives_up() -> None:
        raise Discard("no such customer")

    work(app)
    good.enqueue().result(WAIT_S)
    fail(gives_up.enqueue())
    (told,) = (record for record in caplog.records if record.name == LOGGER)
    assert told.levelno == logging.ERROR and "no such customer" in told.getMessage()


def test_texts_that_are_encrypted_are_not_told(work: Any, caplog: pytest.LogCaptureFixture) -> None:
    key = base64.b64encode(b"k" * 32).decode()
    with Raftwork("vault", "memory://", encryption_keys=f"one:{key}") as app:

        @app.task(name="opens", retry=1)
        def opens() -> None:
            raise ValueError("the combination is 1234")

        work(app)
        fail(opens.enqueue())
    (told,) = (record for record in caplog.records if record.name == LOGGER)
    assert "1234" not in told.getMessage() and told.getMessage().endswith("ValueError (its texts are encrypted)")


def test_a_level_of_logging_that_there_is_not(app: Raftwork) -> None:
    with pytest.raises(ConfigError, match="log_level='LOUD' is not the name of a level"):
        Worker(app, log_level="LOUD")
