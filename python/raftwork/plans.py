"""What stands between a task and its application: how a job is to be stored, and who stores it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from raftwork.codecs import Codecs
from raftwork.job import Job
from raftwork.limits import Carried
from raftwork.middleware import Middleware
from raftwork.outbox.writing import Writer
from raftwork.storage.base import JobSpec

if TYPE_CHECKING:
    from raftwork.task import Signature

__all__ = ["Enqueuer", "Plan"]


class Plan:
    """What all jobs of one task with the same options share, worked out once."""

    __slots__ = ("delay_ms", "limits", "on", "parents", "run_at_ms", "secrets", "spec", "unique_key", "wait")

    def __init__(
        self,
        spec: JobSpec,
        delay_ms: int = 0,
        run_at_ms: int | None = None,
        unique_key: Callable[[tuple[Any, ...], dict[str, Any]], str] | None = None,
        wait: bool = True,
        secrets: bool = False,
        parents: tuple[bytes, ...] = (),
        on: int = 0,
        limits: Callable[[tuple[Any, ...], dict[str, Any]], Carried] | None = None,
    ) -> None:
        self.spec = spec
        self.delay_ms = delay_ms
        self.run_at_ms = run_at_ms
        self.unique_key = unique_key
        self.wait = wait
        self.secrets = secrets
        self.parents = parents
        self.on = on
        self.limits = limits


class Enqueuer(Protocol):
    """What a task needs from its application."""

    def setting(self, name: str) -> Any:
        """The value of a setting, for options that the task leaves open."""
        ...

    @property
    def codecs(self) -> Codecs:
        """How payloads are written."""
        ...

    @property
    def middleware(self) -> Middleware:
        """What is around enqueueing and running."""
        ...

    def put(
        self, plan: Plan, packed: bytes, unique_key: str | None, outputs: dict[bytes, int], limits: Carried
    ) -> Job[Any]:
        """Store one job, which waits for those whose output it takes."""
        ...

    async def aput(
        self, plan: Plan, packed: bytes, unique_key: str | None, outputs: dict[bytes, int], limits: Carried
    ) -> Job[Any]:
        """Store one job, from a running event loop."""
        ...

    def put_aside(self, writer: Writer, plan: Plan, packed: bytes, key: str | None, limits: Carried) -> Job[Any]:
        """Put one job into an outbox."""
        ...

    async def aput_aside(self, writer: Writer, plan: Plan, packed: bytes, key: str | None, limits: Carried) -> Job[Any]:
        """Put one job into an outbox, from a running event loop."""
        ...

    def put_chain(self, steps: Sequence[Signature[Any]]) -> Job[Any]:
        """Store jobs that pass their results on, and answer the last."""
        ...

    async def aput_chain(self, steps: Sequence[Signature[Any]]) -> Job[Any]:
        """The same for a running event loop."""
        ...
