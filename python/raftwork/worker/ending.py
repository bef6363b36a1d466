"""How a job ended, and the bytes that report it (the codes are those of `storage.base.result_*`)."""

from __future__ import annotations

import enum
from typing import NamedTuple

import msgspec

from raftwork.storage import base
from raftwork.storage.base import ClaimedJob
from raftwork.worker.failure import Failure

__all__ = ["RELEASED", "Code", "Ending", "ending_of", "report"]

REASON_CHARS_MAX = 1_000


class Code(enum.IntEnum):
    """The outcome codes of the wire."""

    SUCCEEDED = 0
    RETRY = 1
    FAILED = 2
    SNOOZE = 3
    RELEASE = 4
    CANCELLED = 5
    CRASHED = 6


class Ending(NamedTuple):
    """What was decided about a job whose function has ended."""

    code: Code
    result: bytes | None = None
    delay_ms: int = 0
    failure: Failure | None = None
    reason: str = ""


RELEASED = Ending(Code.RELEASE)


def report(claim: ClaimedJob, ending: Ending) -> bytes:
    """The result record that the core understands."""
    job, token, failure = claim.id, claim.token, ending.failure
    error = base.pack_error(failure.type, failure.message, failure.traceback) if failure is not None else b""
    match ending.code:
        case Code.SUCCEEDED:
            return base.result_succeeded(job, token, ending.result)
        case Code.RETRY:
            return base.result_retry(job, token, ending.delay_ms, error)
        case Code.FAILED:
            return base.result_failed(job, token, error)
        case Code.SNOOZE:
            return base.result_snoozed(job, token, ending.delay_ms)
        case Code.RELEASE:
            return base.result_released(job, token)
        case Code.CANCELLED:
            return base.result_cancelled(job, token, ending.reason[:REASON_CHARS_MAX])
        case Code.CRASHED:
            return base.result_crashed(job, token, error)


def ending_of(result: bytes) -> Ending:
    """What a result record says: the other way of `report`."""
    _, _, code, *rest = msgspec.msgpack.decode(result)
    match Code(code):
        case Code.SUCCEEDED:
            return Ending(Code.SUCCEEDED, result=rest[0])
        case Code.RETRY:
            return Ending(Code.RETRY, delay_ms=rest[0], failure=_failure(rest[1]))
        case Code.SNOOZE:
            return Ending(Code.SNOOZE, delay_ms=rest[0])
        case Code.RELEASE:
            return RELEASED
        case Code.CANCELLED:
            return Ending(Code.CANCELLED, reason=rest[0])
        case other:
            return Ending(other, failure=_failure(rest[0]))


def _failure(error: bytes) -> Failure:
    return Failure(*msgspec.msgpack.decode(error))
