"""How a job ended, and the bytes that report it (the codes are those of `storage.base.result_*`)."""

from __future__ import annotations

import enum
from typing import NamedTuple

import msgspec

from raftwork.codecs import PLAIN, Codecs, Kind
from raftwork.storage import base
from raftwork.storage.base import ClaimedJob
from raftwork.worker.failure import MESSAGE_BYTES_MAX, Failure, shorten

__all__ = ["RELEASED", "Code", "Ending", "ending_of", "report"]

REASON_BYTES_MAX = 1_024
"""Of a reason, as the core takes it."""
SEALED_REASON_BYTES_MAX = 600
"""Of a reason that is sealed, and takes more then."""
SEALED_TRACEBACK_BYTES_MAX = 34 << 10
"""Of a traceback that is sealed and hardly compresses."""


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


def report(claim: ClaimedJob, ending: Ending, codecs: Codecs = PLAIN) -> bytes:
    """The result record that the core understands. A result is sealed already, texts are here."""
    job, token = claim.id, claim.token
    failure = None if ending.failure is None else _sealed(job, ending.failure, codecs)
    error = base.pack_error(failure.type, failure.message, failure.traceback) if failure is not None else b""
    match ending.code:
        case Code.SUCCEEDED:
            return base.result_succeeded(job, token, ending.result)
        case Code.RETRY:
            return base.result_retry(job, token, ending.delay_ms, error)
        case Code.FAILED:
            return base.result_failed(job, token, error)
        case Code.SNOOZE:
            return base.result_snoozed(job, token, ending.delay_ms, _reason(job, ending.reason, codecs))
        case Code.RELEASE:
            return base.result_released(job, token)
        case Code.CANCELLED:
            return base.result_cancelled(job, token, _reason(job, ending.reason, codecs))
        case Code.CRASHED:
            return base.result_crashed(job, token, error)


def ending_of(result: bytes, codecs: Codecs = PLAIN) -> Ending:
    """What a result record says: the other way of `report`."""
    job, _, code, *rest = msgspec.msgpack.decode(result)
    match Code(code):
        case Code.SUCCEEDED:
            return Ending(Code.SUCCEEDED, result=rest[0])
        case Code.RETRY:
            return Ending(Code.RETRY, delay_ms=rest[0], failure=_failure(job, rest[1], codecs))
        case Code.SNOOZE:
            reason = codecs.open_text(job, Kind.REASON, rest[1]) if len(rest) > 1 else ""
            return Ending(Code.SNOOZE, delay_ms=rest[0], reason=reason)
        case Code.RELEASE:
            return RELEASED
        case Code.CANCELLED:
            return Ending(Code.CANCELLED, reason=codecs.open_text(job, Kind.REASON, rest[0]))
        case other:
            return Ending(other, failure=_failure(job, rest[0], codecs))


def _failure(job: bytes, error: bytes, codecs: Codecs) -> Failure:
    kind, message, traceback = msgspec.msgpack.decode(error)
    message = codecs.open_text(job, Kind.MESSAGE, message)
    return Failure(kind, message, codecs.open_text(job, Kind.TRACEBACK, traceback))


def _sealed(job: bytes, failure: Failure, codecs: Codecs) -> Failure:
    """The same with its texts as they are stored. Base64 takes a third more, and nothing may be cut from it."""
    if not codecs.encrypts:
        return failure
    message = codecs.seal_text(job, Kind.MESSAGE, shorten(failure.message, MESSAGE_BYTES_MAX))
    traceback = codecs.seal_text(job, Kind.TRACEBACK, failure.traceback)
    if len(traceback) > base.TRACEBACK_BYTES_MAX:
        traceback = codecs.seal_text(job, Kind.TRACEBACK, shorten(failure.traceback, SEALED_TRACEBACK_BYTES_MAX))
    return Failure(failure.type, message, traceback)


def _reason(job: bytes, reason: str, codecs: Codecs) -> str:
    if not reason:
        return ""
    reason = reason.encode("utf-8", "backslashreplace").decode()  # Lone surrogates cannot travel.
    room = SEALED_REASON_BYTES_MAX if codecs.encrypts else REASON_BYTES_MAX
    return codecs.seal_text(job, Kind.REASON, shorten(reason, room))
