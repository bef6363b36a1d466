"""When a failed job runs again.

The worker that saw the exception computes the delay and stores the result, never the formula, so that the storage
stays free of arithmetic on floats. Delay of the n-th failure: `base * 2 ** (n - 1)` for `"exponential"`, `base` for
`"fixed"`, the n-th entry for a list (the last one repeats); times a random factor between `1 - jitter` and `1 +
jitter`; at most `cap`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from raftwork.durations import Duration, duration_ms
from raftwork.errors import InvalidOption

__all__ = ["ATTEMPTS_MAX", "Backoff", "Retry"]

ATTEMPTS_MAX = 10_000
"""Most attempts of a policy. A job that needs more should snooze or run on a schedule."""

Backoff: TypeAlias = Literal["exponential", "fixed"] | Sequence[Duration]
"""How the delay grows: doubling, constant, or as listed."""

ExceptionTypes: TypeAlias = type[BaseException] | Iterable[type[BaseException]]


@dataclass(frozen=True, slots=True, init=False)
class Retry:
    """A retry policy. Immutable and comparable; share one between tasks.

    Args:
        max_attempts: runs in all, the first included, from 1 (never retry) to 10,000.
        backoff: `"exponential"` (doubles), `"fixed"`, or the delays themselves, such as `["10s", "1m", "1h"]`.
        base: first delay of the first two kinds.
        cap: longest delay, jitter included.
        jitter: part of the delay that is random, 0 to 1, so that jobs that failed together do not return together.
        on: retry only these exceptions. Empty: all.
        unless: never retry these, even if `on` names them. The job fails at once.

    Exceptions are compared by name along the class hierarchy, so a policy can travel with a job.

    Raises:
        InvalidOption: a value is out of its range.

    Example:
        >>> Retry(8, base="2s", cap="10m", unless=(ValueError,))
    """

    max_attempts: int
    backoff: str
    delays_ms: tuple[int, ...]
    cap_ms: int
    jitter: float
    on: tuple[str, ...]
    unless: tuple[str, ...]

    def __init__(
        self,
        max_attempts: int = 10,
        backoff: Backoff = "exponential",
        *,
        base: Duration = "5s",
        cap: Duration = "1h",
        jitter: float = 0.2,
        on: ExceptionTypes = (),
        unless: ExceptionTypes = (),
    ) -> None:
        kind, delays_ms = _delays(backoff, base)
        self._set(
            check_attempts(max_attempts, "max_attempts"),
            kind,
            delays_ms,
            duration_ms(cap, "cap"),
            _check_jitter(jitter),
            _names(on, "on"),
            _names(unless, "unless"),
        )

    def _set(self, *values: object) -> None:
        for name, value in zip(self.__slots__, values, strict=True):
            object.__setattr__(self, name, value)

    def delay_ms(self, failures: int, draw: Callable[[], float] = random.random) -> int:
        """Milliseconds to wait after this many failures (1 or more). `draw` gives a number from 0 to 1."""
        if self.backoff == "exponential":
            # 2 ** 64 ms is beyond every cap, so larger exponents need not be computed.
            plain = self.delays_ms[0] << min(max(failures - 1, 0), 64)
        else:
            plain = self.delays_ms[min(max(failures, 1), len(self.delays_ms)) - 1]
        plain = min(plain, self.cap_ms)
        spread = 1.0 + self.jitter * (2.0 * draw() - 1.0)
        return max(0, min(round(plain * spread), self.cap_ms))

    def applies_to(self, error: BaseException) -> bool:
        """Whether this exception is retried at all."""
        names = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__}
        if names.intersection(self.unless):
            return False
        return not self.on or bool(names.intersection(self.on))

    def pack(self) -> list[Any]:
        """Plain values that travel with a job and that `unpack` reads."""
        delays = list(self.delays_ms)
        return [self.max_attempts, self.backoff, delays, self.cap_ms, self.jitter, list(self.on), list(self.unless)]

    @classmethod
    def unpack(cls, values: Sequence[Any]) -> Retry:
        """The policy that `pack` wrote."""
        max_attempts, kind, delays_ms, cap_ms, jitter, on, unless = values
        policy = cls.__new__(cls)
        policy._set(max_attempts, kind, tuple(delays_ms), cap_ms, jitter, tuple(on), tuple(unless))
        return policy


def check_attempts(value: object, option: str) -> int:
    """A whole number from 1 to `ATTEMPTS_MAX`, or InvalidOption."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= ATTEMPTS_MAX:
        raise InvalidOption(f"{option}={value!r} is not a whole number from 1 (never retry) to {ATTEMPTS_MAX:,}.")
    return value


def _delays(backoff: Backoff, base: Duration) -> tuple[str, tuple[int, ...]]:
    if isinstance(backoff, str):
        if backoff not in ("exponential", "fixed"):
            raise InvalidOption(f'backoff={backoff!r} is unknown. Use "exponential", "fixed", or a list of delays.')
        return backoff, (duration_ms(base, "base"),)
    try:
        listed = list(backoff)
    except TypeError:
        listed = []
    if not 1 <= len(listed) <= 1_000:
        raise InvalidOption(f"backoff={backoff!r} is not a list of 1 to 1,000 delays.")
    return "listed", tuple(duration_ms(delay, "backoff") for delay in listed)


def _check_jitter(jitter: object) -> float:
    if isinstance(jitter, bool) or not isinstance(jitter, int | float) or not 0.0 <= jitter <= 1.0:
        raise InvalidOption(f"jitter={jitter!r} is not a number from 0 to 1.")
    return float(jitter)


def _names(kinds: ExceptionTypes, option: str) -> tuple[str, ...]:
    listed = (kinds,) if isinstance(kinds, type) else tuple(kinds)
    for kind in listed:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise InvalidOption(f"{option} contains {kind!r}, which is not an exception class.")
    return tuple(f"{kind.__module__}.{kind.__qualname__}" for kind in listed)
