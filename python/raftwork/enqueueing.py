"""Calls that become stored jobs: one, many, or a chain."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from raftwork import events, serde
from raftwork.batches import Batch, batches, flow_of, held_back, kept, lost
from raftwork.codecs import Codecs, Kind
from raftwork.door import Door
from raftwork.errors import OutcomeUnknown
from raftwork.flows import batch_of
from raftwork.job import Job
from raftwork.limits import Carried
from raftwork.middleware import EnqueueCall, Middleware
from raftwork.output import Output
from raftwork.plans import Plan
from raftwork.storage.base import Clash, NewJob, Storage
from raftwork.task import Signature

__all__ = ["Enqueueing"]

R = TypeVar("R")


class Enqueueing(Door, ABC):
    """The part of an application that stores jobs."""

    _storage: Storage | None
    _codecs: Codecs | None
    middleware: Middleware

    @abstractmethod
    def _make_storage(self) -> Storage: ...

    def put(
        self, plan: Plan, packed: bytes, unique_key: str | None, outputs: dict[bytes, int], limits: Carried
    ) -> Job[Any]:
        """Store one job that a task has prepared. Use `task.enqueue`."""
        storage = self._storage or self._make_storage()
        job = self._new_job(storage.new_ids(1)[0], plan, packed, unique_key, outputs, limits)
        if not plan.wait:
            storage.start_enqueue((job,), lambda error: lost(plan.spec.function, job.id, error))
            return Job(self, job.id)
        with _noting(job.id):
            clashes = storage.enqueue((job,))
        return self._stored((job,), clashes)

    async def aput(
        self, plan: Plan, packed: bytes, unique_key: str | None, outputs: dict[bytes, int], limits: Carried
    ) -> Job[Any]:
        """`put` for a running event loop. Use `task.aenqueue`."""
        storage = self._storage or self._make_storage()
        job = self._new_job(storage.new_ids(1)[0], plan, packed, unique_key, outputs, limits)
        if not plan.wait:
            await storage.astart_enqueue((job,), lambda error: lost(plan.spec.function, job.id, error))
            return Job(self, job.id)
        with _noting(job.id):
            clashes = await storage.aenqueue((job,))
        return self._stored((job,), clashes)

    def put_chain(self, steps: Sequence[Signature[Any]]) -> Job[Any]:
        """Store jobs that pass their results on, and answer the last. Use `chain(...).enqueue`."""
        storage = self._storage or self._make_storage()
        with self.middleware.storing(_calls(steps)):
            jobs = self._chained(steps, storage.new_ids(len(steps)))
            with _noting(jobs[-1].id):
                clashes = storage.enqueue(jobs)
            return self._stored(jobs, clashes)

    async def aput_chain(self, steps: Sequence[Signature[Any]]) -> Job[Any]:
        """`put_chain` for a running event loop. Use `chain(...).aenqueue`."""
        storage = self._storage or self._make_storage()
        async with self.middleware.astoring(_calls(steps)):
            jobs = self._chained(steps, storage.new_ids(len(steps)))
            with _noting(jobs[-1].id):
                clashes = await storage.aenqueue(jobs)
            return self._stored(jobs, clashes)

    def _new_job(
        self,
        id: bytes,
        plan: Plan,
        packed: bytes,
        unique_key: str | None,
        outputs: dict[bytes, int],
        limits: Carried,
    ) -> NewJob:
        sealed = (self._codecs or self.codecs).seal(id, Kind.ARGS, packed)
        flow = flow_of(plan, outputs, batch_of(self))
        return NewJob(id, plan.spec, sealed, plan.delay_ms, plan.run_at_ms, unique_key, flow, limits)

    def _chained(self, steps: Sequence[Signature[Any]], ids: list[bytes]) -> list[NewJob]:
        jobs: list[NewJob] = []
        for id, step in zip(ids, steps, strict=True):
            plan, outputs = step.task.plan(), dict[bytes, int]()
            args = (Output(jobs[-1].id), *step.args) if jobs else step.args
            packed = serde.encode_args(args, step.kwargs, step.task.name, plan.secrets, outputs)
            key = None if plan.unique_key is None else plan.unique_key(args, step.kwargs)
            limits = None if plan.limits is None else plan.limits(args, step.kwargs)
            jobs.append(self._new_job(id, plan, packed, key, outputs, limits))
        return jobs

    def _stored(self, jobs: Sequence[NewJob], clashes: list[Clash]) -> Job[Any]:
        """A handle on the last of these jobs, or on the one that there is in its place."""
        if events.listening():
            held = held_back(clashes)
            for place, job in enumerate(jobs):
                if place not in held:
                    events.emit("job.enqueued", function=job.spec.function, count=1)
        id = jobs[-1].id
        for clash in clashes:
            if clash.position == len(jobs) - 1:
                id = kept(clash, id)
        return Job(self, id)

    def enqueue_many(self, calls: Iterable[Signature[R]]) -> list[Job[R]]:
        """Store many jobs, 1,000 to a write; each write is stored as a whole or not at all.

        The order of `calls` is the order of the answer, and of execution within a queue and priority. An error leaves
        earlier writes stored. `using(wait=False)` has no effect here.

        Raises:
            As `Task.enqueue`. A note of `OutcomeUnknown` has the first and the last id of the write that it is about.

        Example:
            >>> app.enqueue_many(send_welcome.s(user) for user in range(1000))
        """
        storage = self._storage or self._make_storage()
        jobs: list[Job[R]] = []
        for batch in batches(calls, self.codecs, batch_of(self)):
            with self.middleware.storing(batch.enqueue_calls()):
                new = batch.take(storage.new_ids(len(batch)), self.codecs)
                with _noting(new[0].id, new[-1].id):
                    clashes = storage.enqueue(new)
                jobs += self._jobs_of(batch, clashes)
        return jobs

    async def aenqueue_many(self, calls: Iterable[Signature[R]]) -> list[Job[R]]:
        """`enqueue_many` for a running event loop."""
        storage = self._storage or self._make_storage()
        jobs: list[Job[R]] = []
        for batch in batches(calls, self.codecs, batch_of(self)):
            async with self.middleware.astoring(batch.enqueue_calls()):
                new = batch.take(storage.new_ids(len(batch)), self.codecs)
                with _noting(new[0].id, new[-1].id):
                    clashes = await storage.aenqueue(new)
                jobs += self._jobs_of(batch, clashes)
        return jobs

    def _jobs_of(self, batch: Batch, clashes: list[Clash]) -> list[Job[Any]]:
        ids = batch.ids
        for clash in clashes:
            ids[clash.position] = kept(clash, ids[clash.position])
        if events.listening():
            for function, count in batch.functions(held_back(clashes)).items():
                events.emit("job.enqueued", function=function, count=count)
        return [Job(self, id) for id in ids]


def _calls(steps: Sequence[Signature[Any]]) -> list[EnqueueCall]:
    """The jobs of a chain as middleware sees them."""
    return [EnqueueCall.of(step.task.plan().spec, step.args, step.kwargs) for step in steps]


@contextmanager
def _noting(id: bytes, last: bytes | None = None) -> Generator[None, None, None]:
    """Say in an error which job it is about, or which jobs from the first to the last of a write."""
    try:
        yield
    except OutcomeUnknown as error:
        note = f"The job's id is {uuid.UUID(bytes=id)}."
        if last is not None:
            note = f"The jobs' ids are {uuid.UUID(bytes=id)} to {uuid.UUID(bytes=last)}: all are stored, or none."
        error.add_note(note)
        raise
