"""Locks: one holder, tokens that rise, the order of asking, and nothing for whoever does not want it any more."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import closing

import pytest

from raftwork.errors import (
    InvalidName,
    InvalidOption,
    LockError,
    LockHeld,
    LockLost,
    LockNotHeld,
    LockTimeout,
    NotRunning,
)
from raftwork.lock import Lock
from raftwork.storage.base import LockRow, Storage
from raftwork.testing.conformance.making import PATIENCE, Contract
from raftwork.testing.conformance.waiting import on_thread

# The write that the guide shows: it refuses a token lower than one that it has seen.
FENCED = "UPDATE invoice SET total = :total, token = :token WHERE id = 42 AND token <= :token"


def fresh_name() -> str:
    """A name that no other test has, as a storage may be shared."""
    return f"lock-{uuid.uuid4()}"


def of(storage: Storage, name: str, ttl: str | None = None) -> Lock:
    """A lock of this storage."""
    return Lock(lambda: storage, name, ttl)


def row(storage: Storage, name: str) -> LockRow | None:
    """What the storage tells of one lock."""
    return next((row for row in storage.locks() if row.name == name), None)


def until(holds: Callable[[], bool]) -> None:
    """Wait for a state that only reads show."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, "it did not come to that"
        threading.Event().wait(0.005)


def waiting(storage: Storage, name: str, count: int) -> None:
    """Wait until so many wait for a lock."""

    def there() -> bool:
        found = row(storage, name)
        return found is not None and found.waiters == count

    until(there)


class LockContract(Contract):
    """`lock`, `locks`."""

    def test_k1_one_owner_holds_a_lock_and_is_shown(self, storage: Storage) -> None:
        name = fresh_name()
        lock = of(storage, name)
        with lock as held:
            assert held is lock
            assert lock.held
            assert not lock.lost.is_set()
            found = row(storage, name)
            assert found is not None
            assert (found.token, found.waiters) == (lock.token, 0)
            with pytest.raises(LockTimeout, match=name):
                of(storage, name).acquire(timeout=0)
        assert row(storage, name) is None
        assert not lock.held

    def test_k2_tokens_rise_also_when_the_lock_was_forgotten_in_between(self, storage: Storage) -> None:
        name = fresh_name()
        tokens = []
        for _ in range(5):
            lock = of(storage, name)
            tokens.append(lock.acquire(PATIENCE))
            assert lock.token == tokens[-1]
            lock.release()
            assert row(storage, name) is None
        assert tokens == sorted(set(tokens))
        assert tokens[0] > 0

    def test_who_waits_gets_it_in_the_order_of_asking(self, storage: Storage) -> None:
        name, order = fresh_name(), list[int]()
        first = of(storage, name)
        first_token = first.acquire(PATIENCE)
        joins = []
        tokens = [first_token]

        def take(place: int) -> bool:
            with of(storage, name) as lock:
                order.append(place)
                tokens.append(lock.token)
            return True

        for place in range(4):
            joins.append(on_thread(lambda place=place: take(place)))  # type: ignore[misc]
            waiting(storage, name, place + 1)
        first.release()
        assert all(join() for join in joins)
        assert order == [0, 1, 2, 3]
        assert tokens == sorted(set(tokens))

    def test_a_wait_that_ends_early_holds_nothing_later(self, storage: Storage) -> None:
        name = fresh_name()
        holder, impatient = of(storage, name), of(storage, name)
        holder.acquire(PATIENCE)
        with pytest.raises(LockTimeout) as caught:
            impatient.acquire(timeout=0.05)
        assert isinstance(caught.value, TimeoutError)
        assert not impatient.held
        waiting(storage, name, 0)
        holder.release()
        assert row(storage, name) is None, "nobody who gave up got it"
        assert impatient.acquire(PATIENCE) > 0, "the same object may try again"
        impatient.release()

    def test_two_objects_of_one_process_are_two_owners(self, storage: Storage) -> None:
        name = fresh_name()
        one, other = of(storage, name), of(storage, name)
        one.acquire(PATIENCE)
        join = on_thread(lambda: other.acquire(PATIENCE))
        waiting(storage, name, 1)
        assert not other.held
        one.release()
        assert join() > 0
        other.release()

    def test_the_same_object_again_is_an_error_and_no_deadlock(self, storage: Storage) -> None:
        lock = of(storage, fresh_name())
        with lock:
            token = lock.token
            with pytest.raises(LockHeld, match="Release it first"):
                lock.acquire()
            with pytest.raises(LockHeld), lock:
                pass
            assert lock.held
            assert lock.token == token

    def test_an_object_that_waits_on_another_thread_is_taken(self, storage: Storage) -> None:
        name = fresh_name()
        holder, shared = of(storage, name), of(storage, name)
        holder.acquire(PATIENCE)
        join = on_thread(lambda: shared.acquire(PATIENCE))
        waiting(storage, name, 1)
        with pytest.raises(LockHeld):
            shared.acquire(0)
        holder.release()
        assert join() > 0
        shared.release()

    def test_only_the_holding_object_can_release_and_once(self, storage: Storage) -> None:
        name = fresh_name()
        lock, other = of(storage, name), of(storage, name)
        with pytest.raises(LockNotHeld):
            lock.release()
        lock.acquire(PATIENCE)
        with pytest.raises(LockNotHeld, match=name):
            other.release()
        with pytest.raises(LockNotHeld):
            _ = other.token
        lock.release()
        with pytest.raises(LockNotHeld):
            lock.release()
        with pytest.raises(LockNotHeld):
            lock.check()
        assert issubclass(LockNotHeld, LockError)

    def test_what_cannot_be_is_refused_before_anything_is_asked(self, storage: Storage) -> None:
        for name in ("", "a\nb", "x" * 256, 7):
            with pytest.raises(InvalidName):
                of(storage, name)  # type: ignore[arg-type]
        for ttl in ("100ms", "2h", 30, "soon"):
            with pytest.raises(InvalidOption):
                of(storage, "a", ttl)  # type: ignore[arg-type]
        lock = of(storage, fresh_name())
        for timeout in (-1, "5s", float("nan"), True):
            with pytest.raises(InvalidOption):
                lock.acquire(timeout)  # type: ignore[arg-type]
        assert not lock.held
        with lock:
            assert lock.held, "a refused try leaves the object as it was"

    def test_an_error_of_the_body_is_not_hidden_and_frees_the_lock(self, storage: Storage) -> None:
        name = fresh_name()
        with pytest.raises(ZeroDivisionError), of(storage, name):
            _ = 1 / 0
        assert row(storage, name) is None

    def test_a_lock_with_its_own_time_to_live_has_its_own_session(self, storage: Storage) -> None:
        one, other, same = fresh_name(), fresh_name(), fresh_name()
        with of(storage, one), of(storage, other, ttl="40s"), of(storage, same, ttl="40s"):
            found = [row(storage, name) for name in (one, other, same)]
            sessions = [lock.session for lock in found if lock is not None]
            assert len(set(sessions)) == 2
            assert sessions[1] == sessions[2], "one heartbeat keeps all of them"

    def test_k3_the_end_of_the_session_hands_over_and_is_told(self, storage: Storage) -> None:
        name = fresh_name()
        lock, heir = of(storage, name), of(storage, name, ttl="50s")
        token = lock.acquire(PATIENCE)
        join = on_thread(lambda: heir.acquire(PATIENCE))
        waiting(storage, name, 1)
        found = row(storage, name)
        assert found is not None
        storage.close_session(found.session)
        assert lock.lost.wait(PATIENCE)
        assert lock.lost.is_set()
        assert not lock.held
        with pytest.raises(LockLost, match=name):
            lock.check()
        assert join() > token
        assert heir.held
        with pytest.raises(LockLost):
            lock.release()
        assert heir.held, "the one who lost it changes nothing"
        heir.release()
        assert lock.acquire(PATIENCE) > token, "the object can be used again, in a new session"
        assert not lock.lost.is_set()
        lock.release()

    def test_k4_a_write_with_the_token_of_an_earlier_holder_changes_nothing(self, storage: Storage) -> None:
        name = fresh_name()
        with closing(sqlite3.connect(":memory:")) as db:
            db.execute("CREATE TABLE invoice (id INTEGER PRIMARY KEY, total INTEGER, token INTEGER NOT NULL)")
            db.execute("INSERT INTO invoice VALUES (42, 0, 0)")

            def write_total(total: int, token: int) -> bool:
                return db.execute(FENCED, {"total": total, "token": token}).rowcount == 1

            sleeper, heir = of(storage, name), of(storage, name, ttl="50s")
            old = sleeper.acquire(PATIENCE)
            assert sleeper.token == old
            assert write_total(100, sleeper.token)
            assert write_total(110, sleeper.token), "the holder may write again"
            found = row(storage, name)
            assert found is not None
            storage.close_session(found.session)  # It sleeps for longer than its session lives.
            with heir:
                assert heir.token > old
                assert write_total(250, heir.token)
                assert not write_total(120, old), "it wakes up, and does not know yet"
            assert not write_total(120, old), "also when nobody holds the lock any more"
            assert db.execute("SELECT total FROM invoice").fetchone() == (250,)
            with pytest.raises(LockLost):
                sleeper.release()

    def test_a_lock_that_was_lost_in_the_body_is_told_at_its_end(self, storage: Storage) -> None:
        name = fresh_name()
        with pytest.raises(LockLost), of(storage, name):
            found = row(storage, name)
            assert found is not None
            storage.close_session(found.session)

    def test_a_release_is_no_loss(self, storage: Storage) -> None:
        lock = of(storage, fresh_name())
        lock.acquire(PATIENCE)
        assert not lock.lost.wait(0)
        join = on_thread(lambda: (lock.lost.wait(PATIENCE),))
        lock.release()
        assert join() == (False,)

    def test_coroutines_take_turns(self, storage: Storage) -> None:
        name, inside = fresh_name(), list[int]()

        async def work(place: int) -> int:
            async with of(storage, name) as lock:
                inside.append(place)
                assert inside == [place], "nobody else is in here"
                await asyncio.sleep(0)
                inside.remove(place)
                return lock.token

        async def all_of_them() -> list[int]:
            return await asyncio.gather(*(work(place) for place in range(20)))

        tokens = asyncio.run(all_of_them())
        assert len(set(tokens)) == 20
        assert row(storage, name) is None

    def test_a_cancelled_coroutine_gets_nothing(self, storage: Storage) -> None:
        name = fresh_name()
        holder = of(storage, name)
        holder.acquire(PATIENCE)

        async def cancelled() -> None:
            lock = of(storage, name)
            task = asyncio.ensure_future(lock.aacquire())
            await asyncio.to_thread(waiting, storage, name, 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not lock.held
            with pytest.raises(LockTimeout):
                await lock.aacquire(timeout=0.05)
            with pytest.raises(LockTimeout):
                await lock.aacquire(timeout=0)

        asyncio.run(cancelled())
        waiting(storage, name, 0)
        holder.release()
        assert row(storage, name) is None

    def test_a_loss_wakes_a_coroutine(self, storage: Storage) -> None:
        name = fresh_name()

        async def lose() -> None:
            lock = of(storage, name)
            await lock.aacquire(PATIENCE)
            assert not await lock.lost.await_set(timeout=0.02)
            wait = asyncio.ensure_future(lock.lost.await_set(PATIENCE))
            await asyncio.sleep(0)
            found = await asyncio.to_thread(row, storage, name)
            assert found is not None
            await asyncio.to_thread(storage.close_session, found.session)
            assert await wait
            with pytest.raises(LockLost):
                await lock.arelease()
            with pytest.raises(LockNotHeld):
                await lock.arelease()

        asyncio.run(lose())

    def test_a_release_wakes_a_coroutine_that_waits_for_a_loss(self, storage: Storage) -> None:
        async def wait() -> bool:
            async with of(storage, fresh_name()) as lock:
                task = asyncio.ensure_future(lock.lost.await_set(PATIENCE))
                await asyncio.sleep(0)
            return await task

        assert asyncio.run(wait()) is False

    def test_closing_loses_locks_and_ends_waits(self, storage: Storage) -> None:
        name = fresh_name()
        lock, other = of(storage, name), of(storage, name)
        lock.acquire(PATIENCE)

        def wait() -> type[BaseException] | None:
            try:
                other.acquire(PATIENCE)
            except BaseException as error:
                return type(error)
            return None

        join = on_thread(wait)
        waiting(storage, name, 1)
        storage.close(PATIENCE)
        assert join() is NotRunning
        assert lock.lost.is_set()
        with pytest.raises(LockLost):
            lock.release()
        with pytest.raises(NotRunning):
            of(storage, name).acquire(0)
