"""What a job may answer beside a plain result: return it or raise it.

| outcome      | the job becomes           | attempt spent |
|--------------|---------------------------|---------------|
| `Snooze`     | `scheduled`, due after it | no            |
| `RetryAfter` | `retrying`, due after it  | yes           |
| `Cancel`     | `cancelled`               | final         |
| `Discard`    | `failed`, without a retry | final         |

They are exceptions only so that code deep inside a job can leave with them; returning one means the same.
"""

from __future__ import annotations

from raftwork.durations import Duration, duration_ms

__all__ = ["Cancel", "Discard", "Outcome", "RetryAfter", "Snooze"]


class Outcome(Exception):
    """The base of the four answers."""


class Snooze(Outcome):
    """Not now: run the job again after `delay`, without spending an attempt.

    Args:
        delay: from now on.
        reason: what it waits for, up to 1 KiB. `job.info().reason` and `raftwork job` show it until the next run.

    Example:
        >>> raise Snooze("10m", reason="waits for the bank")
    """

    def __init__(self, delay: Duration, reason: str = "") -> None:
        self.delay_ms = duration_ms(delay, "Snooze delay")
        self.reason = reason
        super().__init__(delay, reason)


class RetryAfter(Outcome):
    """This attempt failed and the job knows when the next makes sense, for example from a `Retry-After` header.

    Spends an attempt; when none is left, the job fails with `reason`.
    """

    def __init__(self, delay: Duration, reason: str = "") -> None:
        self.delay_ms = duration_ms(delay, "RetryAfter delay")
        self.reason = reason
        super().__init__(delay, reason)


class Cancel(Outcome):
    """The job is not wanted any more: end it as `cancelled`."""

    def __init__(self, reason: str = "") -> None:
        self.reason = reason
        super().__init__(reason)


class Discard(Outcome):
    """The job can never succeed: end it as `failed` now, whatever attempts are left."""

    def __init__(self, reason: str = "") -> None:
        self.reason = reason
        super().__init__(reason)
