"""What operators change about jobs, in the storage contract."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from raftwork.storage.records import Change

__all__ = ["ChangeStorage"]


class ChangeStorage(ABC):
    """The part of a storage that changes jobs which are there. Each verb answers for each job, in their order.

    It takes at most 1,000 jobs, which change at one index.
    """

    @abstractmethod
    def cancel(self, jobs: Sequence[bytes], reason: str = "") -> list[Change]:
        """Waiting jobs become `cancelled`; running ones are told."""

    @abstractmethod
    def requeue(self, jobs: Sequence[bytes]) -> list[Change]:
        """Final jobs start again with fresh attempts; scheduled and retrying ones become due now."""

    @abstractmethod
    def delete(self, jobs: Sequence[bytes]) -> list[Change]:
        """Forget jobs that are not running."""

    @abstractmethod
    def move(self, jobs: Sequence[bytes], queue: str) -> list[Change]:
        """Put jobs that wait into another queue, in which they stand by since when they wait."""

    @abstractmethod
    def set_priority(self, jobs: Sequence[bytes], priority: int) -> list[Change]:
        """Give jobs that wait another priority, -100 to 100."""
