"""Tells when the Python files of an application change, for `raftwork worker --reload`. For development only."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from raftwork.errors import ConfigError

__all__ = ["SourceWatch"]


class SourceWatch:
    """While entered, calls a function with the changed files, on a thread of its own.

    Several changes within a moment are one call. Hidden directories, environments and caches do not count.
    """

    def __init__(self, directory: Path, changed: Callable[[list[str]], None]) -> None:
        """Prepare; nothing is watched yet.

        Raises:
            ConfigError: the package `watchfiles` is missing.
        """
        try:
            import watchfiles  # Here, since it is an extra: only who reloads needs it.
        except ImportError:
            raise ConfigError('--reload needs the package watchfiles: pip install "raftwork[reload]".') from None
        self._stop = threading.Event()
        changes = watchfiles.watch(
            directory, watch_filter=watchfiles.PythonFilter(), stop_event=self._stop, raise_interrupt=False
        )

        def listen() -> None:
            for found in changes:
                changed(sorted(path for _, path in found))

        self._thread = threading.Thread(target=listen, name="raftwork-reload", daemon=True)

    def __enter__(self) -> SourceWatch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
