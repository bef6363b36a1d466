"""The decorated function: call it plainly, enqueue it, or make a copy with other options.

A task reaches its application through the small `Enqueuer` protocol below, so that nothing here knows the application.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from typing import Any, Concatenate, Generic, Never, ParamSpec, Protocol, TypeVar, overload

from raftwork import options as opt
from raftwork import references, serde, signatures
from raftwork.context import JobContext, current_job
from raftwork.durations import Duration
from raftwork.errors import InvalidOption, InvalidTask
from raftwork.job import Job
from raftwork.options import UNSET, Executor, Unique, UniqueKey
from raftwork.retry import Retry
from raftwork.storage.base import JobSpec, pack_meta

__all__ = ["Decorator", "Enqueuer", "Plan", "Signature", "Task"]

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Plan:
    """What all jobs of one task with the same options share, worked out once."""

    __slots__ = ("delay_ms", "run_at_ms", "spec", "unique_key", "wait")

    def __init__(
        self,
        spec: JobSpec,
        delay_ms: int = 0,
        run_at_ms: int | None = None,
        unique_key: Callable[[tuple[Any, ...], dict[str, Any]], str] | None = None,
        wait: bool = True,
    ) -> None:
        self.spec = spec
        self.delay_ms = delay_ms
        self.run_at_ms = run_at_ms
        self.unique_key = unique_key
        self.wait = wait


class Enqueuer(Protocol):
    """What a task needs from its application."""

    def setting(self, name: str) -> Any:
        """The value of a setting, for options that the task leaves open."""
        ...

    def put(self, plan: Plan, packed: bytes, unique_key: str | None) -> Job[Any]:
        """Store one job."""
        ...

    async def aput(self, plan: Plan, packed: bytes, unique_key: str | None) -> Job[Any]:
        """Store one job, from a running event loop."""
        ...


class Signature(Generic[R_co]):
    """One call of a task, checked and not stored yet: what `task.s(...)` gives and `app.enqueue_many` takes."""

    __slots__ = ("args", "kwargs", "task")

    def __init__(self, task: Task[..., R_co], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.task = task
        self.args = args
        self.kwargs = kwargs

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
        "_options",
        "_parameters",
        "_plan",
        "_spec",
        "fn",
        "is_async",
        "name",
        "takes_context",
    )

    def __init__(self, enqueuer: Enqueuer, fn: Callable[..., Any], name: str | None, given: dict[str, Any]) -> None:
        self.name = _name_of(fn, name)
        """`module.qualname` of the function, or the name that was given. Stored with each job, so keep it stable."""
        self.fn = fn
        """The function itself."""
        self.is_async = inspect.iscoroutinefunction(fn)
        """Whether it is a coroutine function."""
        parameters = signatures.parameters_of(fn)
        self.takes_context = bool(parameters) and signatures.wants(fn, parameters[0], JobContext)
        """Whether its first parameter is a JobContext, which is not part of the job's arguments."""
        self._enqueuer = enqueuer
        self._parameters = parameters[1:] if self.takes_context else parameters
        self._check = signatures.check_call_of(getattr(fn, "__name__", "task"), self._parameters)
        self._plan: Plan | None = None
        self._spec: JobSpec | None = None
        self._options: dict[str, Any] = {}
        functools.update_wrapper(self, fn)
        self._set_options(given)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Run the function here and now, without a queue. A coroutine function answers its coroutine.

        A leading JobContext may be given; otherwise the context of the job that runs here is passed on.
        """
        if self.takes_context and not (args and isinstance(args[0], JobContext)):
            return self.fn(current_job(), *args, **kwargs)
        return self.fn(*args, **kwargs)

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """Store one job and answer a handle on it.

        When this returns, the job is on disk; with `using(wait=False)`, it soon will be, unless an error is logged.

        Raises:
            TypeError: the function would not accept these arguments.
            SerializationError: an argument cannot travel; the message names it.
            PayloadTooLarge: the arguments are above 256 KiB.
            UniqueConflict: the unique key is taken and the option says `"raise"`.
            NotCommitted, Overloaded: not stored; safe to repeat.
            OutcomeUnknown: perhaps stored; the note on the exception gives the id.

        Example:
            >>> send_welcome.enqueue(7, template="vip").result(timeout=30)
        """
        self._check(*args, **kwargs)
        plan = self._plan or self.plan()
        packed = serde.encode_args(args, kwargs, self.name)
        key = None if plan.unique_key is None else plan.unique_key(args, kwargs)
        return self._enqueuer.put(plan, packed, key)

    async def aenqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """`enqueue` for a running event loop. When it is cancelled, the job may or may not be stored."""
        self._check(*args, **kwargs)
        plan = self._plan or self.plan()
        packed = serde.encode_args(args, kwargs, self.name)
        key = None if plan.unique_key is None else plan.unique_key(args, kwargs)
        return await self._enqueuer.aput(plan, packed, key)

    def s(self, *args: P.args, **kwargs: P.kwargs) -> Signature[R]:
        """A call to be enqueued later, for `app.enqueue_many`. Arguments are checked now."""
        self._check(*args, **kwargs)
        return Signature(self, args, kwargs)

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
        tags: Iterable[str] = UNSET,
        keep_result: Duration = UNSET,
        keep_failed: Duration = UNSET,
        wait: bool = UNSET,
        **unknown: Never,
    ) -> Task[P, R]:
        """A copy with these options set; the others stay. See `Raftwork.task` for what each means.

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
                "tags": tags,
                "keep_result": keep_result,
                "keep_failed": keep_failed,
                "wait": wait,
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
            self._plan = Plan(spec, get("delay") or 0, get("run_at"), self._unique_key(unique), get("wait", True))
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
            meta=pack_meta(retry),
        )

    def _unique_key(self, unique: Unique | None) -> Callable[[tuple[Any, ...], dict[str, Any]], str] | None:
        if unique is None:
            return None
        signature = inspect.Signature(self._parameters)
        make = opt.key_maker(self.name, unique, list(signature.parameters))

        def key(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
            # f(7) and f(user_id=7) are the same call, and so is one that spells out a default.
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            return make(dict(bound.arguments), args, kwargs)

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
        unique = merged.get("unique")
        if unique is not None:
            opt.key_maker(self.name, unique, [parameter.name for parameter in self._parameters])
        return set(plain)

    @property
    def executor(self) -> Executor:
        """What a worker runs the function in."""
        found: Executor = self._options.get("executor") or ("async" if self.is_async else "thread")
        return found

    @property
    def origin(self) -> str:
        """Where the function was defined, as `module.qualname`, whatever the name of the task."""
        return f"{self.fn.__module__}.{getattr(self.fn, '__qualname__', self.name)}"

    def __repr__(self) -> str:
        return f"<Task {self.name}>"


_ON_CONFLICT: dict[str, Any] = {"skip": 0, "replace": 1, "raise": 2}
_COPIED = ("name", "fn", "is_async", "takes_context", "_enqueuer", "_parameters", "_check")
_IN_SPEC = frozenset(opt.OPTIONS) - opt.OPTIONS_OF_TASK - {"delay", "run_at", "wait"}
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


def _name_of(fn: Any, name: str | None) -> str:
    """The name of a task, after checking that its function can be one."""
    if not inspect.isfunction(fn):
        what = "class" if inspect.isclass(fn) else type(fn).__name__
        raise InvalidTask(f"{fn!r} is a {what}; only a function defined with def can be a task. Wrap it in one.")
    where = f"{fn.__code__.co_filename}:{fn.__code__.co_firstlineno}"
    if fn.__name__ == "<lambda>":
        raise InvalidTask(
            "A lambda cannot be a task: another process could not find it again. "
            f"Give it a name at module level: {where}."
        )
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise InvalidTask(f"{fn.__qualname__} is a generator; a task returns one result. Return a list: {where}.")
    if name is not None:
        return opt.check_name(name, "The name of the task")
    if "<locals>" in fn.__qualname__:
        raise InvalidTask(
            f"{fn.__name__} is defined inside a function: another process could not find it again. Move it to module "
            f"level, or give it a stable name with @app.task(name=...): {where}."
        )
    first = next(iter(inspect.signature(fn).parameters), None)
    if "." in fn.__qualname__ and first in ("self", "cls"):
        raise InvalidTask(f"{fn.__qualname__} is a method; a job carries no object. Use a function: {where}.")
    return opt.check_name(f"{references.module_name(fn)}.{fn.__qualname__}", "The name of the task")
