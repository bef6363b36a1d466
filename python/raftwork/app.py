"""The application: where tasks are registered, jobs are enqueued, and everything can be asked and changed.

    app = Raftwork("shop")          nothing is opened, read or started
    @app.task                       registers; still nothing
    send.enqueue(7)                 settings are read, the storage is opened, the job is stored

The object may be made before a fork: a child opens a storage of its own. It is safe to use from many threads and
event loops.
"""

from __future__ import annotations

import difflib
import logging
import os
import threading
import uuid
import weakref
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from datetime import datetime
from types import MappingProxyType, TracebackType
from typing import Any, Concatenate, Never, ParamSpec, TypeVar, Unpack, overload

from raftwork import config, events, filters, options
from raftwork.batches import Batch, batches
from raftwork.config import Config, Settings
from raftwork.context import JobContext
from raftwork.durations import Duration
from raftwork.errors import ConfigError, InvalidTask, NotRunning, OutcomeUnknown, TaskNotRegistered
from raftwork.job import Job, JobInfo
from raftwork.network import Network
from raftwork.operators import BulkAnswer, Queues, WorkerInfo, change_one, changed, id_of, not_found
from raftwork.options import UNSET, Executor, Unique, UniqueKey
from raftwork.retry import Retry
from raftwork.running import Running, WorkerChoice
from raftwork.storage.base import Change, Clash, NewJob, Storage
from raftwork.storage.connect import connect
from raftwork.task import Decorator, Plan, Signature, Task

__all__ = ["Raftwork"]

P = ParamSpec("P")
R = TypeVar("R")

_logger = logging.getLogger("raftwork")
_APPS: weakref.WeakSet[Raftwork] = weakref.WeakSet()


class Raftwork:
    """One application and its jobs.

    Args:
        name: shown in lists of processes.
        storage: where jobs live, as a URL (`raft:///relative`, `raft:////absolute`, `raftwork://host:port,host:port`,
            `memory://`) or a Storage. Default: the directory `.raftwork` here.
        queue, max_attempts, max_crashes, timeout, keep_result, keep_failed: what tasks use that say nothing else.
        submit_timeout, session_ttl, segment_bytes, snapshot_bytes: of the storage. See `raftwork.config.SETTINGS`.
        listen, listen_clients, advertise, advertise_clients, members, join, node_name: make this process a node of a
            cluster.
        tls_ca, tls_certificate, tls_key, insecure: how connections to other machines are protected.

    A setting that is not given here is taken from `RAFTWORK_*`, then `raftwork.toml` or `[tool.raftwork]` in
    `pyproject.toml` of the working directory, then the defaults.

    Raises:
        ConfigError: a setting is unknown or out of range.

    Example:
        >>> app = Raftwork("shop")
    """

    def __init__(
        self,
        name: str,
        storage: str | Storage | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        self.name = options.check_name(name, "The name of the application")
        self._given: dict[str, Any] = dict(settings)
        self._own_storage = storage if isinstance(storage, Storage) else None
        if storage is not None and self._own_storage is None:
            self._given["storage"] = storage
        config.check_given(self._given)
        self._config: Config | None = None
        self._storage: Storage | None = None
        self._closed = False
        self._out_of_reach = ""
        self._lock = threading.RLock()
        self._tasks: dict[str, Task[..., Any]] = {}
        _APPS.add(self)

    # Tasks

    @overload
    def task(self, fn: Callable[Concatenate[JobContext, P], Awaitable[R]], /) -> Task[P, R]: ...
    @overload
    def task(self, fn: Callable[Concatenate[JobContext, P], R], /) -> Task[P, R]: ...
    @overload
    def task(self, fn: Callable[P, Awaitable[R]], /) -> Task[P, R]: ...
    @overload
    def task(self, fn: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(
        self,
        *,
        name: str = UNSET,
        queue: str = UNSET,
        priority: int = UNSET,
        delay: Duration | None = UNSET,
        run_at: datetime | None = UNSET,
        expires: Duration | None = UNSET,
        retry: Retry | int = UNSET,
        timeout: Duration | None = UNSET,
        max_crashes: int = UNSET,
        unique: UniqueKey | Unique | None = UNSET,
        tags: Iterable[str] = UNSET,
        keep_result: Duration = UNSET,
        keep_failed: Duration = UNSET,
        executor: Executor = UNSET,
        wait: bool = UNSET,
        **unknown: Never,
    ) -> Decorator: ...
    def task(self, *functions: Any, **given: Any) -> Any:
        """Make a function a task: `@app.task`, or `@app.task(queue="mail", ...)`.

        The function stays callable. A leading parameter annotated `JobContext` is filled in when a worker runs the job.

        Args:
            name: stored with each job. Default: `module.qualname`; in a script, the name by which others import it.
            queue: which workers may take it.
            priority: -100 to 100, higher first.
            delay: how long after enqueueing it becomes due.
            run_at: when it becomes due: an aware datetime. The past means now.
            expires: cancel it if it did not start this long after it was due.
            retry: a Retry policy, or a number of attempts; 1 never retries.
            timeout: longest run; None for no limit.
            max_crashes: deaths of its worker with which the job fails, from 1; counted apart from attempts.
            unique: at most one waiting or running job for each key: `"args"`, a template, a function, or `Unique(...)`.
            tags: up to 32 names for queries.
            keep_result: how long a succeeded job is kept.
            keep_failed: how long a failed or cancelled job is kept.
            executor: `"thread"`, `"process"`, or `"async"` (coroutine functions, and only those). Only here, since a
                worker decides it once for the function: `using` refuses it.
            wait: False answers before the job is on disk; a refusal is logged only.

        Raises:
            InvalidTask: the function is a lambda, nested, a method, a generator or no function at all.
            InvalidOption: an option is unknown or out of range.
        """
        name = given.pop("name", UNSET)
        if functions:
            (function,) = functions
            return self._register(function, name, given)
        options.normalise(given)  # Refuse here, on the line of the option, not on that of the function.
        return lambda fn: self._register(fn, name, given)

    def _register(self, fn: Any, name: Any, given: dict[str, Any]) -> Task[..., Any]:
        if isinstance(fn, Task):
            raise InvalidTask(f"{fn.name} is a task already. Use {fn.name.rpartition('.')[2]}.using(...) for a copy.")
        task: Task[..., Any] = Task(self, fn, None if name is UNSET else name, given)
        with self._lock:
            known = self._tasks.get(task.name)
            # The same function again is a reloaded module; another one would take its jobs.
            if known is not None and known.origin != task.origin:
                raise InvalidTask(
                    f"The name {task.name!r} belongs to {known.origin} already. "
                    "Give one of them another with @app.task(name=...)."
                )
            self._tasks[task.name] = task
        return task

    @property
    def tasks(self) -> Mapping[str, Task[..., Any]]:
        """All registered tasks by name."""
        return MappingProxyType(self._tasks)

    def find_task(self, name: str) -> Task[..., Any]:
        """A task by its name, or by the last part of it if that is unambiguous.

        Raises:
            TaskNotRegistered: none has this name, or several end in it; the message names the nearest.
        """
        if name in self._tasks:
            return self._tasks[name]
        ending = [task for known, task in self._tasks.items() if known.endswith(f".{name}")]
        if len(ending) == 1:
            return ending[0]
        if ending:
            names = ", ".join(sorted(task.name for task in ending))
            raise TaskNotRegistered(f"{name!r} may mean {names}. Give the full name.")
        close = difflib.get_close_matches(name, [*self._tasks, *(n.rpartition(".")[2] for n in self._tasks)], n=1)
        guess = f" Did you mean {close[0]}?" if close else ""
        names = ", ".join(sorted(self._tasks)) or "none"
        raise TaskNotRegistered(f"{name!r} is not registered in this process.{guess} Registered: {names}.")

    # Settings and storage

    @property
    def config(self) -> Config:
        """The settings with their sources. Read on first use."""
        if self._config is None:
            with self._lock:
                if self._config is None:
                    self._config = Config.load(self._given)
        return self._config

    def setting(self, name: str) -> Any:
        """The value of one setting."""
        return self.config[name]

    @property
    def storage(self) -> Storage:
        """The storage, made on first use.

        Raises:
            NotRunning: the application was closed.
            ConfigError: a setting is wrong, or this is a child process of a worker whose jobs are in memory.
        """
        return self._storage or self._make_storage()

    def _make_storage(self) -> Storage:
        with self._lock:
            if self._out_of_reach:
                raise ConfigError(self._out_of_reach)
            if self._closed:
                raise NotRunning(f"The application {self.name!r} is closed. Call app.open() to use it again.")
            if self._storage is None:
                settings = self.config
                self._storage = self._own_storage or connect(
                    settings["storage"],
                    session_ttl_ms=settings["session_ttl"],
                    submit_timeout_ms=settings["submit_timeout"],
                    segment_bytes=settings["segment_bytes"],
                    snapshot_bytes=settings["snapshot_bytes"],
                    network=Network.of(settings),
                )
            return self._storage

    def put_out_of_reach(self, why: str) -> None:
        """From now on whatever needs the storage raises ConfigError with this text.

        For a process that would otherwise make an empty storage of its own, where jobs vanish.
        """
        with self._lock:
            self._storage = None
            self._out_of_reach = why

    def open(self) -> Raftwork:
        """Open the storage now instead of on first use, also after `close`. Harmless when open.

        Raises:
            StorageError: it cannot be opened; the message says why.
        """
        with self._lock:
            self._closed = False
        self.storage.open()
        return self

    def close(self, timeout: float | None = 10.0) -> None:
        """Finish what is under way and let go of the storage. Later calls raise NotRunning until `open`."""
        with self._lock:
            storage, self._storage = self._storage, None
            self._closed = True
        if storage is not None:
            storage.close(timeout)

    def __enter__(self) -> Raftwork:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def health(self) -> dict[str, Any]:
        """How the storage is: status, role of this process, durability, and what the node says about itself."""
        return self.storage.health()

    def running(self, workers: WorkerChoice = None, **options: Any) -> Running:
        """A context manager, for `with` and `async with`, that opens the application and runs jobs inside this process.

        Args:
            workers: None runs no jobs (a client only); True serves the queues of all tasks; otherwise queues as for
                `Worker`, for example `{"mail": 4}`.
            options: passed on to `Worker`.

        On leaving, running jobs get the worker's drain time, and the application is closed.

        Example:
            >>> async with app.running(workers={"mail": 4}):
            ...     yield
        """
        return Running(self, workers, options)

    # Enqueue

    def put(self, plan: Plan, packed: bytes, unique_key: str | None) -> Job[Any]:
        """Store one job that a task has prepared. Use `task.enqueue`."""
        storage = self._storage or self._make_storage()
        id = storage.new_ids(1)[0]
        jobs = (NewJob(id, plan.spec, packed, plan.delay_ms, plan.run_at_ms, unique_key),)
        if not plan.wait:
            storage.start_enqueue(jobs, lambda error: _lost(plan.spec.function, id, error))
            return Job(self, id)
        try:
            clashes = storage.enqueue(jobs)
        except OutcomeUnknown as error:
            error.add_note(f"The job's id is {uuid.UUID(bytes=id)}.")
            raise
        if events.listening():
            events.emit("job.enqueued", function=plan.spec.function, count=1)
        return Job(self, _kept(clashes[0], id) if clashes else id)

    async def aput(self, plan: Plan, packed: bytes, unique_key: str | None) -> Job[Any]:
        """`put` for a running event loop. Use `task.aenqueue`."""
        storage = self._storage or self._make_storage()
        id = storage.new_ids(1)[0]
        jobs = (NewJob(id, plan.spec, packed, plan.delay_ms, plan.run_at_ms, unique_key),)
        if not plan.wait:
            storage.start_enqueue(jobs, lambda error: _lost(plan.spec.function, id, error))
            return Job(self, id)
        try:
            clashes = await storage.aenqueue(jobs)
        except OutcomeUnknown as error:
            error.add_note(f"The job's id is {uuid.UUID(bytes=id)}.")
            raise
        if events.listening():
            events.emit("job.enqueued", function=plan.spec.function, count=1)
        return Job(self, _kept(clashes[0], id) if clashes else id)

    def enqueue_many(self, calls: Iterable[Signature[R]]) -> list[Job[R]]:
        """Store many jobs, 1,000 to a write; each write is stored as a whole or not at all.

        The order of `calls` is the order of the answer, and of execution within a queue and priority. An error leaves
        earlier writes stored. `using(wait=False)` has no effect here.

        Raises:
            As `Task.enqueue`.

        Example:
            >>> app.enqueue_many(send_welcome.s(user) for user in range(1000))
        """
        storage = self._storage or self._make_storage()
        jobs: list[Job[R]] = []
        for batch in batches(calls):
            jobs += self._jobs_of(batch, storage.enqueue(batch.take(storage.new_ids(len(batch)))))
        return jobs

    async def aenqueue_many(self, calls: Iterable[Signature[R]]) -> list[Job[R]]:
        """`enqueue_many` for a running event loop."""
        storage = self._storage or self._make_storage()
        jobs: list[Job[R]] = []
        for batch in batches(calls):
            jobs += self._jobs_of(batch, await storage.aenqueue(batch.take(storage.new_ids(len(batch)))))
        return jobs

    def _jobs_of(self, batch: Batch, clashes: list[Clash]) -> list[Job[Any]]:
        ids = batch.ids
        for clash in clashes:
            ids[clash.position] = _kept(clash, ids[clash.position])
        if events.listening():
            for function, count in batch.functions().items():
                events.emit("job.enqueued", function=function, count=count)
        return [Job(self, id) for id in ids]

    # Jobs

    def job(self, id: uuid.UUID | str | bytes) -> Job[Any]:
        """A handle on a job by its id. Asks nothing yet: `info()` raises JobNotFound if there is none.

        Raises:
            InvalidName: it is no job id.
        """
        return Job(self, id_of(id))

    def jobs(self, filter: str = "", *, limit: int | None = None) -> Iterator[JobInfo]:
        """Jobs that match a filter, newest first, fetched page by page while you go through them.

        Args:
            filter: such as `state:failed tag:crm args.user_id:7`; empty for all. See the filter language.
            limit: stop after this many.

        Raises:
            InvalidOption: the filter cannot be read; the message gives the position.
        """
        return self._pages(filters.parse(filter), limit)

    def _pages(self, clauses: Any, limit: int | None) -> Iterator[JobInfo]:
        cursor: bytes | None = None
        left = limit
        while left is None or left > 0:
            page = self.storage.jobs(clauses, cursor, 100 if left is None else min(100, left))
            yield from page.jobs
            left = None if left is None else left - len(page.jobs)
            cursor = page.cursor
            if cursor is None:
                return

    def counts(self) -> dict[str, int]:
        """Jobs by state, all states named, and the totals that the storage derives from transitions."""
        return self.storage.counts()

    @property
    def queues(self) -> Queues:
        """The queues: iterate for figures, `pause` and `resume` by name."""
        return Queues(lambda: self.storage)

    @property
    def workers(self) -> list[WorkerInfo]:
        """The workers that are connected now."""
        return [WorkerInfo.of(session) for session in self.storage.sessions() if session.kind == "worker"]

    def cancel(self, ids: Iterable[uuid.UUID | str | bytes | Job[Any]], reason: str = "") -> BulkAnswer:
        """Cancel jobs: waiting ones at once, running ones are told."""
        return changed(self.storage.cancel, ids, reason)

    def retry(self, ids: Iterable[uuid.UUID | str | bytes | Job[Any]]) -> BulkAnswer:
        """Run jobs again: final ones with fresh attempts, waiting ones now."""
        return changed(self.storage.requeue, ids)

    def delete(self, ids: Iterable[uuid.UUID | str | bytes | Job[Any]]) -> BulkAnswer:
        """Forget jobs that are not running."""
        return changed(self.storage.delete, ids)

    # What a `Job` asks

    def job_info(self, job: bytes) -> JobInfo:
        """For `Job.info`."""
        found = self.storage.job(job)
        if found is None:
            raise not_found(job)
        return found

    def job_wait(self, job: bytes, timeout: float | None) -> JobInfo:
        """For `Job.result`."""
        return self.storage.wait(job, timeout)

    async def job_await(self, job: bytes, timeout: float | None) -> JobInfo:
        """For `Job.aresult`."""
        return await self.storage.await_final(job, timeout)

    def job_cancel(self, job: bytes, reason: str) -> bool:
        """For `Job.cancel`."""
        return change_one(self.storage.cancel([job], reason)[0], job) in (Change.DONE, Change.TOLD)

    def job_retry(self, job: bytes) -> bool:
        """For `Job.retry`."""
        return change_one(self.storage.requeue([job])[0], job) is Change.DONE

    def job_delete(self, job: bytes) -> None:
        """For `Job.delete`."""
        change_one(self.storage.delete([job])[0], job)

    def __repr__(self) -> str:
        return f"<Raftwork {self.name!r}>"


def _in_forked_child() -> None:
    """A lock that another thread of the parent held would be held here for ever."""
    for app in list(_APPS):
        app._lock = threading.RLock()


os.register_at_fork(after_in_child=_in_forked_child)


def _kept(clash: Clash, own: bytes) -> bytes:
    """The id of the job that there is now: an existing one only if it was kept."""
    return clash.existing if clash.outcome == 2 else own


def _lost(function: str, id: bytes, error: BaseException) -> None:
    job = uuid.UUID(bytes=id)
    _logger.error("Job %s of %s was enqueued with wait=False and refused: %s", job, function, error)
    events.emit("job.enqueue_lost", function=function, error=error)
