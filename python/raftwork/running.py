"""An application and its worker for the length of a `with` block.

The worker stands above the application, so nothing here knows it: the root of the package, which joins all layers,
says in `Running.worker_entry` where it is, and it is loaded on first use.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, ClassVar, Protocol, TypeAlias

from raftwork.errors import ConfigError

__all__ = ["Running", "WorkerChoice"]

WorkerChoice: TypeAlias = bool | str | Iterable[str] | Mapping[str, int | None] | None
"""Which queues to serve: None or False for none, True for all, names, or names with a number of jobs at once."""


class Openable(Protocol):
    """What is needed of the application."""

    def open(self) -> Any:
        """Open the storage."""
        ...

    def close(self) -> None:
        """Close the storage."""
        ...

    def outbox(self, url: str) -> Relayed:
        """The outbox in a database."""
        ...


class Relaying(Protocol):
    """What is needed of a relay."""

    def start(self) -> Any:
        """Begin; returns at once."""
        ...

    def stop(self) -> None:
        """End."""
        ...


class Relayed(Protocol):
    """What is needed of an outbox."""

    def relaying(self) -> Relaying:
        """The thread that relays it."""
        ...


class WorkerLike(Protocol):
    """What is needed of the worker."""

    def start(self) -> Any:
        """Begin; returns at once."""
        ...

    def stop(self) -> None:
        """Drain and end."""
        ...

    async def astop(self) -> None:
        """The same, without blocking the running event loop."""
        ...


class Running:
    """What `app.running(...)` gives: usable once, with `with` or `async with`."""

    worker_entry: ClassVar[str] = ""
    """`module:class` of the worker, set by the package root."""

    def __init__(self, app: Openable, workers: WorkerChoice, options: Mapping[str, Any]) -> None:
        self._options = dict(options)
        outbox = self._options.pop("outbox", None)
        if self._options and (workers is None or workers is False):
            raise ConfigError(
                f"Options of a worker ({', '.join(self._options)}) are given, but workers={workers!r} runs none."
            )
        self._app = app
        self._choice = workers
        # Before anything is opened: a wrong URL is told at once.
        self._relay = None if outbox is None else app.outbox(outbox).relaying()
        self._worker: WorkerLike | None = None

    @property
    def worker(self) -> Any:
        """The worker, None for a client only."""
        return self._worker

    def __enter__(self) -> Running:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self._worker is not None:
                self._worker.stop()
            self._stop_relay()
        finally:
            self._app.close()

    async def __aenter__(self) -> Running:
        # Coroutine jobs share the loop of the program, and with it the connections that the program made there.
        self._options.setdefault("loop", asyncio.get_running_loop())
        await asyncio.to_thread(self._start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self._worker is not None:
                await self._worker.astop()
            await asyncio.to_thread(self._stop_relay)
        finally:
            await asyncio.to_thread(self._app.close)

    def _start(self) -> None:
        self._app.open()
        try:
            if self._choice is not None and self._choice is not False:
                self._worker = self._make()
                self._worker.start()
            if self._relay is not None:
                self._relay.start()
        except BaseException:
            self._app.close()
            raise

    def _stop_relay(self) -> None:
        if self._relay is not None:
            self._relay.stop()

    def _make(self) -> WorkerLike:
        module, _, name = self.worker_entry.partition(":")
        kind = getattr(importlib.import_module(module), name)
        worker: WorkerLike = kind(self._app, None if self._choice is True else self._choice, **self._options)
        return worker
