"""How a job ended, whichever way that was."""

from __future__ import annotations

import contextlib
from typing import Any

from raftwork import Job, JobCancelled, JobFailed, JobInfo

__all__ = ["final"]

WAIT_S = 60


def final(job: Job[Any]) -> JobInfo:
    """Wait until a job is final; what is known about it."""
    with contextlib.suppress(JobFailed, JobCancelled):
        job.result(WAIT_S)
    return job.info()
