"""The decorated function: call it plainly, enqueue it, or make a copy with other options.

A task reaches its application through the small `Enqueuer` protocol below, so that nothing here knows the application.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, Concatenate, Generic, Never, ParamSpec, Protocol, TypeVar, overload

from raftwork import limits as lim
from raftwork import options as opt
from raftwork import serde, signatures
from raftwork.codecs import Codecs
from raftwork.context import JobContext, current_job
from raftwork.dependencies import dependencies_of
from raftwork.durations import Duration
from raftwork.errors import InvalidOption, InvalidTask, MigrationError
from raftwork.job import Job
from raftwork.limits import Carried, Limits
from raftwork.middleware import EnqueueCall, Middleware
from raftwork.options import UNSET, Executor, On, Parent, Unique, UniqueKey
from raftwork.outbox.writing import Writer, writer_of
from raftwork.plans import Enqueuer, Plan
from raftwork.retry import Retry
from raftwork.storage.base import JobSpec, pack_meta

__all__ = ["Decorator", "Signature", "Task"]

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
Migration = TypeVar("Migration", bound="Callable[..., Signature[Any]]")


class Signature(Generic[R_co]):
    """One call of a task, checked and not stored yet: what `task.s(...)` gives and `app.enqueue_many` takes."""

    __slots__ = ("args", "kwargs", "missing", "task")

    def __init__(
        self, task: Task[..., R_co], args: tuple[Any, ...], kwargs: dict[str, Any], missing: TypeError | None = None
    ) -> None:
        self.task = task
        self.args = args
        self.kwargs = kwargs
        self.missing = missing
        """Why it cannot be called: its first argument is missing, which only a chain puts in."""

    def complete(self) -> Signature[R_co]:
        """The call itself, or the TypeError that says which argument is missing."""
        if self.missing is not None:
            raise self.missing
        return self

    def __repr__(self) -> str:
        shown = ", ".join([*map(repr, self.args), *(f"{name}={value!r}" for name, value in self.kwargs.items())])
        return f"{self.task.name.rpartition('.')[2]}.s({shown})"


class Task(Generic[P, R]):
    """A function that can be enqueued. Made by `@app.task`.

    `P` are the parameters of the function, without a leading JobContext; `R` is what it returns or, for a coroutine
    function, what awaiting it gives. So arguments of `enqueue` and the type of `result()` are checked by type checkers.
    """

    __slots__ = (
        "__dict__",  # For functools.update_wrapper: name, doc, module, __wrapped__.
        "__weakref__",
        "_check",
        "_enqueuer",
        "_migrations",
        "_options",
        "_parameters",
        "_plan",
        "_spec",
        "_writer",
        "dependencies",
        "fn",
        "is_async",
        "name",
        "takes_context",
    )

    def __init__(self, enqueuer: Enqueuer, fn: Callable[..., Any], name: str | None, given: dict[str, Any]) -> None:
        self.name = signatures.name_of(fn, name)
        """`module.qualname` of the function, or the name that was given. Stored with each job, so keep it stable."""
        self.fn = fn
        """The function itself."""
        self.is_async = inspect.iscoroutinefunction(fn)
        """Whether it is a coroutine function."""
        parameters = signatures.parameters_of(fn)
        self.takes_context = bool(parameters) and signatures.wants(fn, parameters[0], JobContext)
        """Whether its first parameter is a JobContext, which is not part of the job's arguments."""
        self._enqueuer = enqueuer
        own = parameters[1:] if self.takes_context else parameters
        self.dependencies = dependencies_of(fn, own)
        """The parameters that a worker fills in, which are not part of the job's arguments either."""
        self._parameters = [parameter for parameter in own if parameter.name not in self.dependencies]
        self._check = signatures.check_call_of(getattr(fn, "__name__", "task"), self._parameters)
        self._plan: Plan | None = None
        self._spec: JobSpec | None = None
        self._migrations: dict[int, Callable[..., Signature[Any]]] = {}
        self._writer: Writer | None = None
        self._options: dict[str, Any] = {}
        functools.update_wrapper(self, fn)
        self._set_options(given)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Run the function here and now, without a queue. A coroutine function answers its coroutine.

        A leading JobContext may be given; otherwise the context of the job that runs here is passed on. What a worker
        would fill in (`depends`) is to be given by name.
        """
        if not self.dependencies.keys() <= kwargs.keys():
            missing = ", ".join(name for name in self.dependencies if name not in kwargs)
            raise TypeError(f"{self.name}: only a worker fills in {missing}. Give it by name in a plain call.")
        if self.takes_context and not (args and isinstance(args[0], JobContext)):
            return self.fn(current_job(), *args, **kwargs)
        return self.fn(*args, **kwargs)

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """Store one job and answer a handle on it.

        When this returns, the job is on disk; with `using(wait=False)`, it soon will be, unless an error is logged.

        Raises:
            TypeError: the function would not accept these arguments.
            SerializationError: an argument cannot travel; the message names it.
            SecretRefused: an argument is a Secret, and there is no encryption key.
            PayloadTooLarge: the arguments are above 256 KiB.
            UniqueConflict: the unique key is taken and the option says `"raise"`.
            NotCommitted, Overloaded: not stored; safe to repeat.
            OutcomeUnknown: perhaps stored; the note on the exception gives the id.

        Example:
            >>> send_welcome.enqueue(7, template="vip").result(timeout=30)
        """
        self._check(*args, **kwargs)
        plan = self._plan or self.plan()
        outputs: dict[bytes, int] = {}
        packed = serde.encode_args(args, kwargs, self.name, plan.secrets, outputs)
        key = None if plan.unique_key is None else plan.unique_key(args, kwargs)
        limits = None if plan.limits is None else plan.limits(args, kwargs)
        if self._enqueuer.middleware.of_enqueue:
            with self._enqueuer.middleware.storing([EnqueueCall.of(plan.spec, args, kwargs)]):
                return self._put(plan, packed, key, outputs, limits)
        return self._put(plan, packed, key, outputs, limits)

    async def aenqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """`enqueue` for a running event loop. When it is cancelled, the job may or may not be stored."""
        self._check(*args, **kwargs)
        plan = self._plan or self.plan()
        outputs: dict[bytes, int] = {}
        packed = serde.encode_args(args, kwargs, self.name, plan.secrets, outputs)
        key = None if plan.unique_key is None else plan.unique_key(args, kwargs)
        limits = None if plan.limits is None else plan.limits(args, kwargs)
        if self._enqueuer.middleware.of_enqueue:
            async with self._enqueuer.middleware.astoring([EnqueueCall.of(plan.spec, args, kwargs)]):
                return await self._aput(plan, packed, key, outputs, limits)
        return await self._aput(plan, packed, key, outputs, limits)

    def _put(self, plan: Plan, packed: bytes, key: str | None, outputs: dict[bytes, int], limits: Carried) -> Job[Any]:
        if self._writer is None:
            return self._enqueuer.put(plan, packed, key, outputs, limits)
        self._check_alone(plan, outputs)
        return self._enqueuer.put_aside(self._writer, plan, packed, key, limits)

    async def _aput(
        self, plan: Plan, packed: bytes, key: str | None, outputs: dict[bytes, int], limits: Carried
    ) -> Job[Any]:
        if self._writer is None:
            return await self._enqueuer.aput(plan, packed, key, outputs, limits)
        self._check_alone(plan, outputs)
        return await self._enqueuer.aput_aside(self._writer, plan, packed, key, limits)

    def _check_alone(self, plan: Plan, outputs: dict[bytes, int]) -> None:
        if plan.parents or outputs:
            raise InvalidOption(
                f"{self.name} has a connection and waits for other jobs. When the outbox is relayed, these may be "
                "forgotten. Enqueue it without the connection, or without after and outputs."
            )

    def s(self, *args: P.args, **kwargs: P.kwargs) -> Signature[R]:
        """A call to be enqueued later, for `app.enqueue_many`, `chain` and callbacks. Arguments are checked now.

        Only the first one may be missing, in a `chain`: there it is the result of the job before.

        Raises:
            InvalidOption: the copy has a `connection`, whose transaction may be over by then.
        """
        if self._writer is not None:
            raise InvalidOption(
                f"{self.name} has a connection, and a call made by s() is enqueued later, when its transaction may be "
                "over. Call enqueue for each job inside the transaction."
            )
        try:
            self._check(*args, **kwargs)
        except TypeError as error:
            self._check(None, *args, **kwargs)
            return Signature(self, args, kwargs, error)
        return Signature(self, args, kwargs)

    def migrate(self, from_version: int) -> Callable[[Migration], Migration]:
        """A decorator for what turns a call of an older version into one of today. It answers its function unchanged.

        The function takes the arguments of that version, and returns `task.s(...)`. See `@app.task(version=...)`.

        Raises:
            InvalidOption: there can be no such older version, or it has its function already.
            InvalidTask: it is no plain function.

        Example:
            >>> @charge.migrate(from_version=1)
            ... def from_dollars(order: int, dollars: float) -> Signature[str]:
            ...     return charge.s(order, cents=round(100 * dollars))
        """
        if isinstance(from_version, bool) or not isinstance(from_version, int) or not 1 <= from_version < self.version:
            raise InvalidOption(
                f"migrate(from_version={from_version!r}): {self.name} has version {self.version}; older ones are the "
                f"whole numbers from 1 to {self.version - 1}. Is @app.task(version=...) set?"
            )

        def register(function: Migration) -> Migration:
            found: object = function
            if not inspect.isfunction(found) or inspect.iscoroutinefunction(found):
                raise InvalidTask(f"{found!r} cannot migrate {self.name}: it is no plain function.")
            if from_version in self._migrations:
                raise InvalidOption(f"Two functions migrate {self.name} from version {from_version}. Keep one.")
            self._migrations[from_version] = function
            return function

        return register

    def migrated(self, version: int, args: list[Any], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of today for those of an older version.

        Raises:
            MigrationError: nothing migrates that version, or what does gave no call of this task.
        """
        function = self._migrations.get(version)
        if function is None:
            raise MigrationError(
                f"The job has arguments of version {version} of {self.name}, whose version here is {self.version}, and "
                f"nothing migrates them. Add @{self.name.rpartition('.')[2]}.migrate(from_version={version})."
            )
        call = function(*args, **kwargs)
        if not isinstance(call, Signature) or call.task.name != self.name:
            raise MigrationError(f"{function.__qualname__} answered {call!r:.100} in place of a call of {self.name}.")
        return list(call.args), dict(call.kwargs)

    # Spelled out here and in Raftwork.task: of an unpacked TypedDict not every type checker finds unknown keys.
    def using(
        self,
        *,
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
        wait: bool = UNSET,
        after: Parent | Iterable[Parent] | None = UNSET,
        on: On = UNSET,
        connection: Any = UNSET,
        **unknown: Never,
    ) -> Task[P, R]:
        """A copy with these options set; the others stay. See `Raftwork.task` for what each means.

        Args:
            after: a job, a batch or several of them, up to 10,000: the job waits until they ended. Its delay and
                `expires` count from then.
            on: which end lets it run: `"success"` (default), `"failure"` (failed or cancelled), or `"finish"`. If a
                parent ends otherwise, the job is cancelled.
            connection: a connection of sqlite3, psycopg 3 or SQLAlchemy: `enqueue` writes the job into the table
                `raftwork_outbox` there, inside the transaction that is open, and a relay stores it after the commit.
                None: no longer. See the guide about the outbox.

        Raises:
            InvalidOption: an option is unknown or out of range.
            ConfigError: the option is one of the function, `executor`, which only `@app.task` takes.

        Example:
            >>> send_welcome.using(delay="10m", priority=5).enqueue(7)
        """
        opt.check_for_calls(unknown, self.name)
        copy: Task[P, R] = object.__new__(type(self))
        for slot in _COPIED:
            object.__setattr__(copy, slot, getattr(self, slot))
        copy.__dict__.update(self.__dict__)
        copy._plan = copy._spec = None
        copy._options = self._options
        copy._writer = self._writer
        if connection is not UNSET:
            copy._writer = None if connection is None else writer_of(connection)
        changed = copy._set_options(
            {
                "queue": queue,
                "priority": priority,
                "delay": delay,
                "run_at": run_at,
                "expires": expires,
                "retry": retry,
                "timeout": timeout,
                "max_crashes": max_crashes,
                "unique": unique,
                "limit": limit,
                "tags": tags,
                "keep_result": keep_result,
                "keep_failed": keep_failed,
                "wait": wait,
                "after": after,
                "on": on,
                **unknown,
            }
        )
        if self._plan is not None and changed.isdisjoint(_IN_SPEC):
            copy._spec = self._plan.spec
        return copy

    def plan(self) -> Plan:
        """What jobs of this task share. Reads the settings of the application, so it is made on first use."""
        if self._plan is None:
            get = self._options.get
            unique: Unique | None = get("unique")
            spec = self._spec or self._make_spec(unique)
            key, secrets = self._unique_key(unique), self._enqueuer.codecs.takes_secrets
            limits = lim.carrier(self.name, get("limit"), self._parameters, self._enqueuer.codecs.unique)
            self._plan = Plan(
                spec,
                get("delay") or 0,
                get("run_at"),
                key,
                get("wait", True),
                secrets,
                get("after") or (),
                get("on", 0),
                limits,
            )
        return self._plan

    def _make_spec(self, unique: Unique | None) -> JobSpec:
        def option(name: str) -> Any:
            return self._options[name] if name in self._options else self._enqueuer.setting(name)

        retry: Retry = self._options.get("retry") or _default_retry(self._enqueuer.setting("max_attempts"))
        window = None if unique is None else unique.window
        return JobSpec(
            function=self.name,
            queue=option("queue"),
            priority=self._options.get("priority", 0),
            max_attempts=retry.max_attempts,
            max_crashes=option("max_crashes"),
            timeout_ms=option("timeout"),
            keep_result_ms=option("keep_result"),
            keep_failed_ms=option("keep_failed"),
            tags=self._options.get("tags", ()),
            on_conflict=0 if unique is None else _ON_CONFLICT[unique.on_conflict],
            unique_window_ms=None if window is None else opt.window_ms(window),
            expires_ms=self._options.get("expires"),
            meta=pack_meta(retry, self.version),
        )

    def _unique_key(self, unique: Unique | None) -> Callable[[tuple[Any, ...], dict[str, Any]], str] | None:
        if unique is None:
            return None
        signature = inspect.Signature(self._parameters)
        make = opt.key_maker(self.name, unique, list(signature.parameters))
        codecs = self._enqueuer.codecs

        def key(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
            # f(7) and f(user_id=7) are the same call, and so is one that spells out a default.
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            return codecs.unique(make(dict(bound.arguments), args, kwargs))

        return key

    def _set_options(self, given: dict[str, Any]) -> set[str]:
        """Add checked options. Answers which were given."""
        plain = opt.normalise(given)
        merged = self._options | plain
        # Each says when the job is due, so the newer one replaces the older.
        if "delay" in plain and "run_at" not in plain:
            merged.pop("run_at", None)
        if "run_at" in plain and "delay" not in plain:
            merged.pop("delay", None)
        self._options = merged
        executor = merged.get("executor")
        if executor is not None and self.is_async != (executor == "async"):
            kind = "a coroutine function" if self.is_async else "a plain function"
            raise InvalidOption(f"executor={executor!r} does not fit {self.name}, which is {kind}.")
        for name in ("memory", "cpu"):
            if merged.get(name) is not None and executor != "process":
                raise InvalidOption(
                    f"{name} limits the process of a job, and {self.name} shares one with others. "
                    'Add executor="process".'
                )
        unique = merged.get("unique")
        if limits := merged.get("limit"):
            lim.packer(self.name, limits, [parameter.name for parameter in self._parameters])
        if unique is not None:
            opt.key_maker(self.name, unique, [parameter.name for parameter in self._parameters])
        return set(plain)

    @property
    def check(self) -> signatures.CheckCall:
        """Raises TypeError for arguments that the function does not accept."""
        return self._check

    @property
    def enqueuer(self) -> Enqueuer:
        """The application that it belongs to."""
        return self._enqueuer

    @property
    def parameters(self) -> list[inspect.Parameter]:
        """Those of the function, without a leading JobContext."""
        return list(self._parameters)

    @property
    def executor(self) -> Executor:
        """What a worker runs the function in."""
        found: Executor = self._options.get("executor") or ("async" if self.is_async else "thread")
        return found

    @property
    def version(self) -> int:
        """The version of its arguments."""
        found: int = self._options.get("version", 1)
        return found

    @property
    def options(self) -> Mapping[str, Any]:
        """The options that were given for this task, in their plain form."""
        return MappingProxyType(self._options)

    @property
    def codecs(self) -> Codecs:
        """How its application writes what jobs carry."""
        return self._enqueuer.codecs

    @property
    def middleware(self) -> Middleware:
        """What its application has around enqueueing and running."""
        return self._enqueuer.middleware

    @property
    def origin(self) -> str:
        """Where the function was defined, as `module.qualname`, whatever the name of the task."""
        return f"{self.fn.__module__}.{getattr(self.fn, '__qualname__', self.name)}"

    def __repr__(self) -> str:
        return f"<Task {self.name}>"


_ON_CONFLICT: dict[str, Any] = {"skip": 0, "replace": 1, "raise": 2}
_COPIED = (
    "name",
    "fn",
    "is_async",
    "takes_context",
    "dependencies",
    "_enqueuer",
    "_migrations",
    "_parameters",
    "_check",
)
_IN_SPEC = frozenset(opt.OPTIONS) - opt.OPTIONS_OF_TASK - opt.OPTIONS_OF_CALLS - {"delay", "run_at", "wait", "limit"}
"""Options that all jobs of a task share. A copy that changes none of them needs no other specification."""


@functools.lru_cache(maxsize=64)
def _default_retry(max_attempts: int) -> Retry:
    return Retry(max_attempts)


class Decorator(Protocol):
    """What `@app.task(...)` with options gives: it turns a function into a Task with the function's own types."""

    @overload
    def __call__(self, fn: Callable[Concatenate[JobContext, P], Awaitable[R]], /) -> Task[P, R]: ...
    @overload
    def __call__(self, fn: Callable[Concatenate[JobContext, P], R], /) -> Task[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, Awaitable[R]], /) -> Task[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> Task[P, R]: ...
