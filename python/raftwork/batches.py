"""Many calls cut into writes: at most 1,000 jobs and 4 MiB each, in the order given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from raftwork import serde
from raftwork.errors import InvalidTask
from raftwork.storage.base import JobSpec, NewJob
from raftwork.task import Plan, Signature, Task

__all__ = ["BATCH_BYTES_MAX", "BATCH_JOBS_MAX", "Batch", "batches"]

BATCH_JOBS_MAX = 1_000
"""Jobs of one write: bounds the time that applying it takes."""
BATCH_BYTES_MAX = (4 << 20) - (64 << 10)
"""Encoded bytes of one write. The log takes 4 MiB; the rest is for what is around the jobs."""
JOB_BYTES = 48
"""What a job needs beside its arguments and key."""

new_job = tuple.__new__
"""Makes a NewJob without the Python call that its class makes: a third of the time of a thousand jobs."""

Row = tuple[JobSpec, bytes, int, int | None, str | None]


class Batch:
    """Jobs of one write, prepared but without ids."""

    __slots__ = ("bytes", "ids", "rows")

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.ids: list[bytes] = []
        self.bytes = 0

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, ids: list[bytes]) -> list[NewJob]:
        """The jobs with their ids, made late so that ids grow with the time of the write."""
        self.ids = ids
        return [new_job(NewJob, (id, *row)) for id, row in zip(ids, self.rows, strict=True)]

    def functions(self) -> Counter[str]:
        """How many jobs of each function."""
        return Counter(row[0].function for row in self.rows)


def batches(calls: Iterable[Signature[Any]]) -> Iterator[Batch]:
    """Cut calls into batches while they are produced.

    Raises:
        InvalidTask: something is not a call made by `task.s(...)`.
        SerializationError, PayloadTooLarge: as `Task.enqueue`. Batches given out before are not affected.
    """
    encode_args = serde.encode_args
    batch = Batch()
    task: Task[..., Any] | None = None
    plan: Plan | None = None
    for call in calls:
        if not isinstance(call, Signature):
            raise InvalidTask(f"{call!r:.100} is not a call of a task. Write task.s(arguments) for each job.")
        if plan is None or call.task is not task:  # Neighbours mostly are of one task.
            task = call.task
            plan = task.plan()
            batch.bytes += len(plan.spec.packed)
        packed = encode_args(call.args, call.kwargs, call.task.name)
        key = None if plan.unique_key is None else plan.unique_key(call.args, call.kwargs)
        size = JOB_BYTES + len(packed) + (0 if key is None else 4 * len(key))
        if len(batch.rows) == BATCH_JOBS_MAX or (batch.rows and batch.bytes + size > BATCH_BYTES_MAX):
            yield batch
            batch = Batch()
            batch.bytes = len(plan.spec.packed)
        batch.rows.append((plan.spec, packed, plan.delay_ms, plan.run_at_ms, key))
        batch.bytes += size
    if batch.rows:
        yield batch
