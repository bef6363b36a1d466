"""Locks that several may hold, and locks that one may take again: semaphores, read-write locks, reentrant locks."""

from __future__ import annotations

import asyncio

import pytest

from raftwork.errors import InvalidName, InvalidOption, LockHeld, LockLost, LockMismatch, LockNotHeld, LockTimeout
from raftwork.lock import Lock, ReadWriteLock
from raftwork.reentrant import Holdings, ReentrantLock
from raftwork.storage.base import LockRow, Storage
from raftwork.testing.conformance.locking import fresh_name, of, row, waiting
from raftwork.testing.conformance.making import PATIENCE, Contract
from raftwork.testing.conformance.waiting import on_thread


def permit(storage: Storage, name: str, permits: int = 2, ttl: str | None = None) -> Lock:
    """A permit of a semaphore of this storage."""
    return Lock(lambda: storage, name, ttl, kind="semaphore", permits=permits)


def rows(storage: Storage, name: str) -> list[LockRow]:
    """Who holds one lock."""
    return [row for row in storage.locks() if row.name == name]


class SharedLockContract(Contract):
    """`lock` with the kinds `semaphore`, `read` and `write`."""

    def test_k1_a_semaphore_has_as_many_holders_as_permits(self, storage: Storage) -> None:
        name = fresh_name()
        first, second, third = (permit(storage, name) for _ in range(3))
        with first, second:
            assert first.token < second.token
            found = rows(storage, name)
            assert [row.token for row in found] == [first.token, second.token]
            assert {(row.kind, row.permits, row.waiters) for row in found} == {("semaphore", 2, 0)}
            with pytest.raises(LockTimeout, match=f"semaphore '{name}'"):
                third.acquire(timeout=0)
            first.release()
            assert third.acquire(timeout=0) > second.token
            third.release()
            first.acquire(PATIENCE)
        assert rows(storage, name) == []

    def test_k2_who_waits_for_a_permit_gets_one_in_the_order_of_asking(self, storage: Storage) -> None:
        name = fresh_name()
        holders = [permit(storage, name), permit(storage, name)]
        tokens = [holder.acquire(PATIENCE) for holder in holders]
        waiters, joins = [permit(storage, name) for _ in range(3)], []
        for place, waiter in enumerate(waiters):
            joins.append(on_thread(lambda waiter=waiter: waiter.acquire(PATIENCE)))  # type: ignore[misc]
            waiting(storage, name, place + 1)
        with pytest.raises(LockTimeout):
            permit(storage, name).acquire(timeout=0)
        for held, join in zip([*holders, waiters[0]], joins, strict=True):
            held.release()
            tokens.append(join())
        assert tokens == sorted(set(tokens))
        waiters[1].release()
        waiters[2].release()
        assert rows(storage, name) == []

    def test_one_name_is_one_kind_with_one_number_while_it_is_held(self, storage: Storage) -> None:
        name = fresh_name()
        shared = ReadWriteLock(lambda: storage, name)
        with permit(storage, name, 2):
            for other in (of(storage, name), permit(storage, name, 3), shared.read(), shared.write()):
                with pytest.raises(LockMismatch, match=r"semaphore of 2") as refused:
                    other.acquire(PATIENCE)
                assert name in str(refused.value)
                assert not other.held
            assert "semaphore of 3" in str(_refusal(permit(storage, name, 3)))
        with of(storage, name):
            assert "as a lock" in str(_refusal(permit(storage, name)))
        with permit(storage, name, 3) as changed:
            assert changed.held, "free, it may have another number"

    def test_k1_many_read_or_one_writes(self, storage: Storage) -> None:
        name = fresh_name()
        shared = ReadWriteLock(lambda: storage, name)
        with shared.read() as one, shared.read() as other:
            assert one.held
            assert other.held
            assert [row.kind for row in rows(storage, name)] == ["read", "read"]
            with pytest.raises(LockTimeout, match=name):
                shared.write().acquire(timeout=0)
            tokens = one.token, other.token
        with shared.write() as writer:
            assert writer.token > max(tokens)
            assert [row.kind for row in rows(storage, name)] == ["write"]
            for late in (shared.read(), shared.write()):
                with pytest.raises(LockTimeout):
                    late.acquire(timeout=0)

    def test_a_reader_behind_a_waiting_writer_waits(self, storage: Storage) -> None:
        name = fresh_name()
        shared = ReadWriteLock(lambda: storage, name)
        first, writer, late = shared.read(), shared.write(), shared.read()
        first.acquire(PATIENCE)
        writes = on_thread(lambda: writer.acquire(PATIENCE))
        waiting(storage, name, 1)
        with pytest.raises(LockTimeout):
            shared.read().acquire(timeout=0)
        reads = on_thread(lambda: late.acquire(PATIENCE))
        waiting(storage, name, 2)
        first.release()
        token = writes()
        assert not late.held
        writer.release()
        assert reads() > token
        late.release()

    def test_a_writer_that_waits_no_more_lets_the_readers_in(self, storage: Storage) -> None:
        name = fresh_name()
        shared = ReadWriteLock(lambda: storage, name)
        with shared.read():

            async def give_up() -> None:
                task = asyncio.ensure_future(shared.write().aacquire())
                await asyncio.to_thread(waiting, storage, name, 1)
                late = shared.read()
                reads = asyncio.ensure_future(late.aacquire(PATIENCE))
                await asyncio.to_thread(waiting, storage, name, 2)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert await reads > 0
                await late.arelease()

            asyncio.run(give_up())
        assert rows(storage, name) == []

    def test_k3_the_end_of_a_session_frees_its_permits_and_is_told(self, storage: Storage) -> None:
        name = fresh_name()
        lost, kept, heir = permit(storage, name), permit(storage, name, ttl="40s"), permit(storage, name, ttl="50s")
        tokens = lost.acquire(PATIENCE), kept.acquire(PATIENCE)
        join = on_thread(lambda: heir.acquire(PATIENCE))
        waiting(storage, name, 1)
        storage.close_session(rows(storage, name)[0].session)
        assert lost.lost.wait(PATIENCE)
        assert join() > max(tokens)
        with pytest.raises(LockLost, match=f"semaphore '{name}'"):
            lost.check()
        with pytest.raises(LockLost):
            lost.release()
        assert kept.held
        assert heir.held
        kept.release()
        heir.release()

    def test_coroutines_share_permits_and_no_more(self, storage: Storage) -> None:
        name, inside, most = fresh_name(), set[int](), [0]

        async def work(place: int) -> int:
            async with permit(storage, name, 3) as lock:
                inside.add(place)
                most[0] = max(most[0], len(inside))
                await asyncio.sleep(0)
                inside.remove(place)
                return lock.token

        async def all_of_them() -> list[int]:
            return await asyncio.gather(*(work(place) for place in range(20)))

        assert len(set(asyncio.run(all_of_them()))) == 20
        assert 1 <= most[0] <= 3
        assert rows(storage, name) == []

    def test_what_a_shared_lock_cannot_be_is_refused_before_anything_is_asked(self, storage: Storage) -> None:
        for permits in (0, 1_001, -1, True, 2.0, "2", None):
            with pytest.raises(InvalidOption, match="from 1 to 1000"):
                permit(storage, "a", permits)  # type: ignore[arg-type]
        with pytest.raises(InvalidName, match="semaphore"):
            permit(storage, "")
        with pytest.raises(InvalidName, match="read-write lock"):
            ReadWriteLock(lambda: storage, "a\nb")


class ReentrantLockContract(Contract):
    """Locks that their owner may take again."""

    def test_k1_the_owner_takes_it_again_with_the_same_token_and_frees_it_at_the_last(self, storage: Storage) -> None:
        name, holdings = fresh_name(), Holdings()
        outer, inner = (ReentrantLock(lambda: storage, name, None, None, holdings) for _ in range(2))
        with outer:
            token = outer.token
            with inner, outer:
                assert (inner.token, outer.token) == (token, token)
            assert outer.held
            found = row(storage, name)
            assert found is not None
            assert found.token == token
            with pytest.raises(LockTimeout):
                of(storage, name).acquire(timeout=0)
        assert row(storage, name) is None
        assert not inner.held
        assert not holdings
        with pytest.raises(LockNotHeld):
            inner.release()

    def test_another_thread_is_another_owner_also_with_the_same_object(self, storage: Storage) -> None:
        name, holdings = fresh_name(), Holdings()
        lock = ReentrantLock(lambda: storage, name, None, None, holdings)

        def take() -> tuple[bool, int]:
            before = lock.held
            with lock:
                return before, lock.token

        with lock:
            token = lock.token
            join = on_thread(take)
            waiting(storage, name, 1)
            assert lock.token == token, "the other one waits"
        before, later = join()
        assert not before
        assert later > token

    def test_tasks_of_one_loop_are_owners_of_their_own(self, storage: Storage) -> None:
        name, holdings, inside = fresh_name(), Holdings(), list[int]()
        lock = ReentrantLock(lambda: storage, name, None, None, holdings)

        async def work(place: int) -> int:
            async with lock:
                inside.append(place)
                assert inside == [place], "nobody else is in here"
                async with lock:
                    await asyncio.sleep(0)
                inside.remove(place)
                return lock.token

        async def all_of_them() -> list[int]:
            return await asyncio.gather(*(work(place) for place in range(10)))

        assert len(set(asyncio.run(all_of_them()))) == 10
        assert row(storage, name) is None
        assert not holdings

    def test_a_lost_one_is_not_taken_again(self, storage: Storage) -> None:
        name, holdings = fresh_name(), Holdings()
        lock = ReentrantLock(lambda: storage, name, None, None, holdings)
        lock.acquire(PATIENCE)
        token, lost = lock.acquire(PATIENCE), lock.lost
        found = row(storage, name)
        assert found is not None
        storage.close_session(found.session)
        join = on_thread(lambda: lost.wait(PATIENCE))
        assert join(), "another thread may watch what the owner holds"
        with pytest.raises(LockLost, match="as often as it was taken"):
            lock.acquire()
        lock.release()
        with pytest.raises(LockLost):
            lock.release()
        assert lock.acquire(PATIENCE) > token
        lock.release()

    def test_a_wait_that_ends_early_leaves_nothing(self, storage: Storage) -> None:
        name, holdings = fresh_name(), Holdings()
        lock = ReentrantLock(lambda: storage, name, None, None, holdings)
        with of(storage, name) as plain:
            with pytest.raises(LockTimeout):
                lock.acquire(timeout=0)
            with pytest.raises(LockHeld):
                plain.acquire()
            assert not holdings
        with lock:
            assert lock.held


def _refusal(lock: Lock) -> LockMismatch:
    with pytest.raises(LockMismatch) as refused:
        lock.acquire(timeout=0)
    return refused.value
