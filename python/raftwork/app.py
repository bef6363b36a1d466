"""The application: where tasks are registered, jobs are enqueued, and everything can be asked and changed.

    app = Raftwork("shop")          nothing is opened, read or started
    @app.task                       registers; still nothing
    send.enqueue(7)                 settings are read, the storage is opened, the job is stored

The object may be made before a fork: a child opens a storage of its own. It is safe to use from many threads and
event loops.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import threading
import uuid
import weakref
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Mapping
from datetime import datetime
from types import MappingProxyType, TracebackType
from typing import Any, Concatenate, Never, ParamSpec, TypeVar, Unpack, overload

from raftwork import config, filters, options
from raftwork.codecs import Codecs
from raftwork.config import Config, Settings
from raftwork.context import JobContext
from raftwork.door_async import AsyncDoor
from raftwork.durations import Duration
from raftwork.enqueueing import Enqueueing
from raftwork.errors import ConfigError, InvalidTask, NotRunning, TaskNotRegistered
from raftwork.flows import Batch, BatchInfo, Callback, batch_for
from raftwork.job import Job
from raftwork.job_info import JobInfo
from raftwork.limits import Limits
from raftwork.locking import Locking
from raftwork.middleware import Middleware
from raftwork.network import Network
from raftwork.operators import Queues, WorkerInfo, id_of, pages
from raftwork.options import UNSET, Executor, Unique, UniqueKey
from raftwork.outgoing import Outgoing
from raftwork.reading import Consistency, Counts, read_as
from raftwork.recurring import Recurring
from raftwork.retry import Retry
from raftwork.running import Running, WorkerChoice
from raftwork.schedules import Schedules
from raftwork.storage.base import Storage
from raftwork.storage.connect import connect
from raftwork.task import Decorator, Task

__all__ = ["Raftwork"]

P = ParamSpec("P")
R = TypeVar("R")

_APPS: weakref.WeakSet[Raftwork] = weakref.WeakSet()


class Raftwork(AsyncDoor, Enqueueing, Outgoing, Recurring, Locking):
    """One application and its jobs.

    Args:
        name: shown in lists of processes.
        storage: where jobs live, as a URL (`raft:///relative`, `raft:////absolute`, `raftwork://host:port,host:port`,
            `memory://`) or a Storage. Default: the directory `.raftwork` here.
        queue, max_attempts, max_crashes, timeout, keep_result, keep_failed: what tasks use that say nothing else.
        settings: of the storage, of this process as a node of a cluster, and of how connections to other machines are
            protected, by name. See `raftwork.config.SETTINGS`.

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
        super().__init__()
        self.name = options.check_name(name, "The name of the application")
        self.middleware = Middleware()
        """Code around enqueueing, around runs and around workers: decorators."""
        self._given: dict[str, Any] = dict(settings)
        self._own_storage = storage if isinstance(storage, Storage) else None
        if storage is not None and self._own_storage is None:
            self._given["storage"] = storage
        config.check_given(self._given)
        self._config: Config | None = None
        self._codecs: Codecs | None = None
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
        limit: Limits | None = UNSET,
        tags: Iterable[str] = UNSET,
        keep_result: Duration = UNSET,
        keep_failed: Duration = UNSET,
        executor: Executor = UNSET,
        memory: str | None = UNSET,
        cpu: Duration | None = UNSET,
        version: int = UNSET,
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
            limit: how many jobs run at once or start in a time, or who takes turns: a `Limit`, `Rate` or `Fair`, or a
                list of up to 4. Jobs beyond wait in the storage, and hold up no worker.
            tags: up to 32 names for queries.
            keep_result: how long a succeeded job is kept.
            keep_failed: how long a failed or cancelled job is kept.
            executor: `"thread"`, `"process"`, or `"async"` (coroutine functions, and only those). Only here, since a
                worker decides it once for the function: `using` refuses it.
            memory, cpu: most that a job's process may take, such as `"512MB"` and `"30s"` of processor time; above, the
                job is ended with LimitExceeded. For `executor="process"`, on Linux. Only here.
            version: of its arguments, from 1, and stored with each job. Raise it when older ones do not fit any more,
                and add `@task.migrate(...)`. A worker whose code is older leaves the job to others. Only here.
            wait: False answers before the job is on disk; a refusal is logged only.

        Raises:
            InvalidTask: the function is a lambda, nested, a method, a generator or no function at all.
            InvalidOption: an option is unknown or out of range.
        """
        name = given.pop("name", UNSET)
        if functions:
            (function,) = functions
            return self._register(function, name, given)
        options.check_for_tasks(given)
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
    def codecs(self) -> Codecs:
        """How payloads are written and read, as the settings say. Made on first use."""
        if self._codecs is None:
            self._codecs = Codecs.of(self.config)
        return self._codecs

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
                    max_jobs=settings["max_jobs"],
                    max_state_bytes=settings["max_state_bytes"],
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

    @contextlib.contextmanager
    def standing_in(self, storage: Storage) -> Generator[None, None, None]:
        """Use another storage for the length of a `with` block, then the own one again, as it was. For tests.

        `close` and `open` inside the block are about the other one only.
        """
        with self._lock:
            own = self._own_storage, self._storage, self._closed, self._out_of_reach
            self._own_storage, self._storage, self._closed, self._out_of_reach = storage, None, False, ""
        try:
            yield
        finally:
            with self._lock:
                self._own_storage, self._storage, self._closed, self._out_of_reach = own

    def open(self) -> Raftwork:
        """Open the storage now instead of on first use, also after `close`. Harmless when open.

        Raises:
            StorageError: it cannot be opened; the message says why.
        """
        self.storage_to_open().open()
        return self

    def storage_to_open(self) -> Storage:
        """What `open` opens, also after `close`: for whoever says how it is to be opened.

        Raises:
            ConfigError: a setting is wrong, or this is a child process of a worker whose jobs are in memory.
        """
        with self._lock:
            self._closed = False
        return self.storage

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

    def running(self, workers: WorkerChoice = None, **options: Any) -> Running:
        """A context manager, for `with` and `async with`, that opens the application and runs jobs inside this process.

        Args:
            workers: None runs no jobs (a client only); True serves the queues of all tasks; otherwise queues as for
                `Worker`, for example `{"mail": 4}`.
            options: `outbox`, the URL of a database whose outbox is relayed meanwhile; others go to `Worker`.

        On leaving, running jobs get the worker's drain time, and the application is closed.

        Example:
            >>> async with app.running(workers={"mail": 4}):
            ...     yield
        """
        return Running(self, workers, options)

    # Flows

    def batch(
        self,
        name: str | uuid.UUID,
        *,
        on_success: Callback = None,
        on_failure: Callback = None,
        on_complete: Callback = None,
    ) -> Batch:
        """A batch: jobs that finish together. Use it in a `with` or `async with` block; nothing is stored before.

        Args:
            name: of a new batch, for people; or the id of one that exists, to add jobs or to ask.
            on_success: a call made by `task.s(...)` that runs when every member succeeded.
            on_failure: one that runs when it finished and a member failed or was cancelled.
            on_complete: one that runs when it finished.

        Raises:
            InvalidOption: callbacks are given for a batch that exists.

        Example:
            >>> with app.batch("month-end", on_complete=send_report.s("acme")) as batch:
            ...     build_report.enqueue("acme")
        """
        return batch_for(self, name, on_success, on_failure, on_complete)

    def batches(self) -> list[BatchInfo]:
        """The batches that are open or not forgotten yet, oldest first."""
        return [BatchInfo.of(row) for row in self.storage.batches()]

    # Jobs

    def job(self, id: uuid.UUID | str | bytes) -> Job[Any]:
        """A handle on a job by its id. Asks nothing yet: `info()` raises JobNotFound if there is none.

        Raises:
            InvalidName: it is no job id.
        """
        return Job(self, id_of(id))

    def jobs(
        self,
        filter: str = "",
        *,
        limit: int | None = None,
        consistency: Consistency = "session",
        max_staleness: Duration | None = None,
    ) -> Iterator[JobInfo]:
        """Jobs that match a filter, newest first, fetched page by page while you go through them.

        Args:
            filter: such as `state:failed tag:crm args.user_id:7`; empty for all. See the filter language.
            limit: stop after this many.
            consistency, max_staleness: as for `Job.info`. Each job says of which state it is.

        Raises:
            InvalidOption: the filter cannot be read; the message gives the position.
            TooStale: the answer could be older than allowed.
        """
        return pages(self.job_page, filters.parse(filter), limit, read_as(consistency, max_staleness))

    def counts(self, *, consistency: Consistency = "session", max_staleness: Duration | None = None) -> Counts:
        """Jobs by state, all states named, and the totals that the storage derives from transitions.

        Args:
            consistency, max_staleness: as for `Job.info`. The answer says of which state it is.
        """
        return self.storage.counts(read_as(consistency, max_staleness))

    @property
    def queues(self) -> Queues:
        """The queues: iterate for figures, `pause` and `resume` by name."""
        return Queues(lambda: self.storage)

    @property
    def schedules(self) -> Schedules:
        """The recurring schedules: put, list, orphaned, pause, resume, trigger, preview, backfill, delete."""
        return Schedules(self, lambda: self.storage, self.put_planned, self.orphaned)

    @property
    def workers(self) -> list[WorkerInfo]:
        """The workers that are connected now."""
        return WorkerInfo.connected(self.storage)

    def __repr__(self) -> str:
        return f"<Raftwork {self.name!r}>"


def _in_forked_child() -> None:
    """A lock that another thread of the parent held would be held here for ever. Those of the cluster it has not."""
    for app in list(_APPS):
        app._lock = threading.RLock()
        app._holdings.clear()


os.register_at_fork(after_in_child=_in_forked_child)
