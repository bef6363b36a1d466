"""Says in the log of a worker which job failed, and why.

One record of the logger `raftwork.failures` for each attempt that failed: a warning if the job runs again, an error if
it does not. It has the traceback, so whoever looks at the output of a worker needs nothing else. Where payloads are
encrypted, so are the texts of errors, and the log has their type alone.
"""

from __future__ import annotations

import contextvars
import logging
import uuid

from raftwork import durations
from raftwork.codecs import Codecs
from raftwork.job_info import LOG_HEADING
from raftwork.remote_error import FINGERPRINT_HEADING
from raftwork.storage.base import ClaimedJob
from raftwork.worker.ending import Code, Ending
from raftwork.worker.failure import Failure

__all__ = ["tell_failure"]

logger = logging.getLogger("raftwork.failures")


def tell_failure(claim: ClaimedJob, ending: Ending, codecs: Codecs) -> None:
    """Log how an attempt failed, if it did. Never raises."""
    if ending.failure is None or ending.code not in (Code.RETRY, Code.FAILED):
        return
    again = ending.code is Code.RETRY
    if not logger.isEnabledFor(level := logging.WARNING if again else logging.ERROR):
        return
    then = f"runs again in {durations.text(ending.delay_ms)}" if again else "is not run again"
    words = (
        claim.function,
        uuid.UUID(bytes=claim.id),
        claim.attempt,
        claim.max_attempts,
        then,
        _why(ending.failure, codecs),
    )
    # In no context: a record that is made in that of the job counts among its own lines.
    contextvars.Context().run(logger.log, level, "%s %s failed in attempt %d of %d and %s.\n%s", *words)


def _why(failure: Failure, codecs: Codecs) -> str:
    """The error as Python shows it, without the log lines of the job: these are in the same log."""
    if codecs.encrypts:
        return f"{failure.type} (its texts are encrypted)"
    text = failure.traceback.rpartition(FINGERPRINT_HEADING)[0].partition(LOG_HEADING)[0].strip()
    return text if text.endswith(failure.message) else f"{failure.type}: {failure.message}\n{text}".strip()
