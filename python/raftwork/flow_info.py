"""What stands around a job or a batch in a flow, as users see it."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, TypeAlias

__all__ = ["NO_FLOW", "FlowInfo", "Parent"]

_CHILDREN_COUNTED: Final = 10_000
"""A storage counts children up to here."""

Standing: TypeAlias = Literal["open", "met", "unmet", "void"]

_ENDS: Final[tuple[Literal["success", "failure", "finish"], ...]] = ("success", "failure", "finish")
_STANDINGS: Final[tuple[Standing, ...]] = ("open", "met", "unmet", "void")


class Parent(NamedTuple):
    """A job or batch that a job waits or waited for."""

    id: uuid.UUID
    on: Literal["success", "failure", "finish"]
    """How it is to end."""
    standing: Standing
    """`open`: it has not ended. `met`: it ended so. `unmet`: otherwise. `void`: it is not waited for any more."""


@dataclass(frozen=True, slots=True)
class FlowInfo:
    """What a job waits for, and how many wait for it, at one moment. Of a batch: how many wait for it.

    A job that has left memory has no parents here: they have ended, and it has too.
    """

    batch: uuid.UUID | None
    """The batch that it belongs to."""
    parents: tuple[Parent, ...]
    """What it waits or waited for, the first 100."""
    parents_count: int
    """All of them."""
    children: int
    """Jobs that wait for it, or were cancelled because of how it ended; counted up to 10,000."""

    @property
    def children_counted(self) -> bool:
        """Whether that is the number of all. False: there may be more."""
        return self.children < _CHILDREN_COUNTED

    @classmethod
    def of(
        cls, batch: bytes | None, parents: Iterable[tuple[bytes, int, int]], parents_count: int, children: int
    ) -> FlowInfo:
        """From the parts of a storage's row."""
        shown = tuple(Parent(uuid.UUID(bytes=id), _ENDS[on], _STANDINGS[standing]) for id, on, standing in parents)
        return cls(None if batch is None else uuid.UUID(bytes=batch), shown, parents_count, children)


NO_FLOW: Final = FlowInfo(None, (), 0, 0)
"""Of a job that stands alone."""
