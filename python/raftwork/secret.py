"""Values that are not shown: arguments and results that a user wraps, and settings."""

from __future__ import annotations

from typing import Any, Generic, Never, TypeVar

__all__ = ["MASK", "Masked", "Secret"]

T_co = TypeVar("T_co", covariant=True)

MASK = "***"


class Secret(Generic[T_co]):
    """A value that is shown nowhere: not by `repr`, `str`, a format, a log line, JSON, the command line or a search.

    It travels as an argument, a result or a saved state, encrypted. An application without an encryption key refuses
    it, unless the setting `secrets_in_clear` allows it.

    Example:
        >>> @app.task
        ... def send(token: Secret[str]) -> None:
        ...     call(token.reveal())
        >>> send.enqueue(Secret("t-123"))
    """

    __slots__ = ("__value",)

    def __init__(self, value: T_co) -> None:
        self.__value = value

    def reveal(self) -> T_co:
        """The value itself."""
        return self.__value

    def __eq__(self, other: object) -> bool:
        return self.__value == other.__value if isinstance(other, Secret) else NotImplemented

    def __hash__(self) -> int:
        return hash((Secret, self.__value))

    def __copy__(self) -> Secret[T_co]:
        return self

    def __deepcopy__(self, memo: Any) -> Secret[T_co]:
        return self

    def __reduce_ex__(self, protocol: Any) -> Never:
        raise TypeError("A Secret cannot be pickled: its value would be in the pickle. Pass reveal() if you mean that.")

    def __format__(self, spec: str) -> str:
        return format(MASK, spec)

    def __str__(self) -> str:
        return MASK

    def __repr__(self) -> str:
        return f"Secret('{MASK}')"


class Masked(str):
    """Text of a setting that is not shown: `repr` says only that it is there."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"'{MASK}'"
