"""Answers of the compiled client that arrive later, handed to the event loop, or the callback, that waits for them.

The client has one descriptor that is readable while answers wait. Each loop that waits for something watches it;
whichever loop is woken first takes all answers and passes those of other loops on. A loop watches only while it
waits, so nothing of it is left when it is closed.

Invariants
* A ticket is in `_waiting` or its answer was given, except between `start` and registration: such early answers are
  kept.
* Callbacks run outside the lock.
"""

from __future__ import annotations

import asyncio
import select
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from raftwork import _core
from raftwork.errors import NotRunning, OutcomeUnknown, Overloaded, RaftworkError, TimedOut

__all__ = ["Completions"]

Answer = bytes | BaseException
Settle = Callable[[Answer], None]

UNWATCHED_MAX = 1_024
"""Writes begun with `wait=False` that may be without an answer. Beyond it the next one waits for some."""
ROOM_WAIT_S = 30.0
"""How long it waits for them."""


class Completions:
    """The answers of one client that nobody waits for with a thread."""

    def __init__(self, client: _core.Client) -> None:
        self._client = client
        self._fd = client.completion_fd()
        self._lock = threading.Lock()
        self._waiting: dict[int, Settle] = {}
        self._early: dict[int, Answer] = {}
        self._starting = 0
        self._unwatched = 0
        self._watchers: dict[asyncio.AbstractEventLoop, int] = {}
        self._closed = False

    async def future(
        self,
        begin: Callable[[_core.Client], int],
        timeout: float | None,
        late: Callable[[TimedOut], BaseException],
    ) -> bytes:
        """Begin something and wait for its answer on the running loop. Cancelling forgets the ticket."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bytes] = loop.create_future()

        def settle(answer: Answer) -> None:
            # The drain may happen on another thread or in another loop, which may be closed by now.
            try:
                loop.call_soon_threadsafe(_resolve, future, answer)
            except RuntimeError:
                pass  # The loop that waited is closed; so is the future.

        self._watch(loop)
        ticket = None
        try:
            ticket = self._begin(begin, settle)
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError as error:
            if isinstance(error, TimedOut):
                raise
            raise late(TimedOut(f"Nothing happened within {timeout:g} s.")) from None
        finally:
            if ticket is not None:
                self._forget(ticket)
            self._unwatch(loop)

    def all(
        self, commands: Sequence[bytes], timeout: float | None, late: Callable[[TimedOut], RaftworkError]
    ) -> list[bytes | RaftworkError]:
        """Begin writes one after another and wait with this thread for all of their answers, or what went wrong."""
        answers: dict[int, bytes | RaftworkError] = {}
        tickets = []

        def begin(place: int, command: bytes) -> None:
            def settle(answer: Answer) -> None:
                if not isinstance(answer, bytes | RaftworkError):
                    answer = RaftworkError(f"An answer could not be taken: {answer!r}")
                answers[place] = answer

            try:
                tickets.append(self._begin(lambda client: client.start(command), settle))
            except RaftworkError as error:
                answers[place] = error

        for place, command in enumerate(commands):
            begin(place, command)
        if not self._drain_until(lambda: len(answers) == len(commands), timeout):
            for ticket in tickets:
                self._forget(ticket)
        unanswered = late(TimedOut(f"Nothing happened within {timeout or 0:g} s."))
        return [answers.get(place, unanswered) for place in range(len(commands))]

    def start(self, command: bytes, failed: Callable[[BaseException], None], again: bool = False) -> None:
        """Begin a write that nobody waits for.

        Args:
            command: the write.
            failed: called with what was answered instead of yes.
            again: it takes the place of one that was answered just now, and does not wait for room.

        Raises:
            Overloaded: too many had no answer for too long. Nothing was begun.
        """

        def settle(answer: Answer) -> None:
            with self._lock:
                self._unwatched -= 1
            if isinstance(answer, NotRunning):
                answer = OutcomeUnknown("The storage was closed before an answer came. It may or may not be stored.")
            if isinstance(answer, BaseException):
                failed(answer)

        if not again:
            self.wait_for_room()  # First: what is begun cannot be taken back.
        with self._lock:
            self._unwatched += 1
        try:
            self._begin(lambda client: client.start(command), settle)
        except BaseException:
            with self._lock:
                self._unwatched -= 1
            raise
        self._drain()

    def has_room(self) -> bool:
        """Whether `start` would not wait."""
        return self._unwatched < UNWATCHED_MAX

    def wait_for_room(self) -> None:
        """Return when `start` would not wait. Raises Overloaded when that takes too long."""
        if self.has_room():
            return
        # For more than one place, or each of the next would wait as well.
        self._drain_until(lambda: self._unwatched <= UNWATCHED_MAX // 2, ROOM_WAIT_S)
        if not self.has_room():
            raise Overloaded(f"{self._unwatched} writes with wait=False have no answer yet. Try again later.")

    def close(self, timeout: float | None) -> None:
        """Give the writes that nobody waits for their time, then tell everybody who has no answer that it is over."""
        self._drain_until(lambda: self._unwatched == 0, timeout)
        with self._lock:
            self._closed = True
            left = list(self._waiting.values())
            self._waiting.clear()
        for loop in list(self._watchers):
            self._stop_watching(loop)
        for settle in left:
            settle(NotRunning("The storage was closed while this was under way."))

    def _begin(self, begin: Callable[[_core.Client], int], settle: Settle) -> int:
        with self._lock:
            if self._closed:
                raise NotRunning("The storage is closed.")
            self._starting += 1
        answer: Answer | None = None
        try:
            ticket = begin(self._client)
            with self._lock:
                answer = self._early.pop(ticket, None)
                if answer is None:
                    self._waiting[ticket] = settle
        finally:
            with self._lock:
                self._starting -= 1
                if not self._starting:
                    self._early.clear()
        if answer is not None:
            settle(answer)
        return ticket

    def _forget(self, ticket: int) -> None:
        with self._lock:
            known = self._waiting.pop(ticket, None)
        if known is not None:
            self._client.cancel_ticket(ticket)

    def _drain(self) -> None:
        """Take the answers that are there and give each to who waits for it."""
        settled: list[tuple[Settle, Answer]] = []
        with self._lock:
            # Under the lock, so that no other thread registers a ticket between its answer and its place in `_early`.
            for ticket, answer in self._client.drain():
                settle = self._waiting.pop(ticket, None)
                if settle is not None:
                    settled.append((settle, answer))
                elif self._starting:
                    self._early[ticket] = answer
        for settle, answer in settled:
            settle(answer)

    def _drain_until(self, enough: Callable[[], bool], timeout: float | None) -> bool:
        """Take answers until there are enough. False: not within this time."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not enough():
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if left == 0.0:
                return False
            # Another thread may take the answers, so the wait is bounded although it is woken by them.
            poll = select.poll()
            poll.register(self._fd, select.POLLIN)
            poll.poll(50 if left is None else min(50, int(left * 1000) + 1))
            self._drain()
        return True

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            count = self._watchers.get(loop, 0)
            self._watchers[loop] = count + 1
        if not count:
            loop.add_reader(self._fd, self._drain)

    def _unwatch(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            count = self._watchers.get(loop, 0) - 1
            if count > 0:
                self._watchers[loop] = count
                return
            self._watchers.pop(loop, None)
        if not loop.is_closed():
            loop.remove_reader(self._fd)

    def _stop_watching(self, loop: asyncio.AbstractEventLoop) -> None:
        self._watchers.pop(loop, None)
        try:
            loop.call_soon_threadsafe(loop.remove_reader, self._fd)
        except RuntimeError:
            pass  # Closed, and its readers with it.


def _resolve(future: asyncio.Future[Any], answer: Answer) -> None:
    if future.done():
        return
    if isinstance(answer, BaseException):
        future.set_exception(answer)
    else:
        future.set_result(answer)
