"""The options of a job: what each means, its range, and its plain form.

Users give them to `@app.task(...)` and `task.using(...)`; `normalise` checks each and turns durations into
milliseconds. An option that is not given stays out, so that `using` beats the decorator, which beats the settings of
the application.
"""

from __future__ import annotations

import difflib
import hashlib
import string
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, TypeAlias, cast

from raftwork import serde, sizes
from raftwork.durations import Duration, duration_ms, instant_ms
from raftwork.errors import ConfigError, InvalidName, InvalidOption
from raftwork.limits import as_limits
from raftwork.output import check_known, hide_outputs
from raftwork.retry import Retry, check_attempts
from raftwork.secret import MASK

__all__ = [
    "NAME_BYTES_MAX",
    "OPTIONS",
    "OPTIONS_OF_TASK",
    "TAGS_MAX",
    "UNSET",
    "Executor",
    "On",
    "OnConflict",
    "Parent",
    "Unique",
    "UniqueKey",
    "check_for_calls",
    "check_for_tasks",
    "check_name",
    "key_maker",
    "normalise",
    "window_ms",
]

NAME_BYTES_MAX = 255
"""UTF-8 bytes of a queue, function, tag or unique key."""
TAGS_MAX = 32
"""Tags of one job."""
PRIORITY_MAX = 100
"""Priorities run from minus this to plus this, higher first, as in Django."""
MEMORY_BYTES_MIN = 32 << 20
"""Least `memory`: about what an interpreter needs for itself."""
VERSION_MAX = 1_000_000
"""Largest `version`."""
PARENTS_MAX = 10_000
"""Jobs and batches that one job waits for."""
ON: Final = ("success", "failure", "finish")
CRASHES_MAX = 10_000
"""Largest `max_crashes`."""

Executor: TypeAlias = Literal["thread", "async", "process"]
"""What runs a job: a thread, a coroutine on the worker's event loop, or a process of its own."""
OnConflict: TypeAlias = Literal["skip", "replace", "raise"]
"""What happens to a new job whose unique key is taken."""
On: TypeAlias = Literal["success", "failure", "finish"]
"""Which end of its parents lets a job run: all succeeded, all failed or were cancelled, or whichever."""
UniqueKey: TypeAlias = str | Callable[..., str]
"""`"args"`, a template such as `"invoice:{invoice_id}"`, or a function of the job's arguments."""


class Parent(Protocol):
    """What a job can wait for: a Job or a Batch."""

    @property
    def id(self) -> uuid.UUID:
        """The id of the job or batch."""
        ...


class _Unset:
    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final[Any] = _Unset()
"""The default of every option: as the decorator, the settings or the table of defaults say."""


@dataclass(frozen=True, slots=True)
class Unique:
    """At most one waiting or running job per key.

    Args:
        key: `"args"` (the arguments themselves), a template over the parameters such as `"invoice:{invoice_id}"`, or a
            function that is called with the job's arguments and answers the key. Keys of different tasks never clash.
        window: how long the key stays taken; None until the job is final.
        on_conflict: `"skip"` answers the existing job, `"replace"` puts the new one in its place if it still waits,
            `"raise"` raises UniqueConflict.

    Example:
        >>> Unique("user:{user_id}", window="10m", on_conflict="replace")
    """

    key: UniqueKey = "args"
    window: Duration | None = None
    on_conflict: OnConflict = "skip"

    def __post_init__(self) -> None:
        if not (callable(self.key) or (isinstance(self.key, str) and self.key)):
            raise InvalidOption(f'unique={self.key!r} is not "args", a template such as "user:{{id}}", or a function.')
        if self.on_conflict not in ("skip", "replace", "raise"):
            raise InvalidOption(f'on_conflict={self.on_conflict!r} is unknown. Use "skip", "replace" or "raise".')
        if self.window is not None:
            duration_ms(self.window, "window", least_ms=1)


def check_name(value: object, what: str) -> str:
    """A name that may be stored: 1 to 255 bytes of text without control characters, or InvalidName."""
    if not isinstance(value, str):
        raise InvalidName(f"{what} {value!r} is not a str.")
    if not value:
        raise InvalidName(f"{what} is empty. Names have 1 to {NAME_BYTES_MAX} bytes.")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidName(f"{what} {value!r} has a lone surrogate, which is not text.") from None
    if size > NAME_BYTES_MAX:
        raise InvalidName(f"{what} {value[:40]!r}... has {size} bytes; at most {NAME_BYTES_MAX} are allowed.")
    if any(_is_control(char) for char in value):
        raise InvalidName(f"{what} {value!r} has a control character.")
    return value


def normalise(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given, checked, in plain form: durations in milliseconds, tags as a tuple.

    Raises:
        InvalidOption: an option is unknown, or a value is out of its range.
        InvalidName: a queue or tag has a name that cannot be stored.
    """
    plain = {}
    for name, value in given.items():
        if value is UNSET:
            continue
        check = OPTIONS.get(name)
        if check is None:
            raise InvalidOption(_unknown(name))
        plain[name] = check(value)
    if plain.get("delay") and plain.get("run_at") is not None:
        raise InvalidOption("delay and run_at are both given, and each says when the job is due. Give one.")
    return plain


def check_for_tasks(given: Iterable[str]) -> None:
    """Refuse options that only single jobs have.

    Raises:
        InvalidOption: one of these is given; the message says where it belongs.
    """
    for name in OPTIONS_OF_CALLS.intersection(given):
        raise InvalidOption(f"{name} says what one job waits for. Set it with task.using({name}=...).enqueue(...).")


def check_for_calls(given: Iterable[str], task: str) -> None:
    """Refuse options that jobs of one task cannot differ in.

    Raises:
        ConfigError: one of these is given; the message says where to set it, and what may be set instead.
    """
    for name in OPTIONS_OF_TASK.intersection(given):
        free = ", ".join(option for option in OPTIONS if option not in OPTIONS_OF_TASK)
        raise ConfigError(
            f"{name} cannot be set for some calls of {task}: it belongs to the function. Set it where "
            f"the task is defined, @app.task({name}=...). For some calls there are: {free}."
        )


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name, OPTIONS, n=1)
    guess = f" Did you mean {close[0]}?" if close else ""
    return f"{name} is not an option.{guess} Options: {', '.join(OPTIONS)}."


def _optional(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else check(value)


def check_priority(value: object) -> int:
    """A priority, -100 to 100, or InvalidOption."""
    if isinstance(value, bool) or not isinstance(value, int) or not -PRIORITY_MAX <= value <= PRIORITY_MAX:
        raise InvalidOption(
            f"priority={value!r} is not a whole number from -{PRIORITY_MAX} to {PRIORITY_MAX} (higher first)."
        )
    return value


def _crashes(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= CRASHES_MAX:
        raise InvalidOption(f"max_crashes={value!r} is not a whole number from 1 to {CRASHES_MAX:,}.")
    return value


def _retry(value: object) -> Retry:
    return value if isinstance(value, Retry) else Retry(check_attempts(value, "retry"))


def _tags(value: object) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise InvalidOption(f"tags={value!r} is not a list of names. Write tags=[{str(value)[:40]!r}].")
    tags = tuple(dict.fromkeys(check_name(tag, "A tag") for tag in value))
    if len(tags) > TAGS_MAX:
        raise InvalidOption(f"tags has {len(tags)} names; at most {TAGS_MAX} are allowed.")
    return tags


def _unique(value: object) -> Unique:
    return value if isinstance(value, Unique) else Unique(cast(UniqueKey, value))


def _executor(value: object) -> str:
    if value not in ("thread", "async", "process"):
        raise InvalidOption(f'executor={value!r} is unknown. Use "thread", "async" or "process".')
    return str(value)


def _memory(value: object) -> int:
    return sizes.size_bytes(value, "memory", least=MEMORY_BYTES_MIN, most=1 << 50)


def _version(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= VERSION_MAX:
        raise InvalidOption(f"version={value!r} is not a whole number from 1 to {VERSION_MAX:,}.")
    return value


def _wait(value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidOption(f"wait={value!r} is not True or False.")
    return value


def _after(value: object) -> tuple[bytes, ...]:
    parents = value if isinstance(value, Iterable) else (value,)
    ids = [getattr(parent, "id", None) for parent in parents]
    if not all(isinstance(id, uuid.UUID) for id in ids):
        raise InvalidOption(f"after={value!r:.200} is not a job, a batch, or a list of them. Write after=job.")
    found = tuple(dict.fromkeys(id.bytes for id in ids if id is not None))
    if len(found) > PARENTS_MAX:
        raise InvalidOption(f"after has {len(found):,} parents; at most {PARENTS_MAX:,} are allowed. Use a batch.")
    return found


def _on(value: object) -> int:
    if value not in ON:
        raise InvalidOption(f'on={value!r} is unknown. Use "success", "failure" or "finish".')
    return ON.index(str(value))


def _duration(option: str, least_ms: int) -> Callable[[Any], int]:
    return lambda value: duration_ms(value, option, least_ms=least_ms)


OPTIONS: Final[dict[str, Callable[[Any], Any]]] = {
    "queue": lambda value: check_name(value, "The queue"),
    "priority": check_priority,
    "delay": _optional(_duration("delay", 0)),
    "run_at": _optional(lambda value: instant_ms(value, "run_at")),
    "expires": _optional(_duration("expires", 1)),
    "retry": _retry,
    "timeout": _optional(_duration("timeout", 1)),
    "max_crashes": _crashes,
    "unique": _optional(_unique),
    "limit": _optional(as_limits),
    "tags": _tags,
    "keep_result": _duration("keep_result", 0),
    "keep_failed": _duration("keep_failed", 0),
    "executor": _executor,
    "memory": _optional(_memory),
    "cpu": _optional(_duration("cpu", 1)),
    "version": _version,
    "wait": _wait,
    "after": _optional(_after),
    "on": _on,
}
"""Every option and the function that checks it."""

OPTIONS_OF_CALLS: Final = frozenset({"after", "on"})
"""Options of `using` that `@app.task` refuses: they say what one job waits for."""

OPTIONS_OF_TASK: Final = frozenset({"executor", "memory", "cpu", "version"})
"""Options of `@app.task` that `using` refuses: they are about the function, not about a job."""


def key_maker(task: str, unique: Unique, parameters: Sequence[str]) -> Callable[[dict[str, Any], Any, Any], str]:
    """The function that makes a job's unique key from (all arguments by name, positional, keyword).

    Raises:
        InvalidOption: a template names something that is not a parameter of the task.
    """
    key = unique.key
    if callable(key):
        return lambda bound, args, kwargs: _key(task, _called(key, task, parameters, args, kwargs))
    fields = parameters if key == "args" else _fields(key, parameters)

    def make(bound: dict[str, Any], args: Any, kwargs: Any) -> str:
        for field in fields:
            check_known(task, "unique", field, bound.get(field))
        return _key(task, _digest(serde.canonical(list(bound.items()))) if key == "args" else _filled(key, bound))

    return make


def _called(
    key: Callable[..., Any], task: str, parameters: Sequence[str], args: Sequence[Any], kwargs: dict[str, Any]
) -> Any:
    """What a function makes of the arguments. It may have an output of a job among them, and must not look at it."""
    # Of `*args` each has the name of the last one.
    names = [parameters[min(place, len(parameters) - 1)] for place in range(len(args))]
    shown = [hide_outputs(task, "unique", name, value) for name, value in zip(names, args, strict=True)]
    return key(*shown, **{name: hide_outputs(task, "unique", name, value) for name, value in kwargs.items()})


def window_ms(window: Duration) -> int:
    """The milliseconds of a checked window."""
    return duration_ms(window, "window", least_ms=1)


def _fields(template: str, parameters: Sequence[str]) -> list[str]:
    """The parameters that a template names."""
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
    except ValueError as error:
        raise InvalidOption(f"unique={template!r} is not a template: {error}.") from None
    names = [field.partition(".")[0].partition("[")[0] for field in fields]
    for name in names:
        if name not in parameters:
            raise InvalidOption(
                f"unique={template!r} names {name or '{}'!r}, which is not a parameter. "
                f"Parameters: {', '.join(parameters)}."
            )
    return names


class _Unmasked(string.Formatter):
    """Fills a template, and refuses values that only show a mask: all secrets would have the same key."""

    def convert_field(self, value: Any, conversion: Any) -> Any:
        shown = super().convert_field(value, conversion)
        if not isinstance(value, str) and MASK in str(shown):
            raise InvalidOption(
                "The template of the unique key shows a Secret, which is the same text for all of them. Name another "
                'parameter, or use unique="args".'
            )
        return shown


def _filled(template: str, bound: dict[str, Any]) -> str:
    text = template.format_map(bound)
    # The slow way only where there is something to look for.
    return _Unmasked().vformat(template, (), bound) if MASK in text else text


def _key(task: str, text: object) -> str:
    if not isinstance(text, str) or not text:
        raise InvalidName(f"The unique key of {task} is {text!r}; it must be a str with at least one character.")
    key = f"{task}:{text}"
    # A digest keeps the promise of uniqueness for keys that could not be stored as they are.
    if len(key.encode("utf-8", "surrogatepass")) > NAME_BYTES_MAX or any(_is_control(char) for char in key):
        raw = text.encode("utf-8", "surrogatepass")
        key = f"{task[:60]}:{_digest(task.encode() + b':' + raw)}"
    return key


def _digest(raw: bytes) -> str:
    return hashlib.blake2b(raw, digest_size=16).hexdigest()


def _is_control(char: str) -> bool:
    return char < " " or "\x7f" <= char <= "\x9f" or "\ud800" <= char <= "\udfff"
