"""What becomes of a job whose function has raised: retried, failed, snoozed, cancelled, released.

What the worker was told about the job comes first (`Cause`), then what the job itself answered (`Snooze` and its
relatives), then the retry policy.
"""

from __future__ import annotations

import asyncio
import os

from raftwork import durations
from raftwork.errors import JobCancelled, LeaseLost, LimitExceeded
from raftwork.outcomes import Cancel, Discard, Outcome, RetryAfter, Snooze
from raftwork.retry import Retry
from raftwork.storage.base import ClaimedJob
from raftwork.worker.ending import RELEASED, Code, Ending
from raftwork.worker.failure import Failure, describe, log_tail, type_name
from raftwork.worker.fingerprint import fingerprint_line, fingerprint_of
from raftwork.worker.guard import Interrupt
from raftwork.worker.payloads import Unopened
from raftwork.worker.run import Cause, Run

__all__ = ["after_error", "after_kill", "after_outcome", "failed_result", "timed_out"]

CHAIN_LINKS_MAX = 20
OWN_FRAMES = os.path.dirname(os.path.abspath(__file__))


def after_error(run: Run, error: BaseException, policy: Retry) -> Ending:
    """Decide about a job that raised. Never raises."""
    try:
        if run.cause is Cause.TIMEOUT:
            return timed_out(run, policy, error)
        if run.cause is Cause.CANCEL:
            return Ending(Code.CANCELLED)  # Why is known to the storage, from whoever asked for it.
        if run.cause is not None and _is_stop(error):
            return RELEASED
        if isinstance(error, Outcome):
            return after_outcome(run, error, policy)
        if isinstance(error, Unopened):
            return error.ending
        return _retry_or_fail(run.claim, policy, error, describe(error, run.lines or (), OWN_FRAMES))
    except BaseException as trouble:  # An exception whose attributes raise, or no memory left to describe it.
        failure = Failure(type(error).__name__[:200], f"(could not be examined: {type(trouble).__name__})")
        return Ending(Code.FAILED, failure=failure)


def after_outcome(run: Run, outcome: Outcome, policy: Retry) -> Ending:
    """Decide about a job that returned or raised one of the answers of `raftwork.outcomes`."""
    match outcome:
        case Snooze():
            return Ending(Code.SNOOZE, delay_ms=outcome.delay_ms, reason=str(outcome.reason))
        case Cancel():
            return Ending(Code.CANCELLED, reason=str(outcome.reason))
        case Discard():
            return Ending(Code.FAILED, failure=_told(run, outcome, outcome.reason))
        case RetryAfter():
            failure = _told(run, outcome, outcome.reason)
            if run.claim.attempt >= run.claim.max_attempts:
                return Ending(Code.FAILED, failure=failure)
            return Ending(Code.RETRY, delay_ms=outcome.delay_ms, failure=failure)
    return _retry_or_fail(run.claim, policy, outcome, describe(outcome, run.lines or (), OWN_FRAMES))


def failed_result(run: Run, error: BaseException) -> Ending:
    """The function succeeded, but its result cannot be stored. Running it again would only repeat its effects."""
    return Ending(Code.FAILED, failure=describe(error, run.lines or (), OWN_FRAMES))


def timed_out(run: Run, policy: Retry, error: BaseException | None = None) -> Ending:
    """The job ran longer than its time-out: a failed attempt, with the place where it was interrupted."""
    limit = durations.text(run.claim.timeout_ms or 0)
    told = TimeoutError(f"The job ran longer than its timeout of {limit}.")
    # Where it was interrupted is chance, so that does not tell one mistake from another.
    mark = fingerprint_of("TimeoutError", run.claim.function)
    where = describe(error if error is not None else told, run.lines or (), OWN_FRAMES, mark)
    failure = Failure("TimeoutError", str(told), where.traceback)
    return _retry_or_fail(run.claim, policy, told, failure)


def after_kill(run: Run, how: str, policy: Retry) -> Ending:
    """Decide about a job whose process has ended: by us, because it did not stop when told, or by itself."""
    match run.cause:
        case Cause.TIMEOUT:
            return timed_out(run, policy)
        case Cause.LIMIT:
            return _over_limit(run, policy)
        case Cause.CANCEL:
            return Ending(Code.CANCELLED)  # Why is known to the storage, from whoever asked for it.
        case Cause.SHUTDOWN | Cause.LOST:
            return RELEASED
    # Not the job's attempt: crashes are counted apart, and bounded too.
    message = f"The {how} while it ran this job."
    mark = fingerprint_line(fingerprint_of("ProcessCrashed", run.claim.function))
    return Ending(Code.CRASHED, failure=Failure("ProcessCrashed", message, log_tail(run.lines or ()) + mark))


def _over_limit(run: Run, policy: Retry) -> Ending:
    # An attempt and no crash: like a time-out it is a decision about this job, which the task's policy may take up.
    error = LimitExceeded(run.exceeded)
    mark = fingerprint_line(fingerprint_of(type_name(error), run.claim.function))
    failure = Failure(type_name(error), error.message, log_tail(run.lines or ()) + mark)
    return _retry_or_fail(run.claim, policy, error, failure)


def _retry_or_fail(claim: ClaimedJob, policy: Retry, error: BaseException, failure: Failure) -> Ending:
    if claim.attempt >= claim.max_attempts or not policy.applies_to(error):
        return Ending(Code.FAILED, failure=failure)
    return Ending(Code.RETRY, delay_ms=policy.delay_ms(claim.attempt), failure=failure)


def _told(run: Run, outcome: Outcome, reason: str) -> Failure:
    told = describe(outcome, run.lines or (), OWN_FRAMES)
    return Failure(told.type, reason or told.message, told.traceback)


def _is_stop(error: BaseException) -> bool:
    """Whether the job ended because it was told to, directly or as the cause of what it raised."""
    link: BaseException | None = error
    for _ in range(CHAIN_LINKS_MAX):
        if link is None:
            return False
        if isinstance(link, asyncio.CancelledError | Cancel | LeaseLost | JobCancelled | Interrupt):
            return True
        link = link.__cause__ or link.__context__
    return False
