"""Asks the storage on a thread of its own, so that keys and the picture go on while an answer waits for a leader."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from raftwork import clock
from raftwork.app import Raftwork
from raftwork.cli.top.scene import Scene, look
from raftwork.errors import RaftworkError

__all__ = ["Asker"]

RATE_MS = 900
"""Rates are those of about a second: an older scene is kept until a newer one is so much younger."""


class Asker:
    """The newest scene, how the last question went, and changes that a person asked for."""

    def __init__(self, app: Raftwork, interval_s: float, ask: Callable[[Raftwork, Scene | None], Scene] = look) -> None:
        self._app = app
        self._interval_s = interval_s
        self._ask = ask
        self._orders: queue.SimpleQueue[tuple[str, Callable[[], None]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="raftwork-top", daemon=True)
        self.scene: Scene | None = None
        """What was seen last."""
        self.seen_at = clock.monotonic()
        """When that was, of the monotonic clock."""
        self.error = ""
        """Why the last question was not answered; empty when it was."""
        self.said = ""
        """What became of the last order."""

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> None:
        """Ask no more. Does not wait for a question that is under way."""
        self._orders.put(None)

    def order(self, words: str, change: Callable[[], None]) -> None:
        """Change something, then ask at once. `words` are shown when it is done."""
        self._orders.put((words, change))

    def _run(self) -> None:
        before: Scene | None = None
        while True:
            try:
                scene = self._ask(self._app, before)
                if before is None or scene.at_ms - before.at_ms >= RATE_MS:
                    before = scene
                self.scene, self.seen_at, self.error = scene, clock.monotonic(), ""
            except RaftworkError as error:
                self.error = str(error)
            try:
                order = self._orders.get(timeout=self._interval_s)
            except queue.Empty:
                continue
            if order is None:
                return
            self._do(*order)

    def _do(self, words: str, change: Callable[[], None]) -> None:
        try:
            change()
            self.said = words
        except RaftworkError as error:
            self.said = str(error)
