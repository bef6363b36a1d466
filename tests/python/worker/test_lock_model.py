"""Random programs of locks do as a model says at each step: who holds, who waits, in which order, and with which token.

Tasks of one event loop ask for locks. That one waits is seen by what it asks the storage, and that it gets a
lock by its answer, so nothing here waits for time.
"""

from __future__ import annotations

import asyncio
import functools
from typing import Any, NamedTuple
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raftwork import Lock, LockError, LockHeld, LockLost, LockMismatch, LockNotHeld, LockTimeout, Raftwork
from raftwork.testing import Harness, harness
from worker.lock_model import Answer, Kind, Model, Owner, Want

TASKS = 6
SESSIONS = ("15s", "30s")
"""Times to live: the locks of each have a session of their own, as those of each process have."""
WORDS: dict[type[LockError], Answer] = {
    LockTimeout: "late",
    LockMismatch: "mismatch",
    LockHeld: "held",
    LockLost: "lost",
    LockNotHeld: "not held",
}
PATIENCE_S = 5

app = Raftwork("locks", "memory://")


class Ask(NamedTuple):
    """A task takes a lock. Numbers choose among what there is, by their remainder."""

    task: int
    which: int
    waits: bool
    blocks: bool
    """With the function for threads, if it is known that it does not wait."""


class Do(NamedTuple):
    """Anything else."""

    what: str
    which: int = 0
    blocks: bool = False


def wants() -> list[Want]:
    """What there is to be asked for: of each name several objects, some of which do not go together."""
    kinds: list[tuple[str, Kind, int, int]] = [("a", "lock", 1, 3), ("s", "semaphore", 2, 5)]
    kinds += [("rw", "read", 1, 4), ("rw", "write", 1, 3), ("s", "semaphore", 3, 1), ("s", "lock", 1, 1)]
    found = [Want(name, kind, permits, SESSIONS[n % 2]) for name, kind, permits, count in kinds for n in range(count)]
    return found + [Want(name, "lock", 1, session, reentrant=True) for name in "abaa" for session in SESSIONS]


WANTS = wants()
numbers = st.integers(0, 30)
verbs = ["release"] * 5 + ["release any", "give up", "end session", "advance"]
asks = st.builds(Ask, numbers, numbers, st.sampled_from([True, True, True, False]), st.booleans())
programs = st.lists(
    asks | asks | asks | st.builds(Do, st.sampled_from(verbs), numbers, st.booleans()), min_size=25, max_size=60
)


class Watched:
    """A lock of the storage, which tells that its task asks for it. `memory://` answers before the task goes on."""

    def __init__(self, inner: Any, asked: asyncio.Queue[Any]) -> None:
        self._inner = inner
        self._asked = asked

    async def aacquire(self, timeout: float | None) -> Any:
        self._asked.put_nowait(asyncio.current_task())
        return await self._inner.aacquire(timeout)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class Task:
    """A task that does one thing after the other."""

    def __init__(self) -> None:
        self.orders: asyncio.Queue[Any] = asyncio.Queue()
        self.answers: asyncio.Queue[int | Answer | str] = asyncio.Queue()
        self.waits_for: Owner | None = None
        self.gives_up = False
        self.task = asyncio.create_task(self.run())

    async def run(self) -> None:
        while True:
            order = await self.orders.get()
            self.answers.put_nowait(await self.obey(order))

    async def obey(self, order: Any) -> Any:
        """What comes of an order, in the words of the model."""
        try:
            found = order()
            return await found if asyncio.iscoroutine(found) else found
        except asyncio.CancelledError:
            if not self.gives_up:
                raise
            self.gives_up = False
            self.task.uncancel()
            return "gave up"
        except LockError as error:
            return WORDS[type(error)]

    async def do(self, order: Any) -> Any:
        """Have it done, and what came of it."""
        self.orders.put_nowait(order)
        return await self.answer()

    async def answer(self) -> Any:
        async with asyncio.timeout(PATIENCE_S):
            return await self.answers.get()


class Stage:
    """One program that is played in a harness and in the model."""

    def __init__(self, h: Harness) -> None:
        self.h = h
        self.model = Model()
        self.asked: asyncio.Queue[Any] = asyncio.Queue()
        self.locks = [make(want) for want in WANTS]
        self.tasks = [Task() for _ in range(TASKS)]
        self.takers: dict[Owner, int] = {}
        """The task that asked last for what an owner has or wants."""

    async def play(self, step: Ask | Do) -> None:
        """Do one step, where it can be done, and compare."""
        if isinstance(step, Ask):
            await self.ask(step)
        elif step.what in ("release", "release any"):
            await self.release(step)
        elif step.what == "give up":
            await self.give_up(step.which)
        elif step.what == "end session":
            await self.end_session(step.which)
        else:
            self.h.advance(f"{1 + step.which}m")
        await self.compare()

    async def ask(self, step: Ask) -> None:
        number, which = step.task % TASKS, step.which % len(WANTS)
        task, lock, want = self.tasks[number], self.locks[which], WANTS[which]
        if task.waits_for is not None:
            return
        owner = (number, want.name) if want.reentrant else which
        told = self.model.acquire(owner, want, step.waits)
        timeout = PATIENCE_S if step.waits else 0
        if told == "waits":
            task.waits_for, self.takers[owner] = owner, number
            task.orders.put_nowait(lambda: lock.aacquire())
            assert await self.who_asked() == number
            return
        order = lock.acquire if step.blocks else lock.aacquire
        found = await task.do(lambda: order(timeout))
        if told == "granted":
            assert isinstance(found, int), found
            self.takers[owner] = number
            self.model.got({owner: found})
        elif told == "again":
            assert found == self.model.holdings[owner].token
        else:
            assert found == told

    async def release(self, step: Do) -> None:
        owners: list[Owner] = list(self.model.holdings)
        if step.what == "release any":
            owners = [number for number, want in enumerate(WANTS) if not want.reentrant]
        if not owners:
            return
        owner = owners[step.which % len(owners)]
        free = [number for number, task in enumerate(self.tasks) if task.waits_for is None]
        taker, which = (owner[0], self.reentrant(owner)) if isinstance(owner, tuple) else (None, owner)
        if not free or taker not in (None, *free):
            return  # Whoever waits can do nothing else.
        lock = self.locks[which]
        task = self.tasks[free[step.which % len(free)] if taker is None else taker]
        told = self.model.release(owner)
        found = await task.do(lock.release if step.blocks else lock.arelease)
        assert found == (None if told in ("released", "one less") else told)
        await self.granted()

    async def give_up(self, which: int) -> None:
        waiting = [task for task in self.tasks if task.waits_for is not None]
        if waiting:
            task = waiting[which % len(waiting)]
            assert task.waits_for is not None
            self.model.give_up(task.waits_for)
            task.waits_for, task.gives_up = None, True
            task.task.cancel()
            assert await task.answer() == "gave up"
            await self.granted()

    async def end_session(self, which: int) -> None:
        rows = app.locks()
        if not rows:
            return
        row = rows[which % len(rows)]
        session = next(one.want.session for one in self.model.holdings.values() if one.token == row.token)
        self.h._driver.storage.lapse(row.session)
        again = dict(self.model.end_session(session))
        while again:
            owner = self.tasks[await self.who_asked()].waits_for
            assert owner is not None
            if self.model.ask(owner, again.pop(owner)) == "mismatch":
                task = self.tasks[self.takers[owner]]
                assert await task.answer() == "mismatch"
                task.waits_for = None
        await self.granted()

    async def granted(self) -> None:
        """Hear from those that have what they waited for."""
        tokens = {}
        for owner in self.model.granted:
            task = self.tasks[self.takers[owner]]
            tokens[owner] = await task.answer()
            task.waits_for = None
        self.model.got(tokens)

    async def who_asked(self) -> int:
        async with asyncio.timeout(PATIENCE_S):
            asker = await self.asked.get()
        return [task.task for task in self.tasks].index(asker)

    def reentrant(self, owner: tuple[int, str]) -> int:
        """Any object does for a task that holds it."""
        fitting = [n for n, want in enumerate(WANTS) if want.reentrant and want.name == owner[1]]
        return fitting[owner[0] % len(fitting)]

    async def compare(self) -> None:
        while not self.asked.empty():
            self.asked.get_nowait()
        rows = [(one.name, one.kind, one.permits, one.token, one.waiters) for one in app.locks()]
        assert sorted(rows) == self.model.rows(), "K1"
        for number, want in enumerate(WANTS):
            if not want.reentrant:
                assert seen(self.locks[number]) == self.told(number)
        for number, task in enumerate(self.tasks):
            assert task.answers.empty(), "nobody has what he does not want any more"
            if task.waits_for is None:
                for which, want in enumerate(WANTS):
                    if want.reentrant:
                        found = await task.do(functools.partial(seen, self.locks[which]))
                        assert found == self.told((number, want.name))

    def told(self, owner: Owner) -> tuple[int | Answer, bool, bool]:
        """Token, held, and lost."""
        holding = self.model.holdings.get(owner)
        return ("not held", False, False) if holding is None else (holding.token, not holding.lost, holding.lost)

    async def finish(self) -> None:
        """All are given back, whoever waits."""
        while self.model.holdings:
            before = len(self.model.holdings), len(self.model.line)
            for which in range(len(self.model.holdings)):
                await self.play(Do("release", which))
            if before == (len(self.model.holdings), len(self.model.line)):
                await self.play(Do("give up"))  # Who holds reentrant locks may wait for others.
        assert app.locks() == []
        assert self.model.line == [], "nobody is forgotten"
        for task in self.tasks:
            task.task.cancel()


def make(want: Want) -> Lock:
    if want.kind == "semaphore":
        return app.semaphore(want.name, want.permits, want.session)
    if want.kind == "lock":
        return app.lock(want.name, want.session, reentrant=want.reentrant)
    both = app.rwlock(want.name, want.session)
    return both.read() if want.kind == "read" else both.write()


def seen(lock: Lock) -> tuple[int | str, bool, bool]:
    try:
        token: int | str = lock.token
    except LockNotHeld:
        token = "not held"
    return token, lock.held, lock.lost.is_set()


async def play(program: list[Ask | Do]) -> None:
    with harness(app) as h:
        storage, stage = h._driver.storage, Stage(h)
        lock = storage.lock
        with mock.patch.object(storage, "lock", lambda *wish: Watched(lock(*wish), stage.asked)):
            for step in program:
                await stage.play(step)
            await stage.finish()


@pytest.mark.timeout(600)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(program=programs)
def test_k1_k2_k3_locks_do_as_the_model_says(program: list[Ask | Do]) -> None:
    asyncio.run(play(program))
