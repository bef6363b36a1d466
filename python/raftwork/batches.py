"""Many calls cut into writes: at most 1,000 jobs and 4 MiB each, in the order given. And what becomes of jobs then."""

from __future__ import annotations

import logging
import uuid
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from typing import Any

from raftwork import events, serde
from raftwork.codecs import PLAIN, Codecs, Kind
from raftwork.errors import InvalidTask
from raftwork.limits import Carried
from raftwork.middleware import EnqueueCall
from raftwork.plans import Plan
from raftwork.storage.base import Clash, JobSpec, NewJob
from raftwork.storage.flows import Flow
from raftwork.task import Signature, Task

__all__ = ["BATCH_BYTES_MAX", "BATCH_JOBS_MAX", "Batch", "batches", "flow_of", "held_back", "kept", "lost"]

_logger = logging.getLogger("raftwork")

BATCH_JOBS_MAX = 1_000
"""Jobs of one write: bounds the time that applying it takes."""
BATCH_BYTES_MAX = (4 << 20) - (64 << 10)
"""Encoded bytes of one write. The log takes 4 MiB; the rest is for what is around the jobs."""
JOB_BYTES = 48
"""What a job needs beside its arguments and key."""

FLOW_BYTES = 32
PARENT_BYTES = 24
LIMIT_BYTES = 32
"""What a limit of a job needs beside its key."""

new_job = tuple.__new__
"""Makes a NewJob without the Python call that its class makes: a third of the time of a thousand jobs."""

Row = tuple[JobSpec, bytes, int, int | None, str | None, Flow | None, Carried]


class Batch:
    """Jobs of one write, prepared but without ids."""

    __slots__ = ("bytes", "calls", "ids", "rows")

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.ids: list[bytes] = []
        self.calls: list[Signature[Any]] = []
        self.bytes = 0

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, ids: list[bytes], codecs: Codecs = PLAIN) -> list[NewJob]:
        """The jobs with their ids, made late so that ids grow with the time of the write."""
        self.ids = ids
        rows = zip(ids, self.rows, strict=True)
        if not codecs.encrypts:
            return [new_job(NewJob, (id, *row)) for id, row in rows]
        # A payload is bound to its job, so this cannot be done before.
        return [new_job(NewJob, (id, row[0], codecs.encrypt(id, Kind.ARGS, row[1]), *row[2:])) for id, row in rows]

    def enqueue_calls(self) -> Iterator[EnqueueCall]:
        """The jobs as middleware sees them."""
        rows = zip(self.rows, self.calls, strict=True)
        return (EnqueueCall.of(row[0], call.args, call.kwargs) for row, call in rows)

    def functions(self, without: Container[int] = ()) -> Counter[str]:
        """How many jobs of each function, not counting those at these places."""
        return Counter(row[0].function for place, row in enumerate(self.rows) if place not in without)


def batches(calls: Iterable[Signature[Any]], codecs: Codecs = PLAIN, member_of: bytes | None = None) -> Iterator[Batch]:
    """Cut calls into batches while they are produced. `member_of`: a batch of jobs that finish together.

    Raises:
        InvalidTask: something is not a call made by `task.s(...)`.
        SerializationError, PayloadTooLarge: as `Task.enqueue`. Batches given out before are not affected.
    """
    encode_args, compress = serde.encode_args, codecs.compress
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
        call.complete()
        outputs: dict[bytes, int] = {}
        packed = compress(Kind.ARGS, encode_args(call.args, call.kwargs, call.task.name, plan.secrets, outputs))
        flow = flow_of(plan, outputs, member_of)
        key = None if plan.unique_key is None else plan.unique_key(call.args, call.kwargs)
        limits = None if plan.limits is None else plan.limits(call.args, call.kwargs)
        size = JOB_BYTES + codecs.overhead + len(packed) + (0 if key is None else 4 * len(key))
        size += 0 if flow is None else FLOW_BYTES + PARENT_BYTES * len(flow.parents)
        if limits:
            size += sum(LIMIT_BYTES + 4 * len(limit[1]) for limit in limits)
        if len(batch.rows) == BATCH_JOBS_MAX or (batch.rows and batch.bytes + size > BATCH_BYTES_MAX):
            yield batch
            batch = Batch()
            batch.bytes = len(plan.spec.packed)
        batch.calls.append(call)
        batch.rows.append((plan.spec, packed, plan.delay_ms, plan.run_at_ms, key, flow, limits))
        batch.bytes += size
    if batch.rows:
        yield batch


def flow_of(plan: Plan, outputs: dict[bytes, int], batch: bytes | None) -> Flow | None:
    """The flow of a job to be stored. Jobs whose output it takes come first: arguments name them by place."""
    if not outputs and not plan.parents:
        return None if batch is None else Flow((), batch)
    used = [(parent, plan.on, True) for parent in outputs]
    others = [(parent, plan.on, False) for parent in plan.parents if parent not in outputs]
    return Flow((*used, *others), batch)


def held_back(clashes: Iterable[Clash]) -> set[int]:
    """The places of the jobs that were not stored, because another has their unique key."""
    return {clash.position for clash in clashes if clash.outcome == 2}


def kept(clash: Clash, own: bytes) -> bytes:
    """The id of the job that there is now: an existing one only if it was kept."""
    return clash.existing if clash.outcome == 2 else own


def lost(function: str, id: bytes, error: BaseException) -> None:
    """Tell of a job that was enqueued without waiting for the answer, and is not known to be stored."""
    job = uuid.UUID(bytes=id)
    _logger.error("Job %s of %s was enqueued with wait=False and is not known to be stored: %s", job, function, error)
    events.emit("job.enqueue_lost", function=function, error=error)
