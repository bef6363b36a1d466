"""How many jobs of one key run at once, or start in a time, and whose turn it is: `Limit`, `Rate` and `Fair`, and the
keys that they give jobs.

A key is the name of the limit, or of the task if it has none, and the values of the arguments that `per` names. Jobs of
one key share one limit, whichever process enqueued them. Without `per` all jobs of the task, or of the name, do.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from raftwork import serde
from raftwork.durations import Duration, duration_ms
from raftwork.errors import InvalidName, InvalidOption
from raftwork.output import check_known

__all__ = [
    "LIMITS_MAX",
    "LIMIT_MAX",
    "AnyLimit",
    "Carried",
    "Fair",
    "JobLimits",
    "Limit",
    "LimitInfo",
    "Limits",
    "Packed",
    "Rate",
    "Window",
    "as_limits",
    "carrier",
    "packer",
]

LIMITS_MAX = 4
"""Limits of one job."""
LIMIT_MAX = 1_000_000
"""Largest number of jobs at once, or of starts in a window."""
SLIDING_MAX = 1_000
"""The same of a window that slides, whose starts are all remembered."""
WINDOW_MS_MAX = 366 * 86_400_000
"""Longest window of a rate, a year."""
KEY_BYTES_MAX = 255
"""UTF-8 bytes of a key. A longer one is stored as a digest."""

Window: TypeAlias = Literal["bucket", "sliding", "fixed"]
"""How a rate counts."""
Packed: TypeAlias = tuple[Any, ...]
"""A limit of one job as the storage takes it: kind and key, n unless it is fair, and the window and burst of a rate."""

Carried: TypeAlias = list[Packed] | None
"""The limits of one job; None if it has none."""

_KINDS = {"bucket": 1, "sliding": 2, "fixed": 3}
_FAIR = 4
_NAMES = ("concurrency", *_KINDS, "fair")


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `n` jobs of one key run at once. `Limit(1)` is a mutex.

    Args:
        n: jobs in state `processing`, 1 to 1,000,000.
        per: the parameter, or parameters, of the task whose values make the key. None: one key for all jobs.
        name: shared by all tasks whose limit has this name. None: of this task alone.

    Raises:
        InvalidOption: `n` is out of range, or `per` or `name` is no name.

    Example:
        >>> @app.task(limit=Limit(2, per="tenant"))
        ... def sync(tenant: str) -> None: ...
    """

    n: int
    per: str | Sequence[str] | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        _check_count("Limit", self.n, LIMIT_MAX)
        _check_names("Limit", self)


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `n` jobs of one key start in a window of time. A retry is a start as well.

    Args:
        n: starts in a window, 1 to 1,000,000; 1,000 at most if it slides.
        time: length of the window, such as `"1m"`, up to a year.
        per, name: as for `Limit`.
        burst: starts that may come at once after a quiet time; `n` if None. Only of a bucket.
        window: `"bucket"` spreads starts evenly once the burst is used, so that within one window `n` and the burst may
            start; `"sliding"` never lets more than `n` start in any window; `"fixed"` counts from each multiple of
            `time` on, in UTC, so that 2 `n` may start around the end of a window.

    Raises:
        InvalidOption: a value is out of range.

    Example:
        >>> @app.task(limit=Rate(100, "1m", per="customer"))
        ... def call_api(customer: str) -> None: ...
    """

    n: int
    time: Duration
    per: str | Sequence[str] | None = None
    name: str | None = None
    burst: int | None = None
    window: Window = "bucket"

    def __post_init__(self) -> None:
        if self.window not in _KINDS:
            raise InvalidOption(f"window={self.window!r} of a Rate is unknown. Use {', '.join(map(repr, _KINDS))}.")
        _check_count("Rate", self.n, SLIDING_MAX if self.window == "sliding" else LIMIT_MAX)
        duration_ms(self.time, "time", least_ms=1, most_ms=WINDOW_MS_MAX)
        if self.burst is not None:
            if self.window != "bucket":
                raise InvalidOption(f'burst={self.burst!r} fits a Rate with window="bucket" only. Leave it out.')
            _check_count("Rate", self.burst, LIMIT_MAX, "burst")
        _check_names("Rate", self)


@dataclass(frozen=True, slots=True)
class Fair:
    """Jobs of different keys take turns: next is the first job of the key whose last start is longest ago.

    It holds back no job, and it is only about order: within a queue and a priority, among jobs that wait. A key that
    had nothing waiting neither loses turns nor saves them up. A job has one `Fair` at most.

    Args:
        per: the parameter, or parameters, of the task whose values make the key.
        name: shared by all tasks whose `Fair` has this name. None: a key of this task is another one than that of the
            next task, and has turns of its own.

    Raises:
        InvalidOption: `per` is no name.
        InvalidName: `name` is none.

    Example:
        >>> @app.task(limit=Fair(per="tenant"))
        ... def convert(tenant: str, document: int) -> None: ...
    """

    per: str | Sequence[str]
    name: str | None = None

    def __post_init__(self) -> None:
        _check_names("Fair", self)


AnyLimit: TypeAlias = Limit | Rate | Fair
"""One of those that the option `limit` takes."""
Limits: TypeAlias = AnyLimit | Sequence[AnyLimit]
"""What the option `limit` takes."""


class LimitInfo(NamedTuple):
    """One limit of a job at one moment."""

    key: str
    kind: str
    """`concurrency`, `bucket`, `sliding`, `fixed` or `fair`."""
    n: int | None
    """None of a key that takes turns."""
    window_ms: int | None
    running: int
    """Jobs of the key that run."""
    waiting: int
    """Jobs of the key that are enqueued."""
    open: bool
    """Whether one more may start now; always so of a key that takes turns."""


class JobLimits(NamedTuple):
    """The limits of one job that is not final."""

    limits: tuple[LimitInfo, ...]
    place: int | None
    """Of a waiting job: its place among those with the same task, queue and keys, from 1 on; none beyond 1,000."""

    @property
    def limited_by(self) -> str | None:
        """The key of the first limit that has no room now."""
        return next((limit.key for limit in self.limits if not limit.open), None)

    @classmethod
    def of(cls, answer: list[Any]) -> JobLimits:
        """From the storage's answer."""
        rows, place = answer
        return cls(tuple(_info(*row) for row in rows), place)


def as_limits(value: Any) -> tuple[AnyLimit, ...]:
    """The option `limit` as a tuple.

    Raises:
        InvalidOption: it is something else, or there are too many, or more than one `Fair`.
    """
    limits = (value,) if isinstance(value, (Limit, Rate, Fair)) else value
    if isinstance(limits, str) or not isinstance(limits, Iterable):
        raise InvalidOption(f"limit={value!r} is not a Limit, a Rate or a Fair. Write limit=Limit({value!r}).")
    limits = tuple(limits)
    for limit in limits:
        if not isinstance(limit, (Limit, Rate, Fair)):
            raise InvalidOption(f"limit has {limit!r}, which is not a Limit, a Rate or a Fair.")
    if len(limits) > LIMITS_MAX:
        raise InvalidOption(f"limit has {len(limits)} limits; at most {LIMITS_MAX} are allowed.")
    if sum(isinstance(limit, Fair) for limit in limits) > 1:
        raise InvalidOption('limit has more than one Fair. Name all parameters in one: Fair(per=("tenant", "user")).')
    return limits


def carrier(
    task: str,
    limits: Sequence[AnyLimit] | None,
    parameters: Sequence[inspect.Parameter],
    stored: Callable[[str], str],
) -> Callable[[tuple[Any, ...], dict[str, Any]], Carried] | None:
    """The function that makes the limits of one job from its arguments; None if there are none. `stored` makes of a key
    what is stored for it."""
    if not limits:
        return None
    signature = inspect.Signature(parameters)
    pack = packer(task, limits, list(signature.parameters))

    def carried(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Carried:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return pack(dict(bound.arguments), stored)

    return carried


def packer(
    task: str, limits: Sequence[AnyLimit], parameters: Sequence[str]
) -> Callable[[dict[str, Any], Callable[[str], str]], list[Packed]]:
    """The function that makes the limits of one job from (all arguments by name, how a key is stored).

    Raises:
        InvalidOption: `per` names something that is not a parameter of the task, or two limits have the same key.
    """
    # The limits of all before those of some: the storage has less to do then.
    makers = [_maker(task, limit, parameters) for limit in sorted(limits, key=lambda limit: len(_per(limit)))]
    kinds = [(_kind(limit), limit.name, _per(limit)) for limit in limits]
    if len(set(kinds)) < len(kinds):
        raise InvalidOption(f"Two limits of {task} have the same key. Leave one out, or give one a name of its own.")
    return lambda bound, stored: [make(bound, stored) for make in makers]


def _maker(
    task: str, limit: AnyLimit, parameters: Sequence[str]
) -> Callable[[dict[str, Any], Callable[[str], str]], Packed]:
    fields = _per(limit)
    for field in fields:
        if field not in parameters:
            raise InvalidOption(
                f"per={field!r} of a limit of {task} is not a parameter. Parameters: {', '.join(parameters) or 'none'}."
            )
    kind, numbers, shared = _kind(limit), _numbers(limit), limit.name
    scope = task if shared is None else shared
    if not fields:
        return lambda bound, stored: (kind, scope, *numbers)

    def make(bound: dict[str, Any], stored: Callable[[str], str]) -> Packed:
        for field in fields:
            check_known(task, "limit", field, bound[field])
        values = [_text(bound[field]) for field in fields]
        if shared is None:
            values = [f"{field}={value}" for field, value in zip(fields, values, strict=True)]
        return (kind, stored(_short(scope, ",".join(values))), *numbers)

    return make


def _numbers(limit: AnyLimit) -> Packed:
    """What the storage takes behind kind and key."""
    if isinstance(limit, Fair):
        return ()
    if isinstance(limit, Limit):
        return (limit.n,)
    time_ms = duration_ms(limit.time, "time")
    if limit.window != "bucket":
        return (limit.n, time_ms)
    return (limit.n, time_ms, limit.n if limit.burst is None else limit.burst)


def _text(value: Any) -> str:
    """A value as part of a key. Equal values give equal texts; other types may share a text only with a str."""
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return str(int(value))
    return _digest(serde.canonical(value))


def _short(scope: str, text: str) -> str:
    key = f"{scope}:{text}"
    if len(key.encode("utf-8", "surrogatepass")) > KEY_BYTES_MAX or any(_is_control(char) for char in key):
        key = f"{scope[:60]}:{_digest(key.encode('utf-8', 'surrogatepass'))}"
    return key


def _digest(raw: bytes) -> str:
    return hashlib.blake2b(raw, digest_size=16).hexdigest()


def _is_control(char: str) -> bool:
    return char < " " or "\x7f" <= char <= "\x9f" or "\ud800" <= char <= "\udfff"


def _kind(limit: AnyLimit) -> int:
    if isinstance(limit, Fair):
        return _FAIR
    return _KINDS[limit.window] if isinstance(limit, Rate) else 0


def _per(limit: AnyLimit) -> tuple[str, ...]:
    if limit.per is None:
        return ()
    return (limit.per,) if isinstance(limit.per, str) else tuple(limit.per)


def _info(limit: list[Any], running: int, waiting: int, open: bool) -> LimitInfo:
    kind, key, *numbers = limit
    n, window_ms, *_ = (*numbers, None, None)
    return LimitInfo(key, _NAMES[kind], n, window_ms, running, waiting, open)


def _check_count(what: str, value: object, most: int, name: str = "n") -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise InvalidOption(f"{name}={value!r} of a {what} is not a whole number from 1 to {most:,}.")


def _check_names(what: str, limit: AnyLimit) -> None:
    fields = limit.per if limit.per is None or not isinstance(limit.per, str) else (limit.per,)
    if fields is not None or isinstance(limit, Fair):
        names = list(fields) if isinstance(fields, Iterable) else []
        if not names or not all(isinstance(name, str) and name for name in names):
            raise InvalidOption(f"per={limit.per!r} of a {what} is not the name of a parameter, or several of them.")
    if limit.name is None:
        return
    if not isinstance(limit.name, str) or not limit.name or any(_is_control(char) for char in limit.name):
        raise InvalidName(f"name={limit.name!r} of a {what} is not a name.")
    if len(limit.name.encode()) > KEY_BYTES_MAX:
        raise InvalidName(f"name={limit.name[:40]!r}... of a {what} has more than {KEY_BYTES_MAX} bytes.")
