"""`Limit`, `Rate` and `Fair`: what they refuse, the keys that they give, and jobs that wait for one another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from raftwork import Fair, InvalidName, InvalidOption, Limit, Raftwork, Rate
from raftwork.limits import LIMITS_MAX, AnyLimit, packer


@pytest.fixture
def app() -> Iterator[Raftwork]:
    with Raftwork("test", "memory://?clock=manual") as app:
        yield app


def keys(limits: list[AnyLimit], **bound: Any) -> list[Any]:
    return [limit[1] for limit in packer("sync", limits, list(bound))(bound, lambda key: key)]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Limit(0), "n=0 of a Limit is not a whole number from 1 to 1,000,000"),
        (lambda: Limit(True), "n=True"),
        (lambda: Limit("2"), "n='2'"),  # type: ignore[arg-type]
        (lambda: Limit(1, per=()), "per=()"),
        (lambda: Limit(1, per=7), "per=7"),  # type: ignore[arg-type]
        (lambda: Rate(0, "1m"), "n=0 of a Rate"),
        (lambda: Rate(1, "0s"), "time='0s' is out of range"),
        (lambda: Rate(1, 60), "time=60 has no unit"),  # type: ignore[arg-type]
        (lambda: Rate(1, "500d"), "time='500d' is out of range"),
        (lambda: Rate(1, "1m", burst=0), "burst=0"),
        (lambda: Rate(1, "1m", burst=2, window="fixed"), "fits a Rate with window="),
        (lambda: Rate(1, "1m", window="daily"), "window='daily' of a Rate is unknown"),  # type: ignore[arg-type]
        (lambda: Rate(1_001, "1m", window="sliding"), "from 1 to 1,000"),
        (lambda: Fair(None), "per=None of a Fair is not the name of a parameter"),  # type: ignore[arg-type]
        (lambda: Fair(()), "per=() of a Fair"),
        (lambda: Fair(""), "per='' of a Fair"),
    ],
)
def test_a_limit_out_of_range_is_refused_where_it_is_written(make: Any, words: str) -> None:
    with pytest.raises(InvalidOption) as raised:
        make()
    assert words in str(raised.value)


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 256, 7])
def test_a_name_that_cannot_be_stored_is_refused(name: Any) -> None:
    with pytest.raises(InvalidName):
        Limit(1, name=name)


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (Limit(1, per="tennant"), "per='tennant' of a limit of sync is not a parameter. Parameters: tenant"),
        ([Limit(1)] * (LIMITS_MAX + 1), "limit has 5 limits; at most 4"),
        ([Limit(1), Limit(2)], "Two limits of sync have the same key"),
        (2, "limit=2 is not a Limit, a Rate or a Fair. Write limit=Limit(2)"),
        ("2", "is not a Limit, a Rate or a Fair"),
        ([2], "limit has 2, which is not a Limit, a Rate or a Fair"),
        (Fair(per="user"), "per='user' of a limit of sync is not a parameter. Parameters: tenant"),
        ([Fair(per="tenant"), Fair(per="tenant", name="all")], "limit has more than one Fair"),
    ],
)
def test_a_task_refuses_limits_that_do_not_fit_it(app: Raftwork, limit: Any, words: str) -> None:
    def sync(tenant: str) -> None: ...

    with pytest.raises(InvalidOption) as raised:
        app.task(name="sync", limit=limit)(sync)
    assert words in str(raised.value)


def test_keys_name_the_task_or_the_limit_and_the_values() -> None:
    assert keys([Limit(1)], tenant="acme") == ["sync"]
    assert keys([Limit(1, per="tenant")], tenant="acme") == ["sync:tenant=acme"]
    assert keys([Limit(1, per=("tenant", "user"))], tenant="acme", user=7) == ["sync:tenant=acme,user=7"]
    assert keys([Limit(1, name="api"), Limit(1, per="tenant", name="api")], tenant="acme") == ["api", "api:acme"]
    assert keys([Limit(1, per="tenant"), Limit(1)], tenant="a") == ["sync", "sync:tenant=a"], "those of all first"


def test_a_key_that_takes_turns_has_no_numbers() -> None:
    pack = packer("sync", [Fair(per="tenant"), Limit(2, per="tenant"), Limit(9)], ["tenant"])
    limits = pack({"tenant": "acme"}, lambda key: key)
    assert limits == [(0, "sync", 9), (4, "sync:tenant=acme"), (0, "sync:tenant=acme", 2)]
    assert keys([Fair(per=("tenant", "user"), name="all")], tenant="acme", user=7) == ["all:acme,7"]


def test_keys_of_long_and_of_other_values_are_digests_and_stay_apart() -> None:
    values: list[Any] = ["x" * 300, "x" * 299, "a\nb", "a\tb", 1.5, 2.5, (1, 2), (2, 1), None]
    found = [keys([Limit(1, per="tenant")], tenant=value)[0] for value in values]
    assert len(set(found)) == len(values)
    assert all(len(key.encode()) <= 255 for key in found)
    assert keys([Limit(1, per="tenant")], tenant=(1, 2)) == keys([Limit(1, per="tenant")], tenant=(1, 2))


def test_a_call_has_one_key_however_it_is_written(app: Raftwork) -> None:
    @app.task(name="sync", limit=Limit(1, per="tenant"))
    def sync(tenant: str = "acme") -> None: ...

    found = [job.limits() for job in (sync.enqueue(), sync.enqueue("acme"), sync.enqueue(tenant="acme"))]
    assert {limits.limits[0].key for limits in found if limits} == {"sync:tenant=acme"}
    assert [limits.place for limits in found if limits] == [1, 2, 3]


def test_j13_only_as_many_run_as_the_limit_says_and_the_queue_too(app: Raftwork) -> None:
    @app.task(name="sync", limit=[Limit(2, per="tenant"), Rate(10, "1m")])
    def sync(tenant: str) -> None: ...

    app.enqueue_many([sync.s(tenant) for tenant in ("acme",) * 4 + ("other",) * 4])
    session = app.storage.open_session("worker")

    def claim() -> int:
        return len(app.storage.claim(session, [("default", 1)], ["sync"], 9))

    app.queues["default"].limit(3)
    assert claim() == 3
    app.queues["default"].limit(None)
    assert claim() == 1
    (queue,) = app.queues
    assert (queue.enqueued, queue.held_back, queue.limit) == (4, 4, None)


def test_j8_tenants_take_turns_over_all_tasks_of_one_name(app: Raftwork) -> None:
    turns = Fair(per="tenant", name="tenants")

    @app.task(name="convert", limit=turns)
    def convert(tenant: str) -> None: ...

    @app.task(name="send", limit=turns)
    def send(tenant: str) -> None: ...

    app.enqueue_many([convert.s("acme")] * 3 + [send.s("acme")] + [send.s("small")] * 2)
    session = app.storage.open_session("worker")
    claimed = app.storage.claim(session, [("default", 1)], ["convert", "send"], 9)
    tenants = [app.job(job.id).info().args[0] for job in claimed]
    assert tenants == ["acme", "small", "acme", "small", "acme", "acme"]


@pytest.mark.parametrize("n", [0, -1, True, "3", 1_000_001])
def test_a_queue_refuses_a_limit_out_of_range(app: Raftwork, n: Any) -> None:
    with pytest.raises(InvalidOption, match="pause it"):
        app.queues["mail"].limit(n)


def test_j13_jobs_of_a_schedule_have_the_limits_of_their_task(app: Raftwork) -> None:
    @app.task(name="sync", limit=Limit(1))
    def sync() -> None: ...

    app.schedules.put("often", sync, every="1m")
    jobs = [app.schedules.trigger("often") for _ in range(2)]
    assert [limits.place for job in jobs if (limits := job.limits())] == [1, 2]
    session = app.storage.open_session("worker")
    assert len(app.storage.claim(session, [("default", 1)], ["sync"], 9)) == 1
