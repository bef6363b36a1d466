"""The log lines of a job, from any process: of a running one its worker is asked, of a failed one the last are stored.

A question names the lease under which the job ran when it was looked up. So an answer is of that run, whatever the job
does meanwhile; when it has gone on, it is looked up again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol

from raftwork.errors import LogsUnavailable, Overloaded, TimedOut
from raftwork.job_info import JobInfo, JobState
from raftwork.logs import JobLogs
from raftwork.reading import SESSION, Reading
from raftwork.storage.base import LinesStanding, RunLines, Storage

__all__ = ["follow", "logs_of"]

TRIES = 3
"""Times that a job is looked up that goes on while its worker is asked."""
PAUSE_S = 0.5
"""How long `follow` waits before it asks again. The end of the job cuts it short."""

_REASONS = {
    JobState.AWAITING: "the job waits for others and has not run",
    JobState.SCHEDULED: "the job is not due yet",
    JobState.ENQUEUED: "the job waits for a worker",
    JobState.RETRYING: "the job waits for its next attempt, and logged nothing before its last one failed",
    JobState.SUCCEEDED: "the job succeeded; lines are stored with failures only",
    JobState.FAILED: "nothing was logged before the last failure, or the worker died with it",
    JobState.CANCELLED: "the job was cancelled; lines are stored with failures only",
}
_NOT_STARTED = "a worker has taken the job and has not started it, or it has just ended"
_UNAVAILABLE = {
    LinesStanding.NOT_CONNECTED: "no node has a connection of its worker, which may have died: then the job soon runs "
    "elsewhere. Ask again in some seconds",
    LinesStanding.SILENT: "{why}: it is busy or hangs, or is of a version that cannot tell. Ask again, or update it",
    LinesStanding.UNREACHABLE: "{why}. Ask again when that member is back",
    LinesStanding.UNKNOWN_HERE: "the node that was asked is of a version that cannot ask workers. Update it",
}


class _Door(Protocol):
    @property
    def storage(self) -> Storage: ...
    def job_info(self, job: bytes, reading: Reading) -> JobInfo: ...


def logs_of(door: _Door, job: bytes) -> JobLogs:
    """For `Job.logs`."""
    info = door.job_info(job, SESSION)
    for _ in range(TRIES):
        if not _runs(info):
            break
        answer = _ask(door, info)
        if answer.standing is LinesStanding.TOLD:
            return _told(info, answer)
        before, info = info, door.job_info(job, SESSION)
        if _runs(info) and info.token == before.token:
            if answer.standing is LinesStanding.NOT_RUNNING:
                break
            raise _unavailable(info, answer)
    return _stored(info)


def follow(door: _Door, job: bytes) -> Iterator[JobLogs]:
    """New lines of a job as it logs them, each once, through all its attempts, until it is final.

    The last answer has the final state. One without lines tells in `reason` what is waited for, once.
    """
    run: JobInfo | None = None
    seen = False
    following = 0
    last = ""
    told = ""
    while True:
        info = door.job_info(job, SESSION)
        if run is not None and (not _runs(info) or info.token != run.token):
            yield from _rest(door, run, info, following, last)
            run = None
        if info.state.final:
            yield JobLogs([], info.state, info.attempt) if seen else _stored(info)
            return
        if _runs(info):
            following = 0 if run is None else following
            run, seen = info, True
            try:
                answer = _ask(door, info, following)
            except Overloaded:
                answer = RunLines(LinesStanding.TOLD, following, [], "")  # Whatever is new comes with the next one.
            if answer.lines:
                last = answer.lines[-1]
                yield _told(info, answer)
            following = max(following, answer.first + len(answer.lines))
            reason = "" if answer.standing is LinesStanding.TOLD else _reason(info, answer)
        else:
            reason = _REASONS[info.state]
        if reason and reason != told:
            yield JobLogs([], info.state, info.attempt, reason=reason)
        told = reason or told
        with contextlib.suppress(TimedOut):
            door.storage.wait(job, PAUSE_S)


def _runs(info: JobInfo) -> bool:
    return info.state is JobState.PROCESSING and info.session is not None and info.token is not None


def _ask(door: _Door, info: JobInfo, start: int = 0) -> RunLines:
    return door.storage.run_lines(info.id.bytes, info.session or 0, info.token or 0, start)


def _told(info: JobInfo, answer: RunLines) -> JobLogs:
    reason = "" if answer.lines else "the job has logged nothing so far"
    return JobLogs(answer.lines, info.state, info.attempt, live=True, first=answer.first, reason=reason)


def _stored(info: JobInfo) -> JobLogs:
    lines = [] if _runs(info) else info.log_lines  # Those of a run before would pass for those of this one.
    return JobLogs(lines, info.state, info.attempt, reason="" if lines else _REASONS.get(info.state, _NOT_STARTED))


def _rest(door: _Door, run: JobInfo, info: JobInfo, following: int, last: str) -> Iterator[JobLogs]:
    """What a run logged between the last answer and its end: its worker keeps it for a while, a failure for good."""
    answer = _ask(door, run, following)
    if answer.standing is LinesStanding.TOLD:
        lines, first = answer.lines, answer.first
    else:
        stored = info.log_lines if info.state in (JobState.FAILED, JobState.RETRYING) else []
        known = len(stored) - stored[::-1].index(last) if last in stored else 0
        lines, first = stored[known:], following
    if lines:
        yield JobLogs(lines, info.state, run.attempt, live=True, first=first)


def _reason(info: JobInfo, answer: RunLines) -> str:
    return _NOT_STARTED if answer.standing is LinesStanding.NOT_RUNNING else _unavailable(info, answer).message


def _unavailable(info: JobInfo, answer: RunLines) -> LogsUnavailable:
    words = _UNAVAILABLE[answer.standing].format(why=answer.why)
    return LogsUnavailable(f"Log lines of the running job {info.id}: {words}.", info.id)
