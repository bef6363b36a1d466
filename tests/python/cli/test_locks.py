"""`raftwork locks`: who holds what."""

import os
from pathlib import Path
from typing import Any

from raftwork import Raftwork


def test_held_locks_are_listed_for_people_and_programs(raftwork: Any, shop: Path) -> None:
    with Raftwork("shop") as app:
        assert raftwork("locks").out == "No lock is held.\n"
        with app.lock("invoice:42") as lock:
            (held,) = raftwork("locks", "--json").json
            found = held["name"], held["token"], held["pid"], held["waiters"]
            assert found == ("invoice:42", lock.token, os.getpid(), 0)
            head, line = raftwork("locks").out.splitlines()
            assert head.split() == ["Lock", "Kind", "Holder", "Session", "Token", "Since", "Waiting"]
            name, kind, holder, _, token, *_ = line.split()
            assert (name, kind, token) == ("invoice:42", "lock", str(lock.token))
            assert holder.endswith(f":{os.getpid()}")
        assert raftwork("locks", "--json").json == []


def test_each_holder_of_a_shared_lock_is_listed_with_what_it_holds(raftwork: Any, shop: Path) -> None:
    with (
        Raftwork("shop") as app,
        app.semaphore("gpu", 2) as one,
        app.semaphore("gpu", 2) as other,
        app.rwlock("map").read(),
    ):
        held = raftwork("locks", "--json").json
        found = [(lock["name"], lock["kind"], lock["permits"]) for lock in held]
        assert found == [("gpu", "semaphore", 2)] * 2 + [("map", "read", 1_000)]
        assert [lock["token"] for lock in held[:2]] == [one.token, other.token]
        lines = raftwork("locks").out.splitlines()[1:]
        assert ["semaphore of 2" in line for line in lines] == [True, True, False]
