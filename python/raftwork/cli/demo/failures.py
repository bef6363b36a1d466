"""Failed jobs, grouped by what went wrong."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from raftwork.job_info import JobInfo

__all__ = ["Group", "group"]

_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Group:
    """Jobs of one task that failed in the same way."""

    task: str
    error: str
    """Type and message, with `N` for each number: messages that differ only in an id are one error."""
    jobs: int


def group(failed: Iterable[JobInfo]) -> list[Group]:
    """The groups, the largest first."""
    found: Counter[tuple[str, str]] = Counter()
    for job in failed:
        error = f"{job.error.type}: {job.error.message}" if job.error else job.reason or "no reason"
        found[job.function.rpartition(".")[2], _NUMBER.sub("N", error)] += 1
    return [Group(task, error, jobs) for (task, error), jobs in found.most_common()]
